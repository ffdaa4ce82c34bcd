// Text that comes in parts, cut into lines and into server-sent events. Nothing grows without bound.

/** The longest line: a node with ten thousand torrents says all of them in one. */
export const MOST_LINE = 64 * 1024 * 1024;

/** Cuts a stream into lines, however its parts were cut. */
export class Lines {
  private parts: string[] = [];
  private length = 0;
  /** How many lines were too long, and thrown away. */
  overlong = 0;
  private skipping = false;

  constructor(private readonly most = MOST_LINE) {}

  *push(part: string): Generator<string> {
    let from = 0;
    for (;;) {
      const to = part.indexOf('\n', from);
      if (to === -1) break;
      const line = this.take(part.slice(from, to));
      if (line !== undefined) yield line;
      from = to + 1;
    }
    this.keep(from === 0 ? part : part.slice(from));
  }

  /** What stands behind the last line's end. */
  *end(): Generator<string> {
    const line = this.take('');
    if (line !== undefined && line !== '') yield line;
  }

  private take(last: string): string | undefined {
    this.keep(last);
    const line = this.parts.join('');
    const skipped = this.skipping;
    this.parts = [];
    this.length = 0;
    this.skipping = false;
    return skipped ? undefined : line.endsWith('\r') ? line.slice(0, -1) : line;
  }

  private keep(part: string): void {
    if (part === '' || this.skipping) return;
    this.length += part.length;
    this.parts.push(part);
    if (this.length > this.most) {
      this.overlong += 1;
      this.skipping = true;
      this.parts = [];
    }
  }
}

/** The data of server-sent events, from their lines (only what the nodes use of them: `data` and comments). */
export class Events {
  private data: string[] = [];

  /** The data of the event that ends with this line. */
  push(line: string): string | undefined {
    if (line === '') {
      if (this.data.length === 0) return undefined;
      const data = this.data.join('\n');
      this.data = [];
      return data;
    }
    if (line.startsWith('data:')) this.data.push(line.startsWith('data: ') ? line.slice(6) : line.slice(5));
    return undefined;
  }
}

/** The parts of a body as text; ends with an error when nothing comes for `silence` milliseconds. */
export async function* texts(body: ReadableStream<Uint8Array>, silence?: number): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  try {
    for (;;) {
      const part = await within(reader.read(), silence);
      if (part.done) break;
      yield decoder.decode(part.value, { stream: true });
    }
    yield decoder.decode();
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

async function within<T>(promise: Promise<T>, ms: number | undefined): Promise<T> {
  if (ms === undefined) return promise;
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`nothing came for ${Math.round(ms / 1000)} s`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
