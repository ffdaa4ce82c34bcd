//! Which torrents the content directory knows, where only those may be announced: kept in memory, so that an announce
//! waits for nothing. What is published is entered before anybody can learn of it.
//!
//! A node announces a torrent before it publishes it, so that whoever learns of it finds a peer. Such an announce is
//! refused like any other of a torrent that is not known, but remembered for a moment: when the torrent is entered
//! within that time, so is the peer. Each host has few places for that, so that nobody takes another's.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Release},
        },
    },
    time::Duration,
};

use announce::cluster::News;
use hash::Digest;
use metainfo::InfoHash;
use tokio::sync::Notify;

use crate::{desk::Desk, server::Clock};

/// How long an announce is remembered that came before its torrent.
const EARLY: Duration = Duration::from_secs(30);

/// How many are remembered: so many for each of so many groups of hosts.
const GROUPS: usize = 256;
const PLACES: usize = 64;

/// How many parts the set is in; each has a lock of its own.
const SHARDS: usize = 64;

pub(crate) struct Registered {
    /// Whether it is asked for; else nothing is kept.
    wanted: AtomicBool,
    /// Whether the directory has been read.
    ready: AtomicBool,
    /// Told when the directory is to be read.
    pub(crate) stale: Notify,
    /// With the round in which each was found last.
    known: Box<[RwLock<HashMap<InfoHash, u64>>]>,
    /// The torrent of each blob.
    blobs: Mutex<Blobs>,
    early: Box<[Mutex<Vec<Early>>]>,
    hasher: RandomState,
    desk: OnceLock<Weak<Desk>>,
    clock: Clock,
}

#[derive(Default)]
struct Blobs {
    torrents: HashMap<Digest, InfoHash>,
    /// How often the directory was read.
    round: u64,
}

/// An announce that came before its torrent.
struct Early {
    info_hash: InfoHash,
    news: News,
    at: Duration,
}

impl Registered {
    pub(crate) fn new(clock: Clock) -> Self {
        Self {
            wanted: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            stale: Notify::new(),
            known: (0..SHARDS).map(|_| RwLock::default()).collect(),
            blobs: Mutex::default(),
            early: (0..GROUPS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            desk: OnceLock::new(),
            clock,
        }
    }

    /// Says where peers are entered. To be called once, before anything is announced.
    pub(crate) fn attach(&self, desk: Weak<Desk>) {
        let _ = self.desk.set(desk);
    }

    /// Whether the set is to be kept from now on.
    pub(crate) fn want(&self, wanted: bool) {
        if self.wanted.swap(wanted, Release) == wanted {
            return;
        }
        if wanted {
            self.stale.notify_one();
        } else {
            self.ready.store(false, Release);
            let mut blobs = lock(&self.blobs);
            *blobs = Blobs { round: blobs.round, ..Blobs::default() };
            self.known
                .iter()
                .for_each(|shard| *shard.write().unwrap_or_else(PoisonError::into_inner) = HashMap::new());
            self.early.iter().for_each(|group| *lock(group) = Vec::new());
        }
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.wanted.load(Acquire)
    }

    /// Whether the directory has been read since it is asked for.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Acquire)
    }

    /// Whether the directory knows a torrent.
    pub(crate) fn has(&self, info_hash: &InfoHash) -> bool {
        let shard = self.shard(info_hash);
        shard
            .is_some_and(|shard| shard.read().unwrap_or_else(PoisonError::into_inner).contains_key(info_hash))
    }

    /// Enters a blob's torrent, and whoever announced it a moment ago; gives the torrent that was there before.
    pub(crate) fn enter(&self, digest: &Digest, info_hash: &InfoHash) -> Option<InfoHash> {
        if !self.is_wanted() {
            return None;
        }
        let before = self.insert(digest, info_hash);
        if before != Some(*info_hash) {
            for early in &self.early {
                self.admit(early, |early| early.info_hash == *info_hash);
            }
        }
        before
    }

    /// Removes a blob's torrent.
    pub(crate) fn leave(&self, digest: &Digest) {
        let mut blobs = lock(&self.blobs);
        if let Some(info_hash) = blobs.torrents.remove(digest) {
            self.forget(&info_hash);
        }
    }

    /// The directory is about to be read whole.
    pub(crate) fn begin(&self) {
        lock(&self.blobs).round += 1;
    }

    /// A blob that was found there.
    pub(crate) fn found(&self, digest: &Digest, info_hash: &InfoHash) {
        if self.is_wanted() {
            self.insert(digest, info_hash);
        }
    }

    /// It has been read: what was not found has gone.
    pub(crate) fn end(&self) {
        if !self.is_wanted() {
            return;
        }
        {
            let mut blobs = lock(&self.blobs);
            let round = blobs.round;
            blobs.torrents.retain(|_, info_hash| {
                let there = self.round(info_hash) == Some(round);
                if !there {
                    self.forget(info_hash);
                }
                there
            });
        }
        self.ready.store(true, Release);
        for early in &self.early {
            self.admit(early, |early| self.has(&early.info_hash));
        }
    }

    /// Remembers an announce for a moment. Says whether the torrent has been entered meanwhile.
    pub(crate) fn came_early(&self, now: Duration, info_hash: &InfoHash, news: News) -> bool {
        let host = match news.addr.ip() {
            IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
            ip => ip,
        };
        let group = self.early.get(self.hasher.hash_one(host) as usize % GROUPS);
        if let Some(group) = group {
            let mut group = lock(group);
            group.retain(|early| {
                let same = early.info_hash == *info_hash && early.news.addr == news.addr;
                !same && now.saturating_sub(early.at) < EARLY
            });
            if group.len() >= PLACES {
                // The oldest: they stand in the order in which they came.
                group.remove(0);
            }
            group.push(Early { info_hash: *info_hash, news, at: now });
        }
        // Whoever enters it looks for early announces after that, and we after remembering ours.
        self.has(info_hash)
    }

    /// Gives the desk those announces that came early, of the ones asked for.
    fn admit(&self, group: &Mutex<Vec<Early>>, asked_for: impl Fn(&Early) -> bool) {
        let mut admitted = Vec::new();
        lock(group).retain(|early| {
            let goes = asked_for(early);
            if goes {
                admitted.push((early.info_hash, early.news, early.at));
            }
            !goes
        });
        let Some(desk) = self.desk.get().and_then(Weak::upgrade) else { return };
        let now = self.clock.elapsed();
        for (info_hash, news, at) in admitted {
            if now.saturating_sub(at) < EARLY {
                desk.admit_early(now, &info_hash, news);
            }
        }
    }

    fn insert(&self, digest: &Digest, info_hash: &InfoHash) -> Option<InfoHash> {
        let mut blobs = lock(&self.blobs);
        let before = blobs.torrents.insert(*digest, *info_hash);
        if let Some(shard) = self.shard(info_hash) {
            shard.write().unwrap_or_else(PoisonError::into_inner).insert(*info_hash, blobs.round);
        }
        if let Some(before) = before.filter(|before| before != info_hash) {
            self.forget(&before);
        }
        before
    }

    fn forget(&self, info_hash: &InfoHash) {
        if let Some(shard) = self.shard(info_hash) {
            shard.write().unwrap_or_else(PoisonError::into_inner).remove(info_hash);
        }
    }

    fn round(&self, info_hash: &InfoHash) -> Option<u64> {
        self.shard(info_hash)?.read().unwrap_or_else(PoisonError::into_inner).get(info_hash).copied()
    }

    fn shard(&self, info_hash: &InfoHash) -> Option<&RwLock<HashMap<InfoHash, u64>>> {
        self.known.get(self.hasher.hash_one(info_hash.as_bytes()) as usize % SHARDS)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use announce::cluster::{Happened, Holds};

    use super::*;

    fn hash(n: u8) -> InfoHash {
        InfoHash::from_bytes([n; 20])
    }

    fn news(host: u8, port: u16) -> News {
        News {
            addr: ([10, 0, 0, host], port).into(),
            who: 2,
            holds: Holds::All,
            happened: Happened::Announced,
            age: 0,
        }
    }

    #[test]
    fn what_is_published_found_replaced_and_removed_is_known_or_not() {
        let registered = Registered::new(Clock::start());
        let (x, y) = (Digest::of(b"x"), Digest::of(b"y"));
        registered.enter(&x, &hash(1));
        assert!(!registered.has(&hash(1)), "nothing is kept where it is not wanted");
        registered.want(true);
        registered.begin();
        registered.found(&x, &hash(1));
        assert!(!registered.is_ready());
        registered.enter(&y, &hash(2));
        registered.end();
        assert!(registered.is_ready() && registered.has(&hash(1)) && registered.has(&hash(2)));
        assert_eq!(registered.enter(&x, &hash(3)), Some(hash(1)));
        assert!(!registered.has(&hash(1)) && registered.has(&hash(3)));
        registered.leave(&y);
        assert!(!registered.has(&hash(2)));
        // Read again, what is not found has gone.
        registered.begin();
        registered.found(&y, &hash(2));
        registered.end();
        assert!(registered.has(&hash(2)) && !registered.has(&hash(3)));
        registered.want(false);
        assert!(!registered.has(&hash(2)) && !registered.is_ready());
    }

    #[test]
    fn who_comes_early_keeps_a_place_whatever_others_do() {
        let registered = Registered::new(Clock::start());
        registered.want(true);
        let now = Duration::from_secs(5);
        assert!(!registered.came_early(now, &hash(1), news(1, 7)));
        for n in 0..10_000u16 {
            registered.came_early(now, &hash((n % 200) as u8 + 2), news(2, n + 1));
        }
        let kept = |host: u8| {
            let groups = registered.early.iter().map(lock);
            let of = |early: &Early| early.news.addr.ip() == IpAddr::from([10, 0, 0, host]);
            groups.map(|group| group.iter().filter(|early| of(early)).count()).sum::<usize>()
        };
        // Unless chance puts both into one group, which is then the other's for now.
        assert!(kept(2) <= PLACES);
        assert!(registered.early.iter().all(|group| lock(group).len() <= PLACES));
        let alone = registered.hasher.hash_one(IpAddr::from([10, 0, 0, 1])) as usize % GROUPS
            != registered.hasher.hash_one(IpAddr::from([10, 0, 0, 2])) as usize % GROUPS;
        assert_eq!(kept(1), usize::from(alone));
        registered.enter(&Digest::of(b"x"), &hash(1));
        assert!(registered.came_early(now, &hash(1), news(3, 7)), "entered meanwhile");
    }
}
