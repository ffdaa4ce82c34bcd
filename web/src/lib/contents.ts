// What can be looked at by itself: the lab's contents, repositories that blobs came from, and single torrents.

import type { Fleet, Node } from './fleet';
import { byName, name as shown, short } from './format';

export interface Content {
  key: string;
  label: string;
  kind: 'content' | 'image' | 'torrent';
  size: number;
  torrents: ReadonlySet<string>;
}

/** How a torrent is called: a blob's by its digest, short. */
export function titleOf(torrent: { name: string; digest?: string | undefined }): string {
  return torrent.digest === undefined ? shown(torrent.name, 80) : short(torrent.digest);
}

/** The torrents that a node has, or of which it has told where they came from. */
export function* known(node: Node): Generator<{ info_hash: string; name: string; digest?: string | undefined; size: number }> {
  yield* node.torrents.values();
  for (const [info_hash, runs] of node.blocks) {
    if (node.torrents.has(info_hash)) continue;
    const digest = /^[0-9a-f]{64}$/.test(runs.name) ? `sha256:${runs.name}` : undefined;
    yield { info_hash, name: runs.name === '' ? info_hash : runs.name, digest, size: runs.size };
  }
}

export function contents(fleet: Fleet): Content[] {
  const found = new Map<string, Content>();
  for (const content of fleet.lab?.contents ?? []) {
    const key = `c:${content.name}`;
    const kind = content.kind === 'image' ? 'image' : 'content';
    found.set(key, { key, label: shown(content.name, 80), kind, size: content.size, torrents: new Set(content.torrents) });
  }
  const homes = new Map<string, Set<string>>();
  const carrier = new Map<string, string>();
  const torrents = new Map<string, Content>();
  for (const node of fleet.nodes.values()) {
    for (const torrent of known(node)) {
      if (torrent.digest !== undefined) carrier.set(torrent.digest, torrent.info_hash);
      if (torrents.has(torrent.info_hash)) continue;
      const key = `t:${torrent.info_hash}`;
      const label = titleOf(torrent);
      torrents.set(torrent.info_hash, { key, label, kind: 'torrent', size: torrent.size, torrents: new Set([torrent.info_hash]) });
    }
    for (const trace of node.traces.values()) {
      if (trace.home === '') continue;
      const digests = homes.get(trace.home) ?? new Set<string>();
      digests.add(trace.digest);
      homes.set(trace.home, digests);
    }
  }
  for (const [home, digests] of homes) {
    const hashes = [...digests].flatMap((digest) => carrier.get(digest) ?? []);
    if (hashes.length === 0) continue;
    const size = hashes.reduce((sum, hash) => sum + (torrents.get(hash)?.size ?? 0), 0);
    const key = `r:${home}`;
    found.set(key, { key, label: shown(home, 80), kind: 'image', size, torrents: new Set(hashes) });
  }
  const named = [...found.values()].sort((a, b) => byName(a.label, b.label));
  return [...named, ...[...torrents.values()].sort((a, b) => byName(a.label, b.label))];
}

/** The torrents of a content by its key; `undefined` for everything, as for a key that nothing has any more. */
export function torrentsOf(all: readonly Content[], key: string): ReadonlySet<string> | undefined {
  return key === '' ? undefined : all.find((content) => content.key === key)?.torrents;
}
