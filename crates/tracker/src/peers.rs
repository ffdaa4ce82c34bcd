//! All peers of all torrents, in memory. No HTTP, no clock: time is an argument.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use announce::{AnnounceRequest, Event, Peer, ScrapeStats};
use metainfo::InfoHash;

use crate::swarm::{Address, Record, Swarm};

/// What the store keeps, and gives away, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Torrents kept.
    pub torrents: usize,
    /// Peers kept, over all torrents.
    pub peers: usize,
    /// How long a peer is kept after its last announce; whole seconds count.
    pub peer_age: Duration,
    /// Peers in an answer when the asker does not say.
    pub numwant: u32,
    /// Peers in an answer at most.
    pub max_numwant: u32,
}

/// What became of an announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// The peer is new and kept.
    Added,
    /// The peer was known and is kept.
    Renewed,
    /// The peer is gone.
    Stopped,
    /// The peer does not listen (port 0): it got an answer and is not kept.
    Deaf,
    /// There is no room: the peer got an answer and is not kept.
    Full,
}

/// The answer to an announce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// What became of it.
    pub outcome: Outcome,
    /// The torrent's numbers, the asker included.
    pub stats: ScrapeStats,
    /// Other peers, of both address families, those of the asker's first.
    pub peers: Vec<Peer>,
}

/// All peers of all torrents.
///
/// Torrents are spread over shards by a secret hash of their info-hash; each shard has a lock of its own,
/// and there is no other. A peer is its address and port; a hash of its id only serves to leave it out of answers
/// to itself.
#[derive(Debug)]
pub struct PeerStore {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    limits: Limits,
    torrents: AtomicUsize,
    peers: AtomicUsize,
}

#[derive(Debug)]
struct Shard {
    torrents: HashMap<InfoHash, Torrent>,
    /// State of the generator of random offsets (xorshift: it only has to spread).
    random: u32,
}

#[derive(Debug, Default)]
struct Torrent {
    v4: Swarm<Ipv4Addr>,
    v6: Swarm<Ipv6Addr>,
    downloaded: u32,
}

/// Enough that announces rarely meet, and that a sweep of one is short.
const SHARDS: usize = 256;

impl PeerStore {
    /// An empty store. `seed` makes the answers' random offsets; any number will do.
    pub fn new(limits: Limits, seed: u64) -> Self {
        let shard = |n: usize| {
            // The seed must not be 0, and shards should differ.
            let random =
                (seed as u32 ^ (seed >> 32) as u32).wrapping_add(n as u32).wrapping_mul(0x9e37_79b9) | 1;
            Mutex::new(Shard { torrents: HashMap::new(), random })
        };
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            hasher: RandomState::new(),
            limits,
            torrents: AtomicUsize::new(0),
            peers: AtomicUsize::new(0),
        }
    }

    /// Takes an announce that came from `ip` at `now` (any clock that does not go back), and answers it.
    pub fn announce(&self, now: Duration, request: &AnnounceRequest, ip: IpAddr) -> Announced {
        let now = seconds(now);
        let tag = self.hasher.hash_one(request.peer_id) as u32;
        let mut shard = self.shard(&request.info_hash);
        let random = shard.random();
        let known = shard.torrents.contains_key(&request.info_hash);
        let room = known || self.torrents.load(Relaxed) < self.limits.torrents;
        if !room || (!known && (request.port == 0 || request.event == Event::Stopped)) {
            let outcome = match (request.event, request.port) {
                (Event::Stopped, _) => Outcome::Stopped,
                (_, 0) => Outcome::Deaf,
                _ => Outcome::Full,
            };
            return Announced { outcome, stats: ScrapeStats::default(), peers: Vec::new() };
        }
        if !known {
            self.torrents.fetch_add(1, Relaxed);
        }
        let torrent = shard.torrents.entry(request.info_hash).or_default();
        let outcome = match ip.to_canonical() {
            IpAddr::V4(ip) => self.take(&mut torrent.v4, &mut torrent.downloaded, request, ip, now, tag),
            IpAddr::V6(ip) => self.take(&mut torrent.v6, &mut torrent.downloaded, request, ip, now, tag),
        };
        let asker = SocketAddr::new(ip.to_canonical(), request.port);
        let peers = if request.event == Event::Stopped {
            Vec::new()
        } else {
            self.pick(torrent, request, asker, tag, now, random)
        };
        let stats = torrent.stats();
        if torrent.len() == 0 {
            shard.torrents.remove(&request.info_hash);
            self.torrents.fetch_sub(1, Relaxed);
        }
        Announced { outcome, stats, peers }
    }

    /// A torrent's numbers; `None` when nobody announced it.
    pub fn scrape(&self, info_hash: &InfoHash) -> Option<ScrapeStats> {
        self.shard(info_hash).torrents.get(info_hash).map(Torrent::stats)
    }

    /// How many steps of [`PeerStore::expire`] make a round.
    pub fn steps(&self) -> usize {
        self.shards.len()
    }

    /// Forgets the old peers of one shard, and torrents without peers. To be called for `0..steps()` in turn, evenly
    /// over time: each holds one lock, for a share of all peers. Says how many peers went.
    pub fn expire(&self, now: Duration, step: usize) -> usize {
        let since = self.since(seconds(now));
        let Some(shard) = self.shards.get(step % self.shards.len().max(1)) else { return 0 };
        let mut shard = lock(shard);
        let (mut gone, before) = (0, shard.torrents.len());
        shard.torrents.retain(|_, torrent| {
            gone += torrent.v4.expire(since) + torrent.v6.expire(since);
            torrent.len() > 0
        });
        if shard.torrents.capacity() > 64 && shard.torrents.len() < shard.torrents.capacity() / 8 {
            let room = shard.torrents.len() * 2;
            shard.torrents.shrink_to(room);
        }
        self.torrents.fetch_sub(before - shard.torrents.len(), Relaxed);
        self.peers.fetch_sub(gone, Relaxed);
        gone
    }

    /// How many torrents there are, and how many peers. Old ones count until they are swept.
    pub fn totals(&self) -> (usize, usize) {
        (self.torrents.load(Relaxed), self.peers.load(Relaxed))
    }

    /// Enters the announce into the list of the asker's family.
    fn take<A: Address>(
        &self,
        swarm: &mut Swarm<A>,
        downloaded: &mut u32,
        request: &AnnounceRequest,
        address: A,
        now: u32,
        tag: u32,
    ) -> Outcome {
        if request.port == 0 {
            return if request.event == Event::Stopped { Outcome::Stopped } else { Outcome::Deaf };
        }
        let seed = request.left == 0;
        let found = swarm.find(address, request.port);
        if request.event == Event::Completed && !found.is_some_and(|(_, seed)| seed) {
            // Said again by one that is known as a seed, it is no second download.
            *downloaded = downloaded.saturating_add(1);
        }
        match (request.event, found) {
            (Event::Stopped, Some((at, _))) => {
                swarm.remove(at);
                self.peers.fetch_sub(1, Relaxed);
                Outcome::Stopped
            }
            (Event::Stopped, None) => Outcome::Stopped,
            (_, Some((at, _))) => {
                swarm.update(at, now, tag, seed);
                Outcome::Renewed
            }
            (_, None) if self.peers.fetch_add(1, Relaxed) >= self.limits.peers => {
                self.peers.fetch_sub(1, Relaxed);
                Outcome::Full
            }
            (_, None) => {
                swarm.insert(Record { seen: now, tag, address, port: request.port }, seed);
                Outcome::Added
            }
        }
    }

    /// Peers for the asker, of both families in the proportion in which there are any.
    fn pick(
        &self,
        torrent: &Torrent,
        request: &AnnounceRequest,
        asker: SocketAddr,
        tag: u32,
        now: u32,
        random: u32,
    ) -> Vec<Peer> {
        let want = request.numwant.unwrap_or(self.limits.numwant).min(self.limits.max_numwant) as usize;
        let seed = request.left == 0;
        let count = |all: usize, leechers: usize| if seed { leechers } else { all };
        let v4 = count(torrent.v4.len(), torrent.v4.leechers());
        let v6 = count(torrent.v6.len(), torrent.v6.leechers());
        let mut peers = Vec::with_capacity(want.min(v4 + v6));
        let since = self.since(now);
        let skip = |ip: IpAddr, port, seen, other| seen < since || is_asker(asker, tag, ip, port, other);
        let take_v4 = |want: usize, peers: &mut Vec<Peer>| {
            let swarm = &torrent.v4;
            let skip = |r: &Record<Ipv4Addr>| skip(r.address.into(), r.port, r.seen, r.tag);
            swarm.pick(want, seed, random, skip, |r| peers.push(peer(r.address.into(), r.port)))
        };
        let take_v6 = |want: usize, peers: &mut Vec<Peer>| {
            let swarm = &torrent.v6;
            let skip = |r: &Record<Ipv6Addr>| skip(r.address.into(), r.port, r.seen, r.tag);
            swarm.pick(want, seed, random, skip, |r| peers.push(peer(r.address.into(), r.port)))
        };
        // The share of the asker's own family; the other gets the rest, and what that leaves goes back.
        let share = |own: usize| if v4 + v6 == 0 { 0 } else { (want * own).div_ceil(v4 + v6) };
        if asker.is_ipv4() {
            let rest = want - take_v4(if v6 == 0 { want } else { share(v4) }, &mut peers);
            take_v6(rest, &mut peers);
        } else {
            let rest = want - take_v6(if v4 == 0 { want } else { share(v6) }, &mut peers);
            take_v4(rest, &mut peers);
        }
        peers
    }

    /// The time of the oldest announce that counts.
    fn since(&self, now: u32) -> u32 {
        now.saturating_sub(seconds(self.limits.peer_age))
    }

    fn shard(&self, info_hash: &InfoHash) -> MutexGuard<'_, Shard> {
        let at = self.hasher.hash_one(info_hash) as usize % SHARDS;
        // There are always `SHARDS` of them.
        #[allow(clippy::indexing_slicing, reason = "there are SHARDS shards")]
        lock(&self.shards[at])
    }
}

impl Shard {
    fn random(&mut self) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 17;
        self.random ^= self.random << 5;
        self.random
    }
}

impl Torrent {
    fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    fn stats(&self) -> ScrapeStats {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        ScrapeStats {
            complete: count(self.v4.seeds() + self.v6.seeds()),
            incomplete: count(self.v4.leechers() + self.v6.leechers()),
            downloaded: self.downloaded,
        }
    }
}

/// The same address and port; or, in the list of the other family, the same id and port.
fn is_asker(asker: SocketAddr, tag: u32, address: IpAddr, port: u16, other_tag: u32) -> bool {
    let same_family = asker.is_ipv4() == address.is_ipv4();
    port == asker.port() && if same_family { address == asker.ip() } else { tag == other_tag }
}

const fn peer(ip: IpAddr, port: u16) -> Peer {
    Peer { addr: SocketAddr::new(ip, port), id: None }
}

/// 136 years of them fit.
fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;
    use wire::PeerId;

    use super::*;

    const LIMITS: Limits = Limits {
        torrents: 100,
        peers: 10_000,
        peer_age: Duration::from_secs(100),
        numwant: 50,
        max_numwant: 200,
    };

    fn request(torrent: u8, port: u16, left: u64, event: Event) -> AnnounceRequest {
        let id = PeerId::from_bytes([port as u8; 20]);
        AnnounceRequest { left, event, ..AnnounceRequest::new(InfoHash::from_bytes([torrent; 20]), id, port) }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn peers_find_each_other_and_never_themselves() {
        let store = PeerStore::new(LIMITS, 1);
        let first = store.announce(at(0), &request(1, 10, 5, Event::Started), ip("10.0.0.1"));
        assert_eq!((first.outcome, first.peers.len()), (Outcome::Added, 0));
        let second = store.announce(at(1), &request(1, 10, 0, Event::Started), ip("10.0.0.2"));
        assert_eq!(second.peers, [peer(ip("10.0.0.1"), 10)]);
        assert_eq!(second.stats, ScrapeStats { complete: 1, incomplete: 1, downloaded: 0 });
        let again = store.announce(at(2), &request(1, 10, 5, Event::None), ip("10.0.0.1"));
        assert_eq!((again.outcome, again.peers), (Outcome::Renewed, vec![peer(ip("10.0.0.2"), 10)]));
        assert_eq!(store.announce(at(2), &request(2, 11, 5, Event::None), ip("10.0.0.3")).peers, []);
    }

    #[test]
    fn a_seed_is_told_leechers_only() {
        let store = PeerStore::new(LIMITS, 1);
        for (port, left) in [(1, 0), (2, 0), (3, 7)] {
            store.announce(at(0), &request(1, port, left, Event::Started), ip("10.0.0.1"));
        }
        let seed = store.announce(at(0), &request(1, 1, 0, Event::None), ip("10.0.0.1"));
        assert_eq!(seed.peers, [peer(ip("10.0.0.1"), 3)]);
        let leecher = store.announce(at(0), &request(1, 3, 7, Event::None), ip("10.0.0.1"));
        assert_eq!(leecher.peers.len(), 2);
    }

    #[test]
    fn both_families_are_answered_and_the_asker_is_known_in_both() {
        let store = PeerStore::new(LIMITS, 1);
        for address in ["10.0.0.1", "fd00::1"] {
            store.announce(at(0), &request(1, 7, 5, Event::Started), ip(address));
        }
        store.announce(at(0), &request(1, 8, 5, Event::Started), ip("fd00::2"));
        let mapped = store.announce(at(0), &request(1, 7, 5, Event::None), ip("::ffff:10.0.0.1"));
        assert_eq!((mapped.outcome, mapped.peers), (Outcome::Renewed, vec![peer(ip("fd00::2"), 8)]));
        let v6 = store.announce(at(0), &request(1, 8, 5, Event::None), ip("fd00::2"));
        assert_eq!(v6.peers, [peer(ip("fd00::1"), 7), peer(ip("10.0.0.1"), 7)]);
    }

    #[test]
    fn numwant_is_bounded_and_shared_between_families() {
        let store = PeerStore::new(LIMITS, 1);
        for n in 0..300u16 {
            let address = if n % 3 == 0 { format!("fd00::{n:x}") } else { format!("10.0.1.{}", n % 250) };
            store.announce(at(0), &request(1, 1000 + n, 5, Event::Started), ip(&address));
        }
        let with = |numwant| {
            let request = AnnounceRequest { numwant, ..request(1, 1, 5, Event::None) };
            let peers = store.announce(at(0), &request, ip("10.0.0.1")).peers;
            let v6 = peers.iter().filter(|peer| peer.addr.is_ipv6()).count();
            (peers.len(), v6)
        };
        assert_eq!(with(None), (50, 16));
        assert_eq!(with(Some(u32::MAX)), (200, 66));
        assert_eq!(with(Some(0)), (0, 0));
        assert_eq!(with(Some(3)), (3, 0));
    }

    #[test]
    fn completed_counts_once_and_only_when_said() {
        let store = PeerStore::new(LIMITS, 1);
        let say = |port, left, event| {
            store.announce(at(0), &request(1, port, left, event), ip("10.0.0.1")).stats.downloaded
        };
        assert_eq!(say(1, 0, Event::Started), 0);
        assert_eq!(say(2, 5, Event::Started), 0);
        assert_eq!(say(2, 0, Event::Completed), 1);
        assert_eq!(say(2, 0, Event::Completed), 1);
        assert_eq!(say(2, 0, Event::None), 1);
    }

    #[test]
    fn what_does_not_fit_is_answered_and_not_kept() {
        let store = PeerStore::new(Limits { torrents: 1, peers: 2, ..LIMITS }, 1);
        for port in 1..=2 {
            store.announce(at(0), &request(1, port, 5, Event::Started), ip("10.0.0.1"));
        }
        let third = store.announce(at(0), &request(1, 3, 5, Event::Started), ip("10.0.0.1"));
        assert_eq!((third.outcome, third.peers.len()), (Outcome::Full, 2));
        let other = store.announce(at(0), &request(2, 1, 5, Event::Started), ip("10.0.0.1"));
        assert_eq!((other.outcome, other.peers.len()), (Outcome::Full, 0));
        let deaf = store.announce(at(0), &request(1, 0, 5, Event::Started), ip("10.0.0.1"));
        assert_eq!((deaf.outcome, deaf.peers.len()), (Outcome::Deaf, 2));
        assert_eq!(store.totals(), (1, 2));
        for port in 1..=3 {
            let gone = store.announce(at(0), &request(1, port, 5, Event::Stopped), ip("10.0.0.1"));
            assert_eq!((gone.outcome, gone.peers.len()), (Outcome::Stopped, 0));
        }
        assert_eq!(store.totals(), (0, 0));
        assert_eq!(store.scrape(&InfoHash::from_bytes([1; 20])), None);
    }

    type Model = BTreeMap<u8, BTreeMap<SocketAddr, (u64, bool)>>;

    #[derive(Debug, Clone)]
    enum Step {
        Announce { torrent: u8, host: u8, port: u16, left: u64, event: Event, numwant: Option<u32> },
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let event = prop_oneof![
            3 => Just(Event::None),
            1 => Just(Event::Started),
            1 => Just(Event::Completed),
            1 => Just(Event::Stopped),
            1 => Just(Event::Paused),
        ];
        let numwant = prop_oneof![Just(None), (0u32..5).prop_map(Some), Just(Some(1000))];
        prop_oneof![
            6 => (0u8..3, 0u8..6, 0u16..4, 0u64..2, event, numwant).prop_map(
                |(torrent, host, port, left, event, numwant)| Step::Announce {
                    torrent, host, port, left, event, numwant
                }
            ),
            1 => (0u64..80).prop_map(Step::Pass),
        ]
    }

    proptest! {
        #[test]
        fn the_store_agrees_with_a_naive_model(steps in proptest::collection::vec(step(), 1..120), seed: u64) {
            let store = PeerStore::new(LIMITS, seed);
            let mut model = Model::new();
            let mut now = 0;
            for step in steps {
                match step {
                    Step::Pass(by) => {
                        now += by;
                        for step in 0..store.steps() {
                            store.expire(at(now), step);
                        }
                        for swarm in model.values_mut() {
                            swarm.retain(|_, &mut (seen, _)| seen + 100 >= now);
                        }
                        model.retain(|_, swarm| !swarm.is_empty());
                    }
                    Step::Announce { torrent, host, port, left, event, numwant } => {
                        let address = if host % 2 == 0 { format!("10.0.0.{host}") } else { format!("fd00::{host}") };
                        let mut request = request(torrent, port, left, event);
                        // An id per host, so that tags tell hosts apart.
                        request.peer_id = PeerId::from_bytes([host; 20]);
                        request.numwant = numwant;
                        let got = store.announce(at(now), &request, ip(&address));
                        let asker = SocketAddr::new(ip(&address), port);
                        let swarm = model.entry(torrent).or_default();
                        if event == Event::Stopped {
                            swarm.remove(&asker);
                        } else if port != 0 {
                            swarm.insert(asker, (now, left == 0));
                        }
                        let seeds = swarm.values().filter(|(_, seed)| *seed).count() as u32;
                        prop_assert_eq!(got.stats.complete, seeds);
                        prop_assert_eq!(got.stats.incomplete, swarm.len() as u32 - seeds);
                        let eligible: BTreeSet<_> = swarm
                            .iter()
                            .filter(|(addr, (_, seed))| **addr != asker && !(left == 0 && *seed))
                            .map(|(addr, _)| *addr)
                            .collect();
                        let given: BTreeSet<_> = got.peers.iter().map(|peer| peer.addr).collect();
                        prop_assert_eq!(given.len(), got.peers.len(), "a peer given twice");
                        prop_assert!(given.is_subset(&eligible));
                        let want = numwant.unwrap_or(50).min(200) as usize;
                        let want = if event == Event::Stopped { 0 } else { want };
                        prop_assert!(given.len() <= want);
                        if want >= eligible.len() {
                            prop_assert_eq!(given, eligible);
                        }
                        if swarm.is_empty() {
                            model.remove(&torrent);
                        }
                    }
                }
                let peers = model.values().map(BTreeMap::len).sum::<usize>();
                prop_assert_eq!(store.totals(), (model.len(), peers));
            }
        }
    }
}
