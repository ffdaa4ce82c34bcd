import { describe, expect, it } from 'vitest';

import type { News, Of } from '../../src/lib/contract';
import { Fleet, MOST_NODES, MOST_TRACES, originRate } from '../../src/lib/fleet';
import { absent, isCut, picture } from '../../src/lib/picture';
import { matrix } from '../../src/lib/pieces';
import { aligned, Series } from '../../src/lib/series';
import { Timeline } from '../../src/lib/timeline';
import { recordsOf } from '../../src/lib/retell';
import { parseRecord } from '../../src/lib/recording';
import { ndjson, synth } from '../synth.mjs';

const torrent = (info_hash: string, bytes_done = 0): Of<'torrents'>['changed'][number] => ({
  info_hash, name: info_hash, size: 100, bytes_done, pieces: 1, pieces_done: 0, peers: 0, down_bytes: 0, up_bytes: 0, down_rate: 0, up_rate: 0, state: 'downloading',
});
const blocks = (at_ms: number, more: Partial<Of<'blocks'>>): News => ({
  node: 'n1', at_ms, kind: 'blocks', info_hash: 'h', size: 1000, block_length: 10, piece_length: 100, first_source: 0, sources: [], first_run: 0, runs: [], ...more,
});
const run = (piece: number, block: number, count: number, source = 0) => ({ piece, block, count, source, first_ms: 1, last_ms: 2 });

describe('a fleet', () => {
  it('takes torrents as what has changed and what is gone', () => {
    const fleet = new Fleet();
    fleet.apply({ node: 'n1', at_ms: 1, kind: 'torrents', all: true, changed: [torrent('a'), torrent('b')] });
    fleet.apply({ node: 'n1', at_ms: 2, kind: 'torrents', changed: [torrent('b', 50)], gone: ['a'] });
    const node = fleet.nodes.get('n1');
    expect([...(node?.torrents.keys() ?? [])]).toEqual(['b']);
    expect(node?.torrents.get('b')?.bytes_done).toBe(50);
    fleet.apply({ node: 'n1', at_ms: 3, kind: 'torrents', all: true, changed: [torrent('c')] });
    expect([...(fleet.nodes.get('n1')?.torrents.keys() ?? [])]).toEqual(['c']);
  });

  it('rewrites the end of the runs, and begins anew from the first', () => {
    const fleet = new Fleet();
    const sources = [{ kind: 'origin' as const }];
    fleet.apply(blocks(1, { sources, runs: [run(0, 0, 2), run(1, 0, 3)] }));
    fleet.apply(blocks(2, { first_source: 1, first_run: 1, runs: [run(1, 0, 7), run(2, 0, 1)] }));
    const runs = () => [...(fleet.nodes.get('n1')?.blocks.get('h') ?? [])].map((r) => `${r.piece}+${r.count}`);
    expect(runs()).toEqual(['0+2', '1+7', '2+1']);
    fleet.apply(blocks(3, { sources, runs: [run(5, 0, 1)] }));
    expect(runs()).toEqual(['5+1']);
  });

  it('says where records of blocks are missing, and keeps what it had', () => {
    const fleet = new Fleet();
    fleet.apply(blocks(1, { sources: [{ kind: 'origin' }], runs: [run(0, 0, 1)] }));
    expect(fleet.apply(blocks(2, { first_source: 1, first_run: 9, runs: [run(3, 0, 1)] }))).toContain('gap');
    expect(fleet.nodes.get('n1')?.blocks.get('h')?.length).toBe(1);
  });

  it('knows a peer by the id that its node told, before and after a new start', () => {
    const fleet = new Fleet();
    const status = (peer_id: string): News => ({
      node: 'n2', at_ms: 1, kind: 'status',
      status: { node: 'x', peer_id, version: '', addresses: [], trackers: [], local_discovery: false, uptime: 1, totals: { blobs: 0, blob_bytes: 0, active_torrents: 0, peers: 0, from_peers: 0, from_origins: 0, to_peers: 0, to_clients: 0, wasted: 0, evicted: 0 } },
    });
    fleet.apply(status('aa'));
    fleet.apply(status('bb'));
    expect([fleet.nameOf('aa'), fleet.nameOf('bb'), fleet.nameOf('cc', '10.0.0.1:1')]).toEqual(['n2', 'n2', '10.0.0.1:1']);
  });

  it('knows a peer whose id nobody told by the address that one host of the lab alone has', () => {
    const fleet = new Fleet();
    const host = (name: string, address: string): Of<'lab'>['hosts'][number] => ({ name, kind: 'leecher', program: 'longshore', address, state: 'killed', cut: false });
    const hosts = [host('n1', '127.0.1.4'), host('n2', '127.0.1.8'), host('n3', 'fd00::3'), host('x', '127.0.0.1'), host('y', '127.0.0.1')];
    fleet.apply({ node: 'lab', at_ms: 1, kind: 'lab', id: '', directory: '', page: '', began_ms: 1, namespaces: false, zones: [], hosts, contents: [] });
    const named = ['127.0.1.4:6881', '127.0.1.8:33625', '127.0.1.8', '[fd00::3]:6881', '127.0.0.1:6881', '127.0.1.9:1'].map((address) => fleet.nameOf('ee', address));
    expect(named).toEqual(['n1', 'n2', 'n2', 'n3', '127.0.0.1:6881', '127.0.1.9:1']);
    expect(fleet.snapshot().nameOf(undefined, '127.0.1.4:6881')).toBe('n1');
    // Who gave whom says the same.
    fleet.apply(blocks(2, { node: 'n2', sources: [{ kind: 'peer', peer: '127.0.1.4:6881', peer_id: 'ee' }], runs: [run(0, 0, 1)] }));
    expect(matrix(fleet, undefined, (a, b) => a.localeCompare(b)).givers.map((giver) => giver.label)).toEqual(['n1']);
  });

  it('tells a host whose link is cut from a dead one', () => {
    const fleet = new Fleet();
    const host = (name: string, state: 'running' | 'killed', cut: boolean): Of<'lab'>['hosts'][number] => ({ name, kind: 'leecher', program: 'longshore', address: '', state, cut });
    const hosts = [host('fine', 'running', false), host('cut', 'running', true), host('dead', 'killed', false), host('both', 'killed', true)];
    fleet.apply({ node: 'lab', at_ms: 1, kind: 'lab', id: '', directory: '', page: '', began_ms: 1, namespaces: true, zones: [], hosts, contents: [] });
    const drawn = [...picture(fleet, undefined).hosts.values()];
    expect(drawn.filter(isCut).map((one) => one.id)).toEqual(['cut']);
    expect(drawn.filter((one) => one.problem !== undefined).map((one) => one.id)).toEqual(['cut', 'dead', 'both']);
  });

  it('counts nothing that is gone as alive', () => {
    const fleet = new Fleet();
    const host = (name: string, state: 'running' | 'killed', cut: boolean): Of<'lab'>['hosts'][number] => ({ name, kind: 'seeder', program: 'longshore', address: '', state, cut });
    const lab = (s1: 'running' | 'killed'): News => ({
      node: 'lab', at_ms: 1, kind: 'lab', id: '', directory: '', page: '', began_ms: 1, namespaces: true, zones: [],
      hosts: [host('s1', s1, false), host('s2', 'running', true), host('n1', 'running', false)],
      contents: [{ kind: 'torrent', name: 'film', id: 'aa', size: 10, torrents: ['aa'], seeders: ['s1', 's2', 'removed'] }],
    });
    const film = (bytes_done: number, down_rate: number) => [{ ...torrent('aa', bytes_done), size: 10, peers: 2, down_bytes: bytes_done, down_rate }];
    fleet.apply(lab('running'));
    fleet.apply({ node: 's1', at_ms: 1, kind: 'torrents', all: true, changed: film(10, 7) });
    fleet.apply({ node: 's2', at_ms: 1, kind: 'torrents', all: true, changed: film(10, 0) });
    fleet.apply({ node: 'n1', at_ms: 1, kind: 'torrents', all: true, changed: film(5, 1) });
    expect(picture(fleet, undefined).totals).toMatchObject({ whole: 2, nodes: 3, down: 8, done: 25, size: 30, fromPeers: 25 });
    expect([...absent(fleet)]).toEqual([['s2', 'cut'], ['removed', 'gone']]);
    fleet.apply(lab('killed'));
    // It has given what it has given.
    expect(picture(fleet, undefined).totals).toMatchObject({ whole: 1, nodes: 2, down: 1, done: 15, size: 20, fromPeers: 25 });
    expect([...absent(fleet)]).toEqual([['s1', 'gone'], ['s2', 'cut'], ['removed', 'gone']]);
    fleet.apply({ node: 'n1', at_ms: 2, kind: 'lost', error: 'refused' });
    expect(absent(fleet).get('n1')).toBe('gone');
    expect(fleet.nodes.get('n1')?.torrents.get('aa')).toMatchObject({ bytes_done: 5, down_rate: 0, up_rate: 0, peers: 0 });
    expect(picture(fleet, undefined).totals).toMatchObject({ whole: 1, nodes: 1, down: 0 });
  });

  it('knows how fast a node gets from origins, and that it does no more', () => {
    const totals = { blobs: 0, blob_bytes: 0, active_torrents: 0, peers: 0, from_peers: 9e9, to_peers: 0, to_clients: 0, wasted: 0, evicted: 0 };
    const status = (at_ms: number, from_origins: number): News => ({
      node: 'n1', at_ms, kind: 'status', status: { node: 'n1', peer_id: '', version: '', addresses: [], trackers: [], local_discovery: false, uptime: 1, totals: { ...totals, from_origins } },
    });
    const timeline = new Timeline();
    const line = new Series({ of: 'node', node: 'n1', way: 'origin' });
    const take = (...records: News[]): void => {
      for (const record of records) timeline.push(record, 1);
      line.update(timeline);
    };
    // What is told and what is drawn are the same.
    const rates = (at: number): (number | undefined)[] => {
      const node = timeline.head.nodes.get('n1');
      return [node === undefined ? undefined : originRate(node, at), aligned([line], at - 1000, at, 1)[1]?.at(-1)];
    };
    take(status(1000, 500));
    expect(rates(1000)).toEqual([0, 0]);
    take(status(2000, 3500));
    expect(rates(2000)).toEqual([3000, 3000]);
    // It says nothing while nothing changes.
    expect(rates(9000)).toEqual([0, 0]);
    take(status(60_000, 8500));
    expect(rates(60_000)).toEqual([2000, 2000]);
    take({ node: 'n1', at_ms: 60_500, kind: 'lost', error: 'refused' });
    expect(rates(60_600)).toEqual([0, 0]);
  });

  it('marks a node that vanishes, and takes it back when it speaks', () => {
    const fleet = new Fleet();
    fleet.apply({ node: 'n1', at_ms: 1, kind: 'lost', error: 'refused' });
    expect(fleet.nodes.get('n1')?.lost).toBe('refused');
    fleet.apply({ node: 'n1', at_ms: 2, kind: 'torrents', changed: [] });
    expect(fleet.nodes.get('n1')?.lost).toBeUndefined();
  });

  it('has bounds whatever comes', () => {
    const fleet = new Fleet();
    let said: string | undefined;
    for (let at = 0; at <= MOST_NODES; at += 1) said = fleet.apply({ node: `n${at}`, at_ms: 1, kind: 'torrents', changed: [] }) ?? said;
    expect(fleet.nodes.size).toBe(MOST_NODES);
    expect(said).toContain('left out');
    for (let at = 0; at < MOST_TRACES + 50; at += 1) fleet.apply({ node: 'n1', at_ms: 1, kind: 'trace', digest: `d${at}`, home: '', what: 'blob', began_ms: at, spans: [] });
    expect(fleet.nodes.get('n1')?.traces.size).toBe(MOST_TRACES);
  });

  it('that was kept does not change with the one that goes on', () => {
    const fleet = new Fleet();
    const sources = [{ kind: 'origin' as const }];
    fleet.apply(blocks(1, { sources, runs: Array.from({ length: 100 }, (_, at) => run(at, 0, 1)) }));
    const kept = fleet.snapshot();
    fleet.apply(blocks(2, { first_source: 1, first_run: 99, runs: [run(99, 0, 5), run(100, 0, 1)] }));
    kept.apply({ node: 'n1', at_ms: 3, kind: 'torrents', changed: [torrent('only here')] });
    expect([...(kept.nodes.get('n1')?.blocks.get('h') ?? [])].at(-1)).toEqual(run(99, 0, 1));
    expect(fleet.nodes.get('n1')?.blocks.get('h')?.length).toBe(101);
    expect(fleet.nodes.get('n1')?.torrents.size).toBe(0);
  });
});

const plain = (fleet: Fleet): unknown => JSON.parse(JSON.stringify([...recordsOf(fleet, 0)]));

describe('a timeline', () => {
  const { records } = synth({ nodes: 6, torrents: 3, seconds: 12, cut: true });
  const feed = (timeline: Timeline): Timeline => {
    for (const record of records) timeline.push(record as News, 500);
    return timeline;
  };

  it('rebuilds any moment as it was', () => {
    const timeline = feed(new Timeline());
    for (const share of [0, 0.1, 0.37, 0.5, 0.83, 1]) {
      const at = timeline.start + (timeline.end - timeline.start) * share;
      const want = new Fleet();
      for (const record of records) if (record.at_ms <= at) want.apply(record as News);
      expect(plain(timeline.seek(at).fleet)).toEqual(plain(want));
    }
  });

  it('goes on from a moment as if it had been there all the time', () => {
    const timeline = feed(new Timeline());
    const { fleet, next } = timeline.seek(timeline.start + 2000);
    let number = next;
    for (let at = timeline.start + 2000; at < timeline.end + 333; at += 333) number = timeline.advance(fleet, number, at);
    expect(number).toBe(timeline.count);
    expect(plain(fleet)).toEqual(plain(timeline.head));
  });

  it('forgets the oldest where there is too much, and stays right', () => {
    const timeline = feed(new Timeline(400 * 500));
    expect(timeline.trimmed).toBe(true);
    expect(timeline.kept).toBeLessThanOrEqual(400);
    expect(plain(timeline.seek(timeline.end).fleet)).toEqual(plain(timeline.head));
    expect(plain(timeline.seek(timeline.start).fleet)).not.toEqual(plain(timeline.head));
  });

  it('is written down and read again as the same, from its beginning or not', () => {
    for (const timeline of [feed(new Timeline()), feed(new Timeline(400 * 500))]) {
      const again = new Timeline();
      let first = true;
      for (const line of timeline.lines()) {
        const { record } = parseRecord(line);
        if (first) expect(record?.kind).toBe('hello');
        first = false;
        if (record !== undefined) again.push(record, line.length);
      }
      expect(plain(again.head)).toEqual(plain(timeline.head));
    }
  });

  it('never runs backwards, whatever clocks say', () => {
    const timeline = new Timeline();
    for (const at_ms of [5000, 3000, 9000, 0]) timeline.push({ node: 'n', at_ms, kind: 'torrents', changed: [] }, 1);
    expect([timeline.start, timeline.end, timeline.count]).toEqual([5000, 9000, 4]);
  });

  it('keeps up with a hundred thousand records', () => {
    const timeline = new Timeline(10_000_000, 20_000);
    for (let at = 0; at < 100_000; at += 1) timeline.push({ node: `n${at % 50}`, at_ms: at, kind: 'torrents', changed: [torrent(`t${at % 7}`, at)] }, 300);
    expect(timeline.kept).toBeLessThanOrEqual(20_000);
    expect(timeline.head.nodes.size).toBe(50);
    expect(timeline.head.nodes.get('n49')?.torrents.get(`t${99_999 % 7}`)?.bytes_done).toBe(99_999);
  });
});

describe('a synthetic recording', () => {
  it('holds to the contract in every line', () => {
    const { records } = synth({ nodes: 4, torrents: 2, seconds: 5, hostile: true });
    for (const line of ndjson(records).split('\n')) expect(parseRecord(line).wrong).toBeUndefined();
  });
});
