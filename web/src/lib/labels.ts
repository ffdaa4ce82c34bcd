// Where the names of hosts stand in the picture: clear of all discs and of one another. Who finds no room goes without.

import type { Spot } from './layout';

/** The height of a line, and of what of it lies below its base. */
const LINE = 14;
const BELOW = 4;
/** What a seeder's second ring and the width of lines take beside a disc. */
const RIM = 4;
/** A speed stands below some names, and is about this wide. */
const SPEED = 64;
/** Of more hosts than these the first alone are given names. */
const MOST = 300;

export interface Box {
  left: number;
  right: number;
  top: number;
  bottom: number;
}

export interface Label {
  /** The middle of the text, and its base. */
  x: number;
  y: number;
  box: Box;
  /** The base of a second line, where there is room for one. */
  second: number | undefined;
}

/** Gives places to names, those of `order` first; `wide` is how wide a name is drawn, `taken` where nothing may stand. */
export function labels(
  order: readonly string[],
  spots: ReadonlyMap<string, Spot>,
  wide: (id: string) => number,
  width: number,
  height: number,
  taken: readonly Box[] = [],
): Map<string, Label> {
  const boxes = [...taken];
  const found = new Map<string, Label>();
  const discs = [...spots.values()];
  const free = (box: Box): boolean =>
    box.top >= 0 && box.bottom <= height && box.left >= 0 && box.right <= width && !boxes.some((other) => meet(box, other)) && !discs.some((disc) => covers(disc, box));
  for (const id of order.slice(0, MOST)) {
    const spot = spots.get(id);
    if (spot === undefined) continue;
    const place = around(spot, wide(id), width).find((at) => free(at.box));
    if (place === undefined) continue;
    boxes.push(place.box);
    found.set(id, place);
  }
  for (const label of found.values()) {
    const box = line(label.x, label.y + LINE, SPEED);
    if (!free(box)) continue;
    label.second = label.y + LINE;
    boxes.push(box);
  }
  return found;
}

/** The name of the one that is looked at, with its second line: it stands whatever it covers, but in the picture. */
export function labelOf(spot: Spot, wide: number, width: number, height: number): Label & { second: number } {
  const widest = Math.max(wide, SPEED);
  const x = Math.max(widest / 2 + 2, Math.min(width - widest / 2 - 2, spot.x));
  const below = spot.y + spot.r + RIM + LINE - BELOW;
  const y = below + LINE + BELOW <= height ? below : spot.y - spot.r - RIM - BELOW - LINE;
  const { left, right, top, bottom } = line(x, y, widest);
  return { x, y, second: y + LINE, box: { left, right, top, bottom: bottom + LINE } };
}

/** Whether two boxes have any point in common. */
export function meet(a: Box, b: Box): boolean {
  return a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}

/** Whether any of a box lies under a disc. */
export function covers(disc: Spot, box: Box): boolean {
  const x = Math.max(box.left, Math.min(disc.x, box.right));
  const y = Math.max(box.top, Math.min(disc.y, box.bottom));
  return Math.hypot(x - disc.x, y - disc.y) < disc.r + RIM - 1;
}

/** Below, above, and at the sides, the outer one first. */
function around({ x, y, r, cx }: Spot, wide: number, width: number): Label[] {
  const inside = Math.max(wide / 2 + 2, Math.min(width - wide / 2 - 2, x));
  const aside = r + RIM + 2 + wide / 2;
  const out = x < cx ? -aside : aside;
  const places: [number, number][] = [
    [inside, y + r + RIM + LINE - BELOW],
    [inside, y - r - RIM - BELOW],
    [x + out, y + BELOW],
    [x - out, y + BELOW],
  ];
  return places.map(([at, base]) => ({ x: at, y: base, box: line(at, base, wide), second: undefined }));
}

function line(x: number, base: number, wide: number): Box {
  return { left: x - wide / 2, right: x + wide / 2, top: base + BELOW - LINE, bottom: base + BELOW };
}
