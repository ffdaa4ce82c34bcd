// Paints the swarm: lines and hosts a few times a second onto a canvas of their own, what moves on every frame above it.

import { bytes, name as shown, rate } from './format';
import type { Layout, Spot } from './layout';
import type { Palette } from './palette';
import type { Flow, Host, Picture } from './picture';

/** More lines than these say nothing more. */
const MOST_IDLE = 900;
const MOST_ACTIVE = 420;
const MOST_DOTS = 620;
/** Bytes per second below which nothing is drawn to move. */
const LEAST_RATE = 1024;

interface Moving {
  origin: boolean;
  dim: boolean;
  ax: number;
  ay: number;
  bx: number;
  by: number;
  cx: number;
  cy: number;
  dots: number;
  /** Turns of the way per second. */
  pace: number;
  phase: number;
  /** The share of the way at each end that lies under a disc. */
  rim: number;
  size: number;
}

export interface Scene {
  picture: Picture;
  layout: Layout;
  palette: Palette;
  selected: string;
  hovered: string;
}

export class SwarmPainter {
  private moving: Moving[] = [];

  /** Paints what stands still. Gives back whether anything moves. */
  still(context: CanvasRenderingContext2D, width: number, height: number, scene: Scene): boolean {
    context.clearRect(0, 0, width, height);
    this.zones(context, scene);
    this.lines(context, scene);
    this.hosts(context, scene, width);
    return this.moving.length > 0;
  }

  /** Paints what moves, for a moment of the clock in milliseconds. */
  dots(context: CanvasRenderingContext2D, width: number, height: number, palette: Palette, now: number): void {
    context.clearRect(0, 0, width, height);
    for (const group of [0, 1, 2, 3]) {
      const origin = (group & 1) === 1;
      const dim = (group & 2) === 2;
      context.beginPath();
      let any = false;
      for (const way of this.moving) {
        if (way.origin !== origin || way.dim !== dim) continue;
        any = true;
        const base = (now / 1000) * way.pace + way.phase;
        for (let dot = 0; dot < way.dots; dot += 1) {
          const t = way.rim + ((base + dot / way.dots) % 1) * (1 - 2 * way.rim);
          const u = 1 - t;
          const x = u * u * way.ax + 2 * u * t * way.cx + t * t * way.bx;
          const y = u * u * way.ay + 2 * u * t * way.cy + t * t * way.by;
          context.rect(x - way.size / 2, y - way.size / 2, way.size, way.size);
        }
      }
      if (!any) continue;
      context.globalAlpha = dim ? 0.15 : 1;
      context.fillStyle = origin ? palette.origin : palette.peer;
      context.fill();
    }
    context.globalAlpha = 1;
  }

  private zones(context: CanvasRenderingContext2D, { layout, palette }: Scene): void {
    context.lineWidth = 1;
    for (const zone of layout.zones) {
      context.beginPath();
      context.ellipse(zone.x, zone.y, zone.rx, zone.ry, 0, 0, Math.PI * 2);
      context.strokeStyle = palette.line;
      context.fillStyle = palette.panel;
      context.globalAlpha = 0.5;
      context.fill();
      context.globalAlpha = 1;
      context.stroke();
      text(context, shown(zone.name, 24), zone.x, zone.y + 4, palette.dim, '600 13px Figtree, sans-serif');
    }
  }

  private lines(context: CanvasRenderingContext2D, { picture, layout, palette, selected, hovered }: Scene): void {
    const focus = hovered || selected;
    const idle: Flow[] = [];
    const active: Flow[] = [];
    for (const flow of picture.flows.values()) {
      if (!layout.spots.has(flow.from) || !layout.spots.has(flow.to)) continue;
      if (flow.rate >= LEAST_RATE) active.push(flow);
      else if (flow.bytes > 0) idle.push(flow);
    }
    idle.sort((a, b) => b.bytes - a.bytes);
    active.sort((a, b) => b.rate - a.rate);
    const touches = (flow: Flow): boolean => focus === '' || flow.from === focus || flow.to === focus;
    const drawn = idle.filter(touches).slice(0, MOST_IDLE);
    context.lineWidth = 1;
    context.strokeStyle = palette.faint;
    context.globalAlpha = focus !== '' ? 0.8 : Math.max(0.16, 0.55 - drawn.length / 1200);
    context.beginPath();
    for (const flow of drawn) curve(context, layout, flow);
    context.stroke();
    this.moving = [];
    const peak = Math.max(1, active[0]?.rate ?? 1);
    const shownActive = active.slice(0, MOST_ACTIVE);
    // What touches the host in focus is drawn whatever else is.
    if (focus !== '') for (const flow of active.slice(MOST_ACTIVE)) if (touches(flow)) shownActive.push(flow);
    let dots = MOST_DOTS;
    for (const flow of shownActive) {
      const strength = Math.sqrt(flow.rate / peak);
      const origin = picture.hosts.get(flow.from)?.role === 'origin';
      const dim = !touches(flow);
      context.strokeStyle = origin ? palette.origin : palette.peer;
      context.globalAlpha = dim ? 0.05 : 0.14 + strength * (shownActive.length > 150 ? 0.3 : 0.5);
      context.lineWidth = 0.8 + strength * 2.4;
      context.beginPath();
      curve(context, layout, flow);
      context.stroke();
      const way = this.way(layout, flow, origin, dim, strength, dots);
      if (way !== undefined) {
        this.moving.push(way);
        dots -= way.dots;
      }
    }
    context.globalAlpha = 1;
  }

  private way(layout: Layout, flow: Flow, origin: boolean, dim: boolean, strength: number, room: number): Moving | undefined {
    const ends = endsOf(layout, flow);
    if (ends === undefined || room <= 0) return undefined;
    const [a, b, cx, cy] = ends;
    const length = Math.hypot(a.x - b.x, a.y - b.y);
    const dots = Math.min(room, Math.max(1, Math.round((length / 90) * (0.4 + strength * 1.6))));
    // From rim to rim, about.
    const rim = Math.min(0.3, a.r / Math.max(1, length));
    const pace = (40 + strength * 130) / Math.max(40, length);
    return { origin, dim, ax: a.x, ay: a.y, bx: b.x, by: b.y, cx, cy, dots, pace, phase: phase(flow), rim, size: 2 + strength * 2.2 };
  }

  private hosts(context: CanvasRenderingContext2D, scene: Scene, width: number): void {
    const { picture, layout, palette, selected, hovered } = scene;
    const names = layout.gap >= 46;
    for (const host of picture.hosts.values()) {
      const spot = layout.spots.get(host.id);
      if (spot === undefined) continue;
      const marked = host.id === selected || host.id === hovered;
      glyph(context, host, spot, palette, host.id === selected);
      if (!names && !marked && host.role !== 'origin' && host.role !== 'tracker') continue;
      const below = spot.y + spot.r + 14;
      const size = layout.gap >= 70 || marked ? 12 : 11;
      const label = shown(host.label, marked ? 40 : 16);
      text(context, label, fit(context, label, spot.x, width), below, marked ? palette.text : palette.dim, `${marked ? 650 : 500} ${size}px Figtree, sans-serif`, palette.ground);
      const speed = host.node === undefined ? host.up : host.down;
      if (speed >= LEAST_RATE && (layout.gap >= 84 || marked)) {
        text(context, rate(speed), spot.x, below + 14, host.role === 'origin' ? palette.origin : palette.peer, '600 11px Figtree, sans-serif', palette.ground);
      } else if (marked && host.downTotal > 0) {
        text(context, bytes(host.downTotal), spot.x, below + 14, palette.dim, '500 11px Figtree, sans-serif', palette.ground);
      }
    }
  }
}

function fit(context: CanvasRenderingContext2D, label: string, x: number, width: number): number {
  const half = context.measureText(label).width / 2 + 4;
  return Math.max(half, Math.min(width - half, x));
}

function endsOf(layout: Layout, flow: Flow): [Spot, Spot, number, number] | undefined {
  const a = layout.spots.get(flow.from);
  const b = layout.spots.get(flow.to);
  if (a === undefined || b === undefined) return undefined;
  // The two directions bend differently, so that they lie beside one another.
  const pull = flow.from < flow.to ? 0.34 : 0.46;
  const mx = (a.cx + b.cx) / 2;
  const my = (a.cy + b.cy) / 2;
  const cx = ((a.x + b.x) / 2) * (1 - pull) + mx * pull;
  const cy = ((a.y + b.y) / 2) * (1 - pull) + my * pull;
  return [a, b, cx, cy];
}

function curve(context: CanvasRenderingContext2D, layout: Layout, flow: Flow): void {
  const ends = endsOf(layout, flow);
  if (ends === undefined) return;
  const [a, b, cx, cy] = ends;
  context.moveTo(a.x, a.y);
  context.quadraticCurveTo(cx, cy, b.x, b.y);
}

function phase(flow: Flow): number {
  let hash = 7;
  const key = flow.from + flow.to;
  for (let at = 0; at < key.length; at += 1) hash = (hash * 31 + key.charCodeAt(at)) % 9973;
  return hash / 9973;
}

function glyph(context: CanvasRenderingContext2D, host: Host, { x, y, r }: Spot, palette: Palette, selected: boolean): void {
  if (selected) {
    context.beginPath();
    context.arc(x, y, r + 6, 0, Math.PI * 2);
    context.strokeStyle = palette.accent;
    context.lineWidth = 2;
    context.stroke();
  }
  context.beginPath();
  if (host.role === 'tracker') polygon(context, x, y, r, 4, 0);
  else if (host.role === 'origin') polygon(context, x, y, r, 6, Math.PI / 6);
  else if (host.role === 'foreign') context.rect(x - r * 0.7, y - r * 0.7, r * 1.4, r * 1.4);
  else context.arc(x, y, r, 0, Math.PI * 2);
  context.fillStyle = palette.ground;
  context.fill();
  if (host.role === 'tracker' || host.role === 'origin') {
    context.fillStyle = host.role === 'origin' ? palette.origin : palette.panel;
    context.fill();
    context.lineWidth = 1.6;
    context.strokeStyle = host.problem !== undefined ? palette.bad : host.role === 'origin' ? palette.origin : palette.dim;
    context.stroke();
  } else if (host.role === 'foreign') {
    context.lineWidth = 1.4;
    context.strokeStyle = palette.dim;
    context.stroke();
  } else ring(context, host, x, y, r, palette);
  if (host.problem !== undefined) cross(context, x, y, r, palette);
}

function ring(context: CanvasRenderingContext2D, host: Host, x: number, y: number, r: number, palette: Palette): void {
  const width = Math.max(1.6, r * 0.26);
  const done = host.done ?? 0;
  const color = host.problem !== undefined ? palette.bad : done >= 1 ? palette.whole : palette.peer;
  context.lineWidth = width;
  context.strokeStyle = palette.line;
  if (host.problem !== undefined) context.setLineDash([3, 3]);
  context.beginPath();
  context.arc(x, y, r - width / 2, 0, Math.PI * 2);
  context.stroke();
  context.setLineDash([]);
  if (done > 0) {
    context.strokeStyle = color;
    context.beginPath();
    context.arc(x, y, r - width / 2, -Math.PI / 2, -Math.PI / 2 + Math.PI * 2 * done);
    context.stroke();
  }
  // Who has all of it is full, and a seeder of the lab wears a second ring: form says it too, not colour alone.
  if (done >= 1 && host.problem === undefined) {
    context.fillStyle = color;
    context.beginPath();
    context.arc(x, y, Math.max(1.2, r - width * 1.9), 0, Math.PI * 2);
    context.fill();
  }
  if (host.role === 'seeder') {
    context.lineWidth = 1.3;
    context.strokeStyle = color;
    context.beginPath();
    context.arc(x, y, r + 2.6, 0, Math.PI * 2);
    context.stroke();
  }
}

function cross(context: CanvasRenderingContext2D, x: number, y: number, r: number, palette: Palette): void {
  const s = Math.max(2.5, r * 0.36);
  context.strokeStyle = palette.bad;
  context.lineWidth = 2;
  context.beginPath();
  context.moveTo(x - s, y - s);
  context.lineTo(x + s, y + s);
  context.moveTo(x + s, y - s);
  context.lineTo(x - s, y + s);
  context.stroke();
}

function polygon(context: CanvasRenderingContext2D, x: number, y: number, r: number, sides: number, turn: number): void {
  for (let side = 0; side <= sides; side += 1) {
    const angle = turn + (side / sides) * Math.PI * 2;
    if (side === 0) context.moveTo(x + Math.cos(angle) * r, y + Math.sin(angle) * r);
    else context.lineTo(x + Math.cos(angle) * r, y + Math.sin(angle) * r);
  }
}

function text(context: CanvasRenderingContext2D, what: string, x: number, y: number, color: string, font: string, halo?: string): void {
  context.font = font;
  context.textAlign = 'center';
  if (halo !== undefined) {
    context.lineJoin = 'round';
    context.lineWidth = 3.5;
    context.strokeStyle = halo;
    context.strokeText(what, x, y);
  }
  context.fillStyle = color;
  context.fillText(what, x, y);
}
