// A lab and nodes for the tests that are no play: raised by the program that LONGSHORE_BIN names.

import { execFile, spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { path } from './browser/browser.mjs';

const run = promisify(execFile);

/** The program under test, and why there can be none. */
export const program = process.env.LONGSHORE_BIN;
export const lacking = path() === undefined ? 'there is no Chromium here: install chromium' : program === undefined ? 'LONGSHORE_BIN names no program' : undefined;
if (lacking && process.env.CI) throw new Error(lacking);

/** In seconds, for what a slow, busy machine does at its own pace. */
export const LONG = 120;

/** Bytes that are the same at each run, and that nothing makes smaller. */
export function noise(length, seed) {
  const parts = [];
  for (let at = 0; at * 32 < length; at += 1) parts.push(createHash('sha256').update(`${seed} ${at}`).digest());
  return Buffer.concat(parts).subarray(0, length);
}

/** Whether hosts can have namespaces of their own here. */
export const hasNamespaces = () => process.getuid?.() === 0 && ['/usr/sbin/tc', '/sbin/tc', '/usr/bin/tc'].some((place) => existsSync(place));

/** Writes an OCI layout of an image with these layers. */
export async function layout(folder, layers) {
  const blobs = join(folder, 'blobs/sha256');
  await mkdir(blobs, { recursive: true });
  const put = async (bytes, mediaType) => {
    const hex = createHash('sha256').update(bytes).digest('hex');
    await writeFile(join(blobs, hex), bytes);
    return { mediaType, digest: `sha256:${hex}`, size: bytes.length };
  };
  const oci = 'application/vnd.oci.image';
  const config = await put(Buffer.from(JSON.stringify({ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [] } })), `${oci}.config.v1+json`);
  const parts = [];
  for (const layer of layers) parts.push(await put(layer, `${oci}.layer.v1.tar`));
  const manifest = await put(Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: `${oci}.manifest.v1+json`, config, layers: parts })), `${oci}.manifest.v1+json`);
  manifest.annotations = { 'org.opencontainers.image.ref.name': 'latest' };
  await writeFile(join(folder, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [manifest] }));
  await writeFile(join(folder, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
}

/** Raises a lab, and gives its page, its state and its end. */
export async function raise(program, name, words) {
  const { stdout } = await run(program, ['lab', 'up', '--name', name, '--json', '--page', '127.0.0.1:0', ...words]);
  const raised = JSON.parse(stdout);
  const url = raised.page.replace(/\/$/, '');
  return {
    url,
    directory: raised.directory,
    /** The lab's own state. */
    state: () => json(`${url}/lab`),
    /** What a node's API says. */
    ask: (node, call) => json(`${url}/lab/nodes/${node}/v1/${call}`),
    /** Ends it, where it has not been ended. */
    down: () => existsSync(raised.directory) && run(program, ['lab', 'down', '--name', name]),
  };
}

export async function json(url, init) {
  const answer = await fetch(url, init);
  if (!answer.ok) throw new Error(`${url}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

/** Records of a stream of events, as they come, until `signal`. */
export async function follow(url, signal, tell) {
  const answer = await fetch(url, { signal });
  const decoder = new TextDecoder();
  let rest = '';
  for await (const part of answer.body) {
    const lines = (rest + decoder.decode(part, { stream: true })).split('\n');
    rest = lines.pop();
    for (const line of lines) if (line.startsWith('data:')) tell(JSON.parse(line.slice(5)));
  }
}

async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Starts a node by itself whose API asks for a token, with its files in `folder`. */
export async function node(program, folder, token) {
  const port = await freePort();
  await mkdir(join(folder, 'files'), { recursive: true });
  await writeFile(join(folder, 'token'), `${token}\n`);
  const quoted = (name) => JSON.stringify(join(folder, name));
  const config = [
    'name = "alone"', `data = ${quoted('data')}`, 'trackers = []',
    '[peer]', 'listen = "127.0.0.1:0"', '[mirror]', 'listen = ["127.0.0.1:0"]',
    '[api]', `socket = ${quoted('api.sock')}`, `listen = ["127.0.0.1:${port}"]`, `token_file = ${quoted('token')}`,
    '[torrents]', `folder = ${quoted('files')}`,
  ];
  const path = join(folder, 'node.toml');
  await writeFile(path, config.join('\n'));
  const child = spawn(program, ['--log', 'warn', 'node', '--config', path], { stdio: ['ignore', 'ignore', 'inherit'] });
  const ended = new Promise((resolve) => child.on('exit', resolve));
  const url = `http://127.0.0.1:${port}`;
  const headers = { authorization: `Bearer ${token}` };
  return {
    url,
    pid: child.pid,
    files: join(folder, 'files'),
    ask: (call) => json(`${url}/v1/${call}`, { headers }),
    kill: async () => { child.kill('SIGKILL'); await ended; },
    stop: async () => { child.kill('SIGTERM'); await ended; },
  };
}

export const remove = (folder) => rm(folder, { recursive: true, force: true });
