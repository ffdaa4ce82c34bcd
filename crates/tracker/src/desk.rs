//! The desk: one way from an announce to its answer, whatever protocol either is in. No I/O, no clock.

use std::{net::IpAddr, sync::Arc, time::Duration};

use announce::{RetryIn, ScrapeStats, cluster::News};
use arc_swap::ArcSwap;
use metainfo::InfoHash;

use crate::{
    cluster::Outbox,
    policy::{Pace, Policy},
    registered::Registered,
    store::{Announce, Outcome, PeerStore, Peers},
};

/// What a torrent's peer is told that the content directory does not know.
const NOT_REGISTERED: &str = "this torrent is not registered: the content directory does not know it";
const NOT_READY: &str = "the content directory has not been read yet: ask again soon";
const MINUTE: Duration = Duration::from_secs(60);

/// When a peer may come again that was told of nobody, in seconds, where news of others may be on its way here.
const SOON: u32 = 1;

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

pub(crate) struct Desk {
    pub(crate) store: PeerStore,
    pub(crate) policy: ArcSwap<Policy>,
    /// What the content directory knows, where that matters.
    pub(crate) registered: Arc<Registered>,
    /// Where this tracker is of a cluster.
    pub(crate) outbox: Option<Arc<Outbox>>,
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
        let policy = self.policy.load();
        policy.admit(request)?;
        if !self.is_served(&policy, &request.info_hash) {
            let early = self.store.news(request);
            if !self.registered.came_early(now, &request.info_hash, early) {
                let reason = if self.registered.is_ready() { NOT_REGISTERED } else { NOT_READY };
                return Err(Refusal { reason, retry_in: Some(RetryIn::After(MINUTE)) });
            }
        }
        let announced = self.store.announce(now, request, peers);
        // Neither key nor passkey: they are secrets.
        tracing::debug!(
            torrent = %request.info_hash, peer = %request.addr(), event = ?request.event, left = request.left,
            outcome = announced.outcome.name(), given = peers.len(), "announce"
        );
        let forwarders = policy.forwarders.as_ref();
        let soon = forwarders.and_then(|forwarders| forwarders.announced(now, request, &announced, peers));
        let Pace { interval, spread, min_interval } = policy.pace;
        let random = (u64::from(announced.random.rotate_left(16)) * (2 * u64::from(spread) + 1)) >> 32;
        let interval = (interval - spread).saturating_add(random as u32);
        let interval = soon.map_or(interval, |soon| interval.min(soon));
        let mut min_interval = min_interval.min(interval);
        if let Some(outbox) = &self.outbox {
            if let Outcome::Added | Outcome::Renewed | Outcome::Stopped = announced.outcome {
                outbox.put(now, request.info_hash, self.store.news(request));
            }
            if peers.is_empty() && announced.want > 0 && request.left > 0 {
                min_interval = min_interval.min(SOON);
            }
        }
        Ok(Answer { outcome: announced.outcome, stats: announced.stats, interval, min_interval })
    }

    /// Whether the mode of registered torrents lets one be served.
    fn is_served(&self, policy: &Policy, info_hash: &InfoHash) -> bool {
        !policy.registered_only || policy.allows(info_hash) || self.registered.has(info_hash)
    }

    /// Enters a peer that announced a moment before its torrent was registered.
    pub(crate) fn admit_early(&self, now: Duration, info_hash: &InfoHash, news: News) {
        let outcome = self.store.enter(now, info_hash, &news);
        if let (Some(outbox), Some(Outcome::Added | Outcome::Renewed | Outcome::Stopped)) =
            (&self.outbox, outcome)
        {
            outbox.put(now, *info_hash, news);
        }
    }

    /// Takes in what another tracker of the cluster tells.
    pub(crate) fn hear(&self, now: Duration, info_hash: &InfoHash, news: &News) {
        // Whether it is registered has been seen there; that may not be known here yet.
        let believed = || self.outbox.as_ref().is_none_or(|outbox| outbox.believes(now, info_hash, news));
        if self.policy.load().lists(info_hash) && believed() {
            self.store.hear(now, info_hash, news);
        }
    }

    /// Where a peer is taken to be that asks from `from` and says that it is at `claimed`.
    pub(crate) fn address(&self, from: IpAddr, claimed: Option<IpAddr>) -> IpAddr {
        self.policy.load().address(from.to_canonical(), claimed)
    }

    /// A torrent's numbers; `None` when nobody announced it, or it is not served.
    pub(crate) fn scrape(&self, info_hash: &InfoHash) -> Option<ScrapeStats> {
        let policy = self.policy.load();
        let served = policy.lists(info_hash) && self.is_served(&policy, info_hash);
        served.then(|| self.store.scrape(info_hash))?
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use announce::Event;
    use wire::PeerId;

    use super::*;
    use crate::{Config, store::Limits};

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
        let config = Config { interval: 600, interval_spread: 10, min_interval: 30, ..Config::default() };
        let policy = Policy::read(&config, None).expect("no files");
        let registered = Arc::new(Registered::new(crate::server::Clock::start()));
        Desk {
            store: PeerStore::new(limits, 1),
            policy: ArcSwap::from_pointee(policy),
            registered,
            outbox: None,
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
}
