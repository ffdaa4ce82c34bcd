// Where the blocks of one torrent on one node came from: a list of runs that grows, whose end is rewritten, and of
// which earlier states are kept cheaply. Full chunks are shared between states and never changed.

import type { Run, Source } from './contract';

const CHUNK = 64;

/** The most runs that are kept of one torrent. */
export const MOST_RUNS = 500_000;
const MOST_SOURCES = 20_000;

export class Runs {
  sources: readonly Source[] = [];
  /** Grows with every change. */
  rev = 0;
  complete = false;
  length = 0;
  private chunks: Run[][] = [];
  /** Chunks before this one belong to other states too. */
  private ownFrom = 0;
  private summed: number[] = [];
  private sumsRev = -1;

  constructor(
    readonly epoch: number,
    public size: number,
    public block_length: number,
    public piece_length: number,
    readonly name = '',
  ) {}

  /** A state of its own that shares with this one what neither will change. */
  fork(epoch: number): Runs {
    const copy = new Runs(epoch, this.size, this.block_length, this.piece_length, this.name);
    copy.sources = this.sources;
    copy.rev = this.rev;
    copy.complete = this.complete;
    copy.length = this.length;
    copy.chunks = this.chunks.slice();
    copy.ownFrom = this.chunks.length;
    return copy;
  }

  /** Puts runs from place `first` on. `false` where there is a gap before them: then the list stays as it is. */
  put(first: number, runs: readonly Run[]): boolean {
    if (first > this.length) return false;
    this.cut(first);
    for (const run of runs) {
      if (this.length >= MOST_RUNS) break;
      this.push(run);
    }
    this.rev += 1;
    return true;
  }

  putSources(first: number, sources: readonly Source[]): boolean {
    if (first > this.sources.length) return false;
    if (sources.length === 0 && first === this.sources.length) return true;
    this.sources = [...this.sources.slice(0, first), ...sources].slice(0, MOST_SOURCES);
    return true;
  }

  *[Symbol.iterator](): Generator<Run> {
    for (const chunk of this.chunks) yield* chunk;
  }

  each(visit: (run: Run) => void): void {
    for (const chunk of this.chunks) for (const run of chunk) visit(run);
  }

  /** Bytes by source, in the order of the sources. */
  sums(): number[] {
    if (this.sumsRev !== this.rev) {
      const sums = new Array<number>(this.sources.length).fill(0);
      this.each((run) => {
        if (run.source < sums.length) sums[run.source] = (sums[run.source] ?? 0) + runBytes(this, run);
      });
      this.summed = sums;
      this.sumsRev = this.rev;
    }
    return this.summed;
  }

  /** Bytes per second from a source, over the last `span` milliseconds before `now`. */
  recent(source: number, now: number, span: number): number {
    let bytes = 0;
    for (let at = this.chunks.length - 1; at >= 0; at -= 1) {
      let young = false;
      for (const run of this.chunks[at] ?? []) {
        if (run.last_ms <= now - span) continue;
        young = true;
        if (run.source !== source) continue;
        const length = Math.max(1, run.last_ms - run.first_ms);
        const inside = Math.min(length, run.last_ms - (now - span));
        bytes += (runBytes(this, run) * inside) / length;
      }
      if (!young) break;
    }
    return (bytes * 1000) / span;
  }

  private cut(length: number): void {
    if (length >= this.length) return;
    const keep = Math.ceil(length / CHUNK);
    this.chunks.length = keep;
    this.ownFrom = Math.min(this.ownFrom, keep);
    const rest = length % CHUNK;
    if (rest > 0) this.own(keep - 1).length = rest;
    this.length = length;
  }

  private push(run: Run): void {
    const at = Math.floor(this.length / CHUNK);
    if (at === this.chunks.length) this.chunks.push([]);
    this.own(at).push(run);
    this.length += 1;
  }

  private own(at: number): Run[] {
    let chunk = this.chunks[at] ?? [];
    if (at < this.ownFrom) {
      chunk = chunk.slice();
      this.chunks[at] = chunk;
      // Only the last chunk is ever changed, so those before stay shared.
      this.ownFrom = at;
    }
    return chunk;
  }
}

/** How the content of a torrent is cut. */
export interface Geometry {
  size: number;
  piece_length: number;
  block_length: number;
}

export function pieceCount(of: Geometry): number {
  return of.piece_length > 0 ? Math.ceil(of.size / of.piece_length) : 0;
}

export function pieceSize(of: Geometry, piece: number): number {
  return Math.max(0, Math.min(of.piece_length, of.size - piece * of.piece_length));
}

/** How many bytes a run is, where the last block of a piece may be short. */
export function runBytes(of: Geometry, run: Run): number {
  const size = pieceSize(of, run.piece);
  const from = Math.min(size, run.block * of.block_length);
  const to = Math.min(size, (run.block + run.count) * of.block_length);
  return to - from;
}

/** Whether a run lies in its torrent; one that does not is left out of every picture. */
export function runFits(of: Geometry, run: Run): boolean {
  return runBytes(of, run) > 0;
}
