// Frames per second of the swarm's picture, in headless Chromium, with a replay: `npm run bench -- [nodes] [torrents]`.
//
// A recording of so many nodes and torrents that move is made by test/synth.mjs, opened by the page as a user opens one,
// and played at speed 1. Then every animation frame of the page is counted for ten seconds, with the time between them.
// A frame is what the page's main thread and the software rasteriser of Chromium (no GPU) both came to an end with.

import { writeFile, rm, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { launch } from '../test/browser/browser.mjs';
import { mock } from '../test/mock.mjs';
import { ndjson, synth } from '../test/synth.mjs';

const nodes = Number(process.argv[2] ?? 200);
const torrents = Number(process.argv[3] ?? 50);
const views = (process.env.VIEWS ?? 'swarm,blocks?show=rows,blocks?show=map,rates').split(',');

const made = synth({ nodes, seeders: 4, torrents, pieces: 40, pieceLength: 2 ** 18, seconds: 26, rate: 3 * 2 ** 20, zones: [] });
const text = ndjson(made.records);
const seconds = (made.records.at(-1).at_ms - made.records[0].at_ms) / 1000;
console.log(`recording: ${nodes} nodes, ${torrents} torrents, ${made.records.length} records in ${seconds.toFixed(0)} s (${Math.round(made.records.length / seconds)}/s, ${(text.length / 2 ** 20).toFixed(0)} MiB)`);
const folder = await mkdtemp(join(tmpdir(), 'longshore-fps-'));
const file = join(folder, 'recording.ndjson');
await writeFile(file, text);

const server = await mock({ synth: { nodes: 2, torrents: 1, seconds: 1 } });
const browser = await launch();
try {
  const page = await browser.newPage({ viewport: { width: 1440, height: 900 } });
  page.on('pageerror', (error) => console.error(String(error)));
  await page.goto(server.url);
  const began = Date.now();
  await page.setInputFiles('input[type=file][aria-label="Recording"]', file);
  await page.getByRole('button', { name: 'Leave the recording' }).waitFor({ timeout: 120_000 });
  console.log(`opened in ${((Date.now() - began) / 1000).toFixed(1)} s`);
  for (const view of views) {
    await page.evaluate((hash) => { location.hash = hash; }, `#/${view}`);
    // From the seventh second on, where most of it moves.
    await page.evaluate(() => {
      const slider = document.querySelector('input[type=range]');
      slider.value = '7000';
      slider.dispatchEvent(new Event('input', { bubbles: true }));
    });
    await page.getByRole('button', { name: 'Play', exact: true }).click();
    await page.waitForTimeout(1500);
    const frames = await page.evaluate(
      () =>
        new Promise((resolve) => {
          const gaps = [];
          const from = performance.now();
          let last = from;
          const frame = (now) => {
            gaps.push(now - last);
            last = now;
            if (now - from < 10_000) requestAnimationFrame(frame);
            else resolve({ gaps, length: now - from });
          };
          requestAnimationFrame(frame);
        }),
    );
    const sorted = frames.gaps.slice().sort((a, b) => a - b);
    const at = (share) => sorted[Math.floor((sorted.length - 1) * share)].toFixed(1);
    const playing = await page.getByRole('button', { name: 'Pause', exact: true }).count();
    console.log(`${view}: ${((frames.gaps.length * 1000) / frames.length).toFixed(1)} frames/s; between frames ${at(0.5)} ms at the median, ${at(0.99)} ms at the 99th percentile, ${at(1)} ms at most${playing === 0 ? ' (the recording had ended)' : ''}`);
    const moment = await page.locator('.time').textContent();
    console.log(`  ended at ${moment?.trim()}`);
  }
} finally {
  await browser.close();
  await server.close();
  await rm(folder, { recursive: true, force: true });
}
