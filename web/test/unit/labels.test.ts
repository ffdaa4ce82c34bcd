import { describe, expect, it } from 'vitest';

import { covers, labels, meet, type Label } from '../../src/lib/labels';
import { layout, type Placed, type Spot } from '../../src/lib/layout';

const HEIGHT = 398;
/** About as wide as names are drawn. */
const wide = (id: string): number => id.length * 6.8 + 4;

/** Hosts as a lab names them. */
function hosts(count: number, seeders: number, servers: number): Placed[] {
  const host = (id: string, role: Placed['role']): Placed => ({ id, role, zone: '' });
  const first = [host('registry', 'origin'), host('tracker', 'tracker'), host('web', 'origin')].slice(0, servers);
  return Array.from({ length: count }, (_, at) => {
    const server = first[at];
    if (server !== undefined) return server;
    return at < servers + seeders ? host(`s${at - servers + 1}`, 'seeder') : host(`n${at - servers - seeders + 1}`, 'leecher');
  });
}

function named(all: readonly Placed[], width: number): { spots: Map<string, Spot>; found: Map<string, Label> } {
  const { spots } = layout(all, width, HEIGHT);
  return { spots, found: labels(all.map((host) => host.id), spots, wide, width, HEIGHT) };
}

/** What overlaps in a picture, in words. */
function overlaps(spots: Map<string, Spot>, found: Map<string, Label>, width: number): string[] {
  const wrong: string[] = [];
  const discs = [...spots];
  for (const [at, [id, disc]] of discs.entries()) {
    for (const [other, spot] of discs.slice(at + 1)) if (Math.hypot(disc.x - spot.x, disc.y - spot.y) < disc.r + spot.r) wrong.push(`${id} lies on ${other}`);
  }
  const names = [...found];
  for (const [at, [id, { box, x, second }]] of names.entries()) {
    if (box.left < 0 || box.right > width || box.top < 0 || box.bottom > HEIGHT) wrong.push(`${id} is cut`);
    for (const [other, disc] of discs) if (covers(disc, box)) wrong.push(`the name of ${id} lies on ${other}`);
    for (const [other, label] of names.slice(at + 1)) if (meet(box, label.box)) wrong.push(`the names of ${id} and ${other} meet`);
    const speed = { left: x - 30, right: x + 30, top: (second ?? 0) - 9, bottom: (second ?? 0) + 3 };
    if (second !== undefined) for (const [other, label] of names) if (other !== id && meet(speed, label.box)) wrong.push(`the speed of ${id} lies on the name of ${other}`);
  }
  return wrong;
}

describe('names in the picture of a phone', () => {
  for (const phone of [360, 375, 390, 412, 430]) {
    it(`stand clear of discs and of one another, all of 16 hosts, at ${phone} pixels`, () => {
      const width = phone - 34;
      for (const servers of [0, 1, 2, 3]) {
        for (const seeders of [0, 1, 2, 3, 4, 6]) {
          const all = hosts(16, seeders, servers);
          const { spots, found } = named(all, width);
          expect(overlaps(spots, found, width), `${servers} servers, ${seeders} seeders`).toEqual([]);
          expect(all.filter((host) => !found.has(host.id)), `${servers} servers, ${seeders} seeders`).toEqual([]);
        }
      }
    });
  }

  it('are fewer where there are more hosts, and still clear; servers and seeders keep theirs', () => {
    for (const count of [24, 40, 80, 200]) {
      const all = hosts(count, 4, 3);
      const { spots, found } = named(all, 356);
      expect(overlaps(spots, found, 356), `${count} hosts`).toEqual([]);
      for (const host of all.slice(0, 3)) expect(found.has(host.id), `${host.id} of ${count}`).toBe(true);
    }
    expect(named(hosts(80, 4, 3), 356).found.size).toBeLessThan(80);
  });
});

describe('names in a wide picture', () => {
  it('stand clear, with the servers in the middle', () => {
    for (const count of [4, 15, 40, 60]) {
      const all = hosts(count, 2, 3);
      const { spots } = layout(all, 700, 576);
      const found = labels(all.map((host) => host.id), spots, wide, 700, 576);
      expect([...found.values()].flatMap((one, at, list) => list.slice(at + 1).filter((other) => meet(one.box, other.box)))).toEqual([]);
      expect(found.size, `${count} hosts`).toBe(count);
      expect(spots.get('tracker')).toMatchObject({ x: 350, y: 288 });
    }
  });
});
