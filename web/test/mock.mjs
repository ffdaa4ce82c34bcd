// A lab or a node that speaks the contract of crates/api, from a recording: for the page's tests, and to work on the
// page without any. `node test/mock.mjs [lab|node] [port]` serves `dist` and goes on until it is ended.

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

import { synth } from './synth.mjs';

const DIST = join(fileURLToPath(new URL('..', import.meta.url)), 'dist');
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml', '.woff2': 'font/woff2' };
/** The same policy as crates/page sends. */
export const POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self' http: https:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/**
 * @param {{mode?: 'lab'|'node', records?: object[], token?: string, skip?: number, speed?: number, port?: number,
 *   synth?: object, old?: boolean}} options `skip`: how many milliseconds of the recording have passed already;
 *   `old`: a node that knows nothing but reading
 */
export async function mock(options = {}) {
  const o = { mode: 'lab', skip: 20_000, speed: 1, port: 0, token: '', old: false, ...options };
  // What is done to the lab is done to this one alone, though others are played from the same records.
  const records = (o.records ?? synth(o.synth).records).map((record) => (record.kind === 'lab' ? structuredClone(record) : record));
  const began = Date.now();
  const first = records[0]?.at_ms ?? 0;
  const shift = began - o.skip - first;
  const state = new Map();
  const actions = [];
  const calls = [];
  const streams = new Set();
  let lab = {};
  const limits = { down: 0, up: 0 };
  const self = o.mode === 'node' ? (records.find((r) => r.kind === 'status')?.node ?? 'n1') : '';

  for (const record of records) {
    if (record.kind === 'lab') ({ node: lab.node, at_ms: lab.at, kind: lab.kind, ...lab } = record);
    if (record.at_ms - first > o.skip) break;
    remember(later(record));
  }

  const server = createServer((request, response) => {
    void answer(request, response).catch((error) => {
      response.writeHead(500).end(String(error));
    });
  });
  await new Promise((resolve) => server.listen(o.port, '127.0.0.1', resolve));
  const { port } = server.address();

  return {
    url: `http://127.0.0.1:${port}`, actions, calls, state, names: [...state.keys()],
    /** Sends text to everybody who listens. */
    shout: (text) => streams.forEach((stream) => stream.write(text)),
    /** Ends all streams, as a node that vanishes. */
    hangUp: () => streams.forEach((stream) => stream.destroy()),
    close: () => new Promise((resolve) => { server.closeAllConnections(); server.close(resolve); }),
  };

  /** Does what can be seen: the lab's hosts change, and everybody is told. */
  function act(action) {
    const host = lab.hosts.find((h) => h.name === (action.host ?? action.from));
    if (action.action === 'cut' && host) host.cut = true;
    if (action.action === 'heal') for (const h of lab.hosts) if (!action.from || h === host) h.cut = false;
    if (action.action === 'stop' && host) host.state = 'stopped';
    if (action.action === 'kill' && host) host.state = 'killed';
    if (action.action === 'start' && host) host.state = 'running';
    if (action.action === 'limit' && host) host.rate = action.rate;
    if (action.action === 'churn') lab.traffic = { pulls_per_minute: action.pulls_per_minute, churn_per_minute: action.churn_per_minute };
    if (action.action === 'add') for (let n = 0; n < action.count; n += 1) lab.hosts.push({ name: `new-${lab.hosts.length}`, kind: action.kind, program: 'longshore', address: `10.78.0.${lab.hosts.length}`, zone: action.zone ?? '', state: 'starting', cut: false });
    const record = { node: 'lab', at_ms: Date.now(), kind: 'lab', ...lab, began_ms: lab.began_ms + shift };
    for (const stream of streams) stream.write(`data: ${JSON.stringify(record)}\n\n`);
  }

  function remember(record) {
    if (record.node === 'lab') return;
    const node = state.get(record.node) ?? { torrents: new Map(), links: new Map(), blocks: new Map(), traces: new Map(), status: undefined };
    state.set(record.node, node);
    if (record.kind === 'status') node.status = record.status;
    if (record.kind === 'torrents') for (const t of record.changed) node.torrents.set(t.info_hash, t);
    if (record.kind === 'links') for (const l of record.changed) node.links.set(l.peer_id, l);
    if (record.kind === 'trace') node.traces.set(record.digest, record);
    if (record.kind === 'blocks') {
      const known = node.blocks.get(record.info_hash) ?? { sources: [], runs: [] };
      known.sources = [...known.sources.slice(0, record.first_source), ...record.sources];
      known.runs = [...known.runs.slice(0, record.first_run), ...record.runs];
      node.blocks.set(record.info_hash, { ...known, info_hash: record.info_hash, size: record.size, block_length: record.block_length, piece_length: record.piece_length });
    }
  }

  async function answer(request, response) {
    const url = new URL(request.url, 'http://x');
    let path = decodeURIComponent(url.pathname);
    const json = (value, code = 200) => {
      response.writeHead(code, { 'content-type': 'application/json', 'access-control-allow-origin': '*' });
      response.end(JSON.stringify(value));
    };
    if (request.method === 'OPTIONS') {
      response.writeHead(204, { 'access-control-allow-origin': '*', 'access-control-allow-headers': '*', 'access-control-allow-methods': '*' }).end();
      return;
    }
    const api = path.startsWith('/v1/') || path === '/lab' || path.startsWith('/lab/');
    if (!api) return file(path, response);
    if (o.token !== '' && request.headers.authorization !== `Bearer ${o.token}`) return json({ error: 'a token is wanted' }, 401);
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const raw = Buffer.concat(chunks);
    const body = request.headers['content-type'] === 'application/json' && raw.length > 0 ? JSON.parse(raw.toString()) : undefined;
    if (request.method !== 'GET') calls.push({ method: request.method, path: path + url.search, body, bytes: raw.length, type: request.headers['content-type'] });

    let node = self;
    if (path === '/lab' || path.startsWith('/lab/')) {
      if (o.mode !== 'lab') return json({ error: 'no such call' }, 404);
      if (path === '/lab') return json({ ...lab, began_ms: lab.began_ms + shift });
      if (path === '/lab/events') return stream(response, () => true);
      if (path === '/lab/recording') {
        response.writeHead(200, { 'content-type': 'application/x-ndjson' });
        return response.end(records.map((r) => JSON.stringify(r)).join('\n'));
      }
      if (path === '/lab/actions') {
        if (body?.host === 'refuse') return json({ error: 'the host cannot be told' }, 409);
        actions.push(body);
        act(body);
        return json({ done: 'it is done', hosts: [] });
      }
      const match = /^\/lab\/nodes\/([^/]+)(\/v1\/.*)$/.exec(path);
      if (!match) return json({ error: 'no such call' }, 404);
      [, node, path] = match;
    }
    const it = state.get(node);
    if (!it) return json({ error: `there is no node ${node}` }, 404);
    if (path === '/v1/events') return stream(response, (record) => record.node === node);
    return call(it, request.method, path, url.searchParams, body, response, json);
  }

  function call(it, method, path, query, body, response, json) {
    const none = () => response.writeHead(204, { 'access-control-allow-origin': '*' }).end();
    if (path === '/v1/health') return json({ healthy: true, problems: [] });
    if (path === '/v1/status') return json(it.status);
    if (path === '/v1/torrents' && method === 'GET') return json([...it.torrents.values()]);
    if (path === '/v1/blobs') {
      const blobs = [...it.torrents.values()].filter((t) => t.digest).map(blob).sort((a, b) => (a.digest < b.digest ? -1 : 1));
      const after = query.get('after');
      const from = after ? blobs.findIndex((b) => b.digest > after) : 0;
      const page = from < 0 ? [] : blobs.slice(from, from + Number(query.get('limit') ?? 1000));
      const last = page.at(-1);
      return json({ blobs: page, ...(last && last !== blobs.at(-1) ? { next: last.digest } : {}) });
    }
    if (o.old) return json({ error: '' }, path.startsWith('/v1/pull') ? 501 : 404);
    const match = /^\/v1\/torrents\/([0-9a-f]{40})(?:\/(\w+))?$/.exec(path);
    if (match) {
      const torrent = it.torrents.get(match[1]);
      if (!torrent) return json({ error: 'there is no such torrent here' }, 404);
      if (method === 'DELETE') {
        it.torrents.delete(match[1]);
        return none();
      }
      if (method === 'PATCH' || method === 'POST') return none();
      if (match[2] === 'peers') return json([...it.links.values()].slice(0, 60).map((l, at) => ({ address: l.address, peer_id: l.peer_id, client: l.client ?? '', incoming: at % 2 === 0, down_bytes: l.down_bytes, up_bytes: l.up_bytes, down_rate: l.down_rate, up_rate: l.up_rate, flags: { choking: at % 3 === 0, interested: at % 2 === 0, choked: at % 5 === 0, wanted: true }, progress: (at % 11) / 10, requests: at % 7 })));
      if (match[2] === 'provenance') return it.blocks.has(match[1]) ? json(it.blocks.get(match[1])) : json({ error: 'unknown' }, 404);
      if (match[2] === 'files') return json([{ path: `${torrent.name}/data.bin`, size: Math.floor(torrent.size * 0.8), bytes_done: Math.floor(torrent.bytes_done * 0.8) }, { path: `${torrent.name}/notes/read me.txt`, size: Math.ceil(torrent.size * 0.2), bytes_done: Math.ceil(torrent.bytes_done * 0.2) }]);
      if (match[2] === 'trackers') return json(it.status?.trackers ?? []);
    }
    if (path === '/v1/torrents' && method === 'POST') return json({ info_hash: 'ab'.repeat(20), name: body?.magnet ? 'from a magnet' : 'added' });
    if (path === '/v1/limits') {
      if (method === 'PATCH') Object.assign(limits, body);
      return json(limits);
    }
    if (path === '/v1/traces') return json([...it.traces.values()].reverse().map(({ node: _, at_ms: __, kind: ___, ...trace }) => trace));
    if (path === '/v1/explain') {
      const reference = query.get('reference') ?? '';
      const traces = [...it.traces.values()];
      if (traces.length === 0 || reference.includes('unknown')) return json({ error: `this node knows nothing of ${reference}` }, 404);
      return json({ reference, digest: traces[0].digest, parts: traces.map(({ node: _, at_ms: __, kind: ___, ...trace }, at) => ({ what: at === 0 ? 'manifest' : 'layer', blob: blob([...it.torrents.values()].find((t) => t.digest === trace.digest) ?? { digest: trace.digest, size: trace.size ?? 0, bytes_done: trace.size ?? 0, pieces: 1 }), trace })) });
    }
    if (path === '/v1/settings') return json({ node: { name: it.status?.node, data: '/var/lib/longshore' }, content: { stall_seconds: 10, lease_patience_seconds: 240 }, api: { listen: '127.0.0.1:7070', token: '(set)' }, tracker: { urls: ['http://tracker:6969/announce'] } });
    if (path === '/v1/log') {
      const after = Number(query.get('after') ?? 0);
      const lines = Array.from({ length: 40 }, (_, at) => ({ seq: at + 1, at_ms: began - (40 - at) * 900, level: at % 17 === 0 ? 'warn' : at % 23 === 0 ? 'error' : 'info', text: '2026-11-21T20:03:48.123456Z  INFO ' + (at % 17 === 0 ? 'tracker http://tracker:6969/announce did not answer within 5 s; trying again in 10 s' : `torrent ${at} is whole: 41 pieces from 5 peers`) }));
      return json({ lines: lines.filter((l) => l.seq > after), next: 40 });
    }
    if (path === '/v1/pull') {
      response.writeHead(200, { 'content-type': 'application/x-ndjson' });
      const digest = `sha256:${'cd'.repeat(32)}`;
      const bad = body.reference.includes('missing');
      const events = bad
        ? [{ event: 'failed', error: `${body.reference}: the registry has no such image` }]
        : [{ event: 'resolved', digest, media_type: 'application/vnd.oci.image.manifest.v1+json' }, { event: 'blob', digest, size: 1e6 }, { event: 'progress', digest, bytes_done: 5e5, from_peers: 4e5, from_origin: 1e5, peers: 4 }, { event: 'alive' }, { event: 'complete', digest, sources: [] }, { event: 'done', digest, bytes: 1e6, from_peers: 8e5, from_origin: 2e5 }];
      for (const event of events) response.write(`${JSON.stringify(event)}\n`);
      return response.end();
    }
    return json({ error: 'no such call' }, 404);
  }

  function stream(response, wanted) {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store', 'access-control-allow-origin': '*' });
    streams.add(response);
    response.on('close', () => streams.delete(response));
    let at = 0;
    const send = () => {
      const until = first + o.skip + (Date.now() - began) * o.speed;
      let out = '';
      while (at < records.length && records[at].at_ms <= until) {
        const record = records[at].kind === 'lab' ? { ...records[at], began_ms: records[at].began_ms + shift } : records[at];
        at += 1;
        if (wanted(record) || (record.node === 'lab' && o.mode === 'lab')) out += `data: ${JSON.stringify(later(record))}\n\n`;
      }
      if (out !== '') response.write(out);
    };
    send();
    const timer = setInterval(send, 50);
    response.on('close', () => clearInterval(timer));
  }

  /** A record as of now: every time in it that is in milliseconds. */
  function later(record) {
    const more = { ...record, at_ms: record.at_ms + shift };
    if (record.kind === 'blocks') more.runs = record.runs.map((r) => ({ ...r, first_ms: r.first_ms + shift, last_ms: r.last_ms + shift }));
    if (record.kind === 'trace') {
      more.began_ms += shift;
      if (more.ended_ms) more.ended_ms += shift;
      more.spans = record.spans.map((s) => ({ ...s, from_ms: s.from_ms + shift, ...(s.to_ms ? { to_ms: s.to_ms + shift } : {}) }));
    }
    return more;
  }

  function blob(torrent) {
    return { digest: torrent.digest, size: torrent.size, media_type: 'application/vnd.oci.image.layer.v1.tar+gzip', state: torrent.bytes_done === torrent.size ? 'complete' : 'fetching', bytes_done: torrent.bytes_done, pieces: torrent.pieces, info_hash: torrent.info_hash, sources: [{ kind: 'origin', peer: 'registry.lab:443', bytes: Math.floor(torrent.bytes_done / 9) }, { kind: 'peer', peer: '10.77.0.11:6881', bytes: Math.floor(torrent.bytes_done * 0.8) }], started: Math.floor(first / 1000) };
  }

  async function file(path, response) {
    const clean = normalize(path === '/' ? '/index.html' : path);
    try {
      const bytes = await readFile(join(DIST, clean));
      response.writeHead(200, { 'content-type': TYPES[extname(clean)] ?? 'application/octet-stream', 'content-security-policy': POLICY, 'x-content-type-options': 'nosniff', 'referrer-policy': 'no-referrer' });
      response.end(bytes);
    } catch {
      response.writeHead(404).end('not found');
    }
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const server = await mock({ mode: process.argv[2] === 'node' ? 'node' : 'lab', port: Number(process.argv[3] ?? 4190), synth: { seconds: 300, cut: true } });
  console.log(server.url);
}
