import { describe, expect, it } from 'vitest';

import type { News, Trace } from '../../src/lib/contract';
import { byteMarks, durationLabels, momentLabels, rateLabels, timeMarks } from '../../src/lib/axis';
import { paintRarity, pieceAt, rarityColour, tilesOf, type Look } from '../../src/lib/block-painter';
import { torrentsOf, contents } from '../../src/lib/contents';
import { Fleet } from '../../src/lib/fleet';
import * as format from '../../src/lib/format';
import { hit, layout, towards, type Placed } from '../../src/lib/layout';
import { DARK, LIGHT, Colours, ramp } from '../../src/lib/palette';
import { picture } from '../../src/lib/picture';
import { matrix, PieceMap, rarity } from '../../src/lib/pieces';
import { checkFirst, NotARecording, parseRecord } from '../../src/lib/recording';
import { hashOf, parseHash } from '../../src/lib/route.svelte';
import { searched, sorted, visible } from '../../src/lib/rows';
import { runBytes, Runs } from '../../src/lib/runs';
import { aligned, Series } from '../../src/lib/series';
import { Events, Lines } from '../../src/lib/stream';
import { Timeline } from '../../src/lib/timeline';
import { waterfall } from '../../src/lib/waterfall';
import { synth } from '../synth.mjs';

describe('figures', () => {
  it('read as people write them', () => {
    expect([0, 1, 999, 1024, 1536, 10 * 1024, 150 * 2 ** 20, 3 * 2 ** 40].map(format.bytes)).toEqual(['0 B', '1 B', '999 B', '1.00 KiB', '1.50 KiB', '10.0 KiB', '150 MiB', '3.00 TiB']);
    expect([0, 340, 2410, 61_000, 187_000, 18_120_000, 273_600_000].map(format.duration)).toEqual(['0 ms', '340 ms', '2.41 s', '1 min 01 s', '3 min 07 s', '5 h 02 min', '3 d 4 h']);
    expect([0, 0.0001, 0.5, 0.99999, 1].map(format.percent)).toEqual(['0 %', '< 0.1 %', '50 %', '99 %', '1'.concat('00 %')]);
    expect([format.clock(64_230), format.clock(3_725_000), format.clock(-5)]).toEqual(['1:04.2', '1:02:05.0', '0:00.0']);
    expect([NaN, Infinity].map(format.bytes)).toEqual(['–', '–']);
  });

  it('are read from what people type', () => {
    expect(['2.5 MiB', '10k', '7', '1,5 m', 'fast', ''].map(format.parseBytes)).toEqual([2_621_440, 10_240, 7, 1_572_864, undefined, undefined]);
    expect(['10mbit', '1.5 Gbit/s', '500k', '-3'].map(format.parseBits)).toEqual([10_000_000, 1_500_000_000, 500_000, undefined]);
  });
});

describe('an axis', () => {
  it('of rates has one unit, and as few digits as tell its marks apart', () => {
    const of = (most: number): string[] => rateLabels(byteMarks(most));
    expect(of(1126)).toEqual(['0', '1 KiB/s']);
    expect(of(300_000)).toEqual(['0', '64 KiB/s', '128 KiB/s', '192 KiB/s', '256 KiB/s']);
    expect(of(2.2 * 2 ** 20)).toEqual(['0', '0.5 MiB/s', '1.0 MiB/s', '1.5 MiB/s', '2.0 MiB/s']);
    expect(of(1.2 * 2 ** 20)).toEqual(['0', '0.25 MiB/s', '0.50 MiB/s', '0.75 MiB/s', '1.00 MiB/s']);
    expect(of(40 * 2 ** 30)).toEqual(['0', '8 GiB/s', '16 GiB/s', '24 GiB/s', '32 GiB/s', '40 GiB/s']);
    for (let most = 1024; most < 2 ** 50; most *= 1.37) {
      const labels = of(most);
      expect(new Set(labels).size).toBe(labels.length);
      expect(new Set(labels.slice(1).map((label) => label.split(' ')[1])).size).toBe(1);
      expect(labels.length).toBeLessThanOrEqual(7);
    }
  });

  it('of lengths of time has one unit, and is divided as clocks are', () => {
    const of = (length: number): string[] => durationLabels(timeMarks(length, 6));
    expect(of(0)).toEqual(['0']);
    expect(of(230)).toEqual(['0', '50 ms', '100 ms', '150 ms', '200 ms']);
    expect(of(2000)).toEqual(['0', '0.5 s', '1.0 s', '1.5 s', '2.0 s']);
    expect(of(22_500)).toEqual(['0', '5 s', '10 s', '15 s', '20 s']);
    expect(of(100_000)).toEqual(['0', '0:30 min', '1:00 min', '1:30 min']);
    expect(of(600_000)).toEqual(['0', '2 min', '4 min', '6 min', '8 min', '10 min']);
    expect(of(4 * 3_600_000)).toEqual(['0', '1 h', '2 h', '3 h', '4 h']);
    for (let length = 3; length < 1e10; length *= 1.37) expect(new Set(of(length)).size).toBe(of(length).length);
  });

  it('of moments does not say again what the mark before has said', () => {
    const at = (minute: number, second: number): number => new Date(2026, 4, 4, 9, minute, second).getTime();
    expect(momentLabels([at(30, 50), at(30, 55), at(31, 0), at(31, 5)])).toEqual(['09:30:50', ':55', '09:31:00', ':05']);
    expect(momentLabels([at(30, 0), at(31, 0), at(90, 0)])).toEqual(['09:30', '09:31', '10:30']);
    expect(momentLabels([])).toEqual([]);
  });
});

describe('hostile names', () => {
  it('lose what would rearrange the line that they are in, and their length', () => {
    expect(format.name('a\u202egnp.exe\u0000\n')).toBe('a\ufffdgnp.exe\ufffd\ufffd');
    expect(format.name('x'.repeat(1e6)).length).toBe(200);
    expect(format.name('')).toBe('(no name)');
    expect(format.name('<b>bold</b>')).toBe('<b>bold</b>');
  });
});

describe('a stream', () => {
  it('gives the same lines however it is cut', () => {
    const text = 'one\r\n\ntwo three\nfour';
    for (let size = 1; size <= text.length; size += 1) {
      const lines = new Lines();
      const got: string[] = [];
      for (let at = 0; at < text.length; at += size) got.push(...lines.push(text.slice(at, at + size)));
      got.push(...lines.end());
      expect(got).toEqual(['one', '', 'two three', 'four']);
    }
  });

  it('throws a line without end away, and goes on behind it', () => {
    const lines = new Lines(10);
    const got = [...lines.push('x'.repeat(8)), ...lines.push('y'.repeat(8)), ...lines.push('\nshort\n')];
    expect([got, lines.overlong]).toEqual([['short'], 1]);
  });

  it('of events gives their data, and nothing of comments', () => {
    const events = new Events();
    const got = [': alive', '', 'data: {"a":', 'data: 1}', '', 'event: x', 'data:2', ''].map((line) => events.push(line));
    expect(got.filter((data) => data !== undefined)).toEqual(['{"a":\n1}', '2']);
  });
});

describe('a recording', () => {
  const hello = { node: 'n', at_ms: 1, kind: 'hello', format: 1, version: '0.1.0' };

  it('begins with a hello of a format that is known', () => {
    expect(() => checkFirst(parseRecord(JSON.stringify(hello)))).not.toThrow();
    expect(() => checkFirst(parseRecord(JSON.stringify({ ...hello, format: 2 })))).toThrow(/format 2.*format 1/);
    expect(() => checkFirst(parseRecord('{"a":1}'))).toThrow(NotARecording);
    expect(() => checkFirst(parseRecord('PK\u0003\u0004'))).toThrow(NotARecording);
  });

  it('may have lines that are no records', () => {
    expect(parseRecord('{').wrong).toContain('not JSON');
    expect(parseRecord('{"kind":"dance"}').wrong).toContain('unknown kind');
    expect(parseRecord('  ')).toEqual({});
  });
});

describe('blocks', () => {
  const geometry = { size: 250, piece_length: 100, block_length: 30 };
  const run = (piece: number, block: number, count: number, source = 0) => ({ piece, block, count, source, first_ms: 10, last_ms: 20 });

  it('count as the bytes that they are, at the ends too', () => {
    expect(runBytes(geometry, run(0, 0, 4))).toBe(100);
    expect(runBytes(geometry, run(0, 3, 1))).toBe(10);
    expect(runBytes(geometry, run(2, 0, 2))).toBe(50);
    expect(runBytes(geometry, run(2, 0, 99))).toBe(50);
    expect([runBytes(geometry, run(3, 0, 1)), runBytes(geometry, run(0, 9, 1)), runBytes(geometry, run(1e9, 0, 1))]).toEqual([0, 0, 0]);
  });

  it('are mapped by piece, with who gave the most', () => {
    const runs = new Runs(0, 250, 30, 100);
    runs.putSources(0, [{ kind: 'origin' }, { kind: 'peer', peer_id: 'aa' }]);
    runs.put(0, [run(0, 0, 1, 0), run(0, 1, 3, 1), run(1, 0, 4, 0), run(7, 0, 1, 0), run(0, 0, 1, 9)]);
    const map = PieceMap.of(runs);
    expect([map.pieces, map.isWhole(0), map.isWhole(1), map.isWhole(2)]).toEqual([3, true, true, false]);
    expect([...map.main].slice(0, 2)).toEqual([2, 1]);
    expect(map.facts(0, runs).givers[0]).toEqual({ source: 1, bytes: 70 });
    expect([...rarity([map], 2, 3)]).toEqual([3, 3, 2]);
    expect(runs.sums()).toEqual([130, 70]);
  });

  it('are coloured by how many have them, in every row, also of a seed and of who lacks them', () => {
    for (const palette of [DARK, LIGHT]) {
      const colours = [0, 1, 2, 3, 4].map((count) => rarityColour(palette, count, 4));
      expect(new Set(colours).size).toBe(5);
      expect(colours.slice(1)).toEqual([1, 2 / 3, 1 / 3, 0].map((share) => ramp(palette, share)));
      expect(rarityColour(palette, 1, 1)).toBe(ramp(palette, 0));
      // What nobody has is far from whatever else a piece may look like.
      const parts = (color: string): number[] => (color.startsWith('#') ? [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16)) : color.match(/\d+/g)?.map(Number) ?? []);
      const nobody = parts(colours[0] ?? '');
      for (let step = 0; step <= 64; step += 1) {
        const other = parts(ramp(palette, step / 64));
        expect(Math.hypot(...nobody.map((value, at) => value - (other[at] ?? 0)))).toBeGreaterThan(75);
      }

      const painted: unknown[][] = [];
      const context = { fillStyle: '', globalAlpha: 1, fillRect: (...box: number[]) => painted.push([context.fillStyle, ...box]) };
      const look: Look = { lens: 'rarity', palette, colours: [], counts: Uint16Array.of(4, 1, 1, 0), nodes: 4, from: 0, to: 0 };
      const row = (has: (piece: number) => boolean): unknown[][] => {
        painted.length = 0;
        paintRarity(context as unknown as CanvasRenderingContext2D, 0, 0, 40, 100, 4, has, look);
        return painted.slice(1).map(([color, x, , width, height]) => [color, x, width, height]);
      };
      expect(row((piece) => piece < 3)).toEqual([[colours[4], 0, 10, 100], [colours[1], 10, 20, 100], [colours[0], 30, 10, 25]]);
      expect(row((piece) => piece === 0)).toEqual([[colours[4], 0, 10, 100], [colours[1], 10, 20, 25], [colours[0], 30, 10, 25]]);
      // Four pieces in two places: the rarest of each.
      paintRarity(context as unknown as CanvasRenderingContext2D, 0, 0, 2, 10, 4, () => true, look);
      expect(painted.slice(-2).map(([color]) => color)).toEqual([colours[1], colours[0]]);
    }
  });

  it('that a node tells of an absurd torrent allocate little', () => {
    const runs = new Runs(0, Number.MAX_SAFE_INTEGER, 1, 16);
    expect(PieceMap.of(runs).pieces).toBeLessThanOrEqual(4_000_000);
  });

  it('sum up to what their records say, to the byte', () => {
    const { records } = synth({ nodes: 8, torrents: 4, seconds: 15 });
    const fleet = new Fleet();
    for (const record of records) fleet.apply(record as News);
    const table = matrix(fleet, undefined, format.byName);
    for (const [row, taker] of table.takers.entries()) {
      const down = [...(fleet.nodes.get(taker)?.torrents.values() ?? [])].reduce((sum, torrent) => sum + torrent.down_bytes, 0);
      // Rates and blocks are told at different moments: at the end both have said everything but the last half second.
      expect(table.byTaker[row]).toBeGreaterThanOrEqual(down);
    }
    const status = (name: string) => fleet.nodes.get(name)?.status?.totals;
    const gave = table.givers.map((giver, at) => ({ giver, sum: table.byGiver[at] ?? 0 }));
    for (const { giver, sum } of gave) if (giver.kind === 'peer') expect(sum).toBeGreaterThanOrEqual(status(giver.label)?.to_peers ?? 0);
    expect(table.total).toBe(table.byGiver.reduce((sum, value) => sum + value, 0));
  });

  it('fill the tiles that fit, and each tile is found at its place', () => {
    for (const [pieces, width, height] of [[1, 300, 200], [44, 900, 700], [5000, 800, 500], [2_000_000, 400, 300]] as const) {
      const tiles = tilesOf(pieces, width, height);
      expect(tiles.rows * tiles.tile).toBeLessThanOrEqual(height);
      expect(tiles.columns * tiles.rows * tiles.each).toBeGreaterThanOrEqual(pieces);
      expect(pieceAt(tiles, pieces, 1, 1)).toBe(0);
      expect(pieceAt(tiles, pieces, -1, 1)).toBeUndefined();
    }
  });
});

describe('the layout', () => {
  const hosts = (count: number, zones: string[] = ['']): Placed[] => [
    { id: 'tracker', role: 'tracker', zone: '' },
    { id: 'registry', role: 'origin', zone: '' },
    ...Array.from({ length: count }, (_, at) => ({ id: `n${at}`, role: at < 3 ? ('seeder' as const) : ('leecher' as const), zone: zones[at % zones.length] ?? '' })),
  ];

  it('puts every host inside, apart from the others, and always at the same place', () => {
    for (const [count, width, height, zones] of [[1, 800, 600, ['']], [12, 390, 400, ['']], [200, 1200, 700, ['']], [400, 1200, 700, ['']], [60, 1000, 700, ['a', 'b', 'c']]] as const) {
      const placed = layout(hosts(count, [...zones]), width, height);
      expect(placed.spots.size).toBe(count + 2);
      const spots = [...placed.spots.values()];
      for (const spot of spots) {
        expect(spot.x).toBeGreaterThan(0);
        expect(spot.x).toBeLessThan(width);
        expect(spot.y).toBeGreaterThan(0);
        expect(spot.y).toBeLessThan(height);
      }
      for (let a = 0; a < spots.length; a += 1) {
        for (let b = a + 1; b < spots.length; b += 1) {
          const [p, q] = [spots[a], spots[b]];
          if (p && q) expect(Math.hypot(p.x - q.x, p.y - q.y)).toBeGreaterThan(5);
        }
      }
      expect(layout(hosts(count, [...zones]).reverse(), width, height)).toEqual(placed);
    }
  });

  it('is walked through by arrow keys without getting stuck', () => {
    const { spots } = layout(hosts(30), 900, 600);
    const seen = new Set(['n5']);
    const open = ['n5'];
    for (let from = open.pop(); from !== undefined; from = open.pop()) {
      for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]] as const) {
        const to = towards(spots, from, dx, dy);
        if (!seen.has(to)) open.push(to);
        seen.add(to);
      }
    }
    expect(seen.size).toBe(32);
    const spot = spots.get('n7');
    expect(hit(spots, (spot?.x ?? 0) + 2, spot?.y ?? 0)).toBe('n7');
    expect(hit(spots, -50, -50)).toBeUndefined();
  });
});

describe('the picture', () => {
  const { records, torrents } = synth({ nodes: 8, torrents: 4, seconds: 10 });
  const fleet = new Fleet();
  for (const record of records) fleet.apply(record as News);

  it('has every host of the lab, and each flow once', () => {
    const whole = picture(fleet, undefined);
    expect(whole.hosts.size).toBe(10);
    expect(whole.totals.nodes).toBe(8);
    for (const [key, flow] of whole.flows) expect(key).toBe(`${flow.from}\n${flow.to}`);
    expect([...whole.flows.values()].some((flow) => flow.from === 'registry')).toBe(true);
  });

  it('stands still when the nodes have said nothing for a while', () => {
    const ends = Math.max(...records.map((record) => record.at_ms));
    const moves = (now: number): boolean => [...picture(fleet, undefined, now).flows.values()].some((flow) => flow.from === 'registry' && flow.rate > 0);
    expect(moves(ends)).toBe(true);
    expect(moves(ends + 5000)).toBe(false);
  });

  it('of one torrent shows only what moved of it', () => {
    const all = contents(fleet);
    const key = `t:${torrents[0]?.info_hash ?? ''}`;
    const part = picture(fleet, torrentsOf(all, key));
    const sum = [...part.flows.values()].reduce((total, flow) => total + flow.bytes, 0);
    const whole = [...picture(fleet, undefined).flows.values()].reduce((total, flow) => total + flow.bytes, 0);
    expect(sum).toBeGreaterThan(0);
    expect(sum).toBeLessThan(whole);
    expect(torrentsOf(all, 't:gone')).toBeUndefined();
  });
});

describe('rates', () => {
  it('are drawn from the records that are kept', () => {
    const { records, nodes } = synth({ nodes: 5, torrents: 2, seconds: 8 });
    const timeline = new Timeline();
    for (const record of records) timeline.push(record as News, 100);
    const line = new Series({ of: 'node', node: nodes[3] ?? '', way: 'down' });
    line.update(timeline);
    line.update(timeline);
    expect(line.times.length).toBeGreaterThan(5);
    expect(Math.max(...line.values)).toBeGreaterThan(1000);
    const [times, values] = aligned([line], timeline.start, timeline.end, 50);
    expect(times?.length).toBe(values?.length);
    expect(Math.max(...(values ?? []))).toBeGreaterThan(1000);
  });
});

describe('a waterfall', () => {
  const trace: Trace = {
    digest: 'sha256:aa', home: 'r/app', what: 'blob', began_ms: 1000, ended_ms: 3000,
    spans: [
      { kind: 'directory', from_ms: 1000, to_ms: 1100, bytes: 0 },
      { kind: 'swarm', from_ms: 1100, to_ms: 2500, bytes: 100 },
      { kind: 'client', from_ms: 1500, to_ms: 3000, bytes: 90 },
    ],
  };

  it('lies on one clock, what overlaps below one another', () => {
    const fall = waterfall([{ what: 'layer', trace }], 9999);
    expect([fall.length, fall.rows[0]?.lanes, fall.rows[0]?.bars.map((bar) => bar.lane)]).toEqual([2000, 2, [0, 0, 1]]);
    expect(fall.sums.find((sum) => sum.kind === 'swarm')).toEqual({ kind: 'swarm', ms: 1400, bytes: 100 });
  });

  it('of what still lasts ends now; of nothing is empty', () => {
    const open = { ...trace, ended_ms: undefined, spans: [{ kind: 'lease' as const, from_ms: 1000, bytes: 0 }] };
    expect(waterfall([{ what: 'layer', trace: open }], 5000).length).toBe(4000);
    expect(waterfall([], 5000).rows).toEqual([]);
  });
});

describe('tables', () => {
  it('sort numbers as numbers, names as people do, and what is missing last', () => {
    const rows = [{ n: 'n10', v: 2 }, { n: 'n2', v: undefined }, { n: 'n1', v: 10 }];
    expect(sorted(rows, (row) => row.n, false).map((row) => row.n)).toEqual(['n1', 'n2', 'n10']);
    expect(sorted(rows, (row) => row.v, true).map((row) => row.n)).toEqual(['n1', 'n10', 'n2']);
    expect(sorted(rows, (row) => row.v, false).map((row) => row.n)).toEqual(['n10', 'n1', 'n2']);
  });

  it('search for every word', () => {
    expect(searched(['alpha beta', 'alpha', 'beta'], ' BETA alp ', (row) => row)).toEqual(['alpha beta']);
    expect(searched(['a'], '', (row) => row)).toEqual(['a']);
  });

  it('of ten thousand rows put few into the page', () => {
    const part = visible(10_000, 36, 180_000, 720);
    expect(part.to - part.from).toBeLessThan(50);
    expect([visible(0, 36, 0, 700), visible(1, 36, 0, 700), visible(5, 36, 99_999, 700)]).toEqual([{ from: 0, to: 0 }, { from: 0, to: 1 }, { from: 5, to: 5 }]);
  });
});

describe('addresses and colours', () => {
  it('keep what a view is about', () => {
    const of = new Map([['node', 'a b&c'], ['of', '']]);
    expect(hashOf('blocks', of)).toBe('#/blocks?node=a+b%26c');
    expect(parseHash(hashOf('blocks', of))).toEqual({ view: 'blocks', of: new Map([['node', 'a b&c']]) });
    expect(parseHash('#/nowhere').view).toBe('swarm');
  });

  it('stay the same for the same peer', () => {
    const colours = new Colours();
    const first = colours.of('a', DARK);
    expect(colours.of('b', DARK)).not.toBe(first);
    expect(colours.of('a', DARK)).toBe(first);
    expect([ramp(LIGHT, -1), ramp(LIGHT, 0)]).toEqual([ramp(LIGHT, 0), ramp(LIGHT, 0)]);
  });
});
