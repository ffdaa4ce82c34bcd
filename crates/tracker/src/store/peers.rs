//! All peers of all torrents, in memory. No protocol, no clock: time is an argument.

use std::{
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use announce::{Event, ScrapeStats};
use hashbrown::{HashTable, hash_table::Entry};
use metainfo::InfoHash;

use super::{
    request::{Announce, Announced, Outcome, Peers},
    secret::Secret,
    swarm::{Asker, Counts, Indexes, Kind, Record, Who},
    ticks::Ticks,
    torrent::{Torrent, TorrentStats},
};
use crate::halves::Halves;

/// What the store keeps, and gives away, at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Torrents kept.
    pub torrents: usize,
    /// Peers kept, over all torrents.
    pub peers: usize,
    /// How long a peer is kept after its last announce, to a part in 120 or a second.
    pub peer_age: Duration,
    /// How long a peer that does not announce keeps its address from one with another key.
    pub interval: Duration,
    /// Peers in an answer when the asker does not say.
    pub numwant: u32,
    /// Peers in an answer at most.
    pub max_numwant: u32,
    /// Whether peers' ids are kept, 20 bytes each.
    pub ids: bool,
}

/// All peers of all torrents.
///
/// Torrents are spread over shards by a secret hash of their info-hash; each shard has a lock of its own,
/// and there is no other. A peer is its address and port; its key, or a hash of its id, says who may change it.
#[derive(Debug)]
pub struct PeerStore {
    shards: Box<[Mutex<Shard>]>,
    pub(super) secret: Secret,
    limits: Limits,
    pub(super) ticks: Ticks,
    torrents: AtomicUsize,
    peers: AtomicUsize,
}

/// A line of the cache for each, so that workers do not wait for one another's.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct Shard {
    pub(super) torrents: HashTable<Torrent>,
    pub(super) indexes: Indexes,
    /// How often torrents were downloaded that have no peers now.
    downloads: Box<Halves<InfoHash, u32>>,
    /// State of the generator of random offsets (xorshift: it only has to spread).
    random: u32,
}

/// What a pick is for.
struct Wish {
    want: usize,
    /// Where the asker stands in the list of its family.
    at: Option<usize>,
    who: Who,
    random: u32,
}

/// Enough that announces rarely meet, and that a sweep of one is short.
const SHARDS: usize = 256;

/// Of how many torrents without peers it is remembered how often they were downloaded.
const REMEMBERED: usize = 64 * 1024;

/// How many torrents are looked at together before they are announced.
pub(crate) const WARMED: usize = 8;

/// How many peers are removed at most while one lock is held.
const MOST_EXPIRED: usize = 2000;

impl PeerStore {
    /// An empty store. `seed` makes its hashes and its random offsets; it should be a secret.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self::of_cluster(limits, seed, seed)
    }

    /// The same of a cluster, which shares the secret by which peers are known again.
    pub(crate) fn of_cluster(limits: Limits, seed: u64, names: u64) -> Self {
        let shard = |n: usize| {
            // The state must not be 0, and shards should differ.
            let random =
                (seed as u32 ^ (seed >> 32) as u32).wrapping_add(n as u32).wrapping_mul(0x9e37_79b9) | 1;
            let downloads = Box::new(Halves::new(REMEMBERED / SHARDS));
            Mutex::new(Shard { torrents: HashTable::new(), indexes: Indexes::new(), downloads, random })
        };
        Self {
            shards: (0..SHARDS).map(shard).collect(),
            secret: Secret::new(seed, names),
            ticks: Ticks::new(&limits),
            limits,
            torrents: AtomicUsize::new(0),
            peers: AtomicUsize::new(0),
        }
    }

    /// Takes an announce at `now` (any clock that does not go back), and appends the peers that answer it.
    pub fn announce(&self, now: Duration, request: &Announce<'_>, peers: &mut Peers) -> Announced {
        let now = self.ticks.at(now);
        let who = self.who(request);
        let hash = self.secret.torrent(request.info_hash.as_bytes());
        let want = request.numwant.unwrap_or(self.limits.numwant).min(self.limits.max_numwant) as usize;
        let stopped = request.event == Event::Stopped;
        let (v4, v6) = match request.ip {
            IpAddr::V4(ip) => (Some(self.record::<4, 6>(request, ip.octets(), who, now)), None),
            IpAddr::V6(ip) => (None, Some(self.record::<16, 18>(request, ip.octets(), who, now))),
        };
        let mut shard = self.shard(hash);
        let random = shard.random();
        let shard = &mut *shard;
        let opened = self.open(shard, hash, &request.info_hash, || match request.port {
            _ if stopped => Some(Outcome::Stopped),
            0 => Some(Outcome::Deaf),
            _ => None,
        });
        let (torrent, indexes) = match opened {
            Ok(opened) => opened,
            Err(outcome) => {
                let stats = ScrapeStats { downloaders: Some(0), ..ScrapeStats::default() };
                return Announced { outcome, stats, want, random };
            }
        };
        let (outcome, at) = match (v4, v6) {
            _ if request.port == 0 => (if stopped { Outcome::Stopped } else { Outcome::Deaf }, None),
            (Some(record), _) => self.take(torrent, indexes, request.event, &record),
            (_, Some(record)) => self.take(torrent, indexes, request.event, &record),
            // One of them is there.
            (None, None) => (Outcome::Deaf, None),
        };
        if !stopped && want > 0 {
            self.pick(torrent, indexes, request, &Wish { want, at, who, random }, peers);
        }
        let (stats, is_empty) = (torrent.stats(), torrent.is_empty());
        if is_empty {
            self.close(shard, hash, &request.info_hash);
        }
        Announced { outcome, stats, want, random }
    }

    /// A torrent, entered if it is not there, unless something speaks against it.
    pub(super) fn open<'a>(
        &self,
        shard: &'a mut Shard,
        hash: u64,
        info_hash: &InfoHash,
        against: impl FnOnce() -> Option<Outcome>,
    ) -> Result<(&'a mut Torrent, &'a mut Indexes), Outcome> {
        let Shard { torrents, indexes, downloads, .. } = shard;
        let hash_of = |torrent: &Torrent| self.secret.torrent(torrent.info_hash().as_bytes());
        let torrent = match torrents.entry(hash, |torrent| torrent.is(info_hash), hash_of) {
            Entry::Occupied(found) => found.into_mut(),
            Entry::Vacant(place) => {
                if let Some(outcome) = against() {
                    return Err(outcome);
                }
                if self.torrents.load(Relaxed) >= self.limits.torrents {
                    return Err(Outcome::Full);
                }
                self.torrents.fetch_add(1, Relaxed);
                place.insert(Torrent::new(*info_hash, downloads.remove(info_hash).unwrap_or(0))).into_mut()
            }
        };
        Ok((torrent, indexes))
    }

    /// Removes a torrent that has no peers.
    pub(super) fn close(&self, shard: &mut Shard, hash: u64, info_hash: &InfoHash) {
        if let Ok(entry) = shard.torrents.find_entry(hash, |torrent| torrent.is(info_hash)) {
            let (torrent, _) = entry.remove();
            remember(&mut shard.downloads, &torrent);
            self.torrents.fetch_sub(1, Relaxed);
        }
    }

    /// Looks at torrents that will be announced next, so that the memory they lie in is waited for once for all of
    /// them and not for one after the other. Changes nothing, and looks at eight at most.
    pub fn warm<'a>(&self, info_hashes: impl Iterator<Item = &'a [u8; 20]>) {
        let (mut places, mut length) = ([(0, 0, &[0; 20]); WARMED], 0);
        for (place, info_hash) in places.iter_mut().zip(info_hashes) {
            let hash = self.secret.torrent(info_hash);
            *place = (shard_of(hash), hash, info_hash);
            length += 1;
        }
        let places = places.get_mut(..length).unwrap_or_default();
        // Several are locked at once, and so all in the same order.
        places.sort_unstable_by_key(|&(shard, ..)| shard);
        let mut shards: [Option<MutexGuard<'_, Shard>>; WARMED] = [const { None }; WARMED];
        let (mut last, mut locked) = (None, 0usize);
        let mut which = [0; WARMED];
        for (&mut (at, ..), which) in places.iter_mut().zip(&mut which) {
            if last != Some(at) {
                if let (Some(guard), Some(shard)) = (shards.get_mut(locked), self.shards.get(at)) {
                    *guard = Some(lock(shard));
                }
                (last, locked) = (Some(at), locked + 1);
            }
            *which = locked - 1;
        }
        let mut seen = 0;
        for (&mut (_, hash, info_hash), which) in places.iter_mut().zip(which) {
            let shard = shards.get(which).and_then(Option::as_ref);
            let torrent =
                shard.and_then(|shard| shard.torrents.find(hash, |torrent| torrent.has_name(info_hash)));
            seen ^= torrent.map_or(0, Torrent::touch);
        }
        std::hint::black_box(seen);
    }

    /// A torrent's numbers; `None` when nobody announced it, or those that did have left and it is forgotten.
    pub fn scrape(&self, info_hash: &InfoHash) -> Option<ScrapeStats> {
        let hash = self.secret.torrent(info_hash.as_bytes());
        let shard = self.shard(hash);
        match shard.torrents.find(hash, |torrent| torrent.is(info_hash)) {
            Some(torrent) => Some(torrent.stats()),
            None => {
                let downloaded = *shard.downloads.get(info_hash)?;
                Some(ScrapeStats { downloaded, downloaders: Some(0), ..ScrapeStats::default() })
            }
        }
    }

    /// How many steps of [`PeerStore::expire`] and [`PeerStore::visit`] make a round.
    pub fn steps(&self) -> usize {
        self.shards.len()
    }

    /// Forgets the old peers of one shard, and torrents without peers. To be called for `0..steps()` in turn, evenly
    /// over time: each holds one lock at a time, for a share of all peers. Says how many peers went.
    pub fn expire(&self, now: Duration, step: usize) -> usize {
        let (now, mut all) = (self.ticks.at(now), 0);
        loop {
            let Some(shard) = self.shards.get(step % self.shards.len().max(1)) else { return all };
            let mut shard = lock(shard);
            let (mut gone, before) = (0, shard.torrents.len());
            let Shard { torrents, indexes, downloads, .. } = &mut *shard;
            torrents.retain(|torrent| {
                let before = gone;
                gone += self.expire_family::<6>(torrent, indexes, now, MOST_EXPIRED - gone);
                gone += self.expire_family::<18>(torrent, indexes, now, MOST_EXPIRED - gone);
                if gone > before {
                    torrent.fit();
                }
                if torrent.is_empty() {
                    remember(downloads, torrent);
                }
                !torrent.is_empty()
            });
            if shard.torrents.capacity() > 64 && shard.torrents.len() < shard.torrents.capacity() / 8 {
                let room = shard.torrents.len() * 2;
                shard.torrents.shrink_to(room, |torrent| self.secret.torrent(torrent.info_hash().as_bytes()));
            }
            self.torrents.fetch_sub(before - shard.torrents.len(), Relaxed);
            self.peers.fetch_sub(gone, Relaxed);
            all += gone;
            if gone < MOST_EXPIRED {
                return all;
            }
        }
    }

    /// How many torrents there are, and how many peers. Old ones count until they are swept.
    pub fn totals(&self) -> (usize, usize) {
        (self.torrents.load(Relaxed), self.peers.load(Relaxed))
    }

    /// Shows the torrents of one shard, for `step` of `0..steps()`. It is locked meanwhile.
    pub fn visit(&self, step: usize, mut to: impl FnMut(&TorrentStats)) {
        if let Some(shard) = self.shard_at(step) {
            shard.torrents.iter().for_each(|torrent| to(&TorrentStats::of(torrent)));
        }
    }

    pub(super) fn shard_at(&self, step: usize) -> Option<MutexGuard<'_, Shard>> {
        self.shards.get(step).map(lock)
    }

    /// The bytes that the torrents of one shard have on the heap, but for the allocator's own.
    pub fn memory(&self, step: usize) -> usize {
        let shard = self.shard_at(step);
        shard.map_or(0, |shard| {
            let blocks = shard.torrents.iter().map(Torrent::memory).sum::<usize>();
            let indexes = shard.indexes.values().map(HashTable::allocation_size).sum::<usize>();
            shard.torrents.allocation_size() + blocks + indexes
        })
    }

    /// Enters a peer into the list of its family, or removes it; says where it stands there.
    pub(super) fn take<const W: usize>(
        &self,
        torrent: &mut Torrent,
        indexes: &mut Indexes,
        event: Event,
        record: &Record<'_, W>,
    ) -> (Outcome, Option<usize>) {
        let stopped = event == Event::Stopped;
        let mut swarm = torrent.swarm::<W>(indexes, &self.secret);
        let found = swarm.find(&record.wire, record.hash);
        if let Some(at) = found {
            let (who, age) = (swarm.who(at), record.seen.wrapping_sub(swarm.seen(at)));
            if who.keyed() && !who.is(record.who) && age <= self.ticks.interval {
                return (Outcome::Foreign, Some(at));
            }
        }
        let was_seed = found.is_some_and(|at| swarm.kind(at) == Kind::Seed);
        let (outcome, at) = match found {
            Some(at) if stopped => {
                swarm.remove(at);
                self.peers.fetch_sub(1, Relaxed);
                (Outcome::Stopped, None)
            }
            None if stopped => (Outcome::Stopped, None),
            Some(at) => (Outcome::Renewed, Some(swarm.update(at, record))),
            None if self.peers.fetch_add(1, Relaxed) >= self.limits.peers => {
                self.peers.fetch_sub(1, Relaxed);
                (Outcome::Full, None)
            }
            None => {
                torrent.reserve::<W>(self.limits.ids);
                swarm = torrent.swarm::<W>(indexes, &self.secret);
                (Outcome::Added, Some(swarm.insert(record)))
            }
        };
        let counts = swarm.counts;
        torrent.keep::<W>(counts);
        if outcome == Outcome::Stopped && found.is_some() {
            torrent.fit();
        }
        if event == Event::Completed && !was_seed && record.kind == Kind::Seed {
            // Said by one that lacks something, it is not true; said again by a seed, it is no second download.
            torrent.count_download();
        }
        (outcome, at)
    }

    /// Peers for the asker; where it can use both families, of both in the proportion in which there are any.
    fn pick(
        &self,
        torrent: &mut Torrent,
        indexes: &mut Indexes,
        request: &Announce<'_>,
        wish: &Wish,
        peers: &mut Peers,
    ) {
        // Who lacks nothing needs those who do.
        let hungry = request.kind() != Kind::Downloader;
        let Wish { want, at, who, random } = *wish;
        let own = at.map_or(Asker::Nobody, Asker::At);
        let other = Asker::Named(who, request.port);
        let count = |counts: Counts| if hungry { counts.downloaders as usize } else { counts.len() };
        let (v4, v6) = (count(torrent.counts::<6>()), count(torrent.counts::<18>()));
        let Peers { v4: wires4, v6: wires6, ids4, ids6 } = peers;
        // Both change nothing, but a swarm is only to be had so.
        let mut pick_v4 = |torrent: &mut Torrent, indexes: &mut Indexes, want, asker| {
            let ids = request.ids.then_some(&mut *ids4);
            torrent.swarm::<6>(indexes, &self.secret).pick(want, hungry, random, asker, wires4, ids)
        };
        let mut pick_v6 = |torrent: &mut Torrent, indexes: &mut Indexes, want, asker| {
            let ids = request.ids.then_some(&mut *ids6);
            torrent.swarm::<18>(indexes, &self.secret).pick(want, hungry, random, asker, wires6, ids)
        };
        let both = request.both_families;
        // The share of the asker's own family; the other gets the rest.
        let share = |own: usize, other: usize| {
            if other == 0 || !both { want } else { (want * own).div_ceil(own + other) }
        };
        if request.ip.is_ipv4() {
            let rest = want - pick_v4(torrent, indexes, share(v4, v6), own);
            if both && v6 > 0 {
                pick_v6(torrent, indexes, rest, other);
            }
        } else {
            let rest = want - pick_v6(torrent, indexes, share(v6, v4), own);
            if both && v4 > 0 {
                pick_v4(torrent, indexes, rest, other);
            }
        }
    }

    fn expire_family<const W: usize>(
        &self,
        torrent: &mut Torrent,
        indexes: &mut Indexes,
        now: u8,
        most: usize,
    ) -> usize {
        let mut swarm = torrent.swarm::<W>(indexes, &self.secret);
        let gone = swarm.expire(now, self.ticks.peer_age, most);
        let counts = swarm.counts;
        if gone > 0 {
            torrent.keep::<W>(counts);
        }
        gone
    }

    fn record<'a, const A: usize, const W: usize>(
        &self,
        request: &'a Announce<'_>,
        ip: [u8; A],
        who: Who,
        seen: u8,
    ) -> Record<'a, W> {
        let mut bytes = ip.into_iter().chain(request.port.to_be_bytes());
        let wire = std::array::from_fn(|_| bytes.next().unwrap_or(0));
        let hash = self.secret.address(&wire);
        Record { wire, hash, who, seen, kind: request.kind(), id: request.peer_id.as_bytes() }
    }

    pub(super) fn who(&self, request: &Announce<'_>) -> Who {
        let name = |name| self.secret.name(name) as u16 & !(Who::KEYED | Who::ELSEWHERE);
        match request.key {
            Some(key) => Who(name(key.0) | Who::KEYED),
            None => {
                let (&head, tail) = request.peer_id.as_bytes().split_first_chunk().unwrap_or((&[0; 16], &[]));
                let tail = tail.iter().fold(0, |tail, &byte| tail << 8 | u128::from(byte));
                Who(name(u128::from_le_bytes(head).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ tail))
            }
        }
    }

    pub(super) fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        #[allow(clippy::indexing_slicing, reason = "there are SHARDS shards")]
        lock(&self.shards[shard_of(hash)])
    }
}

impl Announce<'_> {
    pub(super) const fn kind(&self) -> Kind {
        match self.event {
            _ if self.left == 0 => Kind::Seed,
            Event::Paused => Kind::Paused,
            _ => Kind::Downloader,
        }
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

/// Keeps how often a torrent was downloaded that goes with its last peer.
fn remember(downloads: &mut Halves<InfoHash, u32>, torrent: &Torrent) {
    let downloaded = torrent.stats().downloaded;
    if downloaded > 0 {
        downloads.insert(torrent.info_hash(), downloaded);
    }
}

const fn shard_of(hash: u64) -> usize {
    // By other bits than the table goes.
    (hash >> 40) as usize % SHARDS
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::{BTreeMap, BTreeSet},
        net::SocketAddr,
    };

    use proptest::prelude::*;
    use wire::PeerId;

    use super::{super::request::Name, *};

    const LIMITS: Limits = Limits {
        torrents: 100,
        peers: 10_000,
        peer_age: Duration::from_secs(100),
        interval: Duration::from_secs(50),
        numwant: 50,
        max_numwant: 200,
        ids: false,
    };

    fn request(torrent: u8, ip: &str, port: u16, left: u64, event: Event) -> Announce<'static> {
        Announce {
            info_hash: InfoHash::from_bytes([torrent; 20]),
            peer_id: PeerId::from_bytes([port as u8; 20]),
            ip: ip.parse::<IpAddr>().expect("an address").to_canonical(),
            port,
            uploaded: 0,
            downloaded: 0,
            left,
            event,
            numwant: None,
            key: None,
            both_families: true,
            ids: false,
            passkey: b"",
        }
    }

    fn at(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    /// What became of it, the numbers, and the peers.
    fn say(store: &PeerStore, now: u64, request: &Announce<'_>) -> (Outcome, ScrapeStats, Vec<SocketAddr>) {
        let mut peers = Peers::new();
        let announced = store.announce(at(now), request, &mut peers);
        (announced.outcome, announced.stats, peers.iter().map(|(addr, _)| addr).collect())
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn downloads_of_a_torrent_are_not_forgotten_with_its_last_peer() {
        let store = PeerStore::new(LIMITS, 1);
        let peer = |event| request(1, "10.0.0.1", 1, 0, event);
        let downloaded = || store.scrape(&InfoHash::from_bytes([1; 20])).map(|stats| stats.downloaded);
        say(&store, 0, &request(1, "10.0.0.1", 1, 5, Event::Started));
        say(&store, 0, &peer(Event::Completed));
        say(&store, 1, &peer(Event::Stopped));
        assert_eq!((store.totals(), downloaded()), ((0, 0), Some(1)), "it has stopped");
        assert_eq!(say(&store, 2, &peer(Event::Started)).1.downloaded, 1);
        (0..store.steps()).for_each(|step| {
            store.expire(at(200), step);
        });
        assert_eq!((store.totals(), downloaded()), ((0, 0), Some(1)), "it was too old");
    }

    #[test]
    fn peers_find_each_other_and_never_themselves() {
        let store = PeerStore::new(LIMITS, 1);
        let first = request(1, "10.0.0.1", 10, 5, Event::Started);
        assert_eq!(say(&store, 0, &first).0, Outcome::Added);
        let (_, stats, peers) = say(&store, 1, &request(1, "10.0.0.2", 10, 0, Event::Started));
        assert_eq!(peers, [addr("10.0.0.1:10")]);
        assert_eq!((stats.complete, stats.incomplete, stats.downloaded), (1, 1, 0));
        let (outcome, _, peers) = say(&store, 2, &first);
        assert_eq!((outcome, peers), (Outcome::Renewed, vec![addr("10.0.0.2:10")]));
        assert_eq!(say(&store, 2, &request(2, "10.0.0.3", 11, 5, Event::None)).2, []);
    }

    #[test]
    fn who_lacks_nothing_is_told_of_those_who_do() {
        let store = PeerStore::new(LIMITS, 1);
        let event = |port| if port == 4 { Event::Paused } else { Event::Started };
        for (port, left) in [(1, 0), (2, 0), (3, 7), (4, 7)] {
            say(&store, 0, &request(1, "10.0.0.1", port, left, event(port)));
        }
        let (_, stats, peers) = say(&store, 0, &request(1, "10.0.0.1", 1, 0, Event::None));
        assert_eq!(peers, [addr("10.0.0.1:3")]);
        assert_eq!((stats.complete, stats.incomplete, stats.downloaders), (2, 2, Some(1)));
        assert_eq!(say(&store, 0, &request(1, "10.0.0.1", 4, 7, Event::Paused)).2, [addr("10.0.0.1:3")]);
        assert_eq!(say(&store, 0, &request(1, "10.0.0.1", 3, 7, Event::None)).2.len(), 3);
    }

    #[test]
    fn both_families_are_answered_and_the_asker_is_known_in_both() {
        let store = PeerStore::new(LIMITS, 1);
        for ip in ["10.0.0.1", "fd00::1"] {
            say(&store, 0, &request(1, ip, 7, 5, Event::Started));
        }
        say(&store, 0, &request(1, "fd00::2", 8, 5, Event::Started));
        let mapped = request(1, "::ffff:10.0.0.1", 7, 5, Event::None);
        let (outcome, _, peers) = say(&store, 0, &mapped);
        assert_eq!((outcome, peers), (Outcome::Renewed, vec![addr("[fd00::2]:8")]));
        assert_eq!(say(&store, 0, &Announce { both_families: false, ..mapped }).2, []);
        let (_, _, mut peers) = say(&store, 0, &request(1, "fd00::2", 8, 5, Event::None));
        peers.sort_unstable();
        assert_eq!(peers, [addr("10.0.0.1:7"), addr("[fd00::1]:7")]);
    }

    #[test]
    fn numwant_is_bounded_and_shared_between_families() {
        let store = PeerStore::new(LIMITS, 1);
        for n in 0..300u16 {
            let ip = if n % 3 == 0 { format!("fd00::{n:x}") } else { format!("10.0.1.{}", n % 250) };
            say(&store, 0, &request(1, &ip, 1000 + n, 5, Event::Started));
        }
        let with = |numwant, both_families| {
            let request = Announce { numwant, both_families, ..request(1, "10.0.0.1", 1, 5, Event::None) };
            let peers = say(&store, 0, &request).2;
            let v6 = peers.iter().filter(|peer| peer.is_ipv6()).count();
            (peers.len(), v6)
        };
        assert_eq!(with(None, true), (50, 16));
        assert_eq!(with(None, false), (50, 0));
        assert_eq!(with(Some(u32::MAX), true), (200, 66));
        assert_eq!(with(Some(0), true), (0, 0));
        assert_eq!(with(Some(3), true), (3, 0));
    }

    #[test]
    fn completed_counts_once_and_only_when_said() {
        let store = PeerStore::new(LIMITS, 1);
        let say = |port, left, event| say(&store, 0, &request(1, "10.0.0.1", port, left, event)).1.downloaded;
        assert_eq!(say(1, 0, Event::Started), 0);
        assert_eq!(say(2, 5, Event::Started), 0);
        assert_eq!(say(2, 0, Event::Completed), 1);
        assert_eq!(say(2, 0, Event::Completed), 1);
        assert_eq!(say(4, 7, Event::Completed), 1, "who lacks something has not completed it");
        assert_eq!(say(2, 0, Event::None), 1);
    }

    #[test]
    fn what_does_not_fit_is_answered_and_not_kept() {
        let store = PeerStore::new(Limits { torrents: 1, peers: 2, ..LIMITS }, 1);
        let say = |torrent, port, event| {
            let (outcome, _, peers) = say(&store, 0, &request(torrent, "10.0.0.1", port, 5, event));
            (outcome, peers.len())
        };
        assert_eq!(say(1, 1, Event::Started), (Outcome::Added, 0));
        assert_eq!(say(1, 2, Event::Started), (Outcome::Added, 1));
        assert_eq!(say(1, 3, Event::Started), (Outcome::Full, 2));
        assert_eq!(say(2, 1, Event::Started), (Outcome::Full, 0));
        assert_eq!(say(1, 0, Event::Started), (Outcome::Deaf, 2));
        assert_eq!(store.totals(), (1, 2));
        for port in 1..=3 {
            assert_eq!(say(1, port, Event::Stopped), (Outcome::Stopped, 0));
        }
        assert_eq!(store.totals(), (0, 0));
        assert_eq!(store.scrape(&InfoHash::from_bytes([1; 20])), None);
        assert_eq!(
            (0..store.steps()).map(|step| store.memory(step)).filter(|&bytes| bytes > 4096).count(),
            0
        );
    }

    #[test]
    fn a_peer_with_a_key_is_changed_by_that_key_alone_while_it_announces() {
        let store = PeerStore::new(LIMITS, 1);
        let with =
            |key, left, event| Announce { key: Name::number(key), ..request(1, "10.0.0.1", 7, left, event) };
        assert_eq!(say(&store, 0, &with(11, 5, Event::Started)).0, Outcome::Added);
        for key in [0, 12] {
            for event in [Event::Stopped, Event::Completed, Event::Started] {
                let (outcome, stats, _) = say(&store, 50, &with(key, 0, event));
                assert_eq!((outcome, stats.complete, stats.incomplete), (Outcome::Foreign, 0, 1), "{key}");
                assert_eq!(stats.downloaded, 0);
            }
        }
        // One that has been silent for an interval has lost its address.
        assert_eq!(say(&store, 51, &with(12, 0, Event::Started)).0, Outcome::Renewed);
        assert_eq!(say(&store, 52, &with(11, 5, Event::Stopped)).0, Outcome::Foreign);
        assert_eq!(say(&store, 53, &with(12, 5, Event::Stopped)).0, Outcome::Stopped);
        // And without a key the address is enough.
        say(&store, 60, &with(0, 5, Event::Started));
        assert_eq!(say(&store, 61, &with(12, 5, Event::Stopped)).0, Outcome::Stopped);
        assert_eq!(store.totals(), (0, 0));
    }

    #[test]
    fn ids_are_given_where_they_are_kept_and_wanted() {
        for keep in [false, true] {
            let store = PeerStore::new(Limits { ids: keep, ..LIMITS }, 1);
            for ip in ["10.0.0.1", "fd00::1"] {
                say(&store, 0, &request(1, ip, 65, 5, Event::Started));
            }
            let mut peers = Peers::new();
            let asks = Announce { ids: true, ..request(1, "10.0.0.2", 9, 5, Event::Started) };
            store.announce(at(0), &asks, &mut peers);
            let ids: Vec<_> = peers.iter().map(|(_, id)| id).collect();
            assert_eq!(ids, [keep.then(|| PeerId::from_bytes([65; 20])); 2]);
        }
    }

    #[test]
    fn many_old_peers_go_in_one_round() {
        let store = PeerStore::new(LIMITS, 1);
        for n in 0..3 * MOST_EXPIRED {
            let ip = format!("10.{}.{}.1", n / 256, n % 256);
            say(&store, if n % 10 == 0 { 60 } else { 0 }, &request(1, &ip, 1, 5, Event::Started));
        }
        let gone = (0..store.steps()).map(|step| store.expire(at(101), step)).sum::<usize>();
        assert_eq!((gone, store.totals().1), (3 * MOST_EXPIRED * 9 / 10, 3 * MOST_EXPIRED / 10));
        let mut seen = Vec::new();
        (0..store.steps()).for_each(|step| store.visit(step, |torrent| seen.push(*torrent)));
        assert_eq!(seen.iter().map(TorrentStats::peers).collect::<Vec<_>>(), [600]);
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
        fn the_store_agrees_with_a_naive_model(steps in proptest::collection::vec(step(), 1..120)) {
            let store = PeerStore::new(LIMITS, 1);
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
                        let ip = if host % 2 == 0 { format!("10.0.0.{host}") } else { format!("fd00::{host}") };
                        let mut request = request(torrent, &ip, port, left, event);
                        // An id per host, so that hosts are told apart by it.
                        request.peer_id = PeerId::from_bytes([host; 20]);
                        request.numwant = numwant;
                        let (_, stats, peers) = say(&store, now, &request);
                        let asker = request.addr();
                        let swarm = model.entry(torrent).or_default();
                        if event == Event::Stopped {
                            swarm.remove(&asker);
                        } else if port != 0 {
                            swarm.insert(asker, (now, left == 0));
                        }
                        let seeds = swarm.values().filter(|(_, seed)| *seed).count() as u32;
                        prop_assert_eq!(stats.complete, seeds);
                        prop_assert_eq!(stats.incomplete, swarm.len() as u32 - seeds);
                        let eligible: BTreeSet<_> = swarm
                            .iter()
                            .filter(|(addr, (_, seed))| **addr != asker && !(left == 0 && *seed))
                            .map(|(addr, _)| *addr)
                            .collect();
                        let given: BTreeSet<_> = peers.iter().copied().collect();
                        prop_assert_eq!(given.len(), peers.len(), "a peer given twice");
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
