//! Registries and web servers that could not be reached lately. To ask them again would only make clients wait for what
//! they can have from elsewhere, or for an error. Which of the two ways it was is remembered: one that is silent may have
//! been made so by a client, one that is gone may not.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{Cause, OriginError};

/// How long a registry is left alone at first; it doubles with each further failure.
const FIRST: Duration = Duration::from_secs(5);
/// How long at most.
const MOST: Duration = Duration::from_secs(60);
/// How many are remembered.
const REGISTRIES: usize = 1024;

/// One for all registries.
#[derive(Debug, Default)]
pub(crate) struct Breaker {
    open: Mutex<HashMap<String, Open>>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    pause: Duration,
    /// [`Cause::Gone`] or [`Cause::Silent`]: what was seen last.
    cause: Cause,
}

impl Breaker {
    /// For how much longer a registry is left alone, and why; none where it may be asked. When its time is over, one
    /// request that `tells` how it is finds that out while the others still keep away. Requests that do not tell, as it
    /// may be their own fault that they fail, go with it.
    pub(crate) fn left(&self, registry: &str, tells: bool) -> Option<(Duration, Cause)> {
        let now = Instant::now();
        let mut open = self.lock();
        let entry = open.get_mut(registry)?;
        let left = entry.until.checked_duration_since(now).filter(|left| !left.is_zero());
        if left.is_none() && tells {
            entry.until = now + entry.pause;
        }
        left.map(|left| (left, entry.cause))
    }

    /// Learns from how it went: an answer of any kind is one. A request that does not tell is not believed that the
    /// registry is silent.
    pub(crate) fn note<T>(&self, registry: &str, tells: bool, outcome: &Result<T, OriginError>) {
        match outcome {
            Err(OriginError::Unreachable { cause: Cause::Silent, .. }) if !tells => {}
            Err(OriginError::Unreachable { cause: cause @ (Cause::Gone | Cause::Silent), .. }) => {
                self.failed(registry, *cause);
            }
            _ => self.answered(registry),
        }
    }

    /// It could not be reached, however often that was tried.
    pub(crate) fn failed(&self, registry: &str, cause: Cause) {
        let now = Instant::now();
        let mut open = self.lock();
        if open.len() >= REGISTRIES {
            open.retain(|_, entry| now < entry.until);
        }
        if open.len() >= REGISTRIES && !open.contains_key(registry) {
            return;
        }
        let entry = open.entry(registry.to_owned());
        let entry = entry.and_modify(|entry| entry.pause = (entry.pause * 2).min(MOST));
        let entry = entry.or_insert(Open { until: now, pause: FIRST, cause });
        (entry.until, entry.cause) = (now + entry.pause, cause);
    }

    /// It has answered.
    pub(crate) fn answered(&self, registry: &str) {
        self.lock().remove(registry);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_request_finds_out_whether_a_registry_is_back_and_each_failure_makes_the_pause_longer() {
        let breaker = Breaker::default();
        assert_eq!(breaker.left("r", true), None);
        let mut pause = FIRST;
        for _ in 0..6 {
            breaker.failed("r", Cause::Gone);
            assert_eq!(breaker.left("r", true), Some((pause, Cause::Gone)));
            assert_eq!(breaker.left("other", true), None);
            advance(pause).await;
            assert_eq!(breaker.left("r", true), None, "one finds out");
            assert!(breaker.left("r", true).is_some(), "the others keep away");
            pause = (pause * 2).min(MOST);
        }
        assert_eq!(pause, MOST);
        breaker.answered("r");
        assert_eq!(breaker.left("r", true), None);
        breaker.failed("r", Cause::Silent);
        assert_eq!(breaker.left("r", true), Some((FIRST, Cause::Silent)), "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_that_may_fail_by_their_own_fault_keep_no_registry_shut() {
        let breaker = Breaker::default();
        let silent = |breaker: &Breaker, tells| {
            let place = crate::Place { registry: "r".into(), repository: None };
            let (host, reason) = (String::new(), String::new());
            let error = OriginError::Unreachable { place, host, cause: Cause::Silent, reason };
            breaker.note("r", tells, &Err::<(), _>(error));
        };
        silent(&breaker, false);
        assert_eq!(breaker.left("r", true), None);
        silent(&breaker, true);
        advance(FIRST).await;
        assert_eq!(breaker.left("r", false), None);
        silent(&breaker, false);
        assert_eq!(breaker.left("r", true), None, "it has not taken the place of one that finds out");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_seen_last_is_why_it_is_left_alone() {
        let breaker = Breaker::default();
        for cause in [Cause::Silent, Cause::Gone, Cause::Silent] {
            breaker.failed("r", cause);
            assert_eq!(breaker.left("r", true).map(|(_, cause)| cause), Some(cause));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_has_a_bound() {
        let breaker = Breaker::default();
        for n in 0..2 * REGISTRIES {
            breaker.failed(&n.to_string(), Cause::Gone);
        }
        assert_eq!(breaker.lock().len(), REGISTRIES);
        advance(MOST).await;
        breaker.failed("new", Cause::Gone);
        assert_eq!(breaker.lock().len(), 1);
    }
}
