// What the swarm's picture shows of a state: hosts, and what moves between them, for everything or for one content.

import type { HostKind, LabHost } from './contract';
import type { Fleet, Node } from './fleet';
import type { Placed, Role } from './layout';

export const ORIGIN = 'origin';
export const TRACKER = 'tracker';
/** Peers that are no nodes of ours; more of them are counted, not drawn. */
const MOST_FOREIGN = 60;
/** A block counts as moving for so long, where only blocks tell. */
export const RECENT_MS = 2000;

/** What to show: everything, or what belongs to some torrents. */
export type Filter = ReadonlySet<string> | undefined;

export interface Host extends Placed {
  label: string;
  kind: HostKind | undefined;
  node: Node | undefined;
  lab: LabHost | undefined;
  /** Share of what is shown that it has; `undefined` for servers and where nothing is known. */
  done: number | undefined;
  down: number;
  up: number;
  downTotal: number;
  upTotal: number;
  fromOrigin: number;
  size: number;
  problem: string | undefined;
  /** What program a peer says it is. */
  program: string;
}

/** Bytes between two hosts; `from` gives. */
export interface Flow {
  from: string;
  to: string;
  bytes: number;
  rate: number;
}

export interface Picture {
  hosts: Map<string, Host>;
  /** By `from` and `to`. */
  flows: Map<string, Flow>;
  /** Peers that are not drawn. */
  hidden: number;
  totals: { down: number; fromPeers: number; fromOrigin: number; done: number; size: number; whole: number; nodes: number };
}

/** A state at a moment of the timeline; where none is named, when each node last spoke. */
export function picture(fleet: Fleet, filter: Filter, now?: number): Picture {
  const hosts = new Map<string, Host>();
  const flows = new Map<string, Flow>();
  const labs = new Map(fleet.lab?.hosts.map((host) => [host.name, host]) ?? []);
  for (const lab of labs.values()) hosts.set(lab.name, blank(lab.name, roleOf(lab.kind), lab));
  for (const node of fleet.nodes.values()) {
    const host = hosts.get(node.name) ?? blank(node.name, 'leecher', labs.get(node.name));
    host.node = node;
    host.problem = trouble(host);
    content(host, node, filter);
    hosts.set(node.name, host);
  }
  servers(hosts, fleet);
  const origin = [...hosts.values()].find((host) => host.role === 'origin')?.id ?? ORIGIN;
  const foreign = new Set<string>();
  let hidden = 0;
  const giver = (peer_id: string | undefined, address: string | undefined, client: string): string | undefined => {
    const id = fleet.nameOf(peer_id, address);
    if (hosts.has(id)) return id;
    if (foreign.size >= MOST_FOREIGN) {
      hidden += 1;
      return undefined;
    }
    foreign.add(id);
    hosts.set(id, { ...blank(id, 'foreign', undefined), label: id, program: client });
    return id;
  };
  for (const node of fleet.nodes.values()) {
    if (filter === undefined) linkFlows(node, flows, giver);
    // A node that is at rest says nothing, and time goes on all the same.
    const at = node.at_ms + Math.max(0, (now ?? node.heard_ms) - node.heard_ms);
    blockFlows(node, filter, flows, giver, origin, at);
  }
  for (const flow of flows.values()) {
    const from = hosts.get(flow.from);
    const to = hosts.get(flow.to);
    if (from !== undefined && (filter !== undefined || from.node === undefined)) {
      from.up += flow.rate;
      from.upTotal += flow.bytes;
    }
    if (to !== undefined && to.node === undefined) {
      to.down += flow.rate;
      to.downTotal += flow.bytes;
    }
    if (from?.role === 'origin' && to !== undefined && filter !== undefined) to.fromOrigin += flow.bytes;
  }
  return { hosts, flows, hidden, totals: totals(hosts) };
}

function blank(id: string, role: Role, lab: LabHost | undefined): Host {
  return {
    id,
    label: id,
    role,
    zone: lab?.zone ?? '',
    kind: lab?.kind,
    node: undefined,
    lab,
    done: undefined,
    down: 0,
    up: 0,
    downTotal: 0,
    upTotal: 0,
    fromOrigin: 0,
    size: 0,
    problem: lab === undefined ? undefined : labTrouble(lab),
    program: lab?.program ?? '',
  };
}

function roleOf(kind: HostKind): Role {
  return kind === 'registry' || kind === 'web' ? 'origin' : kind;
}

function labTrouble(lab: LabHost): string | undefined {
  if (lab.state === 'failed') return lab.error ?? 'failed';
  if (lab.state === 'stopped' || lab.state === 'killed') return lab.state;
  return lab.cut ? 'its link is cut' : undefined;
}

function trouble(host: Host): string | undefined {
  const ofLab = host.lab === undefined ? undefined : labTrouble(host.lab);
  return ofLab ?? host.node?.lost;
}

function content(host: Host, node: Node, filter: Filter): void {
  let done = 0;
  for (const torrent of node.torrents.values()) {
    if (filter?.has(torrent.info_hash) === false) continue;
    host.size += torrent.size;
    done += torrent.bytes_done;
    host.down += torrent.down_rate;
    if (filter === undefined) host.up += torrent.up_rate;
  }
  if (host.size > 0) host.done = Math.min(1, done / host.size);
  const totals = node.status?.totals;
  if (filter === undefined && totals !== undefined) {
    host.downTotal = totals.from_peers + totals.from_origins;
    host.upTotal = totals.to_peers;
    host.fromOrigin = totals.from_origins;
  } else {
    for (const torrent of node.torrents.values()) {
      if (filter?.has(torrent.info_hash) === false) continue;
      host.downTotal += torrent.down_bytes;
      if (filter === undefined) host.upTotal += torrent.up_bytes;
    }
  }
}

/** A tracker and an origin, where the nodes speak of them and no lab does. */
function servers(hosts: Map<string, Host>, fleet: Fleet): void {
  const roles = new Set([...hosts.values()].map((host) => host.role));
  if (fleet.lab !== undefined) return;
  let tracker = false;
  let origin = false;
  for (const node of fleet.nodes.values()) {
    tracker ||= (node.status?.trackers.length ?? 0) > 0;
    origin ||= (node.status?.totals.from_origins ?? 0) > 0;
  }
  if (tracker && !roles.has('tracker')) hosts.set(TRACKER, blank(TRACKER, 'tracker', undefined));
  if (origin && !roles.has('origin')) hosts.set(ORIGIN, blank(ORIGIN, 'origin', undefined));
}

/** Whether all that ails a host is that its link is cut. */
export function isCut(host: Host): boolean {
  return host.lab?.cut === true && (host.lab.state === 'running' || host.lab.state === 'starting');
}

/** Whether a host is dead, stopped, or not to be reached: what it has counts for nobody. */
export function isGone(host: Host): boolean {
  return host.problem !== undefined && !isCut(host);
}

/** Which nodes can give nothing now: those that are gone, and those whose links alone are cut. */
export function absent(fleet: Fleet): ReadonlyMap<string, 'gone' | 'cut'> {
  const found = new Map<string, 'gone' | 'cut'>();
  for (const node of fleet.nodes.values()) if (node.lost !== undefined) found.set(node.name, 'gone');
  const hosts = fleet.lab?.hosts ?? [];
  for (const host of hosts) {
    if (host.state === 'stopped' || host.state === 'killed' || host.state === 'failed') found.set(host.name, 'gone');
    else if (host.cut) found.set(host.name, 'cut');
  }
  // Whom the lab has taken away it still names as a holder.
  const there = new Set(hosts.map((host) => host.name));
  for (const { seeders } of fleet.lab?.contents ?? []) for (const name of seeders) if (!there.has(name)) found.set(name, 'gone');
  return found;
}

type Giver = (peer_id: string | undefined, address: string | undefined, client: string) => string | undefined;

function linkFlows(node: Node, flows: Map<string, Flow>, giver: Giver): void {
  for (const link of node.links.values()) {
    const other = giver(link.peer_id, link.address, link.client ?? '');
    if (other === undefined || other === node.name) continue;
    raise(flows, other, node.name, link.down_bytes, link.down_rate);
    raise(flows, node.name, other, link.up_bytes, link.up_rate);
  }
}

/** Both ends of a connection tell of the same bytes: the larger figure is the newer. */
function raise(flows: Map<string, Flow>, from: string, to: string, bytes: number, rate: number): void {
  const key = `${from}\n${to}`;
  const flow = flows.get(key);
  if (flow === undefined) flows.set(key, { from, to, bytes, rate });
  else {
    flow.bytes = Math.max(flow.bytes, bytes);
    flow.rate = Math.max(flow.rate, rate);
  }
}

function blockFlows(node: Node, filter: Filter, flows: Map<string, Flow>, giver: Giver, origin: string, now: number): void {
  // Where everything is shown links tell of peers; blocks know the origin, and peers whose connections have ended.
  const past = new Map<string, number>();
  const to = node.name;
  for (const [hash, runs] of node.blocks) {
    if (filter?.has(hash) === false) continue;
    const sums = runs.sums();
    runs.sources.forEach((source, at) => {
      const bytes = sums[at] ?? 0;
      if (bytes === 0) return;
      if (source.kind !== 'peer' && source.kind !== 'origin') return;
      const from = source.kind === 'origin' ? origin : giver(source.peer_id, source.peer, '');
      if (from === undefined || from === to) return;
      if (source.kind === 'peer' && filter === undefined) {
        past.set(from, (past.get(from) ?? 0) + bytes);
        return;
      }
      const rate = runs.recent(at, now, RECENT_MS);
      const key = `${from}\n${to}`;
      const flow = flows.get(key);
      if (flow === undefined) flows.set(key, { from, to, bytes, rate });
      else {
        flow.bytes += bytes;
        flow.rate += rate;
      }
    });
  }
  for (const [from, bytes] of past) raise(flows, from, to, bytes, 0);
}

function totals(hosts: Map<string, Host>): Picture['totals'] {
  let up = 0;
  const sum = { down: 0, fromPeers: 0, fromOrigin: 0, done: 0, size: 0, whole: 0, nodes: 0 };
  for (const host of hosts.values()) {
    if (host.node === undefined) continue;
    sum.fromOrigin += host.fromOrigin;
    sum.fromPeers += Math.max(0, host.downTotal - host.fromOrigin);
    // What has moved has; all else is of those who live.
    if (isGone(host)) continue;
    sum.nodes += 1;
    sum.down += host.down;
    up += host.up;
    sum.size += host.size;
    sum.done += host.size * (host.done ?? 0);
    if (host.done === 1) sum.whole += 1;
  }
  // What one host gives another receives; of a single node that only gives, that is what moves.
  sum.down = Math.max(sum.down, up);
  return sum;
}
