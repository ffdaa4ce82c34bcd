// Who gave whom how many bytes, added up from a stream of records in the plainest way: what the page must show.

export class Truth {
  /** Names of nodes by each peer id that they have had. */
  names = new Map();
  /** By node and info-hash. */
  blocks = new Map();

  take(record) {
    if (record.kind === 'status') this.names.set(record.status.peer_id, record.node);
    if (record.kind !== 'blocks') return;
    const key = `${record.node} ${record.info_hash}`;
    const known = record.first_run === 0 && record.first_source === 0 ? { sources: [], runs: [] } : this.blocks.get(key);
    if (known === undefined || record.first_run > known.runs.length || record.first_source > known.sources.length) throw new Error(`a gap in ${key}`);
    const sources = [...known.sources.slice(0, record.first_source), ...record.sources];
    const runs = [...known.runs.slice(0, record.first_run), ...record.runs];
    this.blocks.set(key, { ...record, sources, runs });
  }

  /** Bytes by giver, of one torrent's sources and runs. */
  sumsOf(blocks) {
    const sums = {};
    for (const run of blocks.runs) {
      const source = blocks.sources[run.source];
      // What was on the machine already was given by nobody.
      if (source.kind === 'store') continue;
      const giver = source.kind === 'peer' ? (this.names.get(source.peer_id) ?? source.peer) : source.kind;
      const size = Math.min(blocks.piece_length, blocks.size - run.piece * blocks.piece_length);
      const length = Math.min(size, (run.block + run.count) * blocks.block_length) - run.block * blocks.block_length;
      sums[giver] = (sums[giver] ?? 0) + length;
    }
    return sums;
  }

  /** The same of what a node has told of a torrent. */
  sums(node, info_hash) {
    const blocks = this.blocks.get(`${node} ${info_hash}`);
    return blocks === undefined ? {} : this.sumsOf(blocks);
  }

  /** Bytes by giver and taker, of all torrents or of some. */
  matrix(torrents) {
    if (this.broken !== undefined) throw this.broken;
    const sums = {};
    for (const blocks of this.blocks.values()) {
      if (torrents?.has(blocks.info_hash) === false) continue;
      for (const [giver, length] of Object.entries(this.sumsOf(blocks))) sums[`${giver} ${blocks.node}`] = (sums[`${giver} ${blocks.node}`] ?? 0) + length;
    }
    return Object.fromEntries(Object.entries(sums).sort());
  }
}
