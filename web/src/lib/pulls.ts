// Which traces, and which of their spans, are of one pull.
//
// A node keeps one trace for each coming of a blob, and notes in it everybody who was given the blob since; it does not
// note who they are. So a second pull of the same content is further spans in the same traces. The rule, which is that of
// `longshore explain` too (crates/longshore/src/commands/explain/pulls.rs; fixtures/pulls.json has the cases that test both):
//
// 1. A trace tells of: each asking for a tag; each client that was given the blob; and its coming, once, from its
//    beginning to its end, unless it has spans, all of the first two kinds, and neither failed nor still comes.
// 2. These are taken by the time of their beginning over all traces of one place (the repository or URL); of one moment
//    first tags, then comings, then clients. Each asking for a tag begins a pull.
// 3. What else begins belongs to the latest pull of that place that goes on, or ended no more than five seconds before,
//    and has not had it yet: not this blob's coming, or nothing of this blob by a client. Where all have, a client belongs
//    to the latest of them in which it may be asking for the rest: what it was given before and now are together no longer
//    than the blob. Else it begins a pull.
// 4. A pull's times count from its own beginning, to the latest end of its parts. A part is what is of this pull alone,
//    and the blob's coming if that is this pull's, or one of its clients waited for it (their times overlap). Of a coming
//    that another pull began, what had ended before this one began is left out, and what lasted then shows from this
//    one's beginning, without bytes: how many had come by then is not known.

import type { Explanation, Span, Trace } from './contract';

/** What follows within so many milliseconds is of the same pull. */
const GAP_MS = 5000;
/** Of more than so many spans the latest are looked at. */
const MOST_EVENTS = 20_000;
/** In how many pulls of one place that have not ended long ago a span's is looked for. */
const MOST_OPEN = 50;

/** One pull: what was asked of one place by one asker in one go. */
export interface Pull {
  key: string;
  /** Where it lives; with the tag, where one was asked for. */
  name: string;
  /** Whether a client was given it, or only the node was told to get it; unknown where nothing but a manifest was asked for. */
  by: 'client' | 'api' | undefined;
  began_ms: number;
  /** Absent while it goes on. */
  ended_ms: number | undefined;
  error: string | undefined;
  /** The length of its parts, as far as it is known. */
  bytes: number;
  parts: Part[];
}

export interface Part {
  what: string;
  /** The trace with the spans of this pull alone. */
  trace: Trace;
  /** Why nothing was done for it, where nothing was. */
  note?: string;
}

interface Event {
  kind: 'tag' | 'coming' | 'client';
  trace: Trace;
  from: number;
  /** Infinite while it lasts. */
  to: number;
  span: Span | undefined;
}

interface DraftPart {
  trace: Trace;
  came: boolean;
  tags: Span[];
  clients: Span[];
}

interface Draft {
  home: string;
  tag: string | undefined;
  from: number;
  to: number;
  parts: Map<string, DraftPart>;
}

const RANK = { tag: 0, coming: 1, client: 2 };

/** The pulls that traces tell of, the latest first. */
export function pulls(traces: Iterable<Trace>): Pull[] {
  const events = [...traces].flatMap(eventsOf).sort((a, b) => a.from - b.from || RANK[a.kind] - RANK[b.kind]);
  const drafts: Draft[] = [];
  const homes = new Map<string, Draft[]>();
  for (const event of events.slice(-MOST_EVENTS)) {
    const known = homes.get(event.trace.home) ?? [];
    homes.set(event.trace.home, known);
    let draft = event.kind === 'tag' ? undefined : choose(known, event);
    if (draft === undefined) {
      draft = { home: event.trace.home, tag: event.span?.kind === 'tag' ? event.span.note : undefined, from: event.from, to: event.to, parts: new Map() };
      known.push(draft);
      drafts.push(draft);
    }
    take(draft, event);
  }
  const keys = new Map<string, number>();
  return drafts
    .sort((a, b) => a.from - b.from)
    .map((draft) => {
      const key = `${draft.home} ${draft.from}`;
      const same = keys.get(key) ?? 0;
      keys.set(key, same + 1);
      return pullOf(draft, same === 0 ? key : `${key} ${same}`);
    })
    .reverse();
}

/** The latest pull of an image: all its parts, and of those that were not touched why. */
export function latestOf(explanation: Explanation): Pull | undefined {
  const words = new Map(explanation.parts.map(({ what, blob }) => [blob.digest, what]));
  const all = pulls(explanation.parts.flatMap(({ trace }) => (trace === undefined ? [] : [trace])));
  // Somebody may have looked at the manifest alone since.
  const latest = all.find((pull) => pull.parts.some(({ trace }) => !/manifest|index/.test(words.get(trace.digest) ?? ''))) ?? all[0];
  if (latest === undefined) return undefined;
  const parts = explanation.parts.map(({ what, blob, trace }): Part => {
    const own = latest.parts.find((part) => part.trace.digest === blob.digest);
    if (own !== undefined) return { what, trace: { ...own.trace, size: own.trace.size ?? blob.size } };
    const began_ms = latest.began_ms;
    const coming = trace !== undefined && (trace.ended_ms ?? Infinity) > began_ms;
    const note = coming ? 'was on its way already' : trace !== undefined || blob.state === 'complete' ? 'was here before' : 'nothing of it is here';
    return { what, note, trace: { digest: blob.digest, home: '', what, size: blob.size, began_ms, ended_ms: began_ms, spans: [] } };
  });
  return { ...latest, parts };
}

function eventsOf(trace: Trace): Event[] {
  const events: Event[] = trace.spans.flatMap((span) =>
    span.kind === 'tag' || span.kind === 'client' ? [{ kind: span.kind, trace, from: span.from_ms, to: span.to_ms ?? Infinity, span }] : [],
  );
  // What was here all along has not come.
  const came = trace.spans.length > events.length || (events.length === 0 || trace.error !== undefined || trace.ended_ms === undefined);
  if (came) events.push({ kind: 'coming', trace, from: trace.began_ms, to: trace.ended_ms ?? Infinity, span: undefined });
  return events;
}

/** The pull that something belongs to which is no beginning by itself. */
function choose(known: readonly Draft[], event: Event): Draft | undefined {
  const open = known.slice(-MOST_OPEN).filter((draft) => event.from <= draft.to + GAP_MS);
  const lacks = (draft: Draft): boolean => {
    const part = draft.parts.get(event.trace.digest);
    return part === undefined || (event.kind === 'coming' ? !part.came : part.clients.length === 0);
  };
  return open.findLast(lacks) ?? (event.kind === 'client' ? open.findLast((draft) => goesOn(draft, event)) : undefined);
}

/** Whether a client may be asking for the rest of what it has been given a part of. */
function goesOn(draft: Draft, { trace, span }: Event): boolean {
  const had = draft.parts.get(trace.digest)?.clients.reduce((sum, earlier) => sum + earlier.bytes, 0) ?? 0;
  return trace.size !== undefined && had + (span?.bytes ?? 0) <= trace.size;
}

function take(draft: Draft, { kind, trace, to, span }: Event): void {
  const part = draft.parts.get(trace.digest) ?? { trace, came: false, tags: [], clients: [] };
  if (kind === 'coming') [part.trace, part.came] = [trace, true];
  else if (span !== undefined) part[kind === 'tag' ? 'tags' : 'clients'].push(span);
  draft.parts.set(trace.digest, part);
  draft.to = Math.max(draft.to, to);
}

function pullOf(draft: Draft, key: string): Pull {
  const parts = [...draft.parts.values()].map((part) => ({ what: part.trace.what, trace: ownPart(part, draft.from) }));
  parts.sort((a, b) => a.trace.began_ms - b.trace.began_ms);
  const ends = parts.map(({ trace }) => trace.ended_ms ?? Infinity);
  const ended = Math.max(draft.from, ...ends);
  const served = parts.some(({ trace }) => trace.spans.some((span) => span.kind === 'client'));
  const moved = ({ size, spans }: Trace): number => size ?? Math.max(0, ...spans.map((span) => span.bytes));
  return {
    key,
    name: draft.tag === undefined ? draft.home : `${draft.home}:${draft.tag}`,
    by: served || parts.some(({ what }) => what === 'push') ? 'client' : parts.some(({ what }) => what !== 'manifest') ? 'api' : undefined,
    began_ms: draft.from,
    ended_ms: Number.isFinite(ended) ? ended : undefined,
    error: parts.find(({ trace }) => trace.error !== undefined)?.trace.error,
    bytes: parts.reduce((sum, { trace }) => sum + moved(trace), 0),
    parts,
  };
}

/** The trace of a part with what is of this pull: what it asked for, and the coming that it began or waited for. */
function ownPart({ trace, came, tags, clients }: DraftPart, from: number): Trace {
  const until = trace.ended_ms ?? Infinity;
  const waited = came || clients.some((span) => span.from_ms < until && (span.to_ms ?? Infinity) > trace.began_ms);
  const coming = waited ? trace.spans.filter((span) => span.kind !== 'tag' && span.kind !== 'client') : [];
  // What another pull had begun shows from the beginning of this one; how much had come before is not known.
  const shared = coming.filter((span) => (span.to_ms ?? until) >= from).map((span) => (span.from_ms < from ? { ...span, from_ms: from, bytes: 0 } : span));
  const spans = [...tags, ...shared, ...clients].sort((a, b) => a.from_ms - b.from_ms);
  const begins = [...(came ? [trace.began_ms] : []), ...spans.map((span) => span.from_ms)];
  const ends = [...(waited ? [until] : []), ...[...tags, ...clients].map((span) => span.to_ms ?? Infinity)];
  const began_ms = begins.reduce((least, at) => Math.min(least, at), Infinity);
  const ended = ends.reduce((most, at) => Math.max(most, at), 0);
  const { ended_ms: _, error, ...rest } = trace;
  return {
    ...rest,
    began_ms,
    ...(Number.isFinite(ended) ? { ended_ms: ended } : {}),
    ...(waited && error !== undefined ? { error } : {}),
    spans,
  };
}
