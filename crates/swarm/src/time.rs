//! Time as the brain sees it: microseconds since the driver's start, and rates over it.

use std::{ops::Add, time::Duration};

/// Microseconds since a moment that the driver chose.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time(pub u64);

impl Time {
    /// The time passed since `earlier`, or zero.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_micros()).unwrap_or(u64::MAX)))
    }
}

/// Bytes per second, weighted towards the last second or so.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rate {
    started: Time,
    bytes: u64,
    per_second: f64,
    measured: bool,
    shown: f64,
}

/// How long a stretch is measured before it is folded into the rate.
const STRETCH: Duration = Duration::from_millis(100);

impl Rate {
    /// Counts bytes that moved at `now`.
    pub fn add(&mut self, bytes: u64, now: Time) {
        self.fold(now);
        self.bytes += bytes;
    }

    /// Bytes per second as of `now`.
    pub fn get(&mut self, now: Time) -> f64 {
        self.fold(now);
        self.per_second
    }

    /// Bytes per second as last measured.
    pub const fn last(&self) -> f64 {
        self.per_second
    }

    /// The same as of `now` for people, who add those of many peers up. What is measured first does not count for more
    /// there: ten who gave something at full speed, one after the other, gave no ten times as much.
    pub fn shown(mut self, now: Time) -> f64 {
        // What was counted last came soon after it was last measured, and is not spread over a long silence.
        self.fold(now.min(self.started + Duration::from_secs(1)));
        self.fold(now);
        self.shown
    }

    /// Whether anything has been measured yet.
    pub const fn is_measured(&self) -> bool {
        self.measured
    }

    fn fold(&mut self, now: Time) {
        let passed = now.since(self.started);
        if passed < STRETCH {
            return;
        }
        let seconds = passed.as_secs_f64();
        let fresh = self.bytes as f64 / seconds;
        // Half of the weight is gone after about a third of a second; a long silence forgets all.
        let keep = (-seconds * 2.0).exp();
        self.shown = self.shown * keep + fresh * (1.0 - keep);
        if self.measured {
            self.per_second = self.per_second * keep + fresh * (1.0 - keep);
        } else if self.bytes > 0 {
            self.per_second = fresh;
            self.measured = true;
        }
        self.started = now;
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_is_measured_and_a_silence_forgotten() {
        let mut rate = Rate::default();
        let mut now = Time(0);
        for _ in 0..300 {
            now = now + Duration::from_millis(10);
            rate.add(10_000, now);
        }
        let measured = rate.get(now);
        assert!((900_000.0..1_100_000.0).contains(&measured), "{measured}");
        assert!((900_000.0..1_100_000.0).contains(&rate.shown(now)), "{}", rate.shown(now));
        assert!(rate.shown(now + Duration::from_secs(10)) < 1.0, "nobody has asked since");
        assert!(rate.get(now + Duration::from_secs(10)) < 10_000.0);
    }

    #[test]
    fn those_who_give_by_turns_do_not_add_up_to_more_than_there_is() {
        let (mut peers, mut now) = ([Rate::default(); 20], Time(1));
        for turn in 0..peers.len() {
            for _ in 0..20 {
                now = now + Duration::from_millis(10);
                peers[turn].add(10_000, now);
                peers.iter_mut().for_each(|peer| peer.add(0, now));
            }
        }
        let sum: f64 = peers.iter().map(|rate| rate.shown(now)).sum();
        assert!((800_000.0..1_200_000.0).contains(&sum), "{sum}");
    }
}
