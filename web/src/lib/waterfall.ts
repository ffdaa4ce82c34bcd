// The bars of a pull: each blob a row, what was done for it as spans on one common clock.

import type { Span, SpanKind, Trace } from './contract';
import type { Part } from './pulls';

export const KINDS: readonly SpanKind[] = ['tag', 'directory', 'lease', 'swarm', 'origin', 'verify', 'publish', 'client'];

export const KIND_WORDS: Record<SpanKind, string> = {
  tag: 'asked what the tag points at',
  directory: 'asked the directory who has it',
  lease: 'waited while another node held the lease',
  swarm: 'came from peers',
  origin: 'came from the origin',
  verify: 'was checked and made durable',
  publish: 'was announced and published',
  client: 'was sent to a client',
};

export interface Bar {
  kind: SpanKind;
  /** In milliseconds from the beginning of the whole. */
  from: number;
  to: number;
  open: boolean;
  bytes: number;
  note: string | undefined;
  /** In which of the row's lanes: spans that overlap lie below one another. */
  lane: number;
}

export interface Row {
  key: string;
  what: string;
  digest: string;
  home: string;
  size: number | undefined;
  from: number;
  to: number;
  open: boolean;
  error: string | undefined;
  /** Why nothing was done for it, where nothing was. */
  note: string | undefined;
  bars: Bar[];
  lanes: number;
}

export interface Waterfall {
  began_ms: number;
  length: number;
  rows: Row[];
  sums: { kind: SpanKind; ms: number; bytes: number }[];
}

/** Lays traces out; what still lasts ends `now`. */
export function waterfall(traces: readonly Part[], now: number): Waterfall {
  const began = traces.reduce((least, { trace }) => Math.min(least, trace.began_ms, ...trace.spans.map((s) => s.from_ms)), Infinity);
  const began_ms = Number.isFinite(began) ? began : now;
  const rows = traces.map(({ what, trace, note }) => rowOf({ what, trace, note }, began_ms, now));
  const length = rows.reduce((most, row) => Math.max(most, row.to), 1);
  const sums = KINDS.map((kind) => {
    const bars = rows.flatMap((row) => row.bars.filter((bar) => bar.kind === kind));
    return { kind, ms: covered(bars), bytes: bars.reduce((sum, bar) => sum + bar.bytes, 0) };
  });
  return { began_ms, length, rows, sums: sums.filter((sum) => sum.ms > 0 || sum.bytes > 0) };
}

function rowOf({ what, trace, note }: { what: string; trace: Trace; note: string | undefined }, began: number, now: number): Row {
  const bars: Bar[] = [];
  const ends: number[] = [];
  const spans = trace.spans.slice().sort((a, b) => a.from_ms - b.from_ms);
  for (const span of spans) {
    const bar = barOf(span, trace, began, now);
    const free = ends.findIndex((end) => end <= bar.from);
    bar.lane = free === -1 ? ends.length : free;
    ends[bar.lane] = bar.to;
    bars.push(bar);
  }
  const to = Math.max(trace.ended_ms ?? now, ...spans.map((span) => span.to_ms ?? 0)) - began;
  return {
    key: `${trace.digest} ${trace.began_ms}`,
    what,
    digest: trace.digest,
    home: trace.home,
    size: trace.size,
    from: trace.began_ms - began,
    to: Math.max(trace.began_ms - began, to),
    open: trace.ended_ms === undefined,
    error: trace.error,
    note,
    bars,
    lanes: Math.max(1, ends.length),
  };
}

function barOf(span: Span, trace: Trace, began: number, now: number): Bar {
  const to = span.to_ms ?? trace.ended_ms ?? now;
  const from = span.from_ms - began;
  return {
    kind: span.kind,
    from,
    to: Math.max(from, to - began),
    open: span.to_ms === undefined && trace.ended_ms === undefined,
    bytes: span.bytes,
    note: span.note,
    lane: 0,
  };
}

/** How long at least one of the bars lasted. */
function covered(bars: readonly Bar[]): number {
  const edges = bars.slice().sort((a, b) => a.from - b.from);
  let sum = 0;
  let until = -Infinity;
  for (const bar of edges) {
    if (bar.to > until) sum += bar.to - Math.max(bar.from, until);
    until = Math.max(until, bar.to);
  }
  return sum;
}
