//! Room: what was used least lately goes when the store has more than it may, or its disk less room than it should.
//!
//! A blob that goes is withdrawn from its trackers, and fetched anew when somebody asks for it. Whoever reads it goes on
//! doing so: its file is there as long as it is open.

use std::{
    collections::BinaryHeap,
    io,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hash::Digest;
use metainfo::InfoHash;
use store::{IndexError, RemoveError, Store};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use crate::{config::StoreConfig, content::Inner};

/// How often it is looked whether something must go.
const LOOK: Duration = Duration::from_secs(60);
/// How many blobs go at a time at most.
const AT_ONCE: usize = 10_000;

/// A blob that may go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Old {
    last_used: u64,
    digest: Digest,
    size: u64,
    info_hash: Option<InfoHash>,
}

/// Keeps to the limits until the node stops.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = inner.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let (store, limits) = (inner.store.clone(), inner.config.store.clone());
        let found = spawn_blocking(move || find(&store, &limits, unix())).await;
        match found {
            Ok(Ok(old)) => remove(&inner, old).await,
            Ok(Err(error)) => tracing::warn!("it cannot be told what should leave the store: {error}"),
            Err(_) => return,
        }
    }
}

/// What must go now, oldest first.
fn find(store: &Store, limits: &StoreConfig, now: u64) -> Result<Vec<Old>, FindError> {
    let over = match limits.limit_mib {
        0 => 0,
        mib => store.count_and_bytes().1.saturating_sub(mib << 20),
    };
    let excess = over.max(lack(store.dir(), limits.free_percent)?);
    let unused = match limits.unused_days {
        0 => 0,
        days => now.saturating_sub(days * 24 * 3600),
    };
    if excess == 0 && unused == 0 {
        return Ok(Vec::new());
    }
    let before = now.saturating_sub(limits.keep_minutes * 60);
    let mut oldest = Oldest { excess, unused, before, ..Oldest::default() };
    let mut after = None;
    loop {
        let page = store.list(after.as_ref(), Store::MAX_PAGE)?;
        let Some(last) = page.last() else { break };
        after = Some(last.digest);
        for blob in page {
            // What is borrowed takes no room here.
            if blob.borrowed {
                continue;
            }
            oldest.consider(Old {
                last_used: blob.last_used,
                digest: blob.digest,
                size: blob.size,
                info_hash: blob.info_hash,
            });
        }
    }
    if oldest.bytes < excess {
        tracing::warn!(
            mib = (excess - oldest.bytes) >> 20,
            "the store is larger than it should be, and the rest of it was used a moment ago"
        );
    }
    Ok(oldest.rows.into_sorted_vec())
}

/// How many bytes the disk lacks of the room that should be left on it.
fn lack(dir: &Path, percent: u8) -> io::Result<u64> {
    if percent == 0 {
        return Ok(0);
    }
    let disk = rustix::fs::statvfs(dir)?;
    // Of what this user may fill.
    let size = disk.f_blocks.saturating_sub(disk.f_bfree.saturating_sub(disk.f_bavail));
    let wanted = size / 100 * u64::from(percent);
    Ok(wanted.saturating_sub(disk.f_bavail).saturating_mul(disk.f_frsize))
}

/// Picks the oldest blobs out of all: those unused for too long, and as many as make up the excess.
#[derive(Debug, Default)]
struct Oldest {
    excess: u64,
    /// What was last used before this goes.
    unused: u64,
    /// What was used after this stays.
    before: u64,
    rows: BinaryHeap<Old>,
    /// Of all of `rows`.
    bytes: u64,
}

impl Oldest {
    fn consider(&mut self, blob: Old) {
        if blob.last_used >= self.before.max(self.unused) {
            return;
        }
        self.bytes += blob.size;
        self.rows.push(blob);
        while let Some(newest) = self.rows.peek() {
            let spare = newest.last_used >= self.unused && self.bytes - newest.size >= self.excess;
            if !spare && self.rows.len() <= AT_ONCE {
                return;
            }
            self.bytes -= newest.size;
            self.rows.pop();
        }
    }
}

async fn remove(inner: &Arc<Inner>, old: Vec<Old>) {
    let (mut blobs, mut bytes) = (0_u64, 0);
    for Old { digest, size, info_hash, .. } in old {
        // What moves is of use to somebody.
        if inner.stop.is_cancelled() || info_hash.is_some_and(|hash| inner.engine.get(&hash).is_some()) {
            continue;
        }
        let store = inner.store.clone();
        match spawn_blocking(move || store.remove(&digest)).await {
            Ok(Ok(true)) => (blobs, bytes) = (blobs + 1, bytes + size),
            Ok(Ok(false) | Err(RemoveError::Busy(_))) | Err(_) => continue,
            Ok(Err(error)) => {
                tracing::warn!(%digest, %error, "a blob cannot be removed");
                continue;
            }
        }
        if let Some(info_hash) = info_hash {
            inner.engine.remove(&info_hash).await;
        }
    }
    if blobs > 0 {
        inner.evicted.fetch_add(bytes, Ordering::Relaxed);
        tracing::info!(blobs, mib = bytes >> 20, "what was not used lately has left the store");
    }
}

#[derive(Debug, thiserror::Error)]
enum FindError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error("the disk does not say how full it is: {0}")]
    Disk(#[from] io::Error),
}

impl From<rustix::io::Errno> for FindError {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Disk(error.into())
    }
}

#[allow(clippy::disallowed_methods, reason = "the store notes uses by the wall clock")]
fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn blobs(rows: &[(u64, u64)]) -> Vec<Old> {
        let blob = |(n, &(last_used, size)): (usize, &(u64, u64))| Old {
            last_used,
            digest: Digest::of(&n.to_be_bytes()),
            size,
            info_hash: None,
        };
        rows.iter().enumerate().map(blob).collect()
    }

    fn chosen(excess: u64, unused: u64, before: u64, rows: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut oldest = Oldest { excess, unused, before, ..Oldest::default() };
        blobs(rows).into_iter().for_each(|blob| oldest.consider(blob));
        let rows = oldest.rows.into_sorted_vec();
        assert_eq!(oldest.bytes, rows.iter().map(|row| row.size).sum::<u64>());
        rows.into_iter().map(|row| (row.last_used, row.size)).collect()
    }

    #[test]
    fn the_oldest_go_as_far_as_needed_and_nothing_that_was_just_used() {
        let rows = [(50, 10), (10, 10), (40, 10), (20, 10), (30, 10)];
        assert_eq!(chosen(15, 0, 100, &rows), [(10, 10), (20, 10)]);
        assert_eq!(chosen(1, 0, 100, &rows), [(10, 10)]);
        assert_eq!(chosen(0, 0, 100, &rows), []);
        assert_eq!(chosen(1000, 0, 30, &rows), [(10, 10), (20, 10)], "the rest was used lately");
        assert_eq!(chosen(0, 35, 100, &rows), [(10, 10), (20, 10), (30, 10)], "unused for too long");
        assert_eq!(chosen(35, 15, 100, &rows).len(), 4);
    }

    #[test]
    fn a_disk_lacks_nothing_where_nothing_is_asked_for_and_much_where_all_is() {
        let dir = tempfile::tempdir().expect("temp");
        assert_eq!(lack(dir.path(), 0).expect("asked"), 0);
        assert!(lack(dir.path(), 100).expect("asked") > 0, "something lies on it");
    }

    proptest! {
        #[test]
        fn what_goes_is_enough_and_no_blob_could_stay(
            rows in prop::collection::vec((0_u64..50, 1_u64..20), 0..60), excess in 0_u64..600,
        ) {
            let gone = chosen(excess, 0, 40, &rows);
            let bytes: u64 = gone.iter().map(|row| row.1).sum();
            let may_go: u64 = rows.iter().filter(|row| row.0 < 40).map(|row| row.1).sum();
            prop_assert!(bytes >= excess.min(may_go));
            if let Some(newest) = gone.last() {
                prop_assert!(bytes - newest.1 < excess, "without the newest of them it is not enough");
                let stayed = rows.iter().filter(|row| row.0 < newest.0).count();
                prop_assert_eq!(stayed, gone.iter().filter(|row| row.0 < newest.0).count(), "older ones went first");
            }
        }
    }
}
