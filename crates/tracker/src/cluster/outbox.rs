//! What has happened here and others are still to be told, between two rounds of the pump; and who has left.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use announce::cluster::{Happened, News};
use metainfo::InfoHash;

use super::gone::Gone;

/// Enough that workers rarely meet.
const SHARDS: usize = 64;

/// How many may wait in a shard; a million and more a second are told of all the same.
const MOST: usize = 16 * 1024;

/// How much room a shard keeps that it does not need at the moment.
const KEPT: usize = 1024;

pub(crate) type Told = (InfoHash, News);

/// News by torrent, so that what happens to one peer stays in order.
#[derive(Debug)]
pub(crate) struct Outbox {
    shards: Box<[Shard]>,
    /// Nobody can aim at one shard.
    hasher: RandomState,
    /// For how many there was no room.
    lost: AtomicU64,
    peer_age: Duration,
}

/// A line of the cache for each.
#[derive(Debug)]
#[repr(align(64))]
struct Shard(Mutex<Waiting>);

#[derive(Debug)]
struct Waiting {
    news: Vec<Told>,
    gone: Gone,
}

impl Outbox {
    /// Where peers are forgotten at this age.
    pub(crate) fn new(peer_age: Duration) -> Self {
        let shard = |_| Shard(Mutex::new(Waiting { news: Vec::new(), gone: Gone::new(peer_age) }));
        let shards = (0..SHARDS).map(shard).collect();
        Self { shards, hasher: RandomState::new(), lost: AtomicU64::new(0), peer_age }
    }

    /// Adds news of a peer that announced here. Where there is no room it is lost, and all members are told everything
    /// anew.
    pub(crate) fn put(&self, now: Duration, info_hash: InfoHash, news: News) {
        let Some(mut waiting) = self.shard(&info_hash) else { return };
        if news.happened == Happened::Stopped {
            waiting.gone.left(now, info_hash, &news, true);
        } else {
            waiting.gone.is_back(&info_hash, &news);
        }
        if waiting.news.len() < MOST {
            waiting.news.push((info_hash, news));
        } else {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Whether news of another tracker's is to be believed: not where the peer has left since.
    pub(crate) fn believes(&self, now: Duration, info_hash: &InfoHash, news: &News) -> bool {
        let Some(mut waiting) = self.shard(info_hash) else { return true };
        if news.happened == Happened::Stopped {
            waiting.gone.left(now, *info_hash, news, false);
            return true;
        }
        let stale = waiting.gone.has_left_since(now, info_hash, news);
        if !stale {
            waiting.gone.is_back(info_hash, news);
        }
        !stale
    }

    /// Those who have left this tracker within the age at which a peer is forgotten, of a shard.
    pub(super) fn gone(&self, now: Duration, shard: usize) -> Vec<Told> {
        self.shards.get(shard).map_or_else(Vec::new, |shard| lock(shard).gone.own(now, self.peer_age))
    }

    fn shard(&self, info_hash: &InfoHash) -> Option<MutexGuard<'_, Waiting>> {
        let at = self.hasher.hash_one(info_hash.as_bytes()) as usize % SHARDS;
        self.shards.get(at).map(lock)
    }

    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Takes what waits in a shard, by torrent; `taken` is overwritten, and its room goes to the shard.
    pub(super) fn take(&self, shard: usize, taken: &mut Vec<Told>) {
        taken.clear();
        let Some(shard) = self.shards.get(shard) else { return };
        let mut waiting = lock(shard);
        if waiting.news.is_empty() {
            waiting.news.shrink_to(KEPT);
            return;
        }
        std::mem::swap(&mut waiting.news, taken);
        drop(waiting);
        // Stable: what happened to a peer stays in order.
        taken.sort_by_key(|(info_hash, _)| *info_hash);
    }

    /// How many were lost since this was asked last.
    pub(super) fn lost(&self) -> u64 {
        self.lost.swap(0, Relaxed)
    }
}

fn lock(shard: &Shard) -> MutexGuard<'_, Waiting> {
    shard.0.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use announce::cluster::Holds;

    use super::*;

    #[test]
    fn news_comes_by_torrent_in_order_and_what_is_too_much_is_counted() {
        let outbox = Outbox::new(Duration::from_secs(1500));
        let news = |port| News {
            addr: ([10, 0, 0, 1], port).into(),
            who: 1,
            holds: Holds::Part,
            happened: Happened::Announced,
            age: 0,
        };
        for port in 1..=600 {
            outbox.put(Duration::ZERO, InfoHash::from_bytes([(port % 3) as u8; 20]), news(port));
        }
        let (mut taken, mut all) = (Vec::new(), Vec::new());
        for shard in 0..outbox.shards() {
            outbox.take(shard, &mut taken);
            let keys: Vec<_> = taken.iter().map(|(hash, news)| (*hash, news.addr.port())).collect();
            assert!(keys.is_sorted());
            all.extend(keys);
        }
        assert_eq!((all.len(), outbox.lost()), (600, 0));
        for _ in 0..MOST + 5 {
            outbox.put(Duration::ZERO, InfoHash::from_bytes([1; 20]), news(1));
        }
        assert_eq!((outbox.lost(), outbox.lost()), (5, 0));
    }
}
