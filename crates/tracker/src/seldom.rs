//! What people are told of no more than once a minute, however often it happens.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// In seconds.
const PAUSE: u64 = 60;

/// When they were told last, in seconds from 1; 0 for never.
#[derive(Debug, Default)]
pub(crate) struct Seldom(AtomicU64);

impl Seldom {
    /// Whether people are to be told now. Of several who ask at the same time one is.
    pub(crate) fn may(&self, now: Duration) -> bool {
        let now = now.as_secs() + 1;
        let told = self.0.load(Relaxed);
        let may = told == 0 || now >= told + PAUSE;
        may && self.0.compare_exchange(told, now, Relaxed, Relaxed).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_that_lasts_is_told_once_a_minute() {
        let seldom = Seldom::default();
        let told: Vec<u64> = (0..150).filter(|&now| seldom.may(Duration::from_secs(now))).collect();
        assert_eq!(told, [0, 60, 120]);
    }
}
