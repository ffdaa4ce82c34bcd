//! What a watch of etcd tells: who of this tracker's claims is to look again, and what may be answered from memory.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use api::directory::Entry;
use etcd::{Change, Event};
use hash::Digest;
use tokio::sync::Semaphore;

use super::records::{About, Keys};
use crate::leases::End;

/// How much is remembered, in bytes; a layer's torrent has 5 to 50 KiB.
const CACHE: usize = 64 * 1024 * 1024;

/// What an entry takes beside its info dictionary, about.
const ROW: usize = 512;

/// Of how many broken entries it is remembered that people were told.
const MAX_TOLD: usize = 1000;

/// No clock, no I/O.
#[derive(Debug, Default)]
pub(crate) struct News(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    /// Whether every change is heard of.
    connected: bool,
    /// The latest revision of the store that was heard of.
    revision: i64,
    cache: HashMap<Digest, Entry>,
    cached: usize,
    /// Where claims are.
    spots: HashMap<Digest, Spot>,
    /// Broken entries, each with the revision at which it was told of.
    told: HashMap<Digest, i64>,
}

/// A blob that is being claimed.
#[derive(Debug)]
struct Spot {
    /// Goes when nobody waits any more.
    end: Weak<End>,
    turn: Arc<Semaphore>,
}

impl News {
    /// A place at a blob: how it is told that something has changed since, and the turn of those who try to get its
    /// lease, one at a time.
    pub(crate) fn at(&self, digest: &Digest) -> (Arc<End>, Arc<Semaphore>) {
        let mut seen = self.lock();
        if let Some(spot) = seen.spots.get(digest)
            && let Some(end) = spot.end.upgrade()
        {
            return (end, spot.turn.clone());
        }
        let (end, turn) = (Arc::<End>::default(), Arc::new(Semaphore::new(1)));
        seen.spots.insert(*digest, Spot { end: Arc::downgrade(&end), turn: turn.clone() });
        (end, turn)
    }

    /// An entry that stands in etcd as it is here.
    pub(crate) fn cached(&self, digest: &Digest) -> Option<Entry> {
        self.lock().cache.get(digest).cloned()
    }

    /// Remembers what was read at a revision, if every change since is heard of.
    pub(crate) fn remember(&self, entry: &Entry, revision: i64) {
        let mut seen = self.lock();
        // What was read before the latest word may be of yesterday.
        if !seen.connected || revision < seen.revision {
            return;
        }
        if seen.cached > CACHE {
            seen.clear();
        }
        if seen.cache.insert(entry.digest, entry.clone()).is_none() {
            seen.cached += entry.info.len() + entry.content.len() + ROW;
        }
    }

    /// Takes in what the watch tells.
    pub(crate) fn hear(&self, keys: &Keys, change: &Change) {
        let mut seen = self.lock();
        match change {
            Change::Begins(revision) => {
                seen.clear();
                (seen.connected, seen.revision) = (true, *revision);
                // Anything may have happened.
                for spot in std::mem::take(&mut seen.spots).into_values() {
                    spot.tell(true);
                }
            }
            Change::Resumes => seen.connected = true,
            Change::Breaks => {
                seen.clear();
                seen.connected = false;
            }
            Change::Events(events) => {
                for event in events {
                    seen.revision = seen.revision.max(event.revision());
                    match (keys.about(event.key()), event) {
                        (Some(About::Blob(digest)), _) => seen.published(&digest),
                        (Some(About::Lease(digest)), Event::Delete { .. }) => seen.tell(&digest, false),
                        _ => {}
                    }
                }
            }
        }
    }

    /// This tracker has published it: those here need not wait for the watch.
    pub(crate) fn published(&self, digest: &Digest) {
        self.lock().published(digest);
    }

    /// Whether people are to be told that an entry is broken: once for each.
    pub(crate) fn tell_of(&self, digest: &Digest, revision: i64) -> bool {
        let mut seen = self.lock();
        if seen.told.len() >= MAX_TOLD {
            seen.told.clear();
        }
        seen.told.insert(*digest, revision) != Some(revision)
    }

    /// Forgets places where nobody is.
    pub(crate) fn sweep(&self) {
        self.lock().spots.retain(|_, spot| spot.end.strong_count() > 0);
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn published(&mut self, digest: &Digest) {
        if let Some(entry) = self.cache.remove(digest) {
            self.cached = self.cached.saturating_sub(entry.info.len() + ROW);
        }
        self.tell(digest, true);
    }

    fn tell(&mut self, digest: &Digest, published: bool) {
        if let Some(spot) = self.spots.remove(digest) {
            spot.tell(published);
        }
    }

    fn clear(&mut self) {
        self.cache.clear();
        self.cached = 0;
    }
}

impl Spot {
    fn tell(&self, published: bool) {
        if let Some(end) = self.end.upgrade() {
            end.tell(published);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use etcd::KeyValue;
    use metainfo::InfoHash;

    use super::*;

    fn entry(content: &[u8], info: usize) -> Entry {
        Entry {
            digest: Digest::of(content),
            size: 1,
            media_type: None,
            info_hash: InfoHash::from_bytes([1; 20]),
            info: Bytes::from(vec![0; info]),
            public: false,
            content: Bytes::new(),
            complete: None,
            incomplete: None,
        }
    }

    fn put(key: String, revision: i64) -> Event {
        let (key, value) = (key.into_bytes().into(), Bytes::new());
        Event::Put(KeyValue { key, value, mod_revision: revision, lease: 0 })
    }

    fn delete(key: String, revision: i64) -> Event {
        Event::Delete { key: key.into_bytes().into(), revision }
    }

    #[test]
    fn only_what_every_change_is_heard_of_is_remembered() {
        let (news, keys, x) = (News::default(), Keys::new("p"), entry(b"x", 9));
        news.remember(&x, 5);
        assert_eq!(news.cached(&x.digest), None, "no watch yet");
        news.hear(&keys, &Change::Begins(10));
        news.remember(&x, 9);
        assert_eq!(news.cached(&x.digest), None, "read before the watch began");
        news.remember(&x, 10);
        assert_eq!(news.cached(&x.digest).as_ref(), Some(&x));
        news.hear(&keys, &Change::Events(vec![put(keys.blob(&x.digest), 11)]));
        assert_eq!(news.cached(&x.digest), None, "there is a newer one");
        news.remember(&x, 10);
        assert_eq!(news.cached(&x.digest), None, "read before it changed");
        news.remember(&x, 12);
        news.hear(&keys, &Change::Breaks);
        assert_eq!(news.cached(&x.digest), None);
        news.hear(&keys, &Change::Resumes);
        news.remember(&x, 12);
        assert!(news.cached(&x.digest).is_some());
    }

    #[test]
    fn those_who_wait_learn_how_a_lease_ended() {
        let (news, keys, x) = (News::default(), Keys::new("p"), Digest::of(b"x"));
        let (first, _) = news.at(&x);
        assert!(Arc::ptr_eq(&first, &news.at(&x).0));
        news.hear(&keys, &Change::Events(vec![put(keys.lease(&x), 1)]));
        assert!(!first.over.is_cancelled());
        news.hear(&keys, &Change::Events(vec![delete(keys.lease(&x), 2)]));
        assert!(first.over.is_cancelled() && !first.published.is_cancelled());
        let (second, _) = news.at(&x);
        news.hear(&keys, &Change::Events(vec![put(keys.blob(&x), 3), delete(keys.lease(&x), 3)]));
        assert!(second.over.is_cancelled() && second.published.is_cancelled());
        let (third, _) = news.at(&x);
        news.hear(&keys, &Change::Begins(9));
        assert!(third.published.is_cancelled(), "it may have been");
        let (fourth, _) = news.at(&x);
        news.sweep();
        assert!(Arc::ptr_eq(&fourth, &news.at(&x).0));
        drop(fourth);
        news.sweep();
        assert!(news.lock().spots.is_empty());
    }

    #[test]
    fn what_is_remembered_and_told_is_bounded() {
        let (news, keys) = (News::default(), Keys::new("p"));
        news.hear(&keys, &Change::Begins(0));
        for number in 0..20_u8 {
            news.remember(&entry(&[number], CACHE / 8), 1);
            assert!(news.lock().cached <= CACHE + CACHE / 4);
        }
        assert!(news.cached(&Digest::of(&[19])).is_some());
        let x = Digest::of(b"x");
        assert!(news.tell_of(&x, 1) && !news.tell_of(&x, 1) && news.tell_of(&x, 2));
    }
}
