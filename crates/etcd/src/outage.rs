//! An outage is told of twice: when it begins, and when it ends.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::Error;

/// Whether etcd answers, over many calls that may run at the same time.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    since: Mutex<Option<Instant>>,
}

/// What an outcome changes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Begins,
    Ends(Duration),
}

impl Outage {
    pub(crate) fn note<T>(&self, outcome: &Result<T, Error>) -> Option<Turn> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            // What it refuses for what it is, it has understood.
            Ok(_) | Err(Error::Rejected { .. } | Error::NoLease(_) | Error::LeaseExists(_)) => {
                since.take().map(|at| Turn::Ends(at.elapsed()))
            }
            Err(_) if since.is_some() => None,
            Err(_) => {
                *since = Some(now());
                Some(Turn::Begins)
            }
        }
    }

    pub(crate) fn lasts(&self) -> bool {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

#[allow(clippy::disallowed_methods, reason = "people are told how long an outage was")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_failure_and_the_first_answer_are_told() {
        let outage = Outage::default();
        let failure = || Err::<(), _>(Error::TimedOut(Duration::ZERO));
        assert_eq!(outage.note(&Ok(())), None);
        assert_eq!(outage.note(&failure()), Some(Turn::Begins));
        assert_eq!(outage.note(&failure()), None);
        assert!(outage.lasts());
        let unknown = Err::<(), _>(Error::NoLease(String::new()));
        assert!(matches!(outage.note(&unknown), Some(Turn::Ends(_))));
        assert_eq!(outage.note(&Ok(())), None);
        assert!(!outage.lasts());
    }
}
