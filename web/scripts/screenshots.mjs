// Pictures of every view, dark and light, wide and phone, from a recording that `test/synth.mjs` makes, or of a page that
// runs: `npm run screenshots -- [folder] [address]`.

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';

import { launch } from '../test/browser/browser.mjs';
import { mock } from '../test/mock.mjs';

const folder = process.argv[2] ?? 'screenshots';
const address = process.argv[3];
const only = process.env.ONLY?.split(',');

const server = address ? undefined : await mock({ skip: 16_000, synth: { nodes: 16, seeders: 2, torrents: 6, seconds: 60, cut: true, zones: [] } });
const url = address ?? server.url;
await mkdir(folder, { recursive: true });
const browser = await launch();

const VIEWS = {
  swarm: { hash: '#/swarm' },
  host: { hash: '#/swarm?node=host-05' },
  blocks: { hash: '#/blocks?node=host-05' },
  'blocks-rows': { hash: '#/blocks?show=rows' },
  'blocks-matrix': { hash: '#/blocks?show=matrix' },
  why: { hash: '#/why?node=host-05' },
  rates: { hash: '#/rates' },
  tables: { hash: '#/tables?tab=torrents' },
  images: { hash: '#/tables?tab=images' },
  settings: { hash: '#/settings' },
  log: { hash: '#/log' },
};

for (const [size, viewport] of Object.entries({ wide: { width: 1440, height: 900 }, phone: { width: 390, height: 844 } })) {
  for (const scheme of ['dark', 'light']) {
    const page = await browser.newPage({ viewport, colorScheme: scheme, deviceScaleFactor: size === 'phone' ? 2 : 1 });
    page.on('pageerror', (error) => console.error(`${size} ${scheme}: ${error}`));
    page.on('console', (message) => message.type() === 'error' && console.error(`${size} ${scheme}: ${message.text()}`));
    await page.goto(url);
    await page.waitForFunction(() => document.querySelectorAll('dd').length > 0);
    await page.waitForTimeout(2500);
    for (const [name, view] of Object.entries(VIEWS)) {
      if (only && !only.includes(name)) continue;
      await page.evaluate((hash) => { location.hash = hash; }, view.hash);
      await page.waitForTimeout(1200);
      await page.screenshot({ path: join(folder, `${name}-${size}-${scheme}.png`) });
    }
    await page.close();
  }
}
await browser.close();
await server?.close();
