//! Connection ids: a keyed hash of the asker's address and the time, so that nothing need be kept of those who have
//! one, and nobody has one for an address at which he cannot listen.

use std::{hash::Hasher as _, net::IpAddr, time::Duration};

use siphasher::sip::SipHasher24;

/// Gives out ids and knows them again.
#[derive(Debug, Clone)]
pub(super) struct ConnectionIds {
    key: [u64; 2],
    /// How old an id may be, in units.
    age: u16,
}

/// An id's time is counted in these, from the tracker's start on; 65536 of them are 48 days, longer than any age.
const UNIT: u64 = 64;

impl ConnectionIds {
    /// `age` is at most a day.
    pub(super) fn new(key: [u64; 2], age: Duration) -> Self {
        Self { key, age: u16::try_from(age.as_secs().div_ceil(UNIT)).unwrap_or(u16::MAX) }
    }

    /// The id for an address at a time: the time in the upper 16 bits, hidden like the rest from all but us.
    pub(super) fn give(&self, now: Duration, ip: IpAddr) -> u64 {
        let time = (now.as_secs() / UNIT) as u16;
        self.id(time, ip)
    }

    /// Whether it was given to this address, and not too long ago.
    pub(super) fn know(&self, id: u64, now: Duration, ip: IpAddr) -> bool {
        let time = self.mask() ^ (id >> 48) as u16;
        let age = ((now.as_secs() / UNIT) as u16).wrapping_sub(time);
        age <= self.age && id == self.id(time, ip)
    }

    fn id(&self, time: u16, ip: IpAddr) -> u64 {
        let [a, b] = self.key;
        let mut hasher = SipHasher24::new_with_keys(a, b);
        let (low, high) = match ip {
            IpAddr::V4(ip) => (u64::from(u32::from(ip)), 0),
            IpAddr::V6(ip) => (u128::from(ip) as u64, (u128::from(ip) >> 64) as u64),
        };
        hasher.write_u64(low);
        // What is IPv4 and what is IPv6 must differ too.
        hasher.write_u64(if ip.is_ipv6() { high } else { u64::MAX });
        hasher.write_u64(time.into());
        u64::from(time ^ self.mask()) << 48 | hasher.finish() >> 16
    }

    fn mask(&self) -> u16 {
        (self.key[0] ^ self.key[1]) as u16
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    proptest! {
        #[test]
        fn an_id_holds_for_its_address_and_its_time(
            ip: IpAddr,
            other: IpAddr,
            given in 0u64..10_000_000,
            later in 0u64..7000,
            guess: u64,
        ) {
            let ids = ConnectionIds::new([1, 2], at(7200));
            let id = ids.give(at(given), ip);
            prop_assert!(ids.know(id, at(given + later), ip));
            prop_assert!(!ids.know(id, at(given + later + 7200 + 2 * UNIT), ip));
            prop_assert!(!ids.know(guess, at(given), ip) || guess == id);
            prop_assert!(ip == other || !ids.know(id, at(given), other));
            prop_assert!(!ConnectionIds::new([1, 3], at(7200)).know(id, at(given), ip));
        }
    }

    #[test]
    fn an_id_from_before_the_clock_began_is_none() {
        let ids = ConnectionIds::new([1, 2], at(7200));
        let late = ids.give(at(UNIT * 65_535), [10, 0, 0, 1].into());
        assert!(!ids.know(late, at(UNIT * 65_535 - UNIT * 2), [10, 0, 0, 1].into()));
    }
}
