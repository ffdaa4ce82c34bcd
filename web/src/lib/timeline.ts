// What has happened, kept so that one can go back: the records of the last while, and now and then a state.
//
// Time here is that of the records, but never runs backwards: a record that claims an earlier time than the one before
// it counts as of the same moment.

import type { News } from './contract';
import { Fleet } from './fleet';
import { recordsOf } from './retell';

/** How much is kept: the length of the records' JSON, about. */
const MOST_BYTES = 96 * 1024 * 1024;
const MOST_RECORDS = 400_000;
/** A state is kept after so many records, or so much time with any. */
const MARK_RECORDS = 4000;
const MARK_MS = 5000;
const MOST_MARKS = 240;

interface Entry {
  at: number;
  bytes: number;
  record: News;
}

interface Mark {
  /** The state before the record of this number. */
  number: number;
  at: number;
  fleet: Fleet;
}

export class Timeline {
  /** The latest state. */
  head = new Fleet();
  /** How many records there have been before the first that is kept. */
  first = 0;
  private entries: Entry[] = [];
  private marks: Mark[] = [];
  private bytes = 0;

  constructor(
    private readonly mostBytes = MOST_BYTES,
    private readonly mostRecords = MOST_RECORDS,
  ) {}

  /** When the first record that is kept was. */
  get start(): number {
    return this.entries[0]?.at ?? 0;
  }

  get end(): number {
    return this.entries.at(-1)?.at ?? 0;
  }

  /** How many records there have been. */
  get count(): number {
    return this.first + this.entries.length;
  }

  get kept(): number {
    return this.entries.length;
  }

  /** Whether the beginning is no longer here. */
  get trimmed(): boolean {
    return this.first > 0;
  }

  /**
   * Takes the next record in; `bytes` is the length of its JSON, `now` when it came, where that and not the clock of
   * its node is to count. Gives back what is wrong with it.
   */
  push(record: News, bytes: number, now = record.at_ms): string | undefined {
    const at = Math.max(this.entries.at(-1)?.at ?? 0, now);
    const mark = this.marks.at(-1);
    const since = mark === undefined ? Infinity : this.count - mark.number;
    if (mark === undefined || since >= MARK_RECORDS || (since >= 200 && at - mark.at >= MARK_MS)) {
      this.marks.push({ number: this.count, at, fleet: this.head.snapshot() });
      if (this.marks.length > MOST_MARKS) this.thin();
    }
    this.entries.push({ at, bytes, record });
    this.bytes += bytes;
    const problem = this.head.apply(record, at);
    if (this.bytes > this.mostBytes || this.entries.length > this.mostRecords) this.trim();
    return problem;
  }

  /** The state at a time, and the number of the first record that is not in it. */
  seek(at: number): { fleet: Fleet; next: number } {
    const next = this.numberAt(at);
    let from = this.marks[0];
    for (const mark of this.marks) if (mark.number <= next) from = mark;
    const fleet = from?.fleet.snapshot() ?? new Fleet();
    for (let number = from?.number ?? this.first; number < next; number += 1) {
      const entry = this.entries[number - this.first];
      if (entry !== undefined) fleet.apply(entry.record, entry.at);
    }
    return { fleet, next };
  }

  /** Takes a state on from record `next` to a time; gives back the number of the first record not in it. */
  advance(fleet: Fleet, next: number, at: number, most = Infinity): number {
    let number = Math.max(next, this.first);
    for (let done = 0; done < most; done += 1) {
      const entry = this.entries[number - this.first];
      if (entry === undefined || entry.at > at) break;
      fleet.apply(entry.record, entry.at);
      number += 1;
    }
    return number;
  }

  /** The time of a record by its number; the ends' where there is none. */
  timeOf(number: number): number {
    return this.entries[Math.min(this.entries.length - 1, Math.max(0, number - this.first))]?.at ?? 0;
  }

  /** The number of the first record after a time. */
  numberAt(at: number): number {
    let low = 0;
    let high = this.entries.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.entries[middle]?.at ?? 0) <= at) low = middle + 1;
      else high = middle;
    }
    return this.first + low;
  }

  /** Records from a number on. */
  *from(number: number): Generator<{ at: number; record: News }> {
    for (let at = Math.max(0, number - this.first); at < this.entries.length; at += 1) {
      const entry = this.entries[at];
      if (entry !== undefined) yield entry;
    }
  }

  /** All of it as a recording: what was before the first record that is kept is told in one go. */
  *lines(): Generator<string> {
    const mark = this.marks[0];
    const first = this.entries[0]?.record;
    if (first?.kind !== 'hello') yield line(hello(this.start));
    if (mark !== undefined) for (const record of recordsOf(mark.fleet, this.start)) yield line(record);
    for (const entry of this.entries) yield line(entry.record);
  }

  private trim(): void {
    // A quarter at a time, so that it is seldom.
    const goal = this.marks.find((mark) => mark.number >= this.first + this.entries.length / 4);
    const cut = (goal?.number ?? this.first + Math.ceil(this.entries.length / 4)) - this.first;
    if (goal === undefined) {
      const fleet = this.seek(this.timeOf(this.first + cut)).fleet;
      this.marks = [{ number: this.first + cut, at: this.timeOf(this.first + cut), fleet }];
    } else this.marks = this.marks.filter((mark) => mark.number >= goal.number);
    for (const entry of this.entries.splice(0, cut)) this.bytes -= entry.bytes;
    this.first += cut;
  }

  private thin(): void {
    this.marks = this.marks.filter((_, at) => at === 0 || at % 2 === 1 || at > this.marks.length - 8);
  }
}

const line = (record: News): string => `${JSON.stringify(record)}\n`;
const hello = (at_ms: number): News => ({ node: 'lab', at_ms, kind: 'hello', format: 1, version: '' });
