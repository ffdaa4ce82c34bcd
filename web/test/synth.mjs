// Makes recordings of swarms that never were: the same for the same options. For the bench, the screenshots, the mock
// of a node and the tests. It moves whole pieces at the speeds of links, and tells of it as nodes do.

const START = Date.UTC(2026, 4, 4, 9, 30);

/** @typedef {{nodes?: number, seeders?: number, torrents?: number, pieces?: number, pieceLength?: number, seconds?: number,
 *  zones?: string[], lab?: boolean, seed?: number, rate?: number, originRate?: number, fromOrigin?: boolean, hostile?: boolean,
 *  cut?: boolean}} Options */

const words = 'atlas beacon cargo delta ember fathom gantry harbor inlet jetty keel lantern mooring narrows offing pier quay rudder sextant tiller'.split(' ');

/** @param {Options} options */
export function synth(options = {}) {
  const o = {
    nodes: 12, seeders: 2, torrents: 4, pieces: 120, pieceLength: 1 << 20, seconds: 40, zones: [], lab: true, seed: 7,
    rate: 12 * 2 ** 20, originRate: 10 * 2 ** 20, fromOrigin: true, hostile: false, cut: false, ...options,
  };
  const random = generator(o.seed);
  const block = 16384;
  const perPiece = Math.ceil(o.pieceLength / block);
  const records = [];
  const hex = (length) => Array.from({ length }, () => Math.floor(random() * 16).toString(16)).join('');
  const tell = (node, at, news) => records.push({ node, at_ms: START + Math.round(at), ...news });

  const torrents = Array.from({ length: o.torrents }, (_, at) => {
    const image = at % 2 === 0;
    const pieces = Math.max(3, Math.round(o.pieces * (0.35 + random() * 1.1)));
    const size = (pieces - 1) * o.pieceLength + Math.ceil(o.pieceLength * (0.2 + random() * 0.7));
    const digest = image ? `sha256:${hex(64)}` : undefined;
    const name = image ? digest.slice(7) : `${words[at % words.length]}-${at}.img`;
    return { at, info_hash: hex(40), name, digest, size, pieces, copies: new Uint16Array(pieces), home: `registry.lab/fleet/${words[(at * 3) % words.length]}` };
  });
  if (o.hostile && torrents[1]) torrents[1].name = '<img src=x onerror="document.title=\'owned\'"><script>alert(1)</script>\u202egnp.exe';

  const width = String(o.nodes).length;
  const nodes = Array.from({ length: o.nodes }, (_, at) => {
    const seeder = at < o.seeders;
    const order = seeder ? at + 1 : at - o.seeders + 1;
    const name = seeder ? `seed-${order}` : `host-${String(order).padStart(width, '0')}`;
    return {
      at, name, seeder, address: `10.77.${Math.floor(at / 200)}.${10 + (at % 200)}`, zone: o.zones[at % Math.max(1, o.zones.length)] ?? '',
      peer_id: hex(40), torrents: new Map(), links: new Map(), pend: [], origin: 0, down: 0, up: 0, begin: seeder ? 0 : 600 + random() * 1800, spans: new Map(),
      rate: o.rate * (0.6 + random() * 0.8), budget: 0, upBudget: 0, lost: false, done: 0,
    };
  });
  // Nobody is connected to everybody where there are many.
  for (const node of nodes) {
    const near = nodes.length <= 40 ? nodes : Array.from({ length: 24 }, () => nodes[Math.floor(random() * nodes.length)]);
    node.near = [...new Set([...nodes.filter((n) => n.seeder), ...near])].filter((n) => n !== node);
  }
  const lab = {
    id: 'lab', directory: '/var/lib/longshore-lab', page: 'http://127.0.0.1:4190/', began_ms: START, namespaces: true, zones: o.zones,
    hosts: [
      { name: 'tracker', kind: 'tracker', program: 'longshore', address: '10.77.0.2', state: 'running', cut: false },
      { name: 'registry', kind: 'registry', program: 'longshore', address: '10.77.0.3', state: 'running', cut: false },
      ...nodes.map((n) => ({ name: n.name, kind: n.seeder ? 'seeder' : 'leecher', program: 'longshore', address: n.address, zone: n.zone, state: 'running', cut: false, rate: Math.round(n.rate * 8) })),
    ],
    contents: torrents.map((t) => ({ kind: t.digest ? 'image' : 'torrent', name: t.digest ? `${t.home}:1.${t.at}` : t.name, id: t.digest ?? t.info_hash, size: t.size, torrents: [t.info_hash], seeders: t.digest ? [] : nodes.filter((n) => n.seeder).map((n) => n.name) })),
  };
  tell('lab', 0, { kind: 'hello', format: 1, version: '0.1.0' });
  if (o.lab) tell('lab', 0, { kind: 'lab', ...lab });

  for (const node of nodes) {
    for (const torrent of torrents) {
      // An image's blobs are at their origin only; the rest is at the seeders.
      const whole = node.seeder && (!torrent.digest || !o.fromOrigin);
      node.torrents.set(torrent, {
        have: new Uint8Array(torrent.pieces).fill(whole ? 1 : 0), count: whole ? torrent.pieces : 0, whole, sources: [], runs: [], toldRuns: 0, toldSources: 0,
        begin: node.seeder && torrent.digest ? 200 : node.begin + (torrent.at % 12) * 900 + Math.floor(torrent.at / 12) * 2500, down: 0, up: 0, tick: 0, upTick: 0, dirty: true, first: 0,
      });
    }
    tell(node.name, 5 + node.at * 0.5, { kind: 'hello', format: 1, version: '0.1.0' });
    tell(node.name, 6 + node.at * 0.5, { kind: 'status', status: status(node, 0) });
  }
  const size = (t, piece) => (piece === t.pieces - 1 ? t.size - (t.pieces - 1) * o.pieceLength : o.pieceLength);
  const origin = { budget: 0 };
  // The directory's lease: one node at a time fetches a torrent from the origin.
  const lease = new Map();
  const step = 100;

  for (let now = 0; now < o.seconds * 1000; now += step) {
    origin.budget = Math.min(o.originRate * 0.4, origin.budget + (o.originRate * step) / 1000);
    for (const node of nodes) {
      node.budget = Math.min(Math.max(o.pieceLength * 1.5, node.rate * 0.4), node.budget + (node.rate * step) / 1000);
      const up = node.rate * (node.seeder ? 2.2 : 1);
      node.upBudget = Math.min(Math.max(o.pieceLength * 1.5, up * 0.4), node.upBudget + (up * step) / 1000);
    }
    if (o.cut && Math.abs(now - o.seconds * 400) < step / 2) cutOne(now);
    if (o.cut && Math.abs(now - o.seconds * 600) < step / 2) healOne(now);
    const turn = Math.floor(random() * nodes.length);
    for (let i = 0; i < nodes.length; i += 1) {
      const node = nodes[(i + turn) % nodes.length];
      if (node.lost) continue;
      for (let k = 0; k < torrents.length; k += 1) {
        // By turns, so that no torrent waits for another to be whole.
        const torrent = torrents[(k + node.at + now / step) % torrents.length];
        const mine = node.torrents.get(torrent);
        if (mine.count === torrent.pieces || mine.begin > now || node.budget < o.pieceLength * 0.2) continue;
        if (mine.first === 0) mine.first = now;
        fetchSome(node, torrent, mine, now);
      }
    }
    if (now % 200 === 0) for (const node of nodes) if (!node.lost) tellBlocks(node, now);
    if (now % 500 === 0) for (const node of nodes) if (!node.lost) tellRates(node, now, now === 0);
    if (now % 1000 === 0) for (const node of nodes) if (!node.lost) tell(node.name, now + 40, { kind: 'status', status: status(node, now) });
  }
  records.sort((a, b) => a.at_ms - b.at_ms);
  return { records, torrents, nodes: nodes.map((n) => n.name), lab, block, start: START };

  function fetchSome(node, torrent, mine, now) {
    for (let tries = 0; tries < 4 && node.budget > 0; tries += 1) {
      const holder = lease.get(torrent);
      const fromOrigin = torrent.digest && (holder === node || holder === undefined) && o.fromOrigin;
      const peers = [];
      for (let guess = 0; guess < 7; guess += 1) {
        const peer = node.near[Math.floor(random() * node.near.length)];
        if (peer !== node && !peer.lost && peer.upBudget > 0 && peer.torrents.get(torrent).count > 0) peers.push(peer);
      }
      if (fromOrigin && origin.budget > 0) {
        lease.set(torrent, node);
        const piece = mine.have.indexOf(0);
        if (piece !== -1) give(node, torrent, mine, piece, undefined, now);
        continue;
      }
      const peer = peers.find((each) => has(each, torrent, mine));
      if (!peer) return;
      const theirs = peer.torrents.get(torrent);
      // The rarest of some that it has and we lack.
      let rarest = -1;
      let seen = 0;
      const from = Math.floor(random() * torrent.pieces);
      for (let k = 0; k < torrent.pieces && seen < 12; k += 1) {
        const piece = (from + k) % torrent.pieces;
        if (mine.have[piece] !== 0 || theirs.have[piece] !== 1) continue;
        seen += 1;
        if (rarest === -1 || torrent.copies[piece] < torrent.copies[rarest]) rarest = piece;
      }
      if (rarest !== -1) give(node, torrent, mine, rarest, peer, now);
    }
  }

  /** Whether a peer has anything that we lack. */
  function has(peer, torrent, mine) {
    const theirs = peer.torrents.get(torrent);
    return theirs.have.some((have, piece) => have === 1 && mine.have[piece] === 0);
  }

  function give(node, torrent, mine, piece, peer, now) {
    const bytes = size(torrent, piece);
    const blocks = Math.ceil(bytes / block);
    const took = Math.min(900, (bytes * 1000) / node.rate);
    // A third of the pieces come from two peers.
    const any = node.near[Math.floor(random() * node.near.length)];
    const second = random() < 0.6 && peer && any !== peer && !any.lost && any.upBudget > 0 && any.torrents.get(torrent).have[piece] === 1 ? any : undefined;
    const cut = second && blocks > 3 ? Math.floor(blocks * (0.3 + random() * 0.4)) : blocks;
    put(peer, 0, cut);
    if (cut < blocks) put(second, cut, blocks - cut);
    mine.have[piece] = 1;
    mine.count += 1;
    torrent.copies[piece] += 1;
    node.budget -= bytes;
    mine.dirty = true;

    function put(giver, from, count) {
      const source = giver ? { kind: 'peer', peer: `${giver.address}:6881`, peer_id: giver.peer_id } : { kind: 'origin', peer: 'registry.lab:443' };
      const key = giver ? giver.peer_id : '';
      let at = mine.sources.findIndex((s) => (s.peer_id ?? '') === key);
      if (at === -1) at = mine.sources.push(source) - 1;
      const t0 = START + now - Math.round(took * (1 - from / blocks)) + Math.floor(random() * 30);
      const moved = Math.min(bytes, (from + count) * block) - from * block;
      mine.runs.push({ piece, block: from, count, source: at, first_ms: t0, last_ms: Math.max(t0, START + now + Math.floor(random() * step)) });
      mine.down += moved;
      mine.tick += moved;
      if (giver) {
        node.down += moved;
        giver.up += moved;
        giver.upBudget -= moved;
        const theirs = giver.torrents.get(torrent);
        theirs.up += moved;
        theirs.upTick += moved;
        theirs.dirty = true;
        link(node, giver).down += moved;
        link(node, giver).downTick += moved;
        link(giver, node).up += moved;
        link(giver, node).upTick += moved;
      } else {
        node.origin += moved;
        origin.budget -= moved;
      }
    }
  }

  function link(node, other) {
    let known = node.links.get(other);
    if (!known) node.links.set(other, (known = { down: 0, up: 0, downTick: 0, upTick: 0, rates: [0, 0] }));
    return known;
  }

  function tellBlocks(node, now) {
    for (const [torrent, mine] of node.torrents) {
      const whole = mine.whole && now === 0;
      if (mine.runs.length === mine.toldRuns && !whole) continue;
      if (whole) {
        mine.sources = [{ kind: 'store' }];
        for (let piece = 0; piece < torrent.pieces; piece += 1) {
          mine.runs.push({ piece, block: 0, count: Math.ceil(size(torrent, piece) / block), source: 0, first_ms: START, last_ms: START });
        }
      }
      tell(node.name, now + 10 + node.at * 0.1, {
        kind: 'blocks', info_hash: torrent.info_hash, size: torrent.size, block_length: block, piece_length: o.pieceLength,
        first_source: mine.toldSources, sources: mine.sources.slice(mine.toldSources), first_run: mine.toldRuns, runs: mine.runs.slice(mine.toldRuns),
        ...(mine.count === torrent.pieces ? { complete: true } : {}),
      });
      mine.toldRuns = mine.runs.length;
      mine.toldSources = mine.sources.length;
      if (torrent.digest && mine.count > 0) trace(node, torrent, mine, now);
    }
  }

  function trace(node, torrent, mine, now) {
    if (mine.traced && mine.count < torrent.pieces) return;
    mine.traced = true;
    const began = START + mine.first - 180;
    const whole = mine.count === torrent.pieces;
    const end = START + now;
    const holder = lease.get(torrent) === node;
    const spans = [{ kind: 'directory', from_ms: began, to_ms: began + 38, bytes: 0, note: holder ? 'nobody has it: this node is to fetch it' : 'its torrent is known' }];
    if (!holder && node.at % 3 === 0) spans.push({ kind: 'lease', from_ms: began + 38, to_ms: began + 150 + node.at * 9, bytes: 0, note: `held by ${lease.get(torrent)?.name ?? 'nobody'}` });
    spans.push({ kind: holder ? 'origin' : 'swarm', from_ms: began + 160, ...(whole ? { to_ms: end } : {}), bytes: mine.down, note: holder ? 'registry.lab:443' : `${mine.sources.length} peers` });
    spans.push({ kind: 'client', from_ms: began + 420, ...(whole ? { to_ms: end + 120 } : {}), bytes: Math.round(mine.down * 0.97), note: 'containerd' });
    if (whole) {
      spans.push({ kind: 'verify', from_ms: end, to_ms: end + 45 + (torrent.at % 5) * 20, bytes: torrent.size });
      spans.push({ kind: 'publish', from_ms: end + 60, to_ms: end + 110, bytes: 0, note: 'announced to tracker:6969' });
    }
    tell(node.name, now + 12, { kind: 'trace', digest: torrent.digest, home: torrent.home, what: 'blob', size: torrent.size, began_ms: began, ...(whole ? { ended_ms: end + 120 } : {}), spans });
  }

  function tellRates(node, now, all) {
    const changed = [];
    for (const [torrent, mine] of node.torrents) {
      const rates = [smooth(mine.rated?.[0], mine.tick * 2), smooth(mine.rated?.[1], mine.upTick * 2)];
      if (!all && !mine.dirty && mine.rated && rates[0] === mine.rated[0] && rates[1] === mine.rated[1]) continue;
      mine.rated = rates;
      mine.tick = 0;
      mine.upTick = 0;
      mine.dirty = false;
      const done = mine.count === torrent.pieces;
      changed.push({
        info_hash: torrent.info_hash, name: torrent.name, ...(torrent.digest ? { digest: torrent.digest } : { folder: '/srv/content' }), size: torrent.size,
        bytes_done: done ? torrent.size : mine.count * o.pieceLength, pieces: torrent.pieces, pieces_done: mine.count, peers: Math.min(node.links.size, 40),
        down_bytes: mine.down, up_bytes: mine.up, down_rate: rates[0], up_rate: rates[1], state: done ? 'seeding' : 'downloading',
      });
    }
    if (changed.length > 0 || all) tell(node.name, now + 20, { kind: 'torrents', ...(all ? { all: true } : {}), changed });
    const links = [];
    for (const [other, known] of node.links) {
      const rates = [smooth(known.rates[0], known.downTick * 2), smooth(known.rates[1], known.upTick * 2)];
      if (!all && known.told && rates[0] === known.rates[0] && rates[1] === known.rates[1]) continue;
      Object.assign(known, { rates, downTick: 0, upTick: 0, told: true });
      links.push({ peer_id: other.peer_id, address: `${other.address}:6881`, client: 'Longshore 0.1.0', torrents: 1, down_bytes: known.down, up_bytes: known.up, down_rate: rates[0], up_rate: rates[1] });
    }
    if (links.length > 0 || all) tell(node.name, now + 30, { kind: 'links', ...(all ? { all: true } : {}), changed: links });
  }

  function status(node, now) {
    let whole = 0;
    let bytes = 0;
    let active = 0;
    for (const [torrent, mine] of node.torrents) {
      if (mine.count === torrent.pieces) {
        whole += 1;
        bytes += torrent.size;
      } else if (mine.begin <= now) active += 1;
    }
    return {
      node: node.name, peer_id: node.peer_id, version: '0.1.0',
      addresses: [{ purpose: 'peer', address: `${node.address}:6881` }, { purpose: 'mirror', address: `${node.address}:5000` }, { purpose: 'api', address: `${node.address}:4180` }],
      trackers: [{ url: 'http://tracker:6969/announce', last_answer: Math.floor((START + now) / 1000) }], local_discovery: false, uptime: 60 + Math.floor(now / 1000),
      totals: { blobs: whole, blob_bytes: bytes, active_torrents: active, peers: node.links.size, from_peers: node.down, from_origins: node.origin, to_peers: node.up, to_clients: Math.round(node.down * 0.9), wasted: node.at === 3 ? 65536 : 0, evicted: 0 },
    };
  }

  function cutOne(now) {
    const node = nodes[nodes.length - 2];
    node.lost = true;
    tell(node.name, now + 50, { kind: 'lost', error: 'its link is cut: no answer within 5 s' });
    lab.hosts.find((h) => h.name === node.name).cut = true;
    if (o.lab) tell('lab', now + 51, { kind: 'lab', ...structuredClone(lab) });
  }

  function healOne(now) {
    const node = nodes[nodes.length - 2];
    node.lost = false;
    lab.hosts.find((h) => h.name === node.name).cut = false;
    if (o.lab) tell('lab', now + 51, { kind: 'lab', ...structuredClone(lab) });
  }
}

/** Rates are told as an average over the last seconds. */
function smooth(before = 0, now = 0) {
  const value = Math.round(before * 0.55 + now * 0.45);
  return value < 3000 ? 0 : value;
}

export const ndjson = (records) => records.map((record) => JSON.stringify(record)).join('\n') + '\n';

/** mulberry32 */
function generator(seed) {
  let a = seed >>> 0;
  return () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = a;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
