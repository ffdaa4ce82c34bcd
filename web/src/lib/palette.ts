// Colours that say something, told apart by people of every kind of colour vision: Okabe and Ito's set for the kinds,
// Paul Tol's for the peers (without what is near the origin's orange), each in a tone for dark and one for light ground.

export interface Palette {
  ground: string;
  panel: string;
  line: string;
  text: string;
  dim: string;
  faint: string;
  accent: string;
  peer: string;
  origin: string;
  store: string;
  directory: string;
  whole: string;
  bad: string;
  peers: readonly string[];
  /** From little to much. */
  ramp: readonly string[];
}

export const DARK: Palette = {
  ground: '#0d1720',
  panel: '#13202c',
  line: '#263747',
  text: '#e8eef2',
  dim: '#93a6b5',
  faint: '#3a4e5f',
  accent: '#5fb8e8',
  peer: '#56b4e9',
  origin: '#f2743c',
  store: '#6b7d8c',
  directory: '#f0e442',
  whole: '#2fc79a',
  bad: '#ff8f6b',
  peers: [
    '#77aadd', '#eedd88', '#44bb99', '#ffaabb', '#99ddff', '#bbcc33', '#aa88dd', '#00c2c7',
    '#4477aa', '#b89a2b', '#117755', '#c25773', '#3f94b8', '#7f8f10', '#7755aa', '#8c7464',
    '#bcd4f0', '#fff2c0', '#9fe0c9', '#ffd6de', '#d3f1ff', '#e0ea95', '#d6c3f2', '#d9d2c5',
  ],
  ramp: ['#16293a', '#1b4a63', '#1f6f86', '#2c9aa0', '#62c3a5', '#b7e3a8', '#f6f7c4'],
};

export const LIGHT: Palette = {
  ground: '#f5f3ee',
  panel: '#fffefb',
  line: '#ddd8cd',
  text: '#16222c',
  dim: '#596a77',
  faint: '#c9c6bd',
  accent: '#0a6aa6',
  peer: '#0072b2',
  origin: '#bf4504',
  store: '#9aa3a9',
  directory: '#b59f00',
  whole: '#008a63',
  bad: '#b3310e',
  peers: [
    '#4477aa', '#ccaa33', '#228877', '#dd6688', '#55aadd', '#889911', '#7755aa', '#00868c',
    '#88aadd', '#e5cf6e', '#66bba8', '#f0a8bb', '#1f6b99', '#bfcc44', '#aa99dd', '#b9ada0',
    '#223f66', '#776011', '#0c4f44', '#882244', '#99d0ee', '#505a08', '#442c77', '#5f4b3f',
  ],
  ramp: ['#ece9df', '#cfe3d3', '#9dd0c4', '#5fb3b5', '#2f8fa6', '#1d658c', '#143a63'],
};

/** Gives each peer a colour when it is first asked for, and the same ever after. */
export class Colours {
  private places = new Map<string, number>();

  /** Names that are known from the start get their colours in order. */
  seed(names: Iterable<string>): void {
    for (const name of names) if (!this.places.has(name)) this.places.set(name, this.places.size);
  }

  of(name: string, palette: Palette): string {
    let place = this.places.get(name);
    if (place === undefined) {
      place = this.places.size;
      if (place < 100_000) this.places.set(name, place);
    }
    return palette.peers[place % palette.peers.length] ?? palette.peer;
  }
}

const STEPS = 64;
const mixed = new Map<Palette, string[]>();

/** A colour of the ramp for 0 to 1. */
export function ramp(palette: Palette, share: number): string {
  let colours = mixed.get(palette);
  if (colours === undefined) {
    colours = Array.from({ length: STEPS + 1 }, (_, step) => mix(palette.ramp, step / STEPS));
    mixed.set(palette, colours);
  }
  return colours[Math.round(Math.min(1, Math.max(0, share)) * STEPS)] ?? palette.peer;
}

function mix(ramp: readonly string[], share: number): string {
  const place = share * (ramp.length - 1);
  const from = rgb(ramp[Math.floor(place)]);
  const to = rgb(ramp[Math.min(ramp.length - 1, Math.floor(place) + 1)]);
  const part = place - Math.floor(place);
  return `rgb(${from.map((value, at) => Math.round(value + ((to[at] ?? 0) - value) * part)).join(' ')})`;
}

function rgb(hex = '#000000'): number[] {
  return [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
}
