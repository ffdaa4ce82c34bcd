// Where in the page one is, in the address behind the `#`: a view, and what it is about.

export const VIEWS = ['swarm', 'blocks', 'why', 'rates', 'tables', 'settings', 'log'] as const;
export type View = (typeof VIEWS)[number];

/** How a view shows what it shows: it is as it was left when it is come back to. */
const HOW = new Set(['show', 'lens', 'by', 'way', 'tab']);

/** Reads `#/blocks?node=n1&of=…`. Whatever is no view is the first. */
export function parseHash(hash: string): { view: View; of: Map<string, string> } {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split('?', 2);
  const view = VIEWS.find((known) => known === path) ?? 'swarm';
  return { view, of: new Map(new URLSearchParams(query)) };
}

export function hashOf(view: View, of: ReadonlyMap<string, string>): string {
  const kept = [...of].filter(([, value]) => value !== '');
  return `#/${view}${kept.length > 0 ? `?${new URLSearchParams(kept).toString()}` : ''}`;
}

class Route {
  view = $state<View>('swarm');
  private of = $state.raw<ReadonlyMap<string, string>>(new Map());
  private readonly how = new Map<View, [string, string][]>();

  begin(): void {
    const read = (): void => {
      const { view, of } = parseHash(location.hash);
      this.view = view;
      this.is(of);
    };
    addEventListener('hashchange', read);
    read();
  }

  get(key: string): string {
    return this.of.get(key) ?? '';
  }

  /** Changes what the view is about, without a step in the history. */
  set(changes: Record<string, string>): void {
    this.is(new Map([...this.of, ...Object.entries(changes)]));
    history.replaceState(null, '', hashOf(this.view, this.of));
  }

  /** The address of another view that is about the same, and shows it as it did. */
  to(view: View, changes: Record<string, string> = {}): string {
    const kept = [...this.of].filter(([key]) => key === 'node' || key === 'of');
    return hashOf(view, new Map([...kept, ...(this.how.get(view) ?? []), ...Object.entries(changes)]));
  }

  private is(of: ReadonlyMap<string, string>): void {
    this.of = of;
    this.how.set(this.view, [...of].filter(([key]) => HOW.has(key)));
  }
}

export const route = new Route();
