// Lines of a recording, or events of a stream, as records.

import { judge } from './check';
import { FORMAT, News } from './contract';

/** Why a recording is not read at all. */
export class NotARecording extends Error {}

export interface Parsed {
  record?: News;
  /** What is wrong with the line, where something is. */
  wrong?: string;
}

/** One line. Empty ones are neither. */
export function parseRecord(line: string): Parsed {
  if (line.trim() === '') return {};
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    return { wrong: `not JSON: ${line.slice(0, 60)}` };
  }
  const judged = judge(News, value);
  return 'wrong' in judged ? { wrong: judged.wrong } : { record: judged.value };
}

/** Reads a recording's first record, which must say what the rest is. */
export function checkFirst(parsed: Parsed): void {
  const { record } = parsed;
  if (record?.kind !== 'hello') {
    throw new NotARecording(
      `This is no recording of Longshore: its first line is ${record?.kind ?? 'no record'}, not a “hello”.`,
    );
  }
  if (record.format !== FORMAT) {
    throw new NotARecording(
      `This recording has format ${record.format} (Longshore ${record.version}), and this page reads format ${FORMAT}. ` +
        `Open it with the page of the version that made it.`,
    );
  }
}
