// Rates over time, drawn from the records that are kept: nothing is stored but what is looked at.

import type { News } from './contract';
import { grown, TOTALS_HOLD_MS, type Growth } from './fleet';
import type { Timeline } from './timeline';

/** What a line shows. */
export type Subject =
  | { of: 'node'; node: string; way: 'down' | 'up' | 'origin' }
  | { of: 'torrent'; node: string; info_hash: string; way: 'down' | 'up' }
  | { of: 'peer'; node: string; peer_id: string; way: 'down' | 'up' };

const MOST_POINTS = 4000;

export class Series {
  readonly times: number[] = [];
  readonly values: number[] = [];
  private next = 0;
  private totals: Growth | undefined;
  /** Rates of a node's torrents now, which sum up to its own. */
  private rates = new Map<string, number>();
  private sum = 0;

  constructor(readonly subject: Subject) {}

  /** Takes in what is new. */
  update(timeline: Timeline): void {
    for (const { at, record } of timeline.from(this.next)) if (record.node === this.subject.node) this.take(at, record);
    this.next = timeline.count;
    if (this.times.length > MOST_POINTS * 2) this.thin();
  }

  /** How long a value is held that no other follows. */
  get hold(): number {
    return this.subject.way === 'origin' ? TOTALS_HOLD_MS : Infinity;
  }

  private take(at: number, record: News): void {
    const { subject } = this;
    if (record.kind === 'lost') {
      this.rates.clear();
      this.sum = 0;
      this.point(at, 0);
    } else if (subject.of === 'torrent' && record.kind === 'torrents') {
      const found = record.changed.find((torrent) => torrent.info_hash === subject.info_hash);
      if (found !== undefined) this.point(at, subject.way === 'down' ? found.down_rate : found.up_rate);
      else if (record.all === true || record.gone?.includes(subject.info_hash) === true) this.point(at, 0);
    } else if (subject.of === 'peer' && record.kind === 'links') {
      const found = record.changed.find((link) => link.peer_id === subject.peer_id);
      if (found !== undefined) this.point(at, subject.way === 'down' ? found.down_rate : found.up_rate);
      else if (record.all === true || record.gone?.includes(subject.peer_id) === true) this.point(at, 0);
    } else if (subject.of === 'node' && subject.way === 'origin' && record.kind === 'status') {
      this.totals = grown(this.totals, at, record.status.totals.from_origins);
      this.point(at, this.totals.rate);
    } else if (subject.of === 'node' && subject.way !== 'origin' && record.kind === 'torrents') {
      if (record.all === true) {
        this.rates.clear();
        this.sum = 0;
      }
      for (const hash of record.gone ?? []) this.set(hash, 0);
      for (const torrent of record.changed) {
        this.set(torrent.info_hash, subject.way === 'down' ? torrent.down_rate : torrent.up_rate);
      }
      this.point(at, this.sum);
    }
  }

  private set(hash: string, rate: number): void {
    this.sum = Math.max(0, this.sum + rate - (this.rates.get(hash) ?? 0));
    if (rate === 0) this.rates.delete(hash);
    else this.rates.set(hash, rate);
  }

  private point(at: number, value: number): void {
    if (this.times.at(-1) === at) this.values[this.values.length - 1] = value;
    else {
      this.times.push(at);
      this.values.push(value);
    }
  }

  private thin(): void {
    let kept = 0;
    for (let at = 0; at + 1 < this.times.length; at += 2) {
      this.times[kept] = this.times[at] ?? 0;
      this.values[kept] = ((this.values[at] ?? 0) + (this.values[at + 1] ?? 0)) / 2;
      kept += 1;
    }
    this.times.length = kept;
    this.values.length = kept;
  }
}

/** Several lines on one clock, in seconds, as uPlot wants them: each holds its value until its next point, or for as long as it may. */
export function aligned(series: readonly Series[], from: number, to: number, points: number): number[][] {
  const step = Math.max(100, (to - from) / Math.max(1, points));
  const times: number[] = [];
  for (let at = from; at <= to; at += step) times.push(at);
  const columns = series.map((line) => {
    let next = 0;
    let value = 0;
    return times.map((at) => {
      while (next < line.times.length && (line.times[next] ?? 0) <= at) {
        value = line.values[next] ?? 0;
        next += 1;
      }
      return at - (line.times[next - 1] ?? at) > line.hold ? 0 : value;
    });
  });
  return [times.map((at) => at / 1000), ...columns];
}
