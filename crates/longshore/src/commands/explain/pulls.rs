//! Which traces, and which of their spans, are of one pull.
//!
//! A node keeps one trace for each coming of a blob, and notes in it everybody who was given the blob since. So a second
//! pull of the same content is further spans in the same traces. Who asks for a tag begins a pull; what follows without
//! one is of the latest pull that still goes on and has not had it yet.
//!
//! The page has the same rule (`web/src/lib/pulls.ts`, which has all of it), and `web/fixtures/pulls.json` has the cases
//! that test both.

use std::collections::HashMap;

use api::{
    node::BlobState,
    trace::{Explanation, Part, Span, SpanKind, Trace},
};
use hash::Digest;

/// What follows within so many milliseconds is of the same pull.
const GAP: u64 = 5000;
/// Of more than so many spans the latest are looked at.
const MOST_EVENTS: usize = 20_000;
/// In how many pulls of one place that have not ended long ago a span's is looked for.
const MOST_OPEN: usize = 50;
/// When what still lasts ends.
const NEVER: u64 = u64::MAX;

/// One pull: what was asked of one place by one asker in one go.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pull {
    pub(super) began_ms: u64,
    /// None while it goes on.
    pub(super) ended_ms: Option<u64>,
    /// Its parts, with the spans of this pull alone.
    pub(super) parts: Vec<Trace>,
}

impl Pull {
    /// What was done in it for a blob, where anything was.
    pub(super) fn part(&self, digest: &Digest) -> Option<&Trace> {
        self.parts.iter().find(|part| part.digest == *digest)
    }
}

/// Why nothing was done for a part in a pull.
pub(super) fn why_not(part: &Part, pull: Option<&Pull>) -> &'static str {
    let began = pull.map_or(NEVER, |pull| pull.began_ms);
    match &part.trace {
        Some(trace) if trace.ended_ms.unwrap_or(NEVER) > began => "was on its way already",
        None if part.blob.state != BlobState::Complete => "nothing of it is here",
        _ => "was here before",
    }
}

/// The latest pull of an image.
pub(super) fn latest_of(explained: &Explanation) -> Option<Pull> {
    let is_manifest = |digest: &Digest| {
        let part = explained.parts.iter().find(|part| part.blob.digest == *digest);
        part.is_some_and(|part| part.what.contains("manifest") || part.what.contains("index"))
    };
    let mut all = pulls(explained.parts.iter().filter_map(|part| part.trace.as_ref()));
    // Somebody may have looked at the manifest alone since.
    let got = all.iter().position(|pull| pull.parts.iter().any(|part| !is_manifest(&part.digest)));
    (!all.is_empty()).then(|| all.swap_remove(got.unwrap_or(0)))
}

/// The pulls that traces tell of, the latest first.
fn pulls<'a>(traces: impl Iterator<Item = &'a Trace>) -> Vec<Pull> {
    let mut events: Vec<Event<'a>> = traces.flat_map(events_of).collect();
    events.sort_by_key(|event| (event.from, event.kind));
    let mut drafts = Vec::new();
    let mut homes = HashMap::<&str, Vec<usize>>::new();
    for event in events.split_off(events.len().saturating_sub(MOST_EVENTS)) {
        let known = homes.entry(&event.trace.home).or_default();
        let open = known.get(known.len().saturating_sub(MOST_OPEN)..).unwrap_or_default();
        let place = match event.kind {
            Kind::Tag => None,
            _ => choose(&drafts, open, &event),
        };
        let place = place.unwrap_or_else(|| {
            drafts.push(Draft { from: event.from, to: event.to, parts: Vec::new() });
            known.push(drafts.len() - 1);
            drafts.len() - 1
        });
        if let Some(draft) = drafts.get_mut(place) {
            draft.take(&event);
        }
    }
    drafts.sort_by_key(|draft| draft.from);
    drafts.into_iter().rev().map(Draft::finish).collect()
}

/// What may begin a pull, in the order of one moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Tag,
    Coming,
    Client,
}

struct Event<'a> {
    kind: Kind,
    trace: &'a Trace,
    from: u64,
    to: u64,
    /// None of a coming.
    span: Option<&'a Span>,
}

fn events_of(trace: &Trace) -> Vec<Event<'_>> {
    let asked = |span| {
        Some(Event { kind: kind_of(span)?, trace, from: span.from_ms, to: end(span), span: Some(span) })
    };
    let mut events: Vec<_> = trace.spans.iter().filter_map(asked).collect();
    // What was here all along has not come.
    let came = trace.spans.len() > events.len()
        || events.is_empty()
        || trace.error.is_some()
        || trace.ended_ms.is_none();
    if came {
        let to = trace.ended_ms.unwrap_or(NEVER);
        events.push(Event { kind: Kind::Coming, trace, from: trace.began_ms, to, span: None });
    }
    events
}

/// What it is by itself; none where it is of the coming.
const fn kind_of(span: &Span) -> Option<Kind> {
    match span.kind {
        SpanKind::Tag => Some(Kind::Tag),
        SpanKind::Client => Some(Kind::Client),
        _ => None,
    }
}

fn end(span: &Span) -> u64 {
    span.to_ms.unwrap_or(NEVER)
}

/// The pull that something belongs to which is no beginning by itself.
fn choose(drafts: &[Draft<'_>], open: &[usize], event: &Event<'_>) -> Option<usize> {
    let latest = |fits: &dyn Fn(&Draft<'_>) -> bool| {
        let is_it = |place: &&usize| {
            let draft = drafts.get(**place);
            draft.is_some_and(|draft| event.from <= draft.to.saturating_add(GAP) && fits(draft))
        };
        open.iter().rev().find(is_it).copied()
    };
    let goes_on = || latest(&|draft| draft.goes_on(event)).filter(|_| event.kind == Kind::Client);
    latest(&|draft| draft.lacks(event)).or_else(goes_on)
}

/// A pull as far as it is known.
struct Draft<'a> {
    from: u64,
    to: u64,
    parts: Vec<DraftPart<'a>>,
}

struct DraftPart<'a> {
    trace: &'a Trace,
    came: bool,
    tags: Vec<&'a Span>,
    clients: Vec<&'a Span>,
}

impl<'a> Draft<'a> {
    fn part(&self, event: &Event<'_>) -> Option<&DraftPart<'a>> {
        self.parts.iter().find(|part| part.trace.digest == event.trace.digest)
    }

    fn lacks(&self, event: &Event<'_>) -> bool {
        self.part(event).is_none_or(|part| match event.kind {
            Kind::Coming => !part.came,
            _ => part.clients.is_empty(),
        })
    }

    /// Whether a client may be asking for the rest of what it has been given a part of.
    fn goes_on(&self, event: &Event<'_>) -> bool {
        let clients = self.part(event).map_or(&[][..], |part| part.clients.as_slice());
        let had = clients.iter().chain(&event.span).fold(0, |sum: u64, span| sum.saturating_add(span.bytes));
        event.trace.size.is_some_and(|size| had <= size)
    }

    fn take(&mut self, event: &Event<'a>) {
        let trace = event.trace;
        let place =
            self.parts.iter().position(|part| part.trace.digest == trace.digest).unwrap_or_else(|| {
                self.parts.push(DraftPart { trace, came: false, tags: Vec::new(), clients: Vec::new() });
                self.parts.len() - 1
            });
        let Some(part) = self.parts.get_mut(place) else { return };
        match event.kind {
            Kind::Coming => (part.trace, part.came) = (trace, true),
            Kind::Tag => part.tags.extend(event.span),
            Kind::Client => part.clients.extend(event.span),
        }
        self.to = self.to.max(event.to);
    }

    fn finish(self) -> Pull {
        let mut parts: Vec<Trace> = self.parts.iter().map(|part| part.own(self.from)).collect();
        parts.sort_by_key(|part| part.began_ms);
        let ends = parts.iter().map(|part| part.ended_ms.unwrap_or(NEVER));
        let ended = ends.fold(self.from, u64::max);
        Pull { began_ms: self.from, ended_ms: (ended < NEVER).then_some(ended), parts }
    }
}

impl DraftPart<'_> {
    /// The trace with what is of this pull: what it asked for, and the coming that it began or waited for.
    fn own(&self, from: u64) -> Trace {
        let trace = self.trace;
        let until = trace.ended_ms.unwrap_or(NEVER);
        let waits = |span: &&Span| span.from_ms < until && end(span) > trace.began_ms;
        let waited = self.came || self.clients.iter().any(waits);
        // What another pull had begun shows from the beginning of this one; how much had come before is not known.
        let shared = trace.spans.iter().filter(|span| waited && kind_of(span).is_none());
        let shared =
            shared.filter(|span| span.to_ms.unwrap_or(until) >= from).map(|span| match span.from_ms {
                early if early < from => Span { from_ms: from, bytes: 0, ..span.clone() },
                _ => span.clone(),
            });
        let asked = || self.tags.iter().chain(&self.clients).copied();
        let tags = self.tags.iter().copied().cloned();
        let mut spans: Vec<Span> = tags.chain(shared).chain(self.clients.iter().copied().cloned()).collect();
        spans.sort_by_key(|span| span.from_ms);
        let begins =
            self.came.then_some(trace.began_ms).into_iter().chain(spans.iter().map(|span| span.from_ms));
        let began_ms = begins.min().unwrap_or(from);
        let ended = waited.then_some(until).into_iter().chain(asked().map(end)).max().unwrap_or(0);
        Trace {
            began_ms,
            ended_ms: (ended < NEVER).then_some(ended),
            error: trace.error.clone().filter(|_| waited),
            spans,
            ..trace.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    /// What the page's tests read too.
    const CASES: &str = include_str!("../../../../../web/fixtures/pulls.json");

    #[derive(Deserialize)]
    struct Cases {
        pulls: Vec<Case>,
        explanations: Vec<Explained>,
    }

    #[derive(Deserialize)]
    struct Case {
        what: String,
        traces: Vec<Trace>,
        pulls: Vec<Told>,
    }

    #[derive(Deserialize)]
    struct Explained {
        what: String,
        explanation: Explanation,
        latest: Option<Latest>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Told {
        began_ms: u64,
        ended_ms: Option<u64>,
        parts: Vec<Trace>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Latest {
        began_ms: u64,
        ended_ms: Option<u64>,
        parts: Vec<Done>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Done {
        Spans(Vec<SpanKind>),
        /// Nothing, and why.
        Not(String),
    }

    fn latest(explained: &Explanation) -> Option<Latest> {
        let pull = latest_of(explained)?;
        let done = |part: &Part| match pull.part(&part.blob.digest) {
            Some(own) => Done::Spans(own.spans.iter().map(|span| span.kind).collect()),
            None => Done::Not(why_not(part, Some(&pull)).to_owned()),
        };
        let parts = explained.parts.iter().map(done).collect();
        Some(Latest { began_ms: pull.began_ms, ended_ms: pull.ended_ms, parts })
    }

    #[test]
    fn the_page_and_the_terminal_tell_the_same_pulls_apart() {
        let cases: Cases = serde_json::from_str(CASES).expect("cases");
        assert!(cases.pulls.len() > 5 && cases.explanations.len() > 3);
        let told = |Pull { began_ms, ended_ms, parts }| Told { began_ms, ended_ms, parts };
        for Case { what, traces, pulls: want } in cases.pulls {
            let have: Vec<Told> = pulls(traces.iter()).into_iter().map(told).collect();
            assert_eq!(have, want, "{what}");
        }
        for Explained { what, explanation, latest: want } in cases.explanations {
            assert_eq!(latest(&explanation), want, "{what}");
        }
    }
}
