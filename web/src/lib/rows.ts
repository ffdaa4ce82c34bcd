// Sorting, searching, and the part of a long table that is seen.

import { byName } from './format';

export type Key = string | number | undefined;

export interface Order {
  column: string;
  down: boolean;
}

/** Rows in order: what has no value comes last, and equals stay as they were. */
export function sorted<T>(rows: readonly T[], key: (row: T) => Key, down: boolean): T[] {
  const keyed = rows.map((row, at) => ({ row, at, key: key(row) }));
  keyed.sort((a, b) => {
    if (a.key === undefined || b.key === undefined) {
      return a.key === b.key ? a.at - b.at : a.key === undefined ? 1 : -1;
    }
    const order = typeof a.key === 'number' && typeof b.key === 'number' ? a.key - b.key : byName(String(a.key), String(b.key));
    return (down ? -order : order) || a.at - b.at;
  });
  return keyed.map((entry) => entry.row);
}

/** Rows in whose text every word of the query occurs. */
export function searched<T>(rows: readonly T[], query: string, text: (row: T) => string): readonly T[] {
  const words = query.toLowerCase().split(/\s+/).filter((word) => word !== '');
  if (words.length === 0) return rows;
  return rows.filter((row) => {
    const hay = text(row).toLowerCase();
    return words.every((word) => hay.includes(word));
  });
}

/** Which rows of a scrolled table are seen, with some above and below. */
export function visible(count: number, height: number, scrolled: number, room: number): { from: number; to: number } {
  const spare = 8;
  const from = Math.max(0, Math.min(count, Math.floor(scrolled / height) - spare));
  const to = Math.min(count, Math.ceil((scrolled + room) / height) + spare);
  return { from, to: Math.max(from, to) };
}
