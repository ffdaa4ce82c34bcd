// A state as records that say all of it at once: the beginning of a recording of which the real beginning is gone.

import type { News } from './contract';
import type { Fleet } from './fleet';

export function* recordsOf(fleet: Fleet, at_ms: number): Generator<News> {
  if (fleet.lab !== undefined) yield { node: 'lab', at_ms, kind: 'lab', ...fleet.lab };
  for (const { name: node, ...state } of fleet.nodes.values()) {
    yield { node, at_ms, kind: 'hello', format: 1, version: state.version };
    if (state.status !== undefined) yield { node, at_ms, kind: 'status', status: state.status };
    yield { node, at_ms, kind: 'torrents', all: true, changed: [...state.torrents.values()] };
    yield { node, at_ms, kind: 'links', all: true, changed: [...state.links.values()] };
    for (const [info_hash, runs] of state.blocks) {
      const { size, block_length, piece_length, complete } = runs;
      yield {
        node,
        at_ms,
        kind: 'blocks',
        info_hash,
        size,
        block_length,
        piece_length,
        first_source: 0,
        sources: [...runs.sources],
        first_run: 0,
        runs: [...runs],
        complete,
      };
    }
    for (const trace of state.traces.values()) yield { node, at_ms, kind: 'trace', ...trace };
    if (state.lost !== undefined) yield { node, at_ms, kind: 'lost', error: state.lost };
  }
}
