//! Registries and web servers that could not be reached lately. To ask them again would only make clients wait for what
//! they can have from elsewhere, or for an error.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::OriginError;

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
}

impl Breaker {
    /// For how much longer a registry is left alone; none where it may be asked. When its time is over, one request
    /// finds out how it is while the others still keep away.
    pub(crate) fn left(&self, registry: &str) -> Option<Duration> {
        let now = Instant::now();
        let mut open = self.lock();
        let entry = open.get_mut(registry)?;
        let left = entry.until.checked_duration_since(now).filter(|left| !left.is_zero());
        if left.is_none() {
            entry.until = now + entry.pause;
        }
        left
    }

    /// Learns from how it went: an answer of any kind is one.
    pub(crate) fn note<T>(&self, registry: &str, outcome: &Result<T, OriginError>) {
        match outcome {
            Err(OriginError::Unreachable { status: None, .. }) => self.failed(registry),
            _ => self.answered(registry),
        }
    }

    /// It could not be reached, however often that was tried.
    pub(crate) fn failed(&self, registry: &str) {
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
        let entry = entry.or_insert(Open { until: now, pause: FIRST });
        entry.until = now + entry.pause;
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
        assert_eq!(breaker.left("r"), None);
        let mut pause = FIRST;
        for _ in 0..6 {
            breaker.failed("r");
            assert_eq!(breaker.left("r"), Some(pause));
            assert_eq!(breaker.left("other"), None);
            advance(pause).await;
            assert_eq!(breaker.left("r"), None, "one finds out");
            assert!(breaker.left("r").is_some(), "the others keep away");
            pause = (pause * 2).min(MOST);
        }
        assert_eq!(pause, MOST);
        breaker.answered("r");
        assert_eq!(breaker.left("r"), None);
        breaker.failed("r");
        assert_eq!(breaker.left("r"), Some(FIRST), "forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_has_a_bound() {
        let breaker = Breaker::default();
        for n in 0..2 * REGISTRIES {
            breaker.failed(&n.to_string());
        }
        assert_eq!(breaker.lock().len(), REGISTRIES);
        advance(MOST).await;
        breaker.failed("new");
        assert_eq!(breaker.lock().len(), 1);
    }
}
