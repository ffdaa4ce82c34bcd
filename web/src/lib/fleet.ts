// The state of a fleet, from records. Pure: no clock, no page. Memory is bounded whatever comes.
//
// Earlier states share with later ones what has not changed: each node and each torrent's runs carry the epoch of the
// state that may change them, and a state of another epoch takes a copy first.

import { FORMAT, type LabStatus, type Link, type News, type Of, type Status, type TorrentStatus, type Trace } from './contract';
import { Runs } from './runs';

export const MOST_NODES = 4000;
export const MOST_TORRENTS = 50_000;
export const MOST_LINKS = 5000;
export const MOST_TRACES = 400;
export const MOST_MAPS = 3000;
const MOST_IDS = 50_000;
/** A node tells of its totals about once a second while they change: what is older says nothing of the present. */
export const TOTALS_HOLD_MS = 2500;

/** A total at a moment, and how fast it grew up to then, per second. */
export interface Growth {
  at: number;
  bytes: number;
  rate: number;
}

/** How fast a total grows that was `before` and is `bytes` now. What stood still before began to grow only lately. */
export function grown(before: Growth | undefined, at: number, bytes: number): Growth {
  if (before === undefined) return { at, bytes, rate: 0 };
  if (at <= before.at) return before;
  return { at, bytes, rate: (Math.max(0, bytes - before.bytes) * 1000) / Math.min(at - before.at, TOTALS_HOLD_MS) };
}

let epochs = 0;
const nextEpoch = (): number => (epochs += 1);

/** One node, as its records tell. */
export class Node {
  version = '';
  status: Status | undefined;
  /** What it has had from origins. */
  origins: Growth | undefined;
  /** Why it cannot be reached, where it cannot. */
  lost: string | undefined;
  /** When it last said anything, on the clock of its records. */
  at_ms = 0;
  /** The same moment on the clock of whoever looks: that of the timeline. */
  heard_ms = 0;
  torrents = new Map<string, TorrentStatus>();
  links = new Map<string, Link>();
  blocks = new Map<string, Runs>();
  traces = new Map<string, Trace>();
  /** Grows with every change. */
  rev = 0;

  constructor(
    readonly name: string,
    readonly epoch: number,
  ) {}

  fork(epoch: number): Node {
    const copy = new Node(this.name, epoch);
    copy.version = this.version;
    copy.status = this.status;
    copy.origins = this.origins;
    copy.lost = this.lost;
    copy.at_ms = this.at_ms;
    copy.heard_ms = this.heard_ms;
    copy.torrents = new Map(this.torrents);
    copy.links = new Map(this.links);
    copy.blocks = new Map(this.blocks);
    copy.traces = new Map(this.traces);
    copy.rev = this.rev;
    return copy;
  }
}

export class Fleet {
  nodes = new Map<string, Node>();
  /** Which node has or had a peer id. */
  names = new Map<string, string>();
  /** Which host of the lab alone has an IP address. */
  private addresses: ReadonlyMap<string, string> = new Map();
  lab: LabStatus | undefined;
  /** Grows with every record. */
  rev = 0;
  /** Grows when a node comes or goes, or the lab changes: the picture must be laid out again. */
  shape = 0;
  private epoch = nextEpoch();

  /** This state, kept: neither of the two changes with the other. */
  snapshot(): Fleet {
    const copy = new Fleet();
    copy.nodes = new Map(this.nodes);
    copy.names = new Map(this.names);
    copy.addresses = this.addresses;
    copy.lab = this.lab;
    copy.rev = this.rev;
    copy.shape = this.shape;
    this.epoch = nextEpoch();
    return copy;
  }

  /** Takes a record in, that came `at`. Gives back what is wrong with it, where something is. */
  apply(record: News, at = record.at_ms): string | undefined {
    this.rev += 1;
    if (record.kind === 'lab') {
      const { node: _, at_ms: __, kind: ___, ...lab } = record;
      this.lab = lab;
      this.addresses = addressesOf(lab);
      this.shape += 1;
      return undefined;
    }
    if (record.kind === 'hello' && record.node === 'lab') return formatProblem(record);
    if (record.kind === 'lost' && record.node === 'lab') return record.error;
    const node = this.own(record.node);
    if (node === undefined) return `more than ${MOST_NODES} nodes: ${record.node} is left out`;
    node.rev += 1;
    node.at_ms = Math.max(node.at_ms, record.at_ms);
    node.heard_ms = at;
    if (record.kind === 'lost') {
      node.lost = record.error;
      if (node.origins !== undefined) node.origins = { ...node.origins, rate: 0 };
      if (node.links.size > 0) node.links = new Map();
      // What it has it has; nothing of it moves.
      for (const [hash, torrent] of node.torrents) node.torrents.set(hash, { ...torrent, down_rate: 0, up_rate: 0, peers: 0 });
      return undefined;
    }
    node.lost = undefined;
    switch (record.kind) {
      case 'hello':
        node.version = record.version;
        return formatProblem(record);
      case 'status':
        return this.status(node, record, at);
      case 'torrents':
        return torrents(node, record);
      case 'links':
        return links(node, record);
      case 'blocks':
        return blocks(node, record, this.epoch);
      case 'trace': {
        const { node: _, at_ms: __, kind: ___, ...trace } = record;
        const key = `${trace.digest} ${trace.began_ms} ${trace.what}`;
        node.traces.set(key, trace);
        if (node.traces.size > MOST_TRACES) drop(node.traces);
        return undefined;
      }
    }
  }

  /** The name of the node with this peer id, else of the lab's only host with its address, or what else is known of the peer. */
  nameOf(peer_id: string | undefined, address?: string): string {
    const known = peer_id === undefined ? undefined : this.names.get(peer_id);
    return known ?? (address === undefined ? undefined : this.addresses.get(hostOf(address))) ?? address ?? peer_id?.slice(0, 12) ?? 'unknown';
  }

  private status(node: Node, record: Of<'status'>, at: number): undefined {
    const { status } = record;
    node.status = status;
    node.origins = grown(node.origins, at, status.totals.from_origins);
    if (status.peer_id !== '' && this.names.get(status.peer_id) !== node.name) {
      this.names.set(status.peer_id, node.name);
      if (this.names.size > MOST_IDS) drop(this.names);
      this.shape += 1;
    }
    return undefined;
  }

  private own(name: string): Node | undefined {
    const known = this.nodes.get(name);
    if (known?.epoch === this.epoch) return known;
    if (known === undefined && this.nodes.size >= MOST_NODES) return undefined;
    if (known === undefined) this.shape += 1;
    const node = known?.fork(this.epoch) ?? new Node(name, this.epoch);
    this.nodes.set(name, node);
    return node;
  }
}

/** A node that was killed has another peer id when it is started again, and the same address. */
function addressesOf(lab: LabStatus): Map<string, string> {
  const found = new Map<string, string>();
  const shared = new Set<string>();
  for (const { name, address } of lab.hosts) {
    const host = hostOf(address);
    if (found.has(host)) shared.add(host);
    found.set(host, name);
  }
  for (const host of ['', ...shared]) found.delete(host);
  return found;
}

/** An address without its port. */
function hostOf(address: string): string {
  return /^\[(.*)\](?::\d+)?$/.exec(address)?.[1] ?? (address.match(/:/g)?.length === 1 ? address.replace(/:\d+$/, '') : address);
}

/** What comes to a node from origins at a moment, in bytes per second. */
export function originRate(node: Node, now: number): number {
  const { origins } = node;
  return origins === undefined || now - origins.at > TOTALS_HOLD_MS ? 0 : origins.rate;
}

function formatProblem(record: Of<'hello'>): string | undefined {
  if (record.format === FORMAT) return undefined;
  return `${record.node} speaks format ${record.format} of Longshore ${record.version}, and this page knows ${FORMAT}`;
}

function torrents(node: Node, record: Of<'torrents'>): string | undefined {
  if (record.all === true) {
    node.torrents = new Map();
  }
  // Where its blocks came from stays known: a blob's torrent comes to rest when nobody asks for it.
  for (const hash of record.gone ?? []) node.torrents.delete(hash);
  for (const torrent of record.changed) {
    if (node.torrents.size >= MOST_TORRENTS && !node.torrents.has(torrent.info_hash)) {
      return `more than ${MOST_TORRENTS} torrents on ${node.name}: the rest is left out`;
    }
    node.torrents.set(torrent.info_hash, torrent);
  }
  return undefined;
}

function links(node: Node, record: Of<'links'>): string | undefined {
  if (record.all === true) node.links = new Map();
  for (const id of record.gone ?? []) node.links.delete(id);
  for (const link of record.changed) {
    if (node.links.size >= MOST_LINKS && !node.links.has(link.peer_id)) {
      return `more than ${MOST_LINKS} peers on ${node.name}: the rest is left out`;
    }
    node.links.set(link.peer_id, link);
  }
  return undefined;
}

function blocks(node: Node, record: Of<'blocks'>, epoch: number): string | undefined {
  const { info_hash, size, block_length, piece_length } = record;
  if (block_length <= 0 || piece_length <= 0) return `blocks of no length from ${node.name}`;
  let runs = node.blocks.get(info_hash);
  const anew = runs === undefined || record.first_run === 0 || runs.piece_length !== piece_length;
  if (anew) {
    const before = runs;
    runs = new Runs(epoch, size, block_length, piece_length, record.name ?? '');
    runs.rev = (before?.rev ?? 0) + 1;
    // Sources stay where the record begins behind them.
    if (before !== undefined && record.first_source > 0) runs.sources = before.sources;
  } else if (runs?.epoch !== epoch) runs = runs?.fork(epoch);
  if (runs === undefined) return undefined;
  if (!runs.putSources(record.first_source, record.sources) || !runs.put(record.first_run, record.runs)) {
    return `records of blocks from ${node.name} are missing: its map has a gap until it is told anew`;
  }
  runs.size = size;
  runs.complete = record.complete ?? false;
  // The latest stand last, so that the oldest go first where there are too many.
  if (anew) node.blocks.delete(info_hash);
  node.blocks.set(info_hash, runs);
  if (node.blocks.size > MOST_MAPS) drop(node.blocks);
  return undefined;
}

function drop<K, V>(from: Map<K, V>): void {
  const first = from.keys().next();
  if (first.done !== true) from.delete(first.value);
}
