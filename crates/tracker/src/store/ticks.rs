//! Time in a byte for each peer.

use std::time::Duration;

use super::peers::Limits;

/// Ages in few bits: time in ticks, of which the longest age has at most 120.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ticks {
    /// Seconds.
    pub(super) length: u64,
    pub(super) peer_age: u8,
    pub(super) interval: u8,
}

impl Ticks {
    pub(super) fn new(limits: &Limits) -> Self {
        let age = limits.peer_age.as_secs();
        let length = age.div_ceil(120).max(1);
        let ticks = |seconds: u64| u8::try_from(seconds / length).unwrap_or(u8::MAX);
        Self { length, peer_age: ticks(age), interval: ticks(limits.interval.as_secs()) }
    }

    pub(super) fn at(self, now: Duration) -> u8 {
        (now.as_secs() / self.length) as u8
    }

    /// Some seconds ago, which may be before the clock's beginning.
    pub(super) fn before(self, now: Duration, age: u32) -> u8 {
        let (now, length) = (now.as_secs() as i64, self.length as i64);
        (now - i64::from(age)).div_euclid(length) as u8
    }
}
