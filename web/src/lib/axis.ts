// Where the marks of an axis stand, and what they are called: one unit for all of them, and no digit that says nothing.

import { UNITS } from './format';

const SECOND = 1000;
const MINUTE = 60 * SECOND;
const HOUR = 60 * MINUTE;
const DAY = 24 * HOUR;
/** Distances of more than five seconds, as clocks are divided. */
const TIMES = [10 * SECOND, 15 * SECOND, 30 * SECOND, MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY];

/** Round numbers of bytes, which are not those of tens, from 0 up to `most`. */
export function byteMarks(most: number): number[] {
  let step = 1024;
  while (most / step > 6) step *= 2;
  return marks(step, most);
}

/** Round lengths of time in milliseconds, from 0 up to `length`, about `most` of them. */
export function timeMarks(length: number, most: number): number[] {
  if (!(length > 0) || most < 1) return [0];
  const rough = length / most;
  if (rough > 5 * SECOND) return marks(TIMES.find((step) => step >= rough) ?? Math.ceil(rough / DAY) * DAY, length);
  const power = 10 ** Math.floor(Math.log10(rough));
  return marks(([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10) * power, length);
}

function marks(step: number, most: number): number[] {
  return Array.from({ length: Math.floor(most / step) + 1 }, (_, at) => at * step);
}

/** Bytes per second: `0`, `0.5 MiB/s`, `1.0 MiB/s`. */
export function rateLabels(values: readonly number[]): string[] {
  const most = Math.max(0, ...values);
  let unit = 0;
  while (most >= 1024 ** (unit + 1) && unit < UNITS.length - 1) unit += 1;
  return inUnit(values, 1024 ** unit, `${UNITS[unit] ?? ''}/s`);
}

/** Lengths of time: `0`, `200 ms`; `0`, `2.5 s`; `0`, `1:30 min`. */
export function durationLabels(values: readonly number[]): string[] {
  const most = Math.max(0, ...values);
  if (most < SECOND) return inUnit(values, 1, 'ms');
  if (most < MINUTE) return inUnit(values, SECOND, 's');
  const [unit, part, name] = most < HOUR ? [MINUTE, SECOND, 'min'] : [HOUR, MINUTE, 'h'];
  if (values.every((value) => value % unit === 0)) return inUnit(values, unit, name);
  return values.map((value) => (value === 0 ? '0' : `${Math.floor(value / unit)}:${two(Math.floor((value % unit) / part))} ${name}`));
}

/** Moments as the clock on the wall tells them; what the one before has said already is left out: `09:30:45`, `:50`, `:55`. */
export function momentLabels(moments: readonly number[]): string[] {
  const dates = moments.map((moment) => new Date(moment));
  const minutes = dates.map((date) => `${two(date.getHours())}:${two(date.getMinutes())}`);
  if (dates.every((date) => date.getSeconds() === 0)) return minutes;
  return dates.map((date, at) => `${at > 0 && minutes[at] === minutes[at - 1] ? '' : (minutes[at] ?? '')}:${two(date.getSeconds())}`);
}

/** With as many digits behind the point as tell all of them exactly, up to three. */
function inUnit(values: readonly number[], unit: number, name: string): string[] {
  const digits = [0, 1, 2].find((count) => values.every((value) => Math.abs(Number((value / unit).toFixed(count)) - value / unit) < 1e-9)) ?? 3;
  return values.map((value) => (value === 0 ? '0' : `${(value / unit).toFixed(digits)} ${name}`));
}

const two = (value: number): string => String(value).padStart(2, '0');
