// Pictures of the page. `npm run screenshots -- [folder] [address]`: of every view, dark and light, wide and phone, from
// a recording that `test/synth.mjs` makes, or of a page that runs. `npm run screenshots -- docs`: those of docs/pictures,
// of a lab that is raised for it and removed, with the binary (page inside) in LONGSHORE_BIN or in ../target/release.

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { launch } from '../test/browser/browser.mjs';
import { until } from '../test/browser/page.mjs';
import { mock } from '../test/mock.mjs';
import { hasNamespaces, json, layout, LONG, noise, raise } from '../test/real.mjs';

const VIEWS = {
  swarm: '#/swarm',
  host: '#/swarm?node=host-05',
  blocks: '#/blocks?node=host-05',
  'blocks-rows': '#/blocks?show=rows',
  'blocks-matrix': '#/blocks?show=matrix',
  why: '#/why?node=host-05',
  rates: '#/rates',
  tables: '#/tables?tab=torrents',
  images: '#/tables?tab=images',
  settings: '#/settings',
  log: '#/log',
};
const WIDE = { width: 1440, height: 900 };
const PHONE = { width: 390, height: 844 };

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function open(browser, url, viewport, colorScheme, name) {
  const page = await browser.newPage({ viewport, colorScheme, deviceScaleFactor: viewport === PHONE ? 2 : 1 });
  page.on('pageerror', (error) => console.error(`${name}: ${error}`));
  page.on('console', (message) => message.type() === 'error' && console.error(`${name}: ${message.text()}`));
  await page.goto(url);
  await page.waitForFunction(() => document.querySelectorAll('dd').length > 0);
  return page;
}

async function shoot(page, hash, path) {
  await page.evaluate((to) => { location.hash = to; }, hash);
  await pause(1200);
  await page.screenshot({ path });
}

/** Every view, of a page that runs or of a play. */
async function every(browser, folder, address) {
  const only = process.env.ONLY?.split(',');
  const server = address ? undefined : await mock({ skip: 12_000, synth: { nodes: 16, seeders: 2, torrents: 6, seconds: 240, rate: 7 * 2 ** 20, cut: true, zones: [] } });
  await mkdir(folder, { recursive: true });
  for (const [size, viewport] of [['wide', WIDE], ['phone', PHONE]]) {
    for (const scheme of ['dark', 'light']) {
      const page = await open(browser, address ?? server.url, viewport, scheme, `${size} ${scheme}`);
      await pause(2500);
      for (const [name, hash] of Object.entries(VIEWS)) {
        if (!only || only.includes(name)) await shoot(page, hash, join(folder, `${name}-${size}-${scheme}.png`));
      }
      await page.close();
    }
  }
  await server?.close();
}

/** The pictures of the documentation: ten leechers in the middle of a pull, and why it took as long as it did. */
async function ofDocs(browser, folder) {
  const sources = await mkdtemp(join(tmpdir(), 'longshore-pictures-'));
  await writeFile(join(sources, 'disk.img'), noise(24 << 20, 1));
  await layout(join(sources, 'demo'), [16 << 20, 5 << 20, 3 << 20, 700_000, 90_000].map((length, at) => noise(length, 2 + at)));
  const words = ['--rate', '20mbit', '--sources', sources, ...(hasNamespaces() ? ['--netns'] : [])];
  const lab = await raise(process.env.LONGSHORE_BIN ?? '../target/release/longshore', 'pictures', words);
  try {
    const wide = await open(browser, lab.url, WIDE, 'dark', 'wide');
    const phone = await open(browser, lab.url, PHONE, 'dark', 'phone');
    await until(async () => (await lab.state()).contents.every(({ seeders }) => seeders.length > 0), 'the seeders have all', LONG);
    const leechers = (await lab.state()).hosts.filter(({ kind }) => kind === 'leecher');
    await json(`${lab.url}/lab/actions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"action":"pull"}' }).catch((error) => {
      // There is nothing in the answer.
      if (!(error instanceof SyntaxError)) throw error;
    });
    const part = async ({ name }) => {
      const disk = (await lab.ask(name, 'torrents')).find((torrent) => torrent.name === 'disk.img');
      return (disk?.bytes_done ?? 0) / (disk?.size ?? 1);
    };
    await until(async () => Math.min(...(await Promise.all(leechers.map(part)))) >= 0.3, 'every leecher has some', LONG);
    await Promise.all([wide.screenshot({ path: join(folder, 'swarm.png') }), phone.screenshot({ path: join(folder, 'phone.png') })]);
    const image = (await lab.state()).contents.find(({ kind }) => kind === 'image');
    const disk = (await lab.state()).contents.find(({ kind }) => kind === 'torrent');
    await shoot(wide, `#/blocks?show=rows&torrent=${disk.id}`, join(folder, 'blocks-rows.png'));
    await shoot(wide, '#/blocks?show=matrix', join(folder, 'matrix.png'));
    const has = async ({ name }) => {
      const { blobs } = await lab.ask(name, 'blobs');
      return image.torrents.every((hash) => blobs.some((blob) => blob.info_hash === hash && blob.state === 'complete'));
    };
    await until(async () => (await Promise.all(leechers.map(has))).every(Boolean), 'all have the image', LONG);
    await shoot(wide, '#/why?node=n1', join(folder, 'why.png'));
  } finally {
    await lab.down();
    await rm(sources, { recursive: true });
  }
}

const browser = await launch();
try {
  if (process.argv[2] === 'docs') await ofDocs(browser, '../docs/pictures');
  else await every(browser, process.argv[2] ?? 'screenshots', process.argv[3]);
} finally {
  await browser.close();
}
