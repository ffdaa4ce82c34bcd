// What nodes and labs say, as in crates/api/src/{node,live,trace,torrents,lab}.rs. Names and shapes are those of the
// Rust types; `web/fixtures/contract.json` is written by a test over there and read by one here, so that neither drifts.

import { any, both, count, exactly, flag, list, number, oneOf, or, shape, tagged, text, Wrong, type Out } from './check';

/** The version of the records' shape that this page knows. */
export const FORMAT = 1;

const none = <T>(): T[] => [];
const nothing = () => '';
const zero = () => 0;
const no = () => false;

export const Limits = shape({}, { down: count, up: count });
export type Limits = Out<typeof Limits>;

export const Health = shape({ healthy: flag, problems: or(list(text), none<string>) });
export type Health = Out<typeof Health>;

export const TrackerStatus = shape({ url: text }, { last_answer: count, error: text, failing_since: count });
export type TrackerStatus = Out<typeof TrackerStatus>;

export const Totals = shape({
  blobs: or(count, zero),
  blob_bytes: or(count, zero),
  active_torrents: or(count, zero),
  peers: or(count, zero),
  from_peers: or(count, zero),
  from_origins: or(count, zero),
  to_peers: or(count, zero),
  to_clients: or(count, zero),
  wasted: or(count, zero),
  evicted: or(count, zero),
});
export type Totals = Out<typeof Totals>;

export const Status = shape({
  node: text,
  peer_id: or(text, nothing),
  version: text,
  addresses: or(list(shape({ purpose: text, address: text })), none<{ purpose: string; address: string }>),
  trackers: or(list(TrackerStatus), none<TrackerStatus>),
  local_discovery: or(flag, no),
  uptime: count,
  totals: Totals,
});
export type Status = Out<typeof Status>;

export const SourceKind = oneOf('peer', 'origin', 'store', 'directory');
export type SourceKind = Out<typeof SourceKind>;
const Source = shape({ kind: SourceKind }, { peer: text, peer_id: text });
export type Source = Out<typeof Source>;
export const SourceBytes = both(Source, shape({ bytes: count }));
export type SourceBytes = Out<typeof SourceBytes>;

export const BlobStatus = shape(
  {
    digest: text,
    size: count,
    state: oneOf('complete', 'partial', 'fetching'),
    bytes_done: count,
    pieces: or(count, zero),
    sources: or(list(SourceBytes), none<SourceBytes>),
  },
  { media_type: text, info_hash: text, started: count, finished: count },
);
export type BlobStatus = Out<typeof BlobStatus>;
export const BlobPage = shape({ blobs: list(BlobStatus) }, { next: text });

export const TorrentPhase = oneOf('metadata', 'checking', 'downloading', 'seeding', 'stopped', 'failed');
export type TorrentPhase = Out<typeof TorrentPhase>;
export const TorrentStatus = shape(
  {
    info_hash: text,
    name: text,
    size: count,
    bytes_done: count,
    pieces: count,
    pieces_done: count,
    peers: count,
    down_bytes: count,
    up_bytes: count,
    down_rate: count,
    up_rate: count,
    state: or(TorrentPhase, () => 'downloading' as const),
  },
  { digest: text, folder: text, limits: Limits, error: text },
);
export type TorrentStatus = Out<typeof TorrentStatus>;

export const PeerStatus = shape({
  address: text,
  peer_id: text,
  client: or(text, nothing),
  incoming: flag,
  down_bytes: count,
  up_bytes: count,
  down_rate: count,
  up_rate: count,
  flags: shape({ choking: flag, interested: flag, choked: flag, wanted: flag }),
  progress: number,
  requests: or(count, zero),
});
export type PeerStatus = Out<typeof PeerStatus>;

const Run = shape({ piece: count, block: count, count, source: count, first_ms: count, last_ms: count });
export type Run = Out<typeof Run>;
export const Provenance = shape({
  info_hash: text,
  size: count,
  block_length: count,
  piece_length: count,
  sources: list(Source),
  runs: list(Run),
});
export type Provenance = Out<typeof Provenance>;

/** A digest in a pull's news, by which the news are told apart. */
const digest: typeof text = (value, path) => {
  const said = text(value, path);
  if (!/^sha(256|512):[0-9a-f]{64,128}$/.test(said)) throw new Wrong('not a digest', path);
  return said;
};

export const PullEvent = tagged('event', {
  resolved: shape({ event: exactly('resolved'), digest, media_type: text }),
  blob: shape({ event: exactly('blob'), digest, size: count }, { media_type: text }),
  progress: shape({
    event: exactly('progress'),
    digest,
    bytes_done: count,
    from_peers: count,
    from_origin: count,
    peers: count,
  }),
  complete: shape({ event: exactly('complete'), digest, sources: list(SourceBytes) }),
  done: shape({ event: exactly('done'), digest, bytes: count, from_peers: count, from_origin: count }),
  failed: shape({ event: exactly('failed'), error: text }),
  alive: shape({ event: exactly('alive') }),
});
export type PullEvent = Out<typeof PullEvent>;

export const SpanKind = oneOf('tag', 'directory', 'lease', 'swarm', 'origin', 'verify', 'publish', 'client');
export type SpanKind = Out<typeof SpanKind>;
const Span = shape({ kind: SpanKind, from_ms: count, bytes: or(count, zero) }, { to_ms: count, note: text });
export type Span = Out<typeof Span>;
const traceFields = { digest: text, home: text, what: text, began_ms: count, spans: list(Span) };
const traceMore = { size: count, ended_ms: count, error: text };
export const Trace = shape(traceFields, traceMore);
export type Trace = Out<typeof Trace>;
const Part = shape({ what: text, blob: BlobStatus }, { trace: Trace });
export const Explanation = shape({ reference: text, digest: text, parts: list(Part) });
export type Explanation = Out<typeof Explanation>;

export const Added = shape({ info_hash: text, name: text });
export const FileStatus = shape({ path: text, size: count, bytes_done: count });
export type FileStatus = Out<typeof FileStatus>;
export const AddRequest = shape({}, { magnet: text, url: text });
export const PullRequest = shape({ reference: text }, { platform: text });

export const HostKind = oneOf('seeder', 'leecher', 'tracker', 'registry', 'web', 'foreign');
export type HostKind = Out<typeof HostKind>;
const LabHost = shape(
  {
    name: text,
    kind: HostKind,
    program: text,
    address: text,
    state: oneOf('starting', 'running', 'stopped', 'killed', 'failed'),
    cut: flag,
  },
  { zone: text, rate: count, delay_ms: count, sent_bytes: count, error: text },
);
export type LabHost = Out<typeof LabHost>;
const LabContent = shape({
  kind: text,
  name: text,
  id: text,
  size: count,
  torrents: list(text),
  seeders: list(text),
});
export type LabContent = Out<typeof LabContent>;
const Traffic = shape({ pulls_per_minute: number, churn_per_minute: number });
const labFields = {
  id: text,
  directory: text,
  page: text,
  began_ms: count,
  namespaces: flag,
  zones: or(list(text), none<string>),
  hosts: list(LabHost),
  contents: or(list(LabContent), none<LabContent>),
};
const labMore = { traffic: Traffic, notes: list(text), problems: list(text), cuts: list(list(text)) };
export const LabStatus = shape(labFields, labMore);
export type LabStatus = Out<typeof LabStatus>;

export const LabAction = tagged('action', {
  add: shape({ action: exactly('add'), kind: HostKind, count, zone: text }),
  stop: shape({ action: exactly('stop'), host: text }),
  kill: shape({ action: exactly('kill'), host: text }),
  start: shape({ action: exactly('start'), host: text }),
  cut: shape({ action: exactly('cut'), from: text }, { to: text }),
  heal: shape({ action: exactly('heal') }, { from: text, to: text }),
  limit: shape({ action: exactly('limit'), host: text }, { rate: count }),
  pull: shape({ action: exactly('pull') }, { host: text, content: text }),
  churn: both(shape({ action: exactly('churn') }), Traffic),
  down: shape({ action: exactly('down') }),
});
export type LabAction = Out<typeof LabAction>;

const Link = shape(
  {
    peer_id: text,
    address: text,
    torrents: count,
    down_bytes: count,
    up_bytes: count,
    down_rate: count,
    up_rate: count,
  },
  { client: text },
);
export type Link = Out<typeof Link>;

const head = <K extends string>(kind: K) => ({ node: text, at_ms: count, kind: exactly(kind) });
export const News = tagged('kind', {
  hello: shape({ ...head('hello'), format: count, version: text }),
  status: shape({ ...head('status'), status: Status }),
  torrents: shape({ ...head('torrents'), changed: list(TorrentStatus) }, { all: flag, gone: list(text) }),
  links: shape({ ...head('links'), changed: list(Link) }, { all: flag, gone: list(text) }),
  blocks: shape(
    {
      ...head('blocks'),
      info_hash: text,
      size: count,
      block_length: count,
      piece_length: count,
      first_source: count,
      sources: list(Source),
      first_run: count,
      runs: list(Run),
    },
    { name: text, complete: flag },
  ),
  trace: shape({ ...head('trace'), ...traceFields }, traceMore),
  lost: shape({ ...head('lost'), error: text }),
  lab: shape({ ...head('lab'), ...labFields }, labMore),
});
/** A piece of news of one node. */
export type News = Out<typeof News>;
export type Of<K extends News['kind']> = Extract<News, { kind: K }>;

/** A line of a node's log. */
const LogLine = shape({ seq: count, at_ms: count, level: text, text });
export type LogLine = Out<typeof LogLine>;
export const LogPage = shape({ lines: list(LogLine), next: count });
export const Settings = any;
