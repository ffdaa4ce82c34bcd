//! What has failed lately, and is done without for a while.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// One for each thing that a node can do without: its disk, the swarms of its fleet.
pub(crate) struct Breaker {
    /// After how many failures in a row.
    after: u32,
    /// For how long at first; it doubles while the failures go on.
    first: Duration,
    /// For how long at most.
    most: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u32,
    pause: Option<Duration>,
    until: Option<Instant>,
}

impl Breaker {
    pub(crate) fn new(after: u32, first: Duration, most: Duration) -> Self {
        Self { after, first, most, state: Mutex::default() }
    }

    /// Whether it is to be done without now. When the time is over, the next who comes tries it again.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().until.is_some_and(|until| now() < until)
    }

    /// It has failed. Says whether it is done without from now on.
    pub(crate) fn failed(&self) -> bool {
        let mut state = self.lock();
        if state.until.is_some_and(|until| now() < until) {
            // Begun before, and no news.
            return false;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures < self.after {
            return false;
        }
        let pause = state.pause.map_or(self.first, |pause| (pause * 2).min(self.most));
        (state.pause, state.until) = (Some(pause), Some(now() + pause));
        true
    }

    /// It has worked.
    pub(crate) fn worked(&self) {
        *self.lock() = State::default();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(clippy::disallowed_methods, reason = "the node is a driver")]
fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_each_after_its_time_makes_the_pause_longer() {
        let breaker = Breaker::new(3, SECOND, 3 * SECOND);
        assert!(!breaker.failed() && !breaker.failed() && !breaker.is_open());
        breaker.worked();
        assert!(!breaker.failed() && !breaker.failed() && breaker.failed());
        for pause in [1, 2, 3, 3] {
            assert!(!breaker.failed(), "what was under way is no news");
            advance(SECOND * pause - SECOND / 2).await;
            assert!(breaker.is_open());
            advance(SECOND / 2).await;
            assert!(!breaker.is_open());
            assert!(breaker.failed() && breaker.is_open(), "once is enough now");
        }
        breaker.worked();
        assert!(!breaker.is_open() && !breaker.failed());
    }
}
