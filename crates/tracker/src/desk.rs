//! The desk: one way from an announce to its answer, whatever protocol either is in. No I/O, no clock.
//!
//! What else takes part in an announce (lists of torrents, keys, other trackers) does so through [`Hooks`].

use std::{net::IpAddr, time::Duration};

use announce::{RetryIn, ScrapeStats};
use metainfo::InfoHash;

use crate::store::{Announce, Announced, Outcome, PeerStore, Peers};

/// Takes part in every announce. Called on the threads that answer, so it must neither block nor take long.
pub trait Hooks: Send + Sync + 'static {
    /// Whether the announce is taken at all.
    ///
    /// # Errors
    /// What the asker is told instead of an answer.
    fn admit(&self, now: Duration, request: &Announce<'_>) -> Result<(), Refusal>;

    /// Whether a torrent may be asked about.
    fn may_scrape(&self, _info_hash: &InfoHash) -> bool {
        true
    }

    /// Is told of an announce that was taken, and may add peers that it knows from elsewhere: as many as
    /// `announced.want` leaves room for. Where it will know more soon, it gives the seconds until then.
    fn announced(
        &self,
        now: Duration,
        request: &Announce<'_>,
        announced: &Announced,
        peers: &mut Peers,
    ) -> Option<u32>;
}

/// Why an announce is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// For people.
    pub reason: &'static str,
    /// When to ask again, where the fault is passing (BEP 31).
    pub retry_in: Option<RetryIn>,
}

/// The answer to an announce, but for the peers, which are in [`Peers`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// What became of it.
    pub outcome: Outcome,
    /// The torrent's numbers, the asker included.
    pub stats: ScrapeStats,
    /// Seconds until the next announce.
    pub interval: u32,
    /// Seconds that the peer must wait at least.
    pub min_interval: u32,
}

/// How often peers announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// Seconds.
    pub(crate) interval: u32,
    /// Seconds by which it is made shorter or longer at random, so that a crowd does not come back as one.
    pub(crate) spread: u32,
    pub(crate) min_interval: u32,
}

pub(crate) struct Desk {
    pub(crate) store: PeerStore,
    pub(crate) pace: Pace,
    /// Whether a peer on this machine is believed its address.
    pub(crate) ip_from_loopback: bool,
    pub(crate) hooks: Option<Box<dyn Hooks>>,
}

impl Desk {
    /// Takes an announce, and fills `peers`, whose last answer is forgotten, with the answer's.
    pub(crate) fn announce(
        &self,
        now: Duration,
        request: &Announce<'_>,
        peers: &mut Peers,
    ) -> Result<Answer, Refusal> {
        peers.clear();
        if let Some(hooks) = &self.hooks {
            hooks.admit(now, request)?;
        }
        let announced = self.store.announce(now, request, peers);
        let hooks = self.hooks.as_ref();
        let soon = hooks.and_then(|hooks| hooks.announced(now, request, &announced, peers));
        let Pace { interval, spread, min_interval } = self.pace;
        let random = (u64::from(announced.random.rotate_left(16)) * (2 * u64::from(spread) + 1)) >> 32;
        let interval = (interval - spread).saturating_add(random as u32);
        let interval = soon.map_or(interval, |soon| interval.min(soon));
        let min_interval = min_interval.min(interval);
        Ok(Answer { outcome: announced.outcome, stats: announced.stats, interval, min_interval })
    }

    /// A torrent's numbers; `None` when nobody announced it, or it may not be told.
    pub(crate) fn scrape(&self, info_hash: &InfoHash) -> Option<ScrapeStats> {
        let allowed = self.hooks.as_ref().is_none_or(|hooks| hooks.may_scrape(info_hash));
        allowed.then(|| self.store.scrape(info_hash))?
    }

    /// Where a peer is taken to be that asks from `from` and says that it is at `claimed`.
    pub(crate) fn address(&self, from: IpAddr, claimed: Option<IpAddr>) -> IpAddr {
        let from = from.to_canonical();
        if !self.ip_from_loopback || !from.is_loopback() {
            return from;
        }
        let claimed = claimed.map(|ip| ip.to_canonical());
        claimed.filter(|ip| !ip.is_unspecified() && !ip.is_multicast()).unwrap_or(from)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use announce::Event;
    use wire::PeerId;

    use super::*;
    use crate::store::Limits;

    pub(crate) fn desk() -> Desk {
        let limits = Limits {
            torrents: 100,
            peers: 10_000,
            peer_age: Duration::from_secs(1500),
            interval: Duration::from_secs(600),
            numwant: 50,
            max_numwant: 200,
            ids: false,
        };
        Desk {
            store: PeerStore::new(limits, 1),
            pace: Pace { interval: 600, spread: 60, min_interval: 30 },
            ip_from_loopback: true,
            hooks: None,
        }
    }

    fn request(port: u16) -> Announce<'static> {
        Announce {
            info_hash: InfoHash::from_bytes([1; 20]),
            peer_id: PeerId::from_bytes([2; 20]),
            ip: [10, 0, 0, 1].into(),
            port,
            uploaded: 0,
            downloaded: 0,
            left: 1,
            event: Event::Started,
            numwant: None,
            key: None,
            both_families: true,
            ids: false,
            passkey: b"secret",
        }
    }

    struct Club;

    impl Hooks for Club {
        fn admit(&self, _: Duration, request: &Announce<'_>) -> Result<(), Refusal> {
            let refusal = Refusal { reason: "members only", retry_in: Some(RetryIn::Never) };
            (request.passkey == b"secret").then_some(()).ok_or(refusal)
        }

        fn may_scrape(&self, info_hash: &InfoHash) -> bool {
            info_hash.as_bytes() != &[1; 20]
        }

        fn announced(
            &self,
            _: Duration,
            _: &Announce<'_>,
            announced: &Announced,
            peers: &mut Peers,
        ) -> Option<u32> {
            assert_eq!(announced.want, 50);
            peers.add(([10, 9, 9, 9], 9).into());
            Some(7)
        }
    }

    #[test]
    fn hooks_refuse_and_add() {
        let desk = Desk { hooks: Some(Box::new(Club)), ..desk() };
        let mut peers = Peers::new();
        let stranger = Announce { passkey: b"", ..request(1) };
        let refused = desk.announce(Duration::ZERO, &stranger, &mut peers);
        assert_eq!(refused.map_err(|refusal| refusal.reason), Err("members only"));
        let answer = desk.announce(Duration::ZERO, &request(1), &mut peers).expect("taken");
        assert_eq!((answer.outcome, peers.len()), (Outcome::Added, 1));
        assert_eq!((answer.interval, answer.min_interval), (7, 7), "more will be known soon");
        assert_eq!(desk.scrape(&request(1).info_hash), None);
    }

    #[test]
    fn intervals_are_spread_around_what_is_set() {
        let (desk, mut peers) = (desk(), Peers::new());
        let mut intervals: Vec<u32> = (1..2000)
            .map(|port| desk.announce(Duration::ZERO, &request(port), &mut peers).expect("taken").interval)
            .collect();
        intervals.sort_unstable();
        assert!(intervals.first() >= Some(&540) && intervals.last() <= Some(&660));
        assert!(intervals.get(1000).is_some_and(|median| (580..620).contains(median)));
        intervals.dedup();
        assert!(intervals.len() > 100);
    }

    #[test]
    fn only_this_machine_is_believed_its_address() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let mut desk = desk();
        assert_eq!(desk.address(ip("::ffff:127.0.0.1"), Some(ip("10.1.1.1"))), ip("10.1.1.1"));
        assert_eq!(desk.address(ip("::1"), Some(ip("224.0.0.1"))), ip("::1"));
        assert_eq!(desk.address(ip("10.0.0.1"), Some(ip("10.1.1.1"))), ip("10.0.0.1"));
        desk.ip_from_loopback = false;
        assert_eq!(desk.address(ip("127.0.0.1"), Some(ip("10.1.1.1"))), ip("127.0.0.1"));
    }
}
