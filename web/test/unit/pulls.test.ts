import { readFileSync } from 'node:fs';

import { describe, expect, it } from 'vitest';

import type { BlobStatus, Explanation, Span, Trace } from '../../src/lib/contract';
import { latestOf, pulls } from '../../src/lib/pulls';
import { waterfall } from '../../src/lib/waterfall';

const span = (kind: Span['kind'], from_ms: number, to_ms?: number, bytes = 0, note?: string): Span => ({
  kind, from_ms, bytes, ...(to_ms === undefined ? {} : { to_ms }), ...(note === undefined ? {} : { note }),
});
const home = 'lab.test/demo';

/** An image of one layer and a config, as a node that was told to pull it at 1000 remembers it; `more` came later. */
function image(more: { manifest?: Span[]; config?: Span[]; layer?: Span[] } = {}): Trace[] {
  const coming = [span('directory', 1010, 1014), span('swarm', 1020, 9000, 5000), span('verify', 9000, 9020)];
  return [
    { digest: 'sha256:aa', home, what: 'manifest', began_ms: 1003, ended_ms: 1009, spans: [span('tag', 1000, 1003, 0, 'latest'), span('directory', 1003, 1005), ...(more.manifest ?? [])] },
    { digest: 'sha256:bb', home, what: 'blob', began_ms: 1010, ended_ms: 1020, spans: [span('directory', 1010, 1014), ...(more.config ?? [])] },
    { digest: 'sha256:cc', home, what: 'blob', size: 5000, began_ms: 1010, ended_ms: 9020, spans: [...coming, ...(more.layer ?? [])] },
  ];
}

const told = (traces: Trace[]): unknown[] =>
  pulls(traces).map(({ name, by, began_ms, ended_ms, parts }) => [name, by, began_ms, ended_ms, parts.map(({ trace }) => `${trace.digest.slice(7)} ${trace.spans.map(({ kind }) => kind).join(' ')}`.trim())]);

const first = ['lab.test/demo:latest', 'api', 1000, 9020, ['aa tag directory', 'bb directory', 'cc directory swarm verify']];

describe('pulls', () => {
  it('of a node that was told to are one, with all that was done for them', () => {
    expect(told(image())).toEqual([first]);
    expect(pulls(image())[0]?.bytes).toBe(5000);
    expect(pulls([])).toEqual([]);
  });

  it('one after the other of the same content are two, also when the second follows at once', () => {
    for (const at of [60_000, 9500]) {
      const again = image({ manifest: [span('tag', at, at + 7, 0, 'latest')], config: [span('client', at + 60, at + 61, 900)], layer: [span('client', at + 60, at + 90, 5000)] });
      expect(told(again)).toEqual([['lab.test/demo:latest', 'client', at, at + 90, ['aa tag', 'bb client', 'cc client']], first]);
    }
  });

  it('of two askers at once are two', () => {
    const both = image({
      manifest: [span('tag', 60_000, 60_004, 0, 'latest'), span('tag', 60_001, 60_004, 0, 'latest')],
      config: [span('client', 60_050, 60_051, 900), span('client', 60_060, 60_061, 900)],
      layer: [span('client', 60_055, 60_200, 5000), span('client', 60_058, 60_300, 5000)],
    });
    const clients = ['aa tag', 'bb client', 'cc client'];
    expect(told(both)).toEqual([
      ['lab.test/demo:latest', 'client', 60_001, 60_200, expect.arrayContaining(clients)],
      ['lab.test/demo:latest', 'client', 60_000, 60_300, expect.arrayContaining(clients)],
      first,
    ]);
  });

  it('by digest alone are told apart by what they have had', () => {
    const twice = image({ layer: [span('client', 60_000, 60_100, 5000), span('client', 61_000, 61_100, 5000)] });
    expect(told(twice).map((pull) => (pull as unknown[])[2])).toEqual([61_000, 60_000, 1000]);
    // Who asks for the rest of it is the same.
    const rest = image({ layer: [span('client', 60_000, 60_100, 2000), span('client', 60_500, 60_900, 3000)] });
    expect(told(rest)).toEqual([[home, 'client', 60_000, 60_900, ['cc client client']], first]);
  });

  it('that wait for what another has begun show what they waited for, from their beginning', () => {
    const late = image({ manifest: [span('tag', 4000, 4002, 0, 'latest')], layer: [span('client', 4010, 9100, 5000)] });
    const [second] = pulls(late);
    expect(told(late)).toEqual([['lab.test/demo:latest', 'client', 4000, 9100, ['aa tag', 'cc swarm client verify']], first]);
    expect(second?.parts[1]?.trace.spans[0]).toMatchObject({ kind: 'swarm', from_ms: 4000, to_ms: 9000, bytes: 0 });
  });

  it('that begin while others run have an entry each, and count from their own start', () => {
    const both = image({
      manifest: [span('tag', 4000, 4008, 0, 'latest'), span('tag', 6000, 6007, 0, 'latest')],
      config: [span('client', 4020, 4021, 900), span('client', 6020, 6021, 900)],
      layer: [span('client', 4020, 9001, 5000), span('client', 6020, 9003, 5000)],
    });
    const joined = ['aa tag', 'bb client', 'cc swarm client verify'];
    const found = pulls(both);
    expect(told(both)).toEqual([
      ['lab.test/demo:latest', 'client', 6000, 9020, expect.arrayContaining(joined)],
      ['lab.test/demo:latest', 'client', 4000, 9020, expect.arrayContaining(joined)],
      first,
    ]);
    const falls = found.map((pull) => waterfall(pull.parts, 99_999));
    expect(falls.map(({ began_ms, length }) => [began_ms, length])).toEqual([[6000, 3020], [4000, 5020], [1000, 8020]]);
    const swarms = falls.map(({ rows }) => rows.flatMap(({ bars }) => bars).filter(({ kind }) => kind === 'swarm'));
    expect(swarms.flat().map(({ from, to, bytes }) => [from, to, bytes])).toEqual([[0, 3000, 0], [0, 5000, 0], [20, 8000, 5000]]);
    // The same while all of them go on.
    const open = both.map((trace) => (trace.digest === 'sha256:cc' ? { ...trace, ended_ms: undefined, spans: [span('swarm', 1020), span('client', 4020), span('client', 6020)] } : trace)) as Trace[];
    expect(pulls(open).map(({ by, began_ms, ended_ms, parts }) => [by, began_ms, ended_ms, waterfall(parts, 8000).length])).toEqual([['client', 6000, undefined, 2000], ['client', 4000, undefined, 4000], ['api', 1000, undefined, 7000]]);
  });

  it('that go on have no end, and those that failed say why', () => {
    const [manifest, config, layer] = image() as [Trace, Trace, Trace];
    const { ended_ms: _, ...open } = { ...layer, spans: [span('lease', 1010)] };
    expect(pulls([manifest, config, open])[0]?.ended_ms).toBeUndefined();
    const failed = { ...layer, error: 'the registry refuses' };
    expect(pulls([manifest, config, failed])[0]?.error).toBe('the registry refuses');
    // Whoever is given it later is not told of it.
    const later = { ...failed, spans: [...failed.spans, span('client', 70_000, 70_001, 5)] };
    expect(pulls([manifest, config, later]).map(({ error }) => error)).toEqual([undefined, 'the registry refuses']);
  });

  it('of a manifest alone name nobody', () => {
    const looked = image({ manifest: [span('tag', 60_000, 60_007, 0, 'latest')] });
    expect(told(looked)[0]).toEqual(['lab.test/demo:latest', undefined, 60_000, 60_007, ['aa tag']]);
  });

  it('have a key each, whatever comes at one moment', () => {
    const traces = image({ manifest: [span('tag', 60_000, 60_001, 0, 'a'), span('tag', 60_000, 60_001, 0, 'b')] });
    const keys = pulls(traces).map(({ key }) => key);
    expect(new Set(keys).size).toBe(keys.length);
  });
});

describe('the cases that the command line is tested with too', () => {
  interface Told { began_ms: number; ended_ms?: number; parts: unknown[] }
  const cases = JSON.parse(readFileSync(new URL('../../fixtures/pulls.json', import.meta.url), 'utf8')) as {
    pulls: { what: string; traces: Trace[]; pulls: Told[] }[];
    explanations: { what: string; explanation: Explanation; latest: Told | null }[];
  };

  it.each(cases.pulls)('$what', ({ traces, pulls: want }) => {
    expect(pulls(traces).map(({ began_ms, ended_ms, parts }) => ({ began_ms, ended_ms, parts: parts.map(({ trace }) => trace) }))).toEqual(want);
  });

  it.each(cases.explanations)('explained: $what', ({ explanation, latest }) => {
    const pull = latestOf(explanation);
    const done = pull?.parts.map(({ note, trace }) => note ?? trace.spans.map(({ kind }) => kind));
    expect(pull === undefined ? null : { began_ms: pull.began_ms, ended_ms: pull.ended_ms, parts: done }).toEqual(latest);
  });
});

describe('an explanation', () => {
  const blob = (digest: string, size: number, state: BlobStatus['state'] = 'complete'): BlobStatus => ({ digest, size, state, bytes_done: size, pieces: 0, sources: [] });
  const explained = (traces: Trace[]) => ({
    reference: 'lab.test/demo:latest', digest: 'sha256:aa',
    parts: traces.map((trace, at) => ({ what: ['manifest', 'config', 'layer'][at] ?? '', blob: blob(trace.digest, trace.size ?? 900), trace })),
  });

  it('is of the latest pull alone, with its parts by their names', () => {
    const pull = latestOf(explained(image({ layer: [span('client', 60_000, 60_100, 5000)] })));
    expect(pull?.parts.map(({ what, note }) => [what, note])).toEqual([['manifest', 'was here before'], ['config', 'was here before'], ['layer', undefined]]);
    const fall = waterfall(pull?.parts ?? [], 99_999);
    expect([fall.length, fall.rows.map(({ bars }) => bars.length)]).toEqual([100, [0, 0, 1]]);
    expect(fall.rows.map(({ size }) => size)).toEqual([900, 900, 5000]);
  });

  it('is not of somebody who looked at the manifest later', () => {
    expect(latestOf(explained(image({ manifest: [span('tag', 60_000, 60_007, 0, 'latest')] })))?.began_ms).toBe(1000);
    expect(latestOf({ ...explained([]), parts: [{ what: 'manifest', blob: blob('sha256:aa', 5) }] })).toBeUndefined();
  });
});
