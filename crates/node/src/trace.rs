//! What was done for each blob, and how long each thing took: why a pull was slow.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use api::trace::{Span, SpanKind, Trace};
use hash::Digest;

use crate::content::now_ms;

/// How many blobs' traces are kept, the latest.
const MOST: usize = 1000;
/// How many spans of one trace are kept; of answers to clients the oldest go first.
const MOST_SPANS: usize = 200;

/// The latest traces.
#[derive(Default)]
pub(crate) struct Traces {
    book: Mutex<VecDeque<Arc<Entry>>>,
    /// Counts changes.
    changes: Arc<AtomicU64>,
}

struct Entry {
    digest: Digest,
    trace: Mutex<Trace>,
    /// The number of its last change.
    changed: AtomicU64,
}

impl Traces {
    /// A new trace, for something that begins now.
    pub(crate) fn begin(&self, digest: Digest, home: &str, what: &str) -> Tracer {
        let trace = Trace {
            digest,
            // What stands behind may be a key.
            home: home.split('?').next().unwrap_or_default().to_owned(),
            what: what.to_owned(),
            size: None,
            began_ms: now_ms(),
            ended_ms: None,
            error: None,
            spans: Vec::new(),
        };
        let entry = Arc::new(Entry { digest, trace: Mutex::new(trace), changed: AtomicU64::new(0) });
        let mut book = self.lock();
        if book.len() >= MOST {
            book.pop_front();
        }
        book.push_back(entry.clone());
        drop(book);
        let tracer = Tracer { entry, changes: self.changes.clone() };
        tracer.change(|_| {});
        tracer
    }

    /// The blob's latest trace, or a new one where there is none: it was here all along.
    pub(crate) fn of(&self, digest: Digest, home: &str, what: &str) -> Tracer {
        let known = self.lock().iter().rev().find(|entry| entry.digest == digest).cloned();
        match known {
            Some(entry) => Tracer { entry, changes: self.changes.clone() },
            None => {
                let tracer = self.begin(digest, home, what);
                tracer.end(None, None);
                tracer
            }
        }
    }

    /// The blob's latest trace, where one is known.
    pub(crate) fn get(&self, digest: &Digest) -> Option<Trace> {
        let known = self.lock().iter().rev().find(|entry| entry.digest == *digest).cloned();
        known.map(|entry| entry.lock().clone())
    }

    /// The latest `most` traces, the latest first.
    pub(crate) fn latest(&self, most: usize) -> Vec<Trace> {
        let entries: Vec<_> = self.lock().iter().rev().take(most).cloned().collect();
        entries.iter().map(|entry| entry.lock().clone()).collect()
    }

    /// What has changed since the change of that number, and the number of the last change.
    pub(crate) fn since(&self, seen: u64) -> (Vec<Trace>, u64) {
        let now = self.changes.load(Ordering::Acquire);
        if now == seen {
            return (Vec::new(), now);
        }
        let newer = |entry: &&Arc<Entry>| entry.changed.load(Ordering::Acquire) > seen;
        let entries: Vec<_> = self.lock().iter().filter(newer).cloned().collect();
        (entries.iter().map(|entry| entry.lock().clone()).collect(), now)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<Entry>>> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one trace. Cheap to share.
#[derive(Clone)]
pub(crate) struct Tracer {
    entry: Arc<Entry>,
    changes: Arc<AtomicU64>,
}

impl Tracer {
    /// Begins a span, which lasts until it is dropped.
    pub(crate) fn span(&self, kind: SpanKind) -> OpenSpan {
        OpenSpan { tracer: self.clone(), kind, from_ms: self.open(kind), bytes: 0, note: None }
    }

    /// Notes a span that is over.
    pub(crate) fn past(&self, kind: SpanKind, (from_ms, to_ms): (u64, u64), note: Option<String>) {
        let span = Span { kind, from_ms, to_ms: Some(to_ms), bytes: 0, note };
        self.change(|trace| {
            let at = trace.spans.partition_point(|earlier| earlier.from_ms <= from_ms);
            trace.spans.insert(at, span);
        });
    }

    /// It is whole, or has failed.
    pub(crate) fn end(&self, size: Option<u64>, error: Option<String>) {
        self.change(|trace| {
            trace.ended_ms = Some(now_ms());
            trace.size = size.or(trace.size);
            trace.error = error;
        });
    }

    fn open(&self, kind: SpanKind) -> u64 {
        let from_ms = now_ms();
        self.change(|trace| trace.spans.push(Span { kind, from_ms, to_ms: None, bytes: 0, note: None }));
        from_ms
    }

    fn change(&self, change: impl FnOnce(&mut Trace)) {
        let mut trace = self.entry.lock();
        change(&mut trace);
        if trace.spans.len() > MOST_SPANS {
            let ended = |span: &Span| span.kind == SpanKind::Client && span.to_ms.is_some();
            let oldest = trace.spans.iter().position(ended).unwrap_or(0);
            trace.spans.remove(oldest);
        }
        // Under the lock, so that a reader who sees the number sees the change.
        self.entry.changed.store(self.changes.fetch_add(1, Ordering::AcqRel) + 1, Ordering::Release);
    }
}

/// A span that lasts.
pub(crate) struct OpenSpan {
    tracer: Tracer,
    kind: SpanKind,
    from_ms: u64,
    bytes: u64,
    note: Option<String>,
}

impl OpenSpan {
    /// So many content bytes more.
    pub(crate) const fn moved(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Whom it is about, or how it ends.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.note = Some(note.into());
    }
}

impl Drop for OpenSpan {
    fn drop(&mut self) {
        let (kind, from_ms, bytes, note) = (self.kind, self.from_ms, self.bytes, self.note.take());
        self.tracer.change(|trace| {
            let open =
                |span: &&mut Span| span.kind == kind && span.from_ms == from_ms && span.to_ms.is_none();
            if let Some(span) = trace.spans.iter_mut().find(open) {
                (span.to_ms, span.bytes, span.note) = (Some(now_ms()), bytes, note);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest::from_bytes([byte; 32])
    }

    #[test]
    fn spans_are_told_when_they_begin_and_when_they_end() {
        let traces = Traces::default();
        let tracer = traces.begin(digest(1), "https://h/f?key=geheim", "file");
        let (told, seen) = traces.since(0);
        assert_eq!((told.len(), told[0].home.as_str()), (1, "https://h/f"));
        assert!(traces.since(seen).0.is_empty());
        let mut span = tracer.span(SpanKind::Swarm);
        let (told, seen) = traces.since(seen);
        assert_eq!(told[0].spans[0].to_ms, None);
        span.moved(7);
        span.note("3 peers");
        drop(span);
        let (told, _) = traces.since(seen);
        let ended = &told[0].spans[0];
        assert_eq!((ended.bytes, ended.note.as_deref(), ended.to_ms.is_some()), (7, Some("3 peers"), true));
    }

    #[test]
    fn a_blob_that_was_here_has_a_trace_of_its_clients_only() {
        let traces = Traces::default();
        drop(traces.of(digest(1), "r/x", "blob").span(SpanKind::Client));
        drop(traces.of(digest(1), "r/x", "blob").span(SpanKind::Client));
        assert_eq!(traces.latest(9).len(), 1);
        let trace = traces.get(&digest(1)).expect("known");
        assert_eq!((trace.spans.len(), trace.ended_ms.is_some()), (2, true));
    }

    #[test]
    fn neither_traces_nor_spans_are_kept_without_end() {
        let traces = Traces::default();
        let tracer = traces.begin(digest(0), "r/x", "blob");
        drop(tracer.span(SpanKind::Origin));
        (0..3 * MOST_SPANS).for_each(|_| drop(tracer.span(SpanKind::Client)));
        let spans = traces.get(&digest(0)).expect("known").spans;
        assert_eq!((spans.len(), spans[0].kind), (MOST_SPANS, SpanKind::Origin));
        (0..MOST + 5).for_each(|_| drop(traces.begin(digest(2), "r/x", "blob")));
        assert_eq!(traces.latest(usize::MAX).len(), MOST);
        assert!(traces.get(&digest(0)).is_none());
    }
}
