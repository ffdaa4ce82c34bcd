// Paints maps of pieces: one node's as tiles, many nodes' as rows, and who gave whom as a matrix.

import { name as shown } from './format';
import { ramp, type Palette } from './palette';
import type { Matrix, PieceMap } from './pieces';

export type Lens = 'source' | 'rarity' | 'time';

/** Looks of a torrent's map: what colour a block has under each lens. */
export interface Look {
  lens: Lens;
  palette: Palette;
  /** Colours of sources, by their place. */
  colours: readonly string[];
  /** How many of the shown nodes have each piece, and how many nodes there are. */
  counts: Uint16Array;
  nodes: number;
  /** The span of time of all that is shown. */
  from: number;
  to: number;
}

export interface Tiles {
  columns: number;
  rows: number;
  tile: number;
  /** How many pieces a tile stands for. */
  each: number;
}

/** The largest tiles with which all pieces fit. */
export function tilesOf(pieces: number, width: number, height: number): Tiles {
  const room = Math.max(1, width) * Math.max(1, height);
  for (let each = 1; ; each *= 2) {
    const count = Math.max(1, Math.ceil(pieces / each));
    for (let tile = Math.min(88, Math.floor(Math.sqrt(room / count)) + 1); tile >= 4; tile -= 1) {
      const columns = Math.max(1, Math.floor(width / tile));
      const rows = Math.ceil(count / columns);
      if (rows * tile <= height) return { columns, rows, tile, each };
    }
    if (each > 1e9) return { columns: 1, rows: 1, tile: 4, each };
  }
}

export function pieceAt(tiles: Tiles, pieces: number, x: number, y: number): number | undefined {
  const column = Math.floor(x / tiles.tile);
  const row = Math.floor(y / tiles.tile);
  if (column < 0 || row < 0 || column >= tiles.columns) return undefined;
  const piece = (row * tiles.columns + column) * tiles.each;
  return piece < pieces ? piece : undefined;
}

export function paintMap(context: CanvasRenderingContext2D, width: number, height: number, map: PieceMap, look: Look, focus: number | undefined): Tiles {
  context.clearRect(0, 0, width, height);
  const tiles = tilesOf(map.pieces, width, height);
  const { columns, tile, each } = tiles;
  const gap = tile >= 48 ? 3 : tile >= 16 ? 2 : tile >= 7 ? 1 : 0.5;
  const side = tile - gap;
  for (let piece = 0; piece < map.pieces; piece += each) {
    const place = piece / each;
    const x = (place % columns) * tile;
    const y = Math.floor(place / columns) * tile;
    context.fillStyle = look.palette.line;
    context.globalAlpha = 0.6;
    context.fillRect(x, y, side, side);
    context.globalAlpha = 1;
    if (look.lens === 'source' && each === 1 && tile >= 9 && map.perPiece > 1) stripes(context, map, piece, x, y, side, side, look);
    else {
      const color = pieceColour(map, piece, look);
      if (color !== undefined) {
        context.fillStyle = color;
        // A piece of which a part is here is filled as far.
        const part = look.lens === 'source' && !map.isWhole(piece) ? partOf(map, piece) : 1;
        context.fillRect(x, y + side * (1 - part), side, side * part);
      }
      if (look.lens === 'rarity' && !map.isWhole(piece)) hollow(context, x, y, side, look.palette);
    }
  }
  if (focus !== undefined && focus < map.pieces) {
    const place = Math.floor(focus / each);
    context.strokeStyle = look.palette.text;
    context.lineWidth = 2;
    context.strokeRect((place % columns) * tile - gap / 2, Math.floor(place / columns) * tile - gap / 2, tile, tile);
  }
  return tiles;
}

/** The colour of a piece that `count` of the nodes have: the rarer the stronger, and of its own where nobody has it. */
export function rarityColour(palette: Palette, count: number, nodes: number): string {
  if (count <= 0) return palette.bad;
  return ramp(palette, nodes > 1 ? 1 - (count - 1) / (nodes - 1) : 0);
}

/** What of a row's height a piece takes that is not there. */
const LACKS = 0.25;

/** One row by rarity: each piece by how many nodes have it, at full height where it is here, and else at the foot. */
export function paintRarity(context: CanvasRenderingContext2D, x: number, y: number, width: number, height: number, pieces: number, has: (piece: number) => boolean, look: Look): void {
  context.fillStyle = look.palette.line;
  context.globalAlpha = 0.45;
  context.fillRect(x, y, width, height);
  context.globalAlpha = 1;
  const columns = Math.min(pieces, Math.max(1, Math.floor(width)));
  const wide = width / columns;
  const columnOf = (column: number): { color: string; here: boolean } => {
    // Of several pieces in one place the rarest shows.
    let rarest = Math.floor((column / columns) * pieces);
    const end = Math.floor(((column + 1) / columns) * pieces);
    for (let piece = rarest + 1; piece < end; piece += 1) if ((look.counts[piece] ?? 0) < (look.counts[rarest] ?? 0)) rarest = piece;
    return { color: rarityColour(look.palette, look.counts[rarest] ?? 0, look.nodes), here: has(rarest) };
  };
  let from = 0;
  while (from < columns) {
    const { color, here } = columnOf(from);
    let to = from + 1;
    for (; to < columns; to += 1) {
      const next = columnOf(to);
      if (next.color !== color || next.here !== here) break;
    }
    const high = here ? height : Math.max(1, height * LACKS);
    context.fillStyle = color;
    context.fillRect(x + from * wide, y + height - high, Math.max(1, (to - from) * wide), high);
    from = to;
  }
}

/** One row: the whole torrent from left to right. */
export function paintRow(context: CanvasRenderingContext2D, x: number, y: number, width: number, height: number, map: PieceMap, look: Look): void {
  context.fillStyle = look.palette.line;
  context.globalAlpha = 0.45;
  context.fillRect(x, y, width, height);
  context.globalAlpha = 1;
  const columns = Math.min(map.pieces, Math.max(1, Math.floor(width)));
  const wide = width / columns;
  let color: string | undefined;
  let from = 0;
  const flush = (to: number): void => {
    if (color !== undefined && to > from) {
      context.fillStyle = color;
      context.fillRect(x + from * wide, y, Math.max(1, (to - from) * wide), height);
    }
    from = to;
  };
  for (let column = 0; column < columns; column += 1) {
    const piece = Math.floor((column / columns) * map.pieces);
    const next = pieceColour(map, piece, look);
    if (next !== color) {
      flush(column);
      color = next;
    }
  }
  flush(columns);
}

function partOf(map: PieceMap, piece: number): number {
  const size = Math.min(map.of.piece_length, map.of.size - piece * map.of.piece_length);
  return size > 0 ? Math.min(1, (map.have[piece] ?? 0) / size) : 0;
}

function pieceColour(map: PieceMap, piece: number, look: Look): string | undefined {
  if (look.lens === 'rarity') return rarityColour(look.palette, look.counts[piece] ?? 0, look.nodes);
  const have = map.have[piece] ?? 0;
  if (have <= 0) return undefined;
  if (look.lens === 'time') return ramp(look.palette, 0.12 + 0.88 * share((map.last[piece] ?? 0) - look.from, look.to - look.from));
  return look.colours[(map.main[piece] ?? 0) - 1];
}

const share = (part: number, whole: number): number => (whole > 0 ? part / whole : 0);

function stripes(context: CanvasRenderingContext2D, map: PieceMap, piece: number, x: number, y: number, width: number, height: number, look: Look): void {
  const blocks = map.perPiece;
  const first = piece * blocks;
  const last = Math.min(blocks, Math.ceil(Math.min(map.of.piece_length, map.of.size - piece * map.of.piece_length) / map.of.block_length));
  let from = 0;
  while (from < last) {
    const source = map.source[first + from] ?? 0;
    let to = from + 1;
    while (to < last && map.source[first + to] === source) to += 1;
    const color = look.colours[source - 1];
    if (source !== 0 && color !== undefined) {
      context.fillStyle = color;
      context.fillRect(x, y + (from / last) * height, width, ((to - from) / last) * height);
    }
    from = to;
  }
}

function hollow(context: CanvasRenderingContext2D, x: number, y: number, side: number, palette: Palette): void {
  if (side < 6) return;
  context.fillStyle = palette.panel;
  context.fillRect(x + 2, y + 2, side - 4, side - 4);
}

export interface Cells {
  left: number;
  top: number;
  cell: number;
}

export function cellsOf(matrix: Matrix, width: number, height: number): Cells {
  const names = Math.max(matrix.takers.length, matrix.givers.length) <= 60;
  const left = names ? 108 : 12;
  const top = names ? 92 : 12;
  const cell = Math.min(44, (width - left - 4) / Math.max(1, matrix.givers.length), (height - top - 4) / Math.max(1, matrix.takers.length));
  return { left, top, cell: Math.max(2, cell) };
}

export function paintMatrix(
  context: CanvasRenderingContext2D,
  width: number,
  height: number,
  matrix: Matrix,
  palette: Palette,
  focus: { taker: number; giver: number } | undefined,
): Cells {
  context.clearRect(0, 0, width, height);
  const cells = cellsOf(matrix, width, height);
  const { left, top, cell } = cells;
  const most = Math.max(1, ...matrix.cells.map((row) => Math.max(0, ...row)));
  const gap = cell >= 8 ? 1.5 : 0;
  matrix.cells.forEach((row, y) => {
    row.forEach((bytes, x) => {
      const giver = matrix.givers[x];
      const self = giver?.key === matrix.takers[y];
      context.fillStyle = palette.line;
      context.globalAlpha = self ? 0.15 : 0.4;
      context.fillRect(left + x * cell, top + y * cell, cell - gap, cell - gap);
      context.globalAlpha = 1;
      if (bytes === 0) return;
      const strength = (bytes / most) ** 0.8;
      if (giver?.kind === 'origin') {
        context.globalAlpha = 0.25 + 0.75 * strength;
        context.fillStyle = palette.origin;
      } else context.fillStyle = ramp(palette, 0.18 + 0.82 * strength);
      context.fillRect(left + x * cell, top + y * cell, cell - gap, cell - gap);
      context.globalAlpha = 1;
    });
  });
  if (focus !== undefined) {
    context.strokeStyle = palette.text;
    context.lineWidth = 2;
    context.strokeRect(left + focus.giver * cell - 1, top + focus.taker * cell - 1, cell, cell);
  }
  if (left > 20 && cell >= 9) {
    context.textAlign = 'right';
    context.textBaseline = 'middle';
    context.font = `500 ${Math.min(12, Math.max(9, cell))}px Figtree, sans-serif`;
    matrix.takers.forEach((taker, y) => {
      context.fillStyle = focus?.taker === y ? palette.text : palette.dim;
      context.fillText(shown(taker, 15), left - 8, top + (y + 0.5) * cell);
    });
    matrix.givers.forEach((giver, x) => {
      context.save();
      context.translate(left + (x + 0.5) * cell, top - 8);
      context.rotate(-Math.PI / 3);
      context.textAlign = 'left';
      context.fillStyle = giver.kind === 'origin' ? palette.origin : focus?.giver === x ? palette.text : palette.dim;
      context.fillText(shown(giver.label, 15), 0, 0);
      context.restore();
    });
    context.textBaseline = 'alphabetic';
  }
  return cells;
}
