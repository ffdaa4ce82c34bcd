//! Limits of how many content bytes go each way in a second.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use swarm::Time;

/// What may go at once after a pause, in milliseconds of the rate.
const BURST_MS: u64 = 100;
/// It is looked again at least this often, since a limit may have changed.
const LOOK: Duration = Duration::from_millis(250);

/// Both ways.
#[derive(Debug, Default)]
pub(crate) struct Rates {
    pub(crate) down: Limit,
    pub(crate) up: Limit,
}

/// One way. What was let through may be more than there was room for: the next then waits for as long as that takes.
#[derive(Debug, Default)]
pub(crate) struct Limit {
    /// Bytes per second; 0 for no limit.
    rate: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that may go; less than nothing where too many went.
    room: i64,
    /// When `room` was right.
    at: Time,
}

impl Limit {
    /// Bytes per second; 0 for no limit.
    pub(crate) fn get(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, rate: u64, now: Time) {
        let mut state = self.lock();
        self.rate.store(rate, Ordering::Relaxed);
        // A debt at another rate is no debt.
        *state = State { room: 0, at: now };
    }

    /// How long to wait until more may go: not at all, or [`LOOK`] at most, and then ask again.
    pub(crate) fn wait(&self, now: Time) -> Duration {
        let rate = self.get();
        if rate == 0 {
            return Duration::ZERO;
        }
        let mut state = self.lock();
        state.refill(rate, now);
        if state.room >= 0 {
            return Duration::ZERO;
        }
        let micros = state.room.unsigned_abs().saturating_mul(1_000_000).div_ceil(rate);
        Duration::from_micros(micros).clamp(Duration::from_millis(1), LOOK)
    }

    /// So many bytes go.
    pub(crate) fn charge(&self, bytes: u64, now: Time) {
        let rate = self.get();
        if rate > 0 {
            let mut state = self.lock();
            state.refill(rate, now);
            state.room = state.room.saturating_sub_unsigned(bytes);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn refill(&mut self, rate: u64, now: Time) {
        let micros = u64::try_from(now.since(self.at).as_micros()).unwrap_or(u64::MAX);
        let earned = micros.saturating_mul(rate) / 1_000_000;
        if earned > 0 {
            let most = i64::try_from(rate / 1000 * BURST_MS).unwrap_or(i64::MAX);
            self.room = self.room.saturating_add_unsigned(earned).min(most);
            self.at = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How long `bytes` take in blocks of `block`, in microseconds.
    fn time_of(rate: u64, bytes: u64, block: u64) -> u64 {
        let (limit, mut now) = (Limit::default(), Time(5));
        limit.set(rate, now);
        let mut left = bytes;
        while left > 0 {
            let wait = limit.wait(now);
            if wait.is_zero() {
                limit.charge(block.min(left), now);
                left -= block.min(left);
            } else {
                now = now + wait;
            }
        }
        now = now + Duration::from_secs(left);
        loop {
            // Until the debt of the last block is paid.
            let wait = limit.wait(now);
            if wait.is_zero() {
                return now.0 - 5;
            }
            now = now + wait;
        }
    }

    proptest! {
        #[test]
        fn what_goes_in_a_time_is_what_the_limit_says(
            rate in 1_000u64..100_000_000, block in 1u64..300_000, blocks in 1u64..50,
        ) {
            let bytes = block * blocks;
            let (took, right) = (time_of(rate, bytes, block), bytes * 1_000_000 / rate);
            // Each wait is a millisecond at least.
            prop_assert!(took + 1 >= right, "{took} < {right}");
            prop_assert!(took <= right + right / 50 + blocks * 1000 + 1000, "{took} > {right}");
        }
    }

    #[test]
    fn no_limit_waits_for_nothing_and_a_new_one_holds_at_once() {
        let limit = Limit::default();
        limit.charge(1 << 40, Time(0));
        assert_eq!(limit.wait(Time(0)), Duration::ZERO);
        limit.set(1000, Time(0));
        limit.charge(1 << 40, Time(0));
        assert_eq!(limit.wait(Time(0)), LOOK);
        limit.set(0, Time(1));
        assert_eq!(limit.wait(Time(1)), Duration::ZERO);
    }
}
