// The page's one store: what speaks to it, what has come, which moment is shown. Views read `world.tick` (which grows a
// few times a second while anything changes) and then plain state; pictures draw from that state by themselves.

import { ask, download, events, send, type Outcome, type Place, type Request } from './client';
import { any, type Check } from './check';
import { LabStatus, type LabAction, type News } from './contract';
import { Fleet } from './fleet';
import { name as shown, byName, plural } from './format';
import { Colours, DARK, LIGHT, type Palette } from './palette';
import { checkFirst, parseRecord } from './recording';
import { Lines, texts } from './stream';
import { absent, RECENT_MS } from './picture';
import { Timeline } from './timeline';

export interface Further {
  url: string;
  token: string;
}

export interface Notice {
  id: number;
  key: string;
  text: string;
  bad: boolean;
  count: number;
}

export interface Speaker {
  key: string;
  label: string;
  state: 'asking' | 'live' | 'lost' | 'refused';
  error: string;
  further: boolean;
}

type Serves = 'asking' | 'node' | 'lab' | 'nothing';
type Theme = 'auto' | 'dark' | 'light';

const QUEUE_MOST = 20_000;
const FRAME_BUDGET_MS = 7;
/** A recording may be longer than what is kept of what is live. */
const FILE_MOST = 384 * 1024 * 1024;
const FILE_RECORDS = 1_500_000;
const TICK_MS = 140;
const SLOW_MS = 550;
const TOKEN = 'longshore.token';
const NODES = 'longshore.nodes';
const THEME = 'longshore.theme';

class World {
  serves = $state<Serves>('asking');
  /** Why nothing is there yet. */
  why = $state('');
  login = $state(false);
  tick = $state(0);
  /** Grows about twice a second while anything changes, and at once when nodes come or go, or another state is shown. */
  slow = $state(0);
  playing = $state<'live' | 'paused' | 'playing'>('live');
  speed = $state(1);
  cursor = $state(0);
  start = $state(0);
  end = $state(0);
  /** The name of the recording that is shown instead of what is live. */
  file = $state<string | undefined>();
  loading = $state<string | undefined>();
  notices = $state<Notice[]>([]);
  speakers = $state<Speaker[]>([]);
  further = $state<Further[]>([]);
  theme = $state<Theme>('auto');
  dark = $state(true);
  behind = $state(0);
  /** How many nodes are shown. */
  nodes = $state(0);
  /** What is shown. */
  fleet = new Fleet();
  readonly colours = new Colours();

  private live = new Timeline();
  private recorded: Timeline | undefined;
  private next = 0;
  private queue: { record: News; bytes: number; now: number }[] = [];
  private head = 0;
  private waiting: (() => void)[] = [];
  private scheduled = false;
  private lastFrame = 0;
  private lastTick = 0;
  private token = '';
  private places = new Map<string, Place>();
  private owners = new Map<string, string>();
  private stops = new Map<string, AbortController>();
  private noticed = 0;
  private slowFleet: Fleet | undefined;
  private slowShape = -1;
  private slowly: ReturnType<typeof setTimeout> | undefined;
  private later: ReturnType<typeof setTimeout> | undefined;
  private rested: ReturnType<typeof setTimeout> | undefined;

  get palette(): Palette {
    return this.dark ? DARK : LIGHT;
  }

  get timeline(): Timeline {
    return this.recorded ?? this.live;
  }

  /** Begins: asks what serves this page, and connects. */
  begin(): void {
    this.readStored();
    const media = matchMedia('(prefers-color-scheme: dark)');
    const look = (): void => this.setTheme(this.theme);
    media.addEventListener('change', look);
    look();
    document.addEventListener('visibilitychange', () => this.schedule());
    void this.findServer();
    for (const further of this.further) this.connectFurther(further);
  }

  setTheme(theme: Theme): void {
    this.theme = theme;
    this.dark = theme === 'auto' ? matchMedia('(prefers-color-scheme: dark)').matches : theme === 'dark';
    document.documentElement.dataset['theme'] = this.dark ? 'dark' : 'light';
    store(localStorage, THEME, theme === 'auto' ? undefined : theme);
    this.touch();
  }

  giveToken(token: string): void {
    this.token = token.trim();
    store(sessionStorage, TOKEN, this.token === '' ? undefined : this.token);
    this.login = false;
    void this.findServer();
  }

  addNode(further: Further): string | undefined {
    let url: URL;
    try {
      url = new URL(/^https?:\/\//.test(further.url) ? further.url : `http://${further.url}`);
    } catch {
      return `“${shown(further.url, 60)}” is no address: expected one like http://host:7070`;
    }
    if (!/^[\w.:[\]-]+$/.test(url.host)) return `“${shown(further.url, 60)}” is no address: expected one like http://host:7070`;
    const base = (url.origin + url.pathname).replace(/\/+$/, '');
    if (this.further.some((known) => known.url === base)) return `${base} is there already`;
    const added = { url: base, token: further.token.trim() };
    this.further = [...this.further, added];
    store(localStorage, NODES, JSON.stringify(this.further));
    this.connectFurther(added);
    return undefined;
  }

  removeNode(url: string): void {
    this.stops.get(url)?.abort();
    this.further = this.further.filter((known) => known.url !== url);
    store(localStorage, NODES, JSON.stringify(this.further));
    this.speakers = this.speakers.filter((speaker) => speaker.key !== url);
  }

  /** Names of the nodes that are shown, in the order of people. */
  names(): string[] {
    return [...this.fleet.nodes.keys()].sort(byName);
  }

  /** The first of these nodes that answers; where none does, the first. */
  first(names: readonly string[]): string {
    const away = absent(this.fleet);
    return names.find((name) => away.get(name) !== 'gone') ?? names[0] ?? '';
  }

  /** Where a node's API is; nowhere for those of a recording. */
  placeOf(node: string): Place | undefined {
    if (this.recorded !== undefined) return undefined;
    const owner = this.owners.get(node) ?? '';
    if (owner !== '' || this.serves !== 'lab') return this.places.get(owner);
    return { base: `/lab/nodes/${encodeURIComponent(node)}`, token: this.token };
  }

  async ask<T>(node: string, path: string, check: Check<T>, request: Request = {}): Promise<Outcome<T>> {
    const place = this.placeOf(node);
    if (place === undefined) return { status: 0, error: 'this is a recording: there is no node behind it to be asked' };
    return this.seen(await ask(place, path, check, request));
  }

  async send(node: string, path: string, request: Request): Promise<Outcome<string>> {
    const place = this.placeOf(node);
    if (place === undefined) return { status: 0, error: 'this is a recording: there is no node behind it to be told' };
    return this.seen(await send(place, path, request));
  }

  async act(action: LabAction): Promise<boolean> {
    if (this.serves !== 'lab' || this.recorded !== undefined) {
      this.say('There is no lab behind this.', true);
      return false;
    }
    const outcome = this.seen(
      await send({ base: '', token: this.token }, '/lab/actions', { method: 'POST', json: action, deadline: 30_000 }),
    );
    if ('error' in outcome) this.say(`The lab: ${outcome.error}`, true);
    return !('error' in outcome);
  }

  /** Says something to the user; what is said again is counted. */
  say(text: string, bad = false, key = text): void {
    const known = this.notices.find((notice) => notice.key === key);
    if (known !== undefined) {
      known.count += 1;
      known.text = text;
      return;
    }
    this.noticed += 1;
    const id = this.noticed;
    this.notices = [...this.notices.slice(-4), { id, key, text, bad, count: 1 }];
    setTimeout(() => this.unsay(id), bad ? 30_000 : 6000);
  }

  unsay(id: number): void {
    this.notices = this.notices.filter((notice) => notice.id !== id);
  }

  // The moment that is shown.

  pause(): void {
    if (this.playing === 'paused') return;
    if (this.playing === 'live') {
      this.fleet = this.timeline.head.snapshot();
      this.next = this.timeline.count;
      this.cursor = this.timeline.end;
    }
    this.playing = 'paused';
    this.touch();
  }

  play(): void {
    if (this.playing === 'playing') return;
    if (this.playing === 'live') this.pause();
    if (this.cursor >= this.timeline.end) this.seek(this.timeline.start);
    this.playing = 'playing';
    this.lastFrame = performance.now();
    this.schedule();
  }

  goLive(): void {
    this.playing = 'live';
    this.fleet = this.timeline.head;
    this.touch();
  }

  seek(at: number): void {
    const { timeline } = this;
    const to = Math.max(timeline.start, Math.min(timeline.end, at));
    const found = timeline.seek(to);
    this.fleet = found.fleet;
    this.next = found.next;
    this.cursor = to;
    if (this.playing === 'live') this.playing = 'paused';
    this.touch();
  }

  /** One record on or back. */
  step(by: 1 | -1): void {
    this.pause();
    const { timeline } = this;
    if (by === 1) this.seek(Math.max(timeline.timeOf(this.next), this.cursor + 1));
    else {
      const here = timeline.numberAt(this.cursor - 1) - 1;
      this.seek(Math.min(this.cursor - 1, timeline.timeOf(here)));
    }
  }

  async load(file: { name: string; stream(): ReadableStream<Uint8Array>; size: number }): Promise<void> {
    const timeline = new Timeline(FILE_MOST, FILE_RECORDS);
    const cutter = new Lines();
    let read = 0;
    let wrong = 0;
    let last = '';
    let first = true;
    let rested = performance.now();
    const take = (line: string): void => {
      const parsed = parseRecord(line);
      if (first && (parsed.record !== undefined || parsed.wrong !== undefined)) {
        checkFirst(parsed);
        first = false;
      }
      if (parsed.record !== undefined) {
        const problem = timeline.push(parsed.record, line.length);
        if (problem !== undefined) this.say(problem, true);
      } else if (parsed.wrong !== undefined) {
        wrong += 1;
        last = parsed.wrong;
      }
    };
    try {
      this.loading = 'Reading the recording…';
      for await (const part of texts(file.stream())) {
        read += part.length;
        for (const line of cutter.push(part)) {
          take(line);
          if (performance.now() - rested > 30) {
            this.loading = `Reading the recording: ${Math.min(99, Math.round((100 * read) / Math.max(1, file.size)))} %`;
            await new Promise((resolve) => setTimeout(resolve, 0));
            rested = performance.now();
          }
        }
      }
      for (const line of cutter.end()) take(line);
      if (first) throw new Error('The file is empty.');
      wrong += cutter.overlong;
      if (wrong > 0) this.say(`${plural(wrong, 'line')} of the recording could not be understood and ${wrong === 1 ? 'is' : 'are'} left out (${shown(last, 120)}).`, true);
      this.recorded = timeline;
      this.file = shown(file.name, 60);
      this.playing = 'paused';
      this.seek(timeline.start);
      this.play();
    } catch (error) {
      this.say(error instanceof Error ? error.message : String(error), true);
    } finally {
      this.loading = undefined;
    }
  }

  /** Leaves the recording, for what is live. */
  unload(): void {
    this.recorded = undefined;
    this.file = undefined;
    this.goLive();
  }

  download(): void {
    const parts: string[] = [];
    for (const line of this.timeline.lines()) parts.push(line);
    offer(new Blob(parts, { type: 'application/x-ndjson' }), `longshore-${new Date().toISOString().slice(0, 19).replace(/:/g, '')}.ndjson`);
  }

  /** The lab's own recording, from its beginning. */
  async downloadAll(): Promise<void> {
    const outcome = this.seen(await download({ base: '', token: this.token }, '/lab/recording'));
    if ('error' in outcome) this.say(`The recording: ${outcome.error}`, true);
    else offer(outcome.value, 'longshore-lab.ndjson');
  }

  // Who speaks.

  private async findServer(): Promise<void> {
    for (let tries = 0; ; tries += 1) {
      const here = { base: '', token: this.token };
      const lab = await ask(here, '/lab', LabStatus);
      if ('value' in lab) {
        this.serves = 'lab';
        this.enqueue({ node: 'lab', at_ms: Date.now(), kind: 'lab', ...lab.value }, 400);
        this.listen('', 'lab', here, '/lab/events', false);
        return;
      }
      if (lab.status === 401 || lab.status === 403) {
        this.login = true;
        return;
      }
      if (lab.status === 404 || lab.status === 405) {
        const node = await ask(here, '/v1/health', any);
        if ('error' in node && (node.status === 401 || node.status === 403)) {
          this.login = true;
          return;
        }
        this.serves = 'node';
        this.listen('', 'this node', here, '/v1/events', false);
        return;
      }
      this.serves = 'nothing';
      this.why = lab.error;
      await new Promise((resolve) => setTimeout(resolve, Math.min(15_000, 1000 * 2 ** Math.min(tries, 4))));
    }
  }

  private connectFurther(further: Further): void {
    this.listen(further.url, further.url, { base: further.url, token: further.token }, '/v1/events', true);
  }

  private listen(key: string, label: string, place: Place, path: string, further: boolean): void {
    this.stops.get(key)?.abort();
    const stop = new AbortController();
    this.stops.set(key, stop);
    this.places.set(key, place);
    this.speakers = [...this.speakers.filter((s) => s.key !== key), { key, label, state: 'asking', error: '', further }];
    void this.follow(key, label, place, path, stop.signal, further);
  }

  private async follow(key: string, label: string, place: Place, path: string, signal: AbortSignal, further: boolean): Promise<void> {
    const set = (state: Speaker['state'], error = ''): void => {
      const speaker = this.speakers.find((s) => s.key === key);
      if (speaker !== undefined) Object.assign(speaker, { state, error });
    };
    for (let wait = 1000; !signal.aborted; wait = Math.min(wait * 2, 15_000)) {
      let error = 'the connection ended';
      const names = new Set<string>();
      let rested = performance.now();
      for await (const outcome of events(place, path, signal)) {
        if ('error' in outcome) {
          error = outcome.error;
          if (outcome.status === 401 || outcome.status === 403) {
            set('refused', error);
            if (further) this.say(`${label}: ${error}`, true);
            else this.login = true;
            return;
          }
          break;
        }
        wait = 1000;
        set('live');
        const parsed = parseRecord(outcome.value);
        if (parsed.record !== undefined) {
          const record = this.renamed(key, parsed.record);
          names.add(record.node);
          this.enqueue(record, outcome.value.length);
        } else if (parsed.wrong !== undefined) {
          this.say(`${label}: a record could not be understood and is left out (${shown(parsed.wrong, 120)}).`, true, `wrong ${key}`);
        }
        // However much comes, frames are drawn and keys are heard in between.
        if (performance.now() - rested > FRAME_BUDGET_MS) {
          await new Promise((resolve) => setTimeout(resolve, 0));
          rested = performance.now();
        }
        while (this.queue.length - this.head > QUEUE_MOST && !signal.aborted) {
          await new Promise<void>((resolve) => this.waiting.push(resolve));
        }
      }
      if (signal.aborted) break;
      set('lost', error);
      this.say(`${label}: ${error}. Trying again.`, true, `lost ${key}`);
      for (const node of names) if (node !== 'lab') this.enqueue({ node, at_ms: Date.now(), kind: 'lost', error }, 100);
      await new Promise((resolve) => setTimeout(resolve, wait * (0.8 + Math.random() * 0.4)));
    }
  }

  /** Two nodes of one name are told apart by where they are. */
  private renamed(key: string, record: News): News {
    if (key === '' && this.serves === 'lab') {
      this.owners.set(record.node, '');
      return record;
    }
    const owner = this.owners.get(record.node);
    if (owner === undefined) this.owners.set(record.node, key);
    if (owner === undefined || owner === key) return record;
    const node = `${record.node} (${key === '' ? 'here' : key.replace(/^https?:\/\//, '')})`;
    this.owners.set(node, key);
    return { ...record, node };
  }

  private seen<T>(outcome: Outcome<T>): Outcome<T> {
    if ('error' in outcome && outcome.status === 401) this.login = true;
    return outcome;
  }

  // From what comes to what is shown, once a frame.

  private enqueue(record: News, bytes: number): void {
    // Clocks of nodes may disagree: what is live is put in the order of its coming.
    this.queue.push({ record, bytes, now: Date.now() });
    this.schedule();
  }

  private touch(): void {
    this.lastTick = 0;
    this.schedule();
  }

  private schedule(): void {
    if (this.scheduled) return;
    this.scheduled = true;
    if (document.hidden) setTimeout(() => this.frame(performance.now()), 500);
    else requestAnimationFrame((now) => this.frame(now));
  }

  private frame(now: number): void {
    this.scheduled = false;
    if (this.drain() && this.playing === 'live') {
      // What has just moved stands still when nothing more is heard of it.
      clearTimeout(this.rested);
      this.rested = setTimeout(() => this.touch(), RECENT_MS + TICK_MS);
    }
    if (this.playing === 'playing') this.move(now);
    this.lastFrame = now;
    if (now - this.lastTick >= TICK_MS) {
      this.lastTick = now;
      const { timeline } = this;
      if (this.playing === 'live') {
        this.fleet = timeline.head;
        this.cursor = timeline.end;
      }
      this.start = timeline.start;
      this.end = timeline.end;
      const left = this.queue.length - this.head;
      this.behind = left > QUEUE_MOST / 2 ? left : 0;
      this.nodes = this.fleet.nodes.size;
      if (this.fleet !== this.slowFleet || this.fleet.shape !== this.slowShape) this.slowDown();
      else this.slowly ??= setTimeout(() => this.slowDown(), SLOW_MS);
      this.tick += 1;
    } else if (this.playing !== 'playing') {
      // The last change must be shown too.
      this.later ??= setTimeout(() => {
        this.later = undefined;
        this.schedule();
      }, TICK_MS);
    }
    if (this.playing === 'playing' || this.queue.length > this.head) this.schedule();
  }

  private slowDown(): void {
    clearTimeout(this.slowly);
    this.slowly = undefined;
    this.slowFleet = this.fleet;
    this.slowShape = this.fleet.shape;
    this.slow += 1;
  }

  /** Takes in what came, for as long as a frame may take. Gives back whether anything had. */
  private drain(): boolean {
    const before = this.queue.length - this.head;
    const until = performance.now() + FRAME_BUDGET_MS;
    while (this.head < this.queue.length) {
      const entry = this.queue[this.head];
      this.head += 1;
      if (entry !== undefined) {
        const problem = this.live.push(entry.record, entry.bytes, entry.now);
        if (problem !== undefined) this.say(problem, true, problem.replace(/\d+/g, ''));
      }
      if ((this.head & 63) === 0 && performance.now() > until) break;
    }
    if (this.head === this.queue.length || this.head > QUEUE_MOST) {
      this.queue = this.queue.slice(this.head);
      this.head = 0;
    }
    if (this.queue.length - this.head < QUEUE_MOST / 2) for (const go of this.waiting.splice(0)) go();
    return before > 0;
  }

  /** The moment that is shown, on the clock of the timeline. */
  moment(): number {
    return this.playing === 'live' ? Date.now() : this.cursor;
  }

  private move(now: number): void {
    const { timeline } = this;
    // What was to come next may have been dropped meanwhile.
    if (this.next < timeline.first) this.seek(this.cursor);
    const to = Math.min(timeline.end, this.cursor + Math.min(250, Math.max(0, now - this.lastFrame)) * this.speed);
    this.next = timeline.advance(this.fleet, this.next, to, 4000);
    // Where there is more in a moment than a frame can take, the moment lasts longer.
    const due = timeline.timeOf(this.next);
    this.cursor = this.next < timeline.count && due <= to ? due : to;
    if (this.cursor >= timeline.end && this.next >= timeline.count) {
      if (this.recorded === undefined) this.goLive();
      else this.playing = 'paused';
      this.touch();
    }
  }

  private readStored(): void {
    try {
      this.token = sessionStorage.getItem(TOKEN) ?? '';
      const theme = localStorage.getItem(THEME);
      this.theme = theme === 'dark' || theme === 'light' ? theme : 'auto';
      const nodes: unknown = JSON.parse(localStorage.getItem(NODES) ?? '[]');
      if (Array.isArray(nodes)) {
        this.further = nodes.flatMap((entry: unknown) =>
          typeof entry === 'object' && entry !== null && 'url' in entry && typeof entry.url === 'string'
            ? [{ url: entry.url, token: 'token' in entry && typeof entry.token === 'string' ? entry.token : '' }]
            : [],
        );
      }
    } catch {
      this.say('This browser lets the page keep nothing: further nodes and the theme are forgotten at its end.', false);
    }
  }
}

function store(where: Storage, key: string, value: string | undefined): void {
  try {
    if (value === undefined) where.removeItem(key);
    else where.setItem(key, value);
  } catch {
    // A browser that keeps nothing has been told of at the start.
  }
}

function offer(blob: Blob, name: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export const world = new World();
