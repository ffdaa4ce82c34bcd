// Paints the swarm: lines and hosts a few times a second onto a canvas of their own, what moves on every frame above it.

import { bytes, byName, name as shown, rate } from './format';
import { labelOf, labels, meet, type Label } from './labels';
import type { Layout, Spot } from './layout';
import type { Palette } from './palette';
import { isCut, isGone, type Flow, type Host, type Picture } from './picture';

/** More lines than these say nothing more. */
const MOST_IDLE = 700;
const MOST_ACTIVE = 400;
const MOST_DOTS = 600;
/** Of so many hosts the picture is a crowd: fewer lines say as much, and are painted in time without a GPU. */
const CROWD = 80;
/** Bytes per second below which nothing is drawn to move. */
const LEAST_RATE = 1024;
/** Hosts that stand closer than this have no names, but those that are looked at. */
const LEAST_GAP = 20;
const NAME = '500 12px Figtree, sans-serif';
const SMALL = '500 11px Figtree, sans-serif';
const MARKED = '650 12px Figtree, sans-serif';
const SPEED = '600 11px Figtree, sans-serif';

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
  /** Pairs of zones between which nothing goes. */
  cuts: readonly (readonly string[])[];
  layout: Layout;
  palette: Palette;
  selected: string;
  hovered: string;
}

export class SwarmPainter {
  private moving: Moving[] = [];
  private names: { layout: Layout; fonts: string; labels: Map<string, Label> } | undefined;

  /** Paints what stands still. Gives back whether anything moves. */
  still(context: CanvasRenderingContext2D, width: number, height: number, scene: Scene): boolean {
    context.clearRect(0, 0, width, height);
    this.zones(context, scene);
    this.lines(context, scene);
    this.cuts(context, scene);
    for (const host of scene.picture.hosts.values()) {
      const spot = scene.layout.spots.get(host.id);
      if (spot !== undefined) glyph(context, host, spot, scene.palette, host.id === scene.selected);
    }
    return this.moving.length > 0;
  }

  /** Paints what moves, for a moment of the clock in milliseconds. */
  dots(context: CanvasRenderingContext2D, width: number, height: number, palette: Palette, now: number): void {
    context.clearRect(0, 0, width, height);
    for (const group of [0, 1, 2, 3]) {
      const origin = (group & 1) === 1;
      const dim = (group & 2) === 2;
      context.globalAlpha = dim ? 0.15 : 1;
      context.fillStyle = origin ? palette.origin : palette.peer;
      for (const way of this.moving) {
        if (way.origin !== origin || way.dim !== dim) continue;
        const base = (now / 1000) * way.pace + way.phase;
        for (let dot = 0; dot < way.dots; dot += 1) {
          const t = way.rim + ((base + dot / way.dots) % 1) * (1 - 2 * way.rim);
          const u = 1 - t;
          const x = u * u * way.ax + 2 * u * t * way.cx + t * t * way.bx;
          const y = u * u * way.ay + 2 * u * t * way.cy + t * t * way.by;
          // Many small rectangles are painted faster than one path of them.
          context.fillRect(x - way.size / 2, y - way.size / 2, way.size, way.size);
        }
      }
    }
    context.globalAlpha = 1;
  }

  private zones(context: CanvasRenderingContext2D, { layout, palette }: Scene): void {
    context.lineWidth = 1;
    for (const zone of layout.zones) {
      context.beginPath();
      context.roundRect(zone.x - zone.rx, zone.y - zone.ry, zone.rx * 2, zone.ry * 2, 18);
      context.strokeStyle = palette.line;
      context.fillStyle = palette.panel;
      context.globalAlpha = 0.5;
      context.fill();
      context.globalAlpha = 1;
      context.stroke();
    }
  }

  /** A broken line from zone to zone, with the mark of a cut in its middle. */
  private cuts(context: CanvasRenderingContext2D, { cuts, layout, palette }: Scene): void {
    const zones = new Map(layout.zones.map((zone) => [zone.name, zone]));
    for (const [one = '', other = ''] of cuts) {
      const a = zones.get(one);
      const b = zones.get(other);
      if (a === undefined || b === undefined || a === b) continue;
      const [dx, dy] = [b.x - a.x, b.y - a.y];
      // It bends, and so passes a zone in between at its side.
      const at = (t: number): [number, number] => {
        const bend = 0.3 * t * (1 - t);
        return [a.x + dx * t + dy * bend, a.y + dy * t - dx * bend];
      };
      context.strokeStyle = palette.bad;
      context.lineWidth = 2;
      context.setLineDash([7, 6]);
      context.beginPath();
      context.moveTo(...at(0.25));
      for (let t = 0.3; t < 0.76; t += 0.05) context.lineTo(...at(t));
      context.stroke();
      context.setLineDash([]);
      cutMark(context, ...at(0.5), 9, Math.atan2(dy, dx), palette);
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
    const crowd = picture.hosts.size > CROWD ? 0.5 : 1;
    const drawn = idle.filter(touches).slice(0, MOST_IDLE * crowd);
    context.lineWidth = 1;
    context.strokeStyle = palette.faint;
    context.globalAlpha = focus !== '' ? 0.8 : Math.max(0.16, 0.55 - drawn.length / 1200);
    context.beginPath();
    for (const flow of drawn) curve(context, layout, flow);
    context.stroke();
    this.moving = [];
    const peak = Math.max(1, active[0]?.rate ?? 1);
    const shownActive = active.slice(0, MOST_ACTIVE * crowd);
    // What touches the host in focus is drawn whatever else is.
    if (focus !== '') for (const flow of active.slice(MOST_ACTIVE * crowd)) if (touches(flow)) shownActive.push(flow);
    const bundles = new Map<number, Flow[]>();
    let dots = MOST_DOTS * crowd;
    for (const flow of shownActive) {
      const strength = Math.sqrt(flow.rate / peak);
      const origin = picture.hosts.get(flow.from)?.role === 'origin';
      const dim = !touches(flow);
      const key = (origin ? 8 : 0) + (dim ? 4 : 0) + Math.min(3, Math.floor(strength * 4));
      const bundle = bundles.get(key) ?? [];
      bundle.push(flow);
      bundles.set(key, bundle);
      const way = this.way(layout, flow, origin, dim, strength, dots);
      if (way !== undefined) {
        this.moving.push(way);
        dots -= way.dots;
      }
    }
    // Lines of about one strength are one stroke.
    for (const [key, bundle] of bundles) {
      const strength = ((key & 3) + 0.5) / 4;
      context.strokeStyle = (key & 8) !== 0 ? palette.origin : palette.peer;
      context.globalAlpha = (key & 4) !== 0 ? 0.05 : 0.14 + strength * (shownActive.length > 150 ? 0.25 : 0.5);
      context.lineWidth = (0.8 + strength * 2.4) * (crowd === 1 ? 1 : 0.6);
      context.beginPath();
      for (const flow of bundle) curve(context, layout, flow);
      context.stroke();
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

  /** Paints names and speeds, above all else. */
  words(context: CanvasRenderingContext2D, width: number, height: number, scene: Scene): void {
    context.clearRect(0, 0, width, height);
    const { picture, layout, palette, selected, hovered } = scene;
    const placed = this.placed(context, scene, width, height);
    for (const zone of layout.zones) text(context, shown(zone.name, 24), zone.x - zone.rx + 34, zone.y - zone.ry + 20, palette.dim, '600 13px Figtree, sans-serif', palette.panel);
    // Names that are looked at stand above the others, which make way for them.
    const marked = [...new Set([hovered, selected])].flatMap((id) => {
      const host = picture.hosts.get(id);
      const spot = layout.spots.get(id);
      if (host === undefined || spot === undefined) return [];
      const label = shown(host.label, 40);
      context.font = MARKED;
      return [{ host, label, ...labelOf(spot, context.measureText(label).width, width, height) }];
    });
    for (const [id, label] of placed) {
      const host = picture.hosts.get(id);
      if (host === undefined || marked.some((one) => one.host.id === id || meet(one.box, label.box))) continue;
      text(context, shown(host.label, 18), label.x, label.y, palette.dim, layout.gap >= 70 ? NAME : SMALL, palette.ground);
      const speed = host.node === undefined ? host.up : host.down;
      if (speed >= LEAST_RATE && label.second !== undefined && layout.gap >= 84) {
        text(context, rate(speed), label.x, label.second, host.role === 'origin' ? palette.origin : palette.peer, SPEED, palette.ground);
      }
    }
    for (const { host, label, x, y, second } of marked) {
      text(context, label, x, y, palette.text, MARKED, palette.ground);
      const speed = host.node === undefined ? host.up : host.down;
      if (speed >= LEAST_RATE) text(context, rate(speed), x, second, host.role === 'origin' ? palette.origin : palette.peer, SPEED, palette.ground);
      else if (host.downTotal > 0) text(context, bytes(host.downTotal), x, second, palette.dim, SPEED, palette.ground);
    }
  }

  /** Where names stand; found anew only when hosts stand elsewhere. */
  private placed(context: CanvasRenderingContext2D, { picture, layout }: Scene, width: number, height: number): Map<string, Label> {
    const known = this.names;
    // Until the font is there names are of another width.
    const fonts = document.fonts.status;
    if (known?.layout === layout && known.fonts === fonts) return known.labels;
    const crowd = layout.gap < LEAST_GAP;
    const ranks = { origin: 0, tracker: 0, seeder: 1, leecher: 2, foreign: 3 };
    const hosts = [...picture.hosts.values()].filter((host) => !crowd || ranks[host.role] === 0);
    hosts.sort((a, b) => ranks[a.role] - ranks[b.role] || byName(a.id, b.id));
    context.font = layout.gap >= 70 ? NAME : SMALL;
    const wide = new Map(hosts.map((host) => [host.id, context.measureText(shown(host.label, 18)).width + 4]));
    const titles = layout.zones.map((zone) => ({ left: zone.x - zone.rx, right: zone.x - zone.rx + 68, top: zone.y - zone.ry, bottom: zone.y - zone.ry + 26 }));
    const found = labels(hosts.map((host) => host.id), layout.spots, (id) => wide.get(id) ?? 0, width, height, titles);
    this.names = { layout, fonts, labels: found };
    return found;
  }
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
  if (isCut(host)) cutMark(context, x + r * 0.75, y - r * 0.75, Math.max(3.5, r * 0.45), 0, palette);
  else if (host.problem !== undefined) cross(context, x, y, r, palette);
}

function ring(context: CanvasRenderingContext2D, host: Host, x: number, y: number, r: number, palette: Palette): void {
  const dead = isGone(host);
  const width = Math.max(1.6, r * 0.26);
  const done = host.done ?? 0;
  const color = dead ? palette.bad : done >= 1 ? palette.whole : palette.peer;
  context.lineWidth = width;
  context.strokeStyle = palette.line;
  if (dead) context.setLineDash([3, 3]);
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
  if (done >= 1 && !dead) {
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

/** Two strokes over a gap, across what leads along `angle`. */
function cutMark(context: CanvasRenderingContext2D, x: number, y: number, s: number, angle: number, palette: Palette): void {
  context.save();
  context.translate(x, y);
  context.rotate(angle);
  context.fillStyle = palette.ground;
  context.beginPath();
  context.arc(0, 0, s * 1.25, 0, Math.PI * 2);
  context.fill();
  context.strokeStyle = palette.bad;
  context.lineWidth = 2.2;
  context.beginPath();
  for (const side of [-0.4, 0.4]) {
    context.moveTo(s * (side - 0.35), s);
    context.lineTo(s * (side + 0.35), -s);
  }
  context.stroke();
  context.restore();
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
    const wide = context.measureText(what).width + 6;
    context.fillStyle = halo;
    context.globalAlpha = 0.7;
    context.beginPath();
    context.roundRect(x - wide / 2, y - 10.5, wide, 14, 4);
    context.fill();
    context.globalAlpha = 1;
    context.lineJoin = 'round';
    context.lineWidth = 3.5;
    context.strokeStyle = halo;
    context.strokeText(what, x, y);
  }
  context.fillStyle = color;
  context.fillText(what, x, y);
}
