//! An outage is told of twice: when it begins, and when it ends. While it lasts a service that makes its callers wait
//! for its failures is left alone.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::CallError;

/// A failure that took less costs nobody anything, and the service may be asked again at once.
const QUICK: Duration = Duration::from_millis(500);
/// How long a service is left alone at first; it doubles with each further failure.
const FIRST: Duration = Duration::from_secs(2);
/// How long at most.
const MOST: Duration = Duration::from_secs(30);

/// Whether a service answers, over many calls that may run at the same time.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    down: Mutex<Option<Down>>,
}

#[derive(Debug)]
struct Down {
    since: Instant,
    /// Until when, and for how long, it is left alone.
    until: Instant,
    pause: Duration,
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
    /// Whether it lasts.
    pub(crate) fn lasts(&self) -> bool {
        self.lock().is_some()
    }

    /// For how much longer the service is left alone; none where it may be asked. When that time is over, one call finds
    /// out how it is while the others still keep away.
    pub(crate) fn left(&self) -> Option<Duration> {
        let (now, mut down) = (now(), self.lock());
        let down = down.as_mut()?;
        let left = down.until.checked_duration_since(now).filter(|left| !left.is_zero());
        if left.is_none() {
            down.until = now + down.pause;
        }
        left
    }

    /// Somebody answers there, though it is not known whether it is the service: it may be asked again.
    pub(crate) fn relieve(&self) {
        if let Some(down) = self.lock().as_mut() {
            (down.until, down.pause) = (now(), Duration::ZERO);
        }
    }

    /// Takes into account how a call has ended, and how long it took.
    pub(crate) fn note<T>(&self, outcome: &Result<T, CallError>, took: Duration) -> Option<Change> {
        let (now, mut down) = (now(), self.lock());
        match (outcome, down.as_mut()) {
            // Nobody was asked.
            (Err(CallError::LeftAlone { .. }), _) => None,
            // What it did not accept, it has understood.
            (Ok(_) | Err(CallError::Rejected { .. }), _) => {
                down.take().map(|down| Change::Ends(now.saturating_duration_since(down.since)))
            }
            (Err(_), Some(down)) => {
                if took >= QUICK {
                    down.pause = (down.pause * 2).clamp(FIRST, MOST);
                    down.until = now + down.pause;
                }
                None
            }
            (Err(_), None) => {
                let pause = if took >= QUICK { FIRST } else { Duration::ZERO };
                *down = Some(Down { since: now, until: now + pause, pause });
                Some(Change::Begins)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Down>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(clippy::disallowed_methods, reason = "people are told how long an outage was")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[test]
    fn only_the_first_failure_and_the_first_answer_are_told() {
        let outage = Outage::default();
        let (url, reason) = (String::new(), String::new());
        let answer = || Ok::<(), CallError>(());
        let failure = || Err::<(), _>(CallError::TimedOut { url: String::new(), after: Duration::ZERO });
        let quick = Duration::ZERO;
        assert_eq!(outage.note(&answer(), quick), None);
        assert_eq!(outage.note(&failure(), quick), Some(Change::Begins));
        assert_eq!(outage.note(&failure(), quick), None);
        assert_eq!(outage.left(), None, "it fails at once, and may be asked");
        let conflict = Err::<(), _>(CallError::Rejected { url, status: 409, reason });
        assert!(matches!(outage.note(&conflict, quick), Some(Change::Ends(_))));
        assert_eq!(outage.note(&answer(), quick), None);
        assert_eq!(outage.note(&failure(), quick), Some(Change::Begins));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_makes_callers_wait_is_left_alone_and_one_call_finds_out_whether_it_is_back() {
        let outage = Outage::default();
        let failure = || Err::<(), _>(CallError::TimedOut { url: String::new(), after: Duration::ZERO });
        outage.note(&failure(), QUICK);
        let mut pause = FIRST;
        for _ in 0..6 {
            assert_eq!(outage.left(), Some(pause));
            advance(pause).await;
            assert_eq!(outage.left(), None, "one finds out");
            assert!(outage.left().is_some(), "the others keep away");
            let away = Err::<(), _>(CallError::LeftAlone { url: String::new(), left: pause });
            assert_eq!(outage.note(&away, Duration::ZERO), None);
            outage.note(&failure(), QUICK);
            pause = (pause * 2).min(MOST);
        }
        assert_eq!(pause, MOST);
        assert!(matches!(outage.note(&Ok(()), QUICK), Some(Change::Ends(_))));
        assert_eq!((outage.left(), outage.lasts()), (None, false));
    }
}
