// Calls of a node's or a lab's API. Every call has a deadline, and every outcome is a value.

import { judge, type Check } from './check';
import { Events, Lines, texts } from './stream';

/** Where an API is: a base without a slash at its end (empty: where this page came from), and what it wants to see. */
export interface Place {
  base: string;
  token?: string | undefined;
}

export type Outcome<T> = { value: T } | Failure;
export interface Failure {
  error: string;
  /** The HTTP status; 0 where there was no answer. */
  status: number;
}

const DEADLINE_MS = 10_000;
const MOST_ANSWER = 64 * 1024 * 1024;
/** Streams say something at least every ten seconds. */
const SILENCE_MS = 35_000;

export interface Request {
  method?: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  json?: unknown;
  /** A body as it is, and its type. */
  raw?: { body: Blob; type: string };
  deadline?: number;
  signal?: AbortSignal;
}

/** A call whose answer is JSON of a known shape. */
export async function ask<T>(place: Place, path: string, check: Check<T>, request: Request = {}): Promise<Outcome<T>> {
  const answer = await send(place, path, request);
  if ('error' in answer) return answer;
  let value: unknown;
  try {
    value = JSON.parse(answer.value);
  } catch {
    return { status: 200, error: `${path}: the answer is no JSON: is this a Longshore node?` };
  }
  const judged = judge(check, value);
  return 'wrong' in judged
    ? { status: 200, error: `${path}: the answer cannot be understood: ${judged.wrong}` }
    : { value: judged.value };
}

/** A call whose answer is text, or nothing. */
export async function send(place: Place, path: string, request: Request = {}): Promise<Outcome<string>> {
  const deadline = AbortSignal.timeout(request.deadline ?? DEADLINE_MS);
  const signal = request.signal === undefined ? deadline : AbortSignal.any([deadline, request.signal]);
  try {
    const response = await open(place, path, { ...request, signal });
    const text = await bounded(response);
    return response.ok ? { value: text } : failure(response.status, text);
  } catch (error) {
    return unreachable(error, deadline.aborted);
  }
}

/** A call whose answer is a file, however long: the browser keeps it where it keeps files. */
export async function download(place: Place, path: string): Promise<Outcome<Blob>> {
  try {
    const response = await open(place, path, {});
    return response.ok ? { value: await response.blob() } : failure(response.status, await bounded(response));
  } catch (error) {
    return unreachable(error, false);
  }
}

/** A call whose answer is lines of JSON, as they come. */
export async function* lines(place: Place, path: string, request: Request): AsyncGenerator<Outcome<string>> {
  try {
    const response = await open(place, path, request);
    if (!response.ok || response.body === null) {
      yield failure(response.status, await bounded(response));
      return;
    }
    const cutter = new Lines();
    for await (const part of texts(response.body, SILENCE_MS)) for (const line of cutter.push(part)) yield { value: line };
    for (const line of cutter.end()) yield { value: line };
  } catch (error) {
    if (request.signal?.aborted !== true) yield unreachable(error, false);
  }
}

/** Server-sent events, until the connection ends: the data of each. */
export async function* events(place: Place, path: string, signal: AbortSignal): AsyncGenerator<Outcome<string>> {
  const parser = new Events();
  for await (const outcome of lines(place, path, { signal })) {
    if ('error' in outcome) {
      yield outcome;
      return;
    }
    const data = parser.push(outcome.value);
    if (data !== undefined) yield { value: data };
  }
}

async function open(place: Place, path: string, request: Request): Promise<Response> {
  const headers = new Headers();
  if (place.token !== undefined && place.token !== '') headers.set('Authorization', `Bearer ${place.token}`);
  let body: BodyInit | null = null;
  if (request.json !== undefined) {
    headers.set('Content-Type', 'application/json');
    body = JSON.stringify(request.json);
  } else if (request.raw !== undefined) {
    headers.set('Content-Type', request.raw.type);
    body = request.raw.body;
  }
  return fetch(place.base + path, {
    method: request.method ?? 'GET',
    headers,
    body,
    cache: 'no-store',
    credentials: 'omit',
    redirect: 'error',
    signal: request.signal ?? null,
  });
}

async function bounded(response: Response): Promise<string> {
  if (response.body === null) return '';
  let text = '';
  for await (const part of texts(response.body)) {
    text += part;
    if (text.length > MOST_ANSWER) throw new Error(`the answer is longer than ${MOST_ANSWER} bytes`);
  }
  return text;
}

function failure(status: number, text: string): Failure {
  let said = '';
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === 'object' && value !== null && 'error' in value && typeof value.error === 'string') {
      said = value.error.slice(0, 500);
    }
  } catch {
    said = '';
  }
  if (status === 401 || status === 403) return { status, error: said || 'the token is missing or wrong' };
  if (said !== '') return { status, error: said };
  if (status === 404 || status === 405 || status === 501) return { status, error: `this node cannot do that (${status})` };
  return { status, error: `the answer was ${status}` };
}

function unreachable(error: unknown, late: boolean): Failure {
  if (late) return { status: 0, error: 'no answer within 10 s' };
  const said = error instanceof Error ? error.message : String(error);
  return { status: 0, error: said === 'Failed to fetch' || said === '' ? 'cannot be reached' : said };
}
