// The map of a torrent on a node: for every block who gave it, and when.

import type { Source } from './contract';
import type { Fleet } from './fleet';
import { pieceCount, pieceSize, runBytes, type Geometry, type Runs } from './runs';

/** More blocks than this are shown piece by piece. */
export const MOST_BLOCKS = 4_000_000;

/** Who a source is, in words that are the same on all nodes. */
export interface Giver {
  key: string;
  kind: Source['kind'];
  label: string;
}

export const ORIGIN_KEY = ' origin';
export const STORE_KEY = ' store';
export const DIRECTORY_KEY = ' directory';

export function giverOf(fleet: Fleet, source: Source): Giver {
  switch (source.kind) {
    case 'origin':
      return { key: ORIGIN_KEY, kind: 'origin', label: 'origin' };
    case 'store':
      return { key: STORE_KEY, kind: 'store', label: 'was here' };
    case 'directory':
      return { key: DIRECTORY_KEY, kind: 'directory', label: 'directory' };
    case 'peer': {
      const label = fleet.nameOf(source.peer_id, source.peer);
      return { key: label, kind: 'peer', label };
    }
  }
}

/** A piece, as hovering and the table tell of it. */
export interface PieceFacts {
  piece: number;
  size: number;
  have: number;
  first_ms: number | undefined;
  last_ms: number | undefined;
  givers: { source: number; bytes: number }[];
}

export class PieceMap {
  readonly pieces: number;
  readonly perPiece: number;
  /** For each block the source's place plus one; 0 for none. */
  readonly source: Uint16Array;
  /** For each piece its bytes that are here. */
  readonly have: Float64Array;
  /** For each piece when its last block came; 0 for not yet. */
  readonly last: Float64Array;
  /** For each piece who gave the most of it, plus one. */
  readonly main: Uint16Array;
  first_ms = Infinity;
  last_ms = -Infinity;

  constructor(readonly of: Geometry & { sources: readonly Source[] }) {
    this.pieces = Math.min(pieceCount(of), MOST_BLOCKS);
    const blocks = Math.max(1, Math.ceil(of.piece_length / Math.max(1, of.block_length)));
    this.perPiece = this.pieces * blocks > MOST_BLOCKS ? 1 : blocks;
    this.source = new Uint16Array(this.pieces * this.perPiece);
    this.have = new Float64Array(this.pieces);
    this.last = new Float64Array(this.pieces);
    this.main = new Uint16Array(this.pieces);
  }

  static of(runs: Runs): PieceMap {
    const map = new PieceMap(runs);
    runs.each((run) => {
      const bytes = runBytes(runs, run);
      if (bytes <= 0 || run.piece >= map.pieces || run.source >= 65_535) return;
      if (map.perPiece === 1) map.source[run.piece] = run.source + 1;
      else {
        const from = run.piece * map.perPiece + run.block;
        map.source.fill(run.source + 1, from, Math.min(from + run.count, (run.piece + 1) * map.perPiece));
      }
      map.have[run.piece] = Math.min(pieceSize(runs, run.piece), (map.have[run.piece] ?? 0) + bytes);
      map.last[run.piece] = Math.max(map.last[run.piece] ?? 0, run.last_ms);
      map.first_ms = Math.min(map.first_ms, run.first_ms);
      map.last_ms = Math.max(map.last_ms, run.last_ms);
    });
    for (let piece = 0; piece < map.pieces; piece += 1) map.main[piece] = map.mainOf(piece);
    return map;
  }

  isWhole(piece: number): boolean {
    return (this.have[piece] ?? 0) >= pieceSize(this.of, piece);
  }

  facts(piece: number, runs: Runs): PieceFacts {
    const facts: PieceFacts = {
      piece,
      size: pieceSize(this.of, piece),
      have: this.have[piece] ?? 0,
      first_ms: undefined,
      last_ms: undefined,
      givers: [],
    };
    const sums = new Map<number, number>();
    runs.each((run) => {
      if (run.piece !== piece) return;
      facts.first_ms = Math.min(facts.first_ms ?? Infinity, run.first_ms);
      facts.last_ms = Math.max(facts.last_ms ?? 0, run.last_ms);
      sums.set(run.source, (sums.get(run.source) ?? 0) + runBytes(runs, run));
    });
    facts.givers = [...sums].map(([source, bytes]) => ({ source, bytes })).sort((a, b) => b.bytes - a.bytes);
    return facts;
  }

  private mainOf(piece: number): number {
    if (this.perPiece === 1) return this.source[piece] ?? 0;
    const from = piece * this.perPiece;
    let best = 0;
    let most = 0;
    let length = 0;
    let before = -1;
    // The longest stretch decides: exact enough for a pixel.
    for (let at = from; at < from + this.perPiece; at += 1) {
      const source = this.source[at] ?? 0;
      length = source === before ? length + 1 : 1;
      before = source;
      if (source !== 0 && length > most) {
        most = length;
        best = source;
      }
    }
    return best;
  }
}

/** How many nodes have each piece whole: those of `maps`, and as many more as have everything. */
export function rarity(maps: readonly PieceMap[], wholes: number, pieces: number): Uint16Array {
  const count = new Uint16Array(pieces).fill(wholes);
  for (const map of maps) {
    for (let piece = 0; piece < Math.min(pieces, map.pieces); piece += 1) {
      if (map.isWhole(piece)) count[piece] = (count[piece] ?? 0) + 1;
    }
  }
  return count;
}

/** Who gave whom how many bytes of what is shown. */
export interface Matrix {
  givers: Giver[];
  takers: string[];
  /** `cells[taker][giver]` in bytes. */
  cells: number[][];
  byGiver: number[];
  byTaker: number[];
  total: number;
  /** By kind, of all bytes. */
  kinds: Record<Source['kind'], number>;
}

export function matrix(fleet: Fleet, filter: ReadonlySet<string> | undefined, order: (a: string, b: string) => number): Matrix {
  const givers = new Map<string, Giver>();
  const sums = new Map<string, Map<string, number>>();
  const kinds = { peer: 0, origin: 0, store: 0, directory: 0 };
  for (const node of fleet.nodes.values()) {
    for (const [hash, runs] of node.blocks) {
      if (filter?.has(hash) === false) continue;
      const bytes = runs.sums();
      runs.sources.forEach((source, at) => {
        const more = bytes[at] ?? 0;
        if (more === 0) return;
        kinds[source.kind] += more;
        // What was on the machine already was given by nobody.
        if (source.kind === 'store') return;
        const giver = giverOf(fleet, source);
        givers.set(giver.key, giver);
        const row = sums.get(node.name) ?? new Map<string, number>();
        row.set(giver.key, (row.get(giver.key) ?? 0) + more);
        sums.set(node.name, row);
      });
    }
  }
  const columns = [...givers.values()].sort((a, b) => rank(a) - rank(b) || order(a.label, b.label));
  const takers = [...sums.keys()].sort(order);
  const cells = takers.map((taker) => columns.map((giver) => sums.get(taker)?.get(giver.key) ?? 0));
  const byTaker = cells.map((row) => row.reduce((sum, cell) => sum + cell, 0));
  const byGiver = columns.map((_, at) => cells.reduce((sum, row) => sum + (row[at] ?? 0), 0));
  const total = byTaker.reduce((sum, cell) => sum + cell, 0);
  return { givers: columns, takers, cells, byGiver, byTaker, total, kinds };
}

const rank = (giver: Giver): number => ({ origin: 0, directory: 1, store: 2, peer: 3 })[giver.kind];
