// Views and actions against what is so: a lab that the program in LONGSHORE_BIN raises. As root its hosts have namespaces
// and links of their own; else they share the machine's loopback, and nothing can be cut.
//
// The tests build on one another: the lab is raised once.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { promisify } from 'node:util';

import { follow, hasNamespaces, lacking, layout, LONG, noise, program, raise, remove } from '../real.mjs';
import { Truth } from '../truth.mjs';
import { launch } from './browser.mjs';
import { button, go, load, open, pick, text, until } from './page.mjs';

const run = promisify(execFile);
const skip = lacking ?? false;
const linked = hasNamespaces();

const SEEDERS = ['s1', 's2', 's3'];
const LEECHERS = ['n1', 'n2'];
const IMAGE = 'lab.test/pictures:latest';
const bytes = { album: 3 << 20, film: (4 << 20) + 12_345, layers: [(3 << 20) + 1, 300_000, 20_000] };

let folder;
let browser;
let lab;
const truth = new Truth();
const stop = new AbortController();

before(async () => {
  if (lacking) return;
  folder = await mkdtemp(join(tmpdir(), 'longshore-real-'));
  const sources = join(folder, 'sources');
  await mkdir(join(sources, 'album/disc'), { recursive: true });
  await writeFile(join(sources, 'album/<b>one.bin'), noise(bytes.album / 2, 1));
  await writeFile(join(sources, 'album/disc/two.bin'), noise(bytes.album / 2, 2));
  await writeFile(join(sources, 'film.bin'), noise(bytes.film, 3));
  await layout(join(sources, 'pictures'), bytes.layers.map((length, at) => noise(length, 4 + at)));
  const counts = ['--seeders', String(SEEDERS.length), '--leechers', String(LEECHERS.length)];
  const words = [...counts, '--seed', 'each', '--sources', sources, '--rate', '200mbit', ...(linked ? ['--netns'] : [])];
  lab = await raise(program, `page${process.pid % 100_000}`, words);
  follow(`${lab.url}/lab/events`, stop.signal, (record) => truth.take(record)).catch((error) => {
    truth.broken = stop.signal.aborted ? undefined : error;
  });
  browser = await launch();
});

after(async () => {
  stop.abort();
  await browser?.close();
  await lab?.down();
  if (folder) await remove(folder);
});

const shown = (use, hash, more = {}) => open(browser, lab.url, use, { hash, ...more });
const host = async (name) => (await lab.state()).hosts.find((known) => known.name === name);
const content = async (name) => (await lab.state()).contents.find((known) => known.name === name);
const totals = async (name) => (await lab.ask(name, 'status')).totals;

/** Whether a node has all of the lab's contents, by its own word. */
async function hasAll(name) {
  const { contents } = await lab.state();
  const torrents = await lab.ask(name, 'torrents');
  const { blobs } = await lab.ask(name, 'blobs');
  const whole = (hash) => torrents.some((torrent) => torrent.info_hash === hash && torrent.bytes_done === torrent.size) || blobs.some((blob) => blob.info_hash === hash && blob.state === 'complete');
  return contents.length === 3 && contents.every((known) => known.torrents.length > 0 && known.torrents.every(whole));
}

/** The rows of a table, each as the texts of its cells. */
async function rows(page, label) {
  const all = await page.locator(`table[aria-label="${label}"] tbody tr`).all();
  return Promise.all(all.map(async (row) => (await row.locator('td').allInnerTexts()).map((cell) => cell.trim())));
}

/** Bytes by giver and taker, as the matrix's table has them. */
async function matrix(page) {
  const pairs = (await rows(page, 'Who gave whom')).filter((cells) => cells.length >= 4);
  return Object.fromEntries(pairs.map(([giver, taker, , sum]) => [`${giver} ${taker}`, Number(sum)]).sort());
}

/** How many frames the page asks for in two seconds. */
const frames = (page) =>
  page.evaluate(() => new Promise((resolve) => {
    const frame = window.requestAnimationFrame;
    let count = 0;
    window.requestAnimationFrame = (draw) => {
      count += 1;
      return frame.call(window, draw);
    };
    setTimeout(() => {
      window.requestAnimationFrame = frame;
      resolve(count);
    }, 2000);
  }));

/** Waits until an assertion holds: what is told, and what counts it, are a moment apart. */
const becomes = (check, why) => until(async () => (await check(), true), why, LONG);

async function matrixIsTrue(page, torrents) {
  await until(async () => {
    const want = truth.matrix(torrents);
    assert.deepEqual(await matrix(page), want);
    return Object.keys(want).length > 0;
  }, 'the table says what the events say, to the byte', LONG);
}

describe('a real lab', { skip }, () => {
  it('is shown as it is', () =>
    shown(async (page) => {
      await until(async () => (await lab.state()).contents.length === 3, 'contents are made', LONG);
      await button(page, 'Table').click();
      const { hosts } = await lab.state();
      await becomes(async () => assert.deepEqual((await rows(page, 'Hosts')).map(([name]) => name).sort(), hosts.map(({ name }) => name).sort()), 'every host has a row');
      for (const { name } of (await lab.state()).contents) await page.locator('.contents').getByText(name, { exact: true }).waitFor();
    }));

  it('has one node pull, and each byte is where the events and the counters of both ends say', () =>
    shown(async (page) => {
      await button(page, 'Pull again').click();
      await until(() => hasAll('n1'), 'n1 has all', LONG);
      await go(page, '#/blocks?show=matrix');
      await button(page, 'Table').click();
      await matrixIsTrue(page);

      // Each thing has one seeder, so nothing was asked for twice, and both ends have counted the same.
      const size = Object.fromEntries((await lab.state()).contents.map((known) => [known.name, known]));
      for (const name of ['album', 'film.bin']) {
        const [seeder] = size[name].seeders;
        await becomes(() => assert.equal(truth.matrix(new Set(size[name].torrents))[`${seeder} n1`], size[name].size), `${name} came from its seeder`);
      }
      for (const name of SEEDERS) {
        await becomes(async () => assert.equal((await totals(name)).to_peers, truth.matrix()[`${name} n1`] ?? 0), `${name} has counted the bytes that it gave`);
      }
      const given = () => SEEDERS.reduce((sum, name) => sum + (truth.matrix()[`${name} n1`] ?? 0), 0);
      await becomes(async () => assert.equal((await totals('n1')).from_peers, given()), 'n1 has counted the bytes that it was given');

      // Of one torrent, source by source, and from the node itself.
      const film = size['film.bin'];
      await pick(page, 'Torrent', 'film.bin');
      await matrixIsTrue(page, new Set(film.torrents));
      await becomes(async () => assert.deepEqual(truth.sumsOf(await lab.ask('n1', `torrents/${film.id}/provenance`)), truth.sums('n1', film.id)), 'the node says the same');
      await go(page, `#/blocks?torrent=${film.id}&node=n1`);
      const [torrent] = (await lab.ask('n1', 'torrents')).filter((known) => known.info_hash === film.id);
      await until(async () => (await page.locator('table[aria-label=Pieces]').getAttribute('aria-rowcount')) === String(torrent.pieces + 1), 'a row for each piece');
      await becomes(async () => assert.equal((await rows(page, 'Pieces'))[0]?.[1], film.seeders[0]), 'its first piece came from its seeder');
      await button(page, 'All nodes').click();
      const whole = new Set([film.seeders[0], 'n1']);
      await until(async () => {
        const table = Object.fromEntries((await rows(page, 'Nodes')).map(([name, pieces]) => [name, Number(pieces)]));
        return [...whole].every((name) => table[name] === torrent.pieces);
      }, 'who has it whole has all pieces');
    }, '#/swarm?node=n1'));

  it('has all pull, and still nothing is made up', () =>
    shown(async (page) => {
      await button(page, 'Pull', { exact: true }).click();
      await until(async () => (await Promise.all(LEECHERS.map(hasAll))).every(Boolean), 'all have all', LONG);
      await go(page, '#/blocks?show=matrix');
      await button(page, 'Table').click();
      await matrixIsTrue(page);
      // What came in the place of what a node had before is told anew, all of it.
      const hashes = (await lab.state()).contents.flatMap(({ torrents }) => torrents);
      for (const name of LEECHERS) {
        for (const hash of hashes) await becomes(async () => assert.deepEqual(truth.sums(name, hash), truth.sumsOf(await lab.ask(name, `torrents/${hash}/provenance`))), `${hash} on ${name} is told`);
      }
      await becomes(async () => {
        const all = truth.matrix();
        // Counted at both ends since the start; what is received in vain or lost with its connection was sent all the same.
        const counted = Object.fromEntries(await Promise.all([...SEEDERS, ...LEECHERS].map(async (name) => [name, await totals(name)])));
        const gave = (name) => Object.entries(all).reduce((sum, [key, more]) => sum + (key.startsWith(`${name} `) ? more : 0), 0);
        for (const [name, { to_peers }] of Object.entries(counted)) assert.ok(gave(name) <= to_peers, `${name} gave ${gave(name)} of ${to_peers}`);
        assert.equal(counted.n2.from_peers, [...SEEDERS, 'n1'].reduce((sum, name) => sum + (all[`${name} n2`] ?? 0), 0));
        // The image left the registry once.
        const { sent_bytes } = await host('registry');
        const holder = (await content(IMAGE)).seeders[0];
        assert.equal(all[`origin ${holder}`], sent_bytes);
        assert.deepEqual(Object.keys(all).filter((key) => key.startsWith('origin ')), [`origin ${holder}`]);
      }, 'both ends have counted the same');
      // When nothing moves any more, nothing is drawn.
      await go(page, '#/swarm');
      await page.getByRole('application').waitFor();
      await until(async () => (await frames(page)) < 20, 'the picture of a lab at rest stands still', LONG);
    }));

  it('tells why, and how fast, and what lies where', () =>
    shown(async (page) => {
      // Why: each blob of the image is a part, by the node's own traces.
      await page.locator('.bar').first().waitFor();
      const parts = new Set((await lab.ask('n2', 'traces?limit=200')).map((trace) => trace.digest));
      assert.ok(parts.size >= bytes.layers.length + 2);
      await button(page, 'Table').click();
      await until(async () => {
        const told = (await rows(page, 'Spans')).map(([part]) => part.split(' ').at(-1));
        return [...parts].every((digest) => told.includes(digest.slice(7, 19)));
      }, 'every part is told of');
      await until(async () => {
        const words = (await rows(page, 'Spans')).map(([part]) => part.split(' ')[0]);
        return words.includes('config') && words.includes('layer') && !words.includes('blob');
      }, 'parts are called what they are to the image');
      await page.getByLabel('Image to explain').fill(IMAGE);
      await button(page, 'Explain', { exact: true }).click();
      await button(page, 'Back to the pulls').waitFor();
      assert.equal(await page.getByRole('alert').count(), 0);

      // Rates: what a node has received in all is what it says.
      await go(page, '#/rates');
      await page.locator('.uplot canvas').waitFor();
      await until(async () => (await rows(page, 'Rates')).length === SEEDERS.length + LEECHERS.length, 'every node has a row');

      // Tables: torrents, images, peers, trackers and files as the node's API has them.
      await go(page, '#/tables?node=n2');
      const ordinary = (await lab.ask('n2', 'torrents')).filter((torrent) => torrent.digest === undefined);
      await until(async () => {
        const names = (await rows(page, 'Torrents')).map(([name]) => name);
        return ordinary.every((torrent) => names.includes(torrent.name));
      }, 'its torrents are shown');
      await go(page, '#/tables?node=n2&tab=images');
      const { blobs } = await lab.ask('n2', 'blobs');
      await until(async () => {
        const digests = (await rows(page, 'Images')).map(([digest]) => digest);
        return digests.length === blobs.length && blobs.every((blob) => digests.includes(blob.digest.slice(7, 19)));
      }, 'its blobs are shown');
      await go(page, '#/tables?node=n2&tab=trackers');
      await text(page, 'answers');
      const album = await content('album');
      await go(page, `#/tables?node=n2&tab=files&torrent=${album.id}`);
      const files = await lab.ask('n2', `torrents/${album.id}/files`);
      await until(async () => {
        const paths = (await rows(page, 'Files')).map(([file, done]) => `${file} ${done}`);
        return paths.length === files.length && files.every((file) => paths.includes(`${file.path} 100 %`));
      }, 'its files are shown');

      // Settings and log are the node's own.
      await go(page, '#/settings?node=n2');
      const settings = await lab.ask('n2', 'settings');
      const table = page.getByRole('table', { name: 'Configuration' });
      await table.getByText('data', { exact: true }).waitFor();
      await table.getByText(settings.data, { exact: true }).waitFor();
      await go(page, '#/log?node=n2');
      await page.locator('[role=log] li').first().waitFor();
    }, '#/why?node=n2'));

  it('is saved, and plays again to the same state', () =>
    shown(async (page) => {
      const [download] = await Promise.all([page.waitForEvent('download'), button(page, 'All of it').click()]);
      const saved = await readFile(await download.path(), 'utf8');
      assert.match(saved.split('\n')[0], /"kind":"hello"/);
      await load(page, folder, 'lab.ndjson', saved);
      await button(page, 'Leave the recording').waitFor();
      await page.getByLabel('Moment', { exact: true }).press('End');
      await button(page, 'Table').click();
      await matrixIsTrue(page);
      await page.getByLabel('Moment', { exact: true }).press('Home');
      await until(async () => Object.keys(await matrix(page)).length === 0, 'at the beginning nobody had given anything');
    }, '#/blocks?show=matrix'));

  it('really stops, kills, starts, limits and cuts', () =>
    shown(async (page) => {
      const answers = () => lab.ask('n2', 'status').then(({ peer_id }) => peer_id, () => undefined);
      const first = await answers();
      await button(page, 'Stop', { exact: true }).click();
      await until(async () => (await host('n2')).state === 'stopped' && (await answers()) === undefined, 'n2 answers no more');
      await button(page, 'Start', { exact: true }).click();
      await until(async () => (await host('n2')).state === 'running' && ![undefined, first].includes(await answers()), 'n2 answers anew', LONG);
      await button(page, 'Kill').click();
      await until(async () => (await host('n2')).state === 'killed' && (await answers()) === undefined, 'n2 is killed');
      await button(page, 'Start', { exact: true }).click();
      await until(async () => (await host('n2')).state === 'running' && (await hasAll('n2')), 'n2 has all that it had', LONG);

      await page.getByLabel('Speed of its link').fill('16mbit');
      await button(page, 'Limit').click();
      await until(async () => (await host('n2')).rate === 16_000_000, 'its link has the speed');
      if (!linked) {
        assert.deepEqual(await lab.ask('n2', 'limits'), { down: 2_000_000, up: 2_000_000 });
        await button(page, 'Cut its link').click();
        await text(page, 'without --netns');
        return;
      }
      const film = await content('film.bin');
      const bytesOf = async () => (await lab.ask('n2', 'torrents')).find((torrent) => torrent.info_hash === film.id)?.bytes_done;
      // Who is stopped on purpose in the middle of a pull is no problem.
      await button(page, 'Pull again').click();
      await button(page, 'Stop', { exact: true }).click();
      await until(async () => (await host('n2')).state === 'stopped', 'it is stopped', LONG);
      assert.deepEqual((await lab.state()).problems?.filter((words) => words.startsWith('n2 ')) ?? [], []);
      await button(page, 'Start', { exact: true }).click();
      await until(async () => (await host('n2')).state === 'running', 'it runs again', LONG);

      await button(page, 'Cut its link').click();
      await button(page, 'Heal its link').waitFor();
      await button(page, 'Pull again').click();
      await until(async () => (await bytesOf()) === 0, 'it has forgotten all, and is given nothing');
      await until(async () => (await lab.ask('n2', 'status')).trackers.some((tracker) => tracker.error !== undefined), 'its tracker is out of reach', LONG);
      assert.equal(await bytesOf(), 0);
      await button(page, 'Heal its link').click();
      await until(() => hasAll('n2'), 'healed, it gets all', LONG);
      // A little more than a second at 16 Mbit/s, and less than one at 200.
      const { runs } = await lab.ask('n2', `torrents/${film.id}/provenance`);
      const took = Math.max(...runs.map((one) => one.last_ms)) - Math.min(...runs.map((one) => one.first_ms));
      assert.ok(took > 1000, `${bytes.film} bytes in ${took} ms are too fast for its link`);
    }, '#/swarm?node=n2'));

  it('takes a torrent back by its magnet link', () =>
    shown(async (page) => {
      const film = await content('film.bin');
      const has = async () => (await lab.ask('n1', 'torrents')).find((torrent) => torrent.info_hash === film.id);
      const torrent = await fetch(`${lab.url}/lab/nodes/n1/v1/torrents/${film.id}/file`).then((answer) => answer.text());
      const [, length] = /8:announce(\d+):/.exec(torrent);
      const tracker = torrent.slice(torrent.indexOf(`8:announce${length}:`) + 11 + length.length).slice(0, Number(length));
      await page.getByLabel('Search', { exact: true }).fill('film.bin');
      await button(page, 'Remove film.bin').click();
      await page.getByLabel('Delete its files too').check();
      await button(page, 'Remove', { exact: true }).click();
      await until(async () => (await has()) === undefined, 'it is gone');
      await button(page, 'Torrent', { exact: true }).click();
      await page.getByLabel('Magnet links or addresses').fill(`magnet:?xt=urn:btih:${film.id}&tr=${encodeURIComponent(tracker)}`);
      await button(page, 'Add', { exact: true }).click();
      await until(async () => (await has())?.bytes_done === bytes.film, 'it is here again', LONG);
      await until(async () => (await rows(page, 'Torrents')).some(([name, state]) => name === 'film.bin' && state === 'seeding'), 'and shown');
    }, '#/tables?node=n1'));

  it('ends when it is said twice', () =>
    shown(async (page) => {
      await page.locator('.contents').getByText('album').waitFor();
      stop.abort();
      await button(page, 'End the lab').click();
      await button(page, 'End it').click();
      await until(() => access(lab.directory).then(() => false, () => true), 'nothing is left of it', LONG);
      if (linked) await until(async () => !(await run('ip', ['netns', 'list'])).stdout.includes(`lslab-page${process.pid % 100_000}-`), 'its namespaces are gone', LONG);
    }, '', { quiet: false }));
});
