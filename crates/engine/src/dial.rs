//! Whom to connect to, and when to try again.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Duration,
};

use swarm::Time;

use crate::places::canonical;

/// Most addresses to remember for one torrent.
const MOST: usize = 1000;
/// After so many failures an address is forgotten.
const TRIES: u32 = 5;
/// How long to wait after the first failure; twice as long after each further one.
const RETRY: Duration = Duration::from_secs(2);

/// Addresses at which peers of a torrent may be found.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    known: BTreeMap<SocketAddr, Candidate>,
}

#[derive(Debug, Default)]
struct Candidate {
    failures: u32,
    not_before: Time,
    busy: bool,
}

impl Candidates {
    pub(crate) fn add(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let usable = |a: &SocketAddr| a.port() != 0 && !a.ip().is_unspecified();
        for address in addresses.into_iter().map(canonical).filter(usable) {
            if self.known.contains_key(&address) || self.known.len() < MOST || self.drop_worst() {
                self.known.entry(address).or_default();
            }
        }
    }

    /// Forgets the address that has failed most often, if any has: whoever tells of a thousand at which nobody is
    /// must not keep out the others.
    fn drop_worst(&mut self) -> bool {
        let failed = self.known.iter().filter(|(_, c)| !c.busy && c.failures > 0);
        let worst = failed.max_by_key(|(_, c)| c.failures).map(|(address, _)| *address);
        worst.is_some_and(|worst| self.known.remove(&worst).is_some())
    }

    /// Takes an address to dial now that is not in `connected`, if there is one.
    pub(crate) fn take(&mut self, now: Time, connected: &BTreeSet<SocketAddr>) -> Option<SocketAddr> {
        let ready = |c: &Candidate| !c.busy && c.not_before <= now;
        let (address, candidate) = self
            .known
            .iter_mut()
            .filter(|(a, c)| ready(c) && !connected.contains(a))
            .min_by_key(|(_, c)| c.failures)?;
        candidate.busy = true;
        Some(*address)
    }

    /// How many are being dialled or are connected because they were.
    pub(crate) fn busy(&self) -> usize {
        self.known.values().filter(|c| c.busy).count()
    }

    /// An attempt has failed.
    pub(crate) fn failed(&mut self, address: SocketAddr, now: Time) {
        if let Some(candidate) = self.known.get_mut(&address) {
            candidate.busy = false;
            candidate.failures += 1;
            candidate.not_before = now + RETRY * 2u32.pow(candidate.failures.min(6) - 1);
            if candidate.failures >= TRIES {
                self.known.remove(&address);
            }
        }
    }

    /// A connection that had been made is over.
    pub(crate) fn ended(&mut self, address: SocketAddr, now: Time) {
        if let Some(candidate) = self.known.get_mut(&address) {
            *candidate = Candidate { failures: 0, not_before: now + RETRY, busy: false };
        }
    }

    /// Not to be tried again.
    pub(crate) fn forget(&mut self, address: SocketAddr) {
        self.known.remove(&address);
    }

    /// When the next address may be tried, if any waits.
    pub(crate) fn next_try(&self) -> Option<Time> {
        self.known.values().filter(|c| !c.busy).map(|c| c.not_before).min()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn failures_wait_longer_and_are_forgotten_in_the_end() {
        let address: SocketAddr = "10.0.0.1:6881".parse().expect("valid");
        let none = BTreeSet::new();
        let mut candidates = Candidates::default();
        candidates.add([address, "10.0.0.2:0".parse().expect("valid")]);
        let mut now = Time(0);
        for _ in 0..TRIES {
            assert_eq!(candidates.take(now, &none), Some(address));
            assert_eq!(candidates.take(now, &none), None, "it is being tried");
            candidates.failed(address, now);
            assert_eq!(candidates.take(now, &none), None, "not yet again");
            now = now + Duration::from_secs(100);
        }
        assert_eq!(candidates.next_try(), None);
        candidates.add([address]);
        assert_eq!(candidates.take(now, &[address].into()), None, "it is connected");
    }

    #[test]
    fn a_list_full_of_addresses_that_fail_has_room_for_new_ones() {
        let liars = (0..MOST as u32).map(|n| SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + n), 1)));
        let none = BTreeSet::new();
        let mut candidates = Candidates::default();
        candidates.add(liars);
        let honest: SocketAddr = "192.0.2.1:6881".parse().expect("valid");
        candidates.add([honest]);
        assert!(!candidates.known.contains_key(&honest), "as long as none of them has failed");
        let first = candidates.take(Time(0), &none).expect("one of them");
        candidates.failed(first, Time(0));
        candidates.add(["[::ffff:192.0.2.1]:6881".parse().expect("valid")]);
        assert!(candidates.known.contains_key(&honest));
        assert_eq!((candidates.known.len(), candidates.known.contains_key(&first)), (MOST, false));
        candidates.add([honest]);
        assert_eq!(candidates.known.len(), MOST);
    }
}
