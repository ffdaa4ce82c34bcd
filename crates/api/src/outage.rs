//! An outage is told of twice: when it begins, and when it ends.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::CallError;

/// Whether a service answers, over many calls that may run at the same time.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    since: Mutex<Option<Instant>>,
}

/// What an outcome changes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It has failed for the first time since it last answered.
    Begins,
    /// It answers again, after so long.
    Ends(Duration),
}

impl Outage {
    /// Takes a call's outcome into account.
    pub(crate) fn note<T>(&self, outcome: &Result<T, CallError>) -> Option<Change> {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            // What it did not accept, it has understood.
            Ok(_) | Err(CallError::Rejected { .. }) => since.take().map(|at| Change::Ends(at.elapsed())),
            Err(_) if since.is_some() => None,
            Err(_) => {
                *since = Some(now());
                Some(Change::Begins)
            }
        }
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
        let (url, reason) = (String::new(), String::new());
        let answer = || Ok::<(), CallError>(());
        let failure = || Err::<(), _>(CallError::TimedOut { url: String::new(), after: Duration::ZERO });
        assert_eq!(outage.note(&answer()), None);
        assert_eq!(outage.note(&failure()), Some(Change::Begins));
        assert_eq!(outage.note(&failure()), None);
        let conflict = Err::<(), _>(CallError::Rejected { url, status: 409, reason });
        assert!(matches!(outage.note(&conflict), Some(Change::Ends(_))));
        assert_eq!(outage.note(&answer()), None);
        assert_eq!(outage.note(&failure()), Some(Change::Begins));
    }
}
