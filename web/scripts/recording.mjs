// The moving picture of the README: pulls in a real lab, in the views Swarm and Blocks. It raises labs of its own and removes
// them: `npm run recording -- [out.webp]`, with the binary (page inside) in LONGSHORE_BIN or in ../target/release, and
// ffmpeg. KEEP=1 keeps the frames, to look at.

import { execFile, spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { launch } from '../test/browser/browser.mjs';

const run = promisify(execFile);
const out = process.argv[2] ?? '../docs/pictures/pull.webp';
const binary = process.env.LONGSHORE_BIN ?? '../target/release/longshore';
const SIZE = { width: 1120, height: 700 };
// So large and so fast that a pull lasts some ten seconds.
const [CONTENT, RATE] = [16 * 2 ** 20, '16mbit'];
// Each view, and for how long, from the beginning of a pull in a lab where nobody has anything yet.
const SCENES = [
  { hash: '#/swarm', seconds: 6 },
  { hash: '#/blocks?show=rows', seconds: 9 },
];
const EVERY = 160;
const MOST = 2 * 2 ** 20;

const lab = (...rest) => run(binary, ['lab', ...rest, '--name', 'recording']);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

const folder = await mkdtemp(join(tmpdir(), 'longshore-recording-'));
const [frames, sources] = [join(folder, 'frames'), join(folder, 'sources')];
await mkdir(frames);
await mkdir(sources);
await writeFile(join(sources, 'disk.img'), randomBytes(CONTENT));
const list = [];

/** Films one pull, and notes each frame with its time. */
async function film(browser, scene) {
  const { stdout } = await lab('up', '--json', '--rate', RATE, '--page', '127.0.0.1:0', '--sources', sources);
  const page = await browser.newPage({ viewport: SIZE, colorScheme: 'dark' });
  await page.goto(new URL(scene.hash, JSON.parse(stdout).page).href);
  await page.waitForFunction(() => document.body.textContent.includes('disk.img'));
  await pause(1500);
  await lab('pull');
  const began = performance.now();
  while (performance.now() - began < scene.seconds * 1000) {
    const at = performance.now();
    const path = join(frames, `${String(list.length).padStart(4, '0')}.png`);
    await page.screenshot({ path });
    list.push({ path, at });
    await pause(Math.max(0, at + EVERY - performance.now()));
  }
  await page.close();
  await lab('down');
}

const browser = await launch();
try {
  for (const scene of SCENES) await film(browser, scene);
  // Each frame is shown until the next was taken, and the last of a scene for a moment.
  const lines = list.map(({ path, at }, number) => {
    const next = list[number + 1]?.at ?? at + 1500;
    return `file '${path}'\nduration ${(Math.min(next - at, 1500) / 1000).toFixed(3)}`;
  });
  await writeFile(join(frames, 'list'), `${lines.join('\n')}\nfile '${list.at(-1).path}'\n`);
  for (const quality of [70, 55, 40, 25]) {
    const made = spawnSync('ffmpeg', ['-y', '-loglevel', 'error', '-f', 'concat', '-safe', '0', '-i', join(frames, 'list'), '-vsync', 'vfr', '-c:v', 'libwebp_anim', '-quality', String(quality), '-compression_level', '6', '-loop', '0', out], { stdio: 'inherit' });
    if (made.status !== 0) throw new Error('ffmpeg failed: is it installed?');
    const { size } = await stat(out);
    console.log(`${out}: ${list.length} frames, ${(size / 1024).toFixed(0)} KiB at quality ${quality}`);
    if (size <= MOST) break;
  }
} finally {
  await browser.close();
  await lab('down').catch(() => undefined);
  if (process.env.KEEP) console.log(frames);
  else await rm(folder, { recursive: true });
}
