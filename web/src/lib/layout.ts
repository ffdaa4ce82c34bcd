// Where each host of the picture stands. The same hosts always stand in the same places: no springs, no jitter.

import { byName } from './format';

export type Role = 'seeder' | 'leecher' | 'tracker' | 'origin' | 'foreign';

export interface Placed {
  id: string;
  role: Role;
  zone: string;
}

export interface Spot {
  x: number;
  y: number;
  /** The radius of its disc. */
  r: number;
  /** The middle that lines to it bend towards. */
  cx: number;
  cy: number;
}

export interface Layout {
  spots: Map<string, Spot>;
  zones: { name: string; x: number; y: number; rx: number; ry: number }[];
  /** How far from each other neighbours stand, at least: how much room a name has. */
  gap: number;
}

/** The radius of the largest discs, and the height of a line of text. */
const LARGEST = 17;
const LINE = 14;

interface Ellipse {
  x: number;
  y: number;
  rx: number;
  ry: number;
}

/** Lays hosts out in a picture of this size, in pixels. */
export function layout(hosts: readonly Placed[], width: number, height: number): Layout {
  const spots = new Map<string, Spot>();
  const sorted = hosts.slice().sort((a, b) => byName(a.id, b.id));
  const servers = sorted.filter((host) => host.role === 'origin' || host.role === 'tracker');
  const others = sorted.filter((host) => host.role !== 'origin' && host.role !== 'tracker');
  const names = [...new Set(others.map((host) => host.zone))].sort(byName);
  const pad = Math.min(others.length > 60 ? 30 : 56, Math.min(width, height) * 0.09);
  const whole: Ellipse = { x: width / 2, y: height / 2, rx: Math.max(20, width / 2 - pad), ry: Math.max(20, height / 2 - pad) };
  const zones: Layout['zones'] = [];
  const band = servers.length > 0 ? Math.min(86, height * 0.16) : 0;
  const above: Ellipse = { ...whole, y: band / 2 + 4 };
  let gap = Infinity;
  let middle = whole;
  if (names.length <= 1) {
    gap = rings(others, whole, servers.length > 0 ? 0.3 : 0.12, spots);
    // The servers stand in the middle where they have room there, and else above.
    if (!hasRoom(servers, whole, spots)) {
      middle = above;
      gap = rings(others, { ...whole, y: (height + band) / 2, ry: Math.max(20, (height - band) / 2 - pad) }, 0.12, spots);
    }
  } else {
    // Zones stand beside one another, the servers above them.
    const columns = Math.min(names.length, Math.max(1, Math.round(Math.sqrt((names.length * width) / (height - band)))));
    const rows = Math.ceil(names.length / columns);
    const wide = width / columns;
    const high = (height - band) / rows;
    middle = above;
    names.forEach((name, at) => {
      const row = Math.floor(at / columns);
      // The last row may be shorter, and stands in the middle then.
      const mates = Math.min(columns, names.length - row * columns);
      const area: Ellipse = {
        x: width / 2 + ((at % columns) - (mates - 1) / 2) * wide,
        y: band + (row + 0.5) * high,
        rx: Math.max(14, wide / 2 - 34),
        ry: Math.max(14, high / 2 - 42),
      };
      zones.push({ name, x: area.x, y: area.y, rx: wide / 2 - 8, ry: high / 2 - 8 });
      gap = Math.min(gap, rings(others.filter((host) => host.zone === name), area, 0.2, spots));
    });
  }
  const room = Math.min(gap, 90);
  const r = Math.max(3, Math.min(LARGEST, room * 0.27));
  for (const spot of spots.values()) spot.r = r;
  inRow(servers, middle, Math.max(9, Math.min(17, r * 1.15)), spots);
  return { spots, zones, gap };
}

/** Seeders (or else our own nodes) on the inner ring, the rest outside of it. Gives back the least distance of neighbours. */
function rings(hosts: readonly Placed[], area: Ellipse, inner: number, spots: Map<string, Spot>): number {
  if (hosts.length === 0) return Infinity;
  const put = (host: Placed, share: number, angle: number): void => {
    const x = area.x + Math.cos(angle) * area.rx * share;
    const y = area.y + Math.sin(angle) * area.ry * share;
    spots.set(host.id, { x, y, r: 0, cx: area.x, cy: area.y });
  };
  const only = hosts[0];
  if (hosts.length === 1 && only !== undefined) {
    put(only, inner > 0.25 ? 0.7 : 0, Math.PI / 2);
    return 90;
  }
  // Without seeders our own nodes stand inside, and peers that are none of ours around them.
  const within = hosts.some((host) => host.role === 'seeder') ? 'seeder' : hosts.some((host) => host.role === 'foreign') ? 'leecher' : 'seeder';
  const seeders = hosts.filter((host) => host.role === within);
  const rest = hosts.filter((host) => host.role !== within);
  const layers: { hosts: Placed[]; share: number }[] = [];
  const split = seeders.length > 0 && rest.length > 0;
  const from = split ? inner + (1 - inner) * 0.3 : inner;
  if (split) layers.push({ hosts: seeders, share: inner + (1 - inner) * 0.12 });
  const outer = split ? rest : hosts.slice();
  layers.push(...fill(outer, area, Math.min(0.86, from + 0.12)));
  let gap = Infinity;
  layers.forEach((layer, depth) => {
    const step = (2 * Math.PI) / layer.hosts.length;
    const turn = -Math.PI / 2 + (depth % 2) * (step / 2);
    layer.hosts.forEach((host, at) => put(host, layer.share, turn + at * step));
    if (layer.hosts.length > 1) gap = Math.min(gap, round(area) * layer.share / layer.hosts.length);
  });
  const depth = (layers.length > 1 ? (1 - from) / (layers.length - 1) : 1) * Math.min(area.rx, area.ry);
  return Math.min(gap, layers.length > 1 ? Math.max(depth, 12) : gap, 120);
}

/** Deals hosts over as few rings as give each of them room, the outer ring the most. */
function fill(hosts: readonly Placed[], area: Ellipse, from: number): { hosts: Placed[]; share: number }[] {
  const least = 34;
  for (let count = 1; ; count += 1) {
    const shares = Array.from({ length: count }, (_, at) => (count === 1 ? 1 : from + ((1 - from) * at) / (count - 1)));
    const sum = shares.reduce((total, share) => total + share, 0);
    const apart = (round(area) * sum) / hosts.length;
    const depth = count === 1 ? Infinity : ((1 - from) * Math.min(area.rx, area.ry)) / (count - 1);
    if (apart >= least || depth < apart * 1.1 || count === 16) {
      const layers: { hosts: Placed[]; share: number }[] = [];
      let at = 0;
      let covered = 0;
      for (const share of shares) {
        covered += share;
        const to = Math.round((covered / sum) * hosts.length);
        if (to > at) layers.push({ hosts: hosts.slice(at, to), share });
        at = to;
      }
      return layers;
    }
  }
}

/** How far apart servers stand from one another. */
const apart = (whole: Ellipse): number => Math.max(58, Math.min(whole.rx * 0.27, 84));

/** Whether servers can stand in a row in the middle, with their names, clear of all others. */
function hasRoom(servers: readonly Placed[], whole: Ellipse, spots: Map<string, Spot>): boolean {
  const wide = ((servers.length - 1) / 2) * apart(whole) + 2 * LARGEST + 12;
  const high = 2 * LARGEST + LINE + 4;
  return servers.length === 0 || [...spots.values()].every((spot) => Math.abs(spot.x - whole.x) > wide || Math.abs(spot.y - whole.y) > high);
}

function inRow(servers: readonly Placed[], whole: Ellipse, r: number, spots: Map<string, Spot>): void {
  servers.forEach((host, at) => {
    const x = whole.x + (at - (servers.length - 1) / 2) * apart(whole);
    spots.set(host.id, { x, y: whole.y, r, cx: whole.x, cy: whole.y });
  });
}

/** The circumference, about (Ramanujan). */
function round({ rx, ry }: Ellipse): number {
  return Math.PI * (3 * (rx + ry) - Math.sqrt((3 * rx + ry) * (rx + 3 * ry)));
}

/** Who stands at a point, or near it. */
export function hit(spots: Map<string, Spot>, x: number, y: number): string | undefined {
  let best: string | undefined;
  let nearest = Infinity;
  for (const [id, spot] of spots) {
    const distance = Math.hypot(spot.x - x, spot.y - y);
    if (distance < Math.max(14, spot.r + 6) && distance < nearest) {
      best = id;
      nearest = distance;
    }
  }
  return best;
}

/** The nearest host from here in a direction: for arrow keys. */
export function towards(spots: Map<string, Spot>, from: string, dx: number, dy: number): string {
  const here = spots.get(from);
  if (here === undefined) return from;
  let best = from;
  let cost = Infinity;
  for (const [id, spot] of spots) {
    const along = (spot.x - here.x) * dx + (spot.y - here.y) * dy;
    const aside = Math.abs((spot.x - here.x) * dy - (spot.y - here.y) * dx);
    if (id === from || along <= 1 || aside > along * 1.6) continue;
    const price = along + aside * 1.5;
    if (price < cost) {
      cost = price;
      best = id;
    }
  }
  return best;
}
