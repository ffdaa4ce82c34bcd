// Numbers, times and names as people read them.

export const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** Bytes in three digits: `0 B`, `14.2 MiB`. */
export function bytes(value: number): string {
  if (!Number.isFinite(value)) return '–';
  let unit = 0;
  let rest = Math.abs(value);
  while (rest >= 999.5 && unit < UNITS.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || rest >= 99.95 ? 0 : rest >= 9.995 ? 1 : 2;
  return `${value < 0 ? '−' : ''}${rest.toFixed(digits)} ${UNITS[unit] ?? ''}`;
}

/** Bytes per second. */
export function rate(value: number): string {
  return value <= 0 ? '0 B/s' : `${bytes(value)}/s`;
}

/** Bits per second, as the speeds of links are given. */
export function bits(value: number): string {
  const units = ['bit/s', 'kbit/s', 'Mbit/s', 'Gbit/s', 'Tbit/s'];
  let unit = 0;
  let rest = value;
  while (rest >= 999.5 && unit < units.length - 1) {
    rest /= 1000;
    unit += 1;
  }
  return `${Number(rest.toFixed(rest < 10 ? 1 : 0))} ${units[unit] ?? ''}`;
}

/** A share of 0 to 1 in percent; only what is whole is 100 %. */
export function percent(share: number): string {
  if (!Number.isFinite(share)) return '–';
  if (share >= 1) return '100 %';
  if (share <= 0) return '0 %';
  const value = share * 100;
  return value < 0.1 ? '< 0.1 %' : `${Math.min(value, 99.9).toFixed(value < 10 ? 1 : 0).replace(/^100$/, '99')} %`;
}

export function share(part: number, whole: number): number {
  return whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 0;
}

/** A length of time: `340 ms`, `2.41 s`, `3 min 07 s`, `5 h 02 min`, `3 d 4 h`. */
export function duration(ms: number): string {
  if (!Number.isFinite(ms)) return '–';
  const sign = ms < 0 ? '−' : '';
  const whole = Math.abs(ms);
  if (whole < 999.5) return `${sign}${Math.round(whole)} ms`;
  if (whole < 59_950) return `${sign}${(whole / 1000).toFixed(whole < 9995 ? 2 : 1)} s`;
  const seconds = Math.round(whole / 1000);
  const two = (value: number) => String(value).padStart(2, '0');
  if (seconds < 3600) return `${sign}${Math.floor(seconds / 60)} min ${two(seconds % 60)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 1440) return `${sign}${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
  return `${sign}${Math.floor(minutes / 1440)} d ${Math.floor(minutes / 60) % 24} h`;
}

/** A place on the clock of the transport bar: `1:04.2`. */
export function clock(ms: number): string {
  const tenths = Math.max(0, Math.floor(ms / 100));
  const seconds = Math.floor(tenths / 10);
  const two = (value: number) => String(value).padStart(2, '0');
  const hours = Math.floor(seconds / 3600);
  const minutes = Math.floor(seconds / 60) % 60;
  const head = hours > 0 ? `${hours}:${two(minutes)}` : `${minutes}`;
  return `${head}:${two(seconds % 60)}.${tenths % 10}`;
}

/** The time of day, with seconds. */
export function time(ms: number): string {
  const date = new Date(ms);
  return Number.isNaN(date.getTime()) ? '–' : date.toTimeString().slice(0, 8);
}

export function whole(value: number): string {
  return Math.round(value).toString().replace(/\B(?=(\d{3})+$)/g, '\u202f');
}

/** How many of what: `1 node`, `12 nodes`, `10 000 pieces`. */
export function plural(count: number, one: string, many = `${one}s`): string {
  return `${whole(count)} ${count === 1 ? one : many}`;
}

// Control characters, and those that change the direction of what follows: a name must not rearrange the line it is in.
// eslint-disable-next-line no-control-regex
const TRICKS = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A foreign name as it may be shown: without tricks, and not endless. */
export function name(text: string, most = 200): string {
  const plain = text.slice(0, most * 4).replace(TRICKS, '\ufffd');
  const cut = plain.length > most ? `${plain.slice(0, most - 1)}…` : plain;
  return cut === '' ? '(no name)' : cut;
}

/** A digest or hash, short enough for a line and long enough to know it. */
export function short(hash: string): string {
  const hex = hash.replace(/^sha(1|256):/, '');
  return /^[0-9a-f]{24,}$/.test(hex) ? hex.slice(0, 12) : name(hash, 24);
}

/** `layer`, `manifest`… of a media type. */
export function media(type: string | undefined): string {
  if (type === undefined) return '';
  const last = type.split('/').pop() ?? type;
  if (/manifest\.list|image\.index/.test(last)) return 'index';
  if (/manifest/.test(last)) return 'manifest';
  if (/image\.layer|rootfs/.test(last)) return 'layer';
  if (/config|container\.image/.test(last)) return 'config';
  return name(last, 40);
}

/** Reads `10`, `10k`, `2.5 MiB`, `1m` as bytes per second; `undefined` where it is none of these. */
export function parseBytes(textual: string): number | undefined {
  const match = /^\s*(\d+(?:[.,]\d+)?)\s*([kmgt]?)(?:i?b?)(?:\/s)?\s*$/i.exec(textual);
  if (match === null) return undefined;
  const power = ['', 'k', 'm', 'g', 't'].indexOf((match[2] ?? '').toLowerCase());
  return Math.round(Number((match[1] ?? '0').replace(',', '.')) * 1024 ** power);
}

/** Reads `10mbit`, `1.5 Gbit/s`, `500k` as bits per second. */
export function parseBits(textual: string): number | undefined {
  const match = /^\s*(\d+(?:[.,]\d+)?)\s*([kmgt]?)(?:bit|bps|b)?(?:\/s)?\s*$/i.exec(textual);
  if (match === null) return undefined;
  const power = ['', 'k', 'm', 'g', 't'].indexOf((match[2] ?? '').toLowerCase());
  return Math.round(Number((match[1] ?? '0').replace(',', '.')) * 1000 ** power);
}

/** Orders names as people do: n2 before n10. */
const collator = new Intl.Collator('en', { numeric: true });
export const byName = (a: string, b: string): number => collator.compare(a, b) || (a < b ? -1 : a > b ? 1 : 0);
