//! What came from where: kept for a while after a blob is here, for people and the API.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use api::node::{Provenance, SourceBytes};
use hash::Digest;

/// How many blobs' sources are kept.
const MOST: usize = 10_000;
/// How many blobs' runs are kept.
const MOST_RUNS: usize = 256;

/// What is known of one blob's coming.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) started: u64,
    pub(crate) finished: u64,
    pub(crate) sources: Vec<SourceBytes>,
    pub(crate) provenance: Option<Provenance>,
}

/// The last blobs that came.
#[derive(Default)]
pub(crate) struct Records(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    records: HashMap<Digest, Record>,
    order: VecDeque<Digest>,
    with_runs: VecDeque<Digest>,
    /// How many have come, and the latest of them.
    count: u64,
    latest: VecDeque<Digest>,
}

impl Records {
    pub(crate) fn add(&self, digest: Digest, record: Record) {
        let mut inner = self.lock();
        if record.provenance.is_some() {
            inner.with_runs.push_back(digest);
        }
        inner.count += 1;
        inner.latest.push_back(digest);
        if inner.latest.len() > MOST_RUNS {
            inner.latest.pop_front();
        }
        if inner.records.insert(digest, record).is_none() {
            inner.order.push_back(digest);
        }
        if inner.order.len() > MOST
            && let Some(oldest) = inner.order.pop_front()
        {
            inner.records.remove(&oldest);
        }
        if inner.with_runs.len() > MOST_RUNS
            && let Some(oldest) = inner.with_runs.pop_front()
            && let Some(record) = inner.records.get_mut(&oldest)
        {
            record.provenance = None;
        }
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Record> {
        self.lock().records.get(digest).cloned()
    }

    /// Where the blobs came from that have come since there were `seen` of them, as far as that is kept, and how many
    /// there are now.
    pub(crate) fn since(&self, seen: u64) -> (Vec<(Digest, Provenance)>, u64) {
        let inner = self.lock();
        let new =
            usize::try_from(inner.count.saturating_sub(seen)).unwrap_or(usize::MAX).min(inner.latest.len());
        let latest = inner.latest.iter().rev().take(new).rev();
        let known =
            latest.filter_map(|digest| Some((*digest, inner.records.get(digest)?.provenance.clone()?)));
        (known.collect(), inner.count)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
