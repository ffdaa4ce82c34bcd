import { readFileSync } from 'node:fs';

import { describe, expect, it } from 'vitest';

import { judge, list, type Check } from '../../src/lib/check';
import * as contract from '../../src/lib/contract';

// Written by crates/api/tests/contract.rs from the Rust types.
const sample = JSON.parse(readFileSync(new URL('../../fixtures/contract.json', import.meta.url), 'utf8')) as Record<string, unknown>;

const CHECKS: Record<string, Check<unknown>> = {
  records: list(contract.News),
  health: contract.Health,
  status: contract.Status,
  blob_page: contract.BlobPage,
  torrents: list(contract.TorrentStatus),
  peers: list(contract.PeerStatus),
  provenance: contract.Provenance,
  pull_request: contract.PullRequest,
  pull_events: list(contract.PullEvent),
  traces: list(contract.Trace),
  explanation: contract.Explanation,
  added: contract.Added,
  add_requests: list(contract.AddRequest),
  limits: contract.Limits,
  files: list(contract.FileStatus),
  lab: contract.LabStatus,
  actions: list(contract.LabAction),
};

/** What is absent in Rust is null or not there; the checks leave both out. */
const withoutNulls = (value: unknown): unknown =>
  JSON.parse(JSON.stringify(value, (_, inner: unknown) => (inner === null ? undefined : inner)));

describe('what the Rust types say', () => {
  it('is known here, each by a check', () => {
    expect(Object.keys(sample).sort()).toEqual(Object.keys(CHECKS).sort());
  });

  for (const [name, check] of Object.entries(CHECKS)) {
    it(`passes the check of ${name} with every field`, () => {
      const judged = judge(check, sample[name]);
      expect(judged).toEqual({ value: withoutNulls(sample[name]) });
    });
  }
});

describe('a wrong answer', () => {
  it('is refused with the place of what is wrong', () => {
    const status = structuredClone(sample['status']) as { totals: { peers: unknown } };
    status.totals.peers = 'many';
    expect(judge(contract.Status, status)).toEqual({ wrong: 'totals.peers: not a count' });
  });

  it('of another shape altogether is refused', () => {
    for (const value of [null, 7, 'text', [], {}, { kind: 'hello' }, { kind: '__proto__' }, { kind: 'constructor' }]) {
      expect(judge(contract.News, value)).toHaveProperty('wrong');
    }
  });

  it('cannot bring fields that nobody asked for', () => {
    const value = JSON.parse('{"info_hash":"00","name":"n","__proto__":{"polluted":true},"more":1}') as unknown;
    expect(judge(contract.Added, value)).toEqual({ value: { info_hash: '00', name: 'n' } });
    expect(({} as Record<string, unknown>)['polluted']).toBeUndefined();
  });

  it('of a pull names blobs by digests and nothing else', () => {
    for (const digest of ['__proto__', '', 'sha256:short', `sha256:${'g'.repeat(64)}`]) {
      expect(judge(contract.PullEvent, { event: 'blob', digest, size: 1 })).toEqual({ wrong: 'digest: not a digest' });
    }
  });
});
