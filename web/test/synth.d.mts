export interface Synthetic {
  records: { node: string; at_ms: number; kind: string }[];
  torrents: { info_hash: string; name: string; size: number }[];
  nodes: string[];
}
export function synth(options?: Record<string, unknown>): Synthetic;
export function ndjson(records: readonly unknown[]): string;
