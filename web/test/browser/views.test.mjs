// Every view and every action, in Chromium, against a lab that test/mock.mjs plays, and what only a play can do: hostile
// names, floods, old nodes. What is so at a real lab stands in real.test.mjs.

import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { mock } from '../mock.mjs';
import { ndjson, synth } from '../synth.mjs';
import { Truth } from '../truth.mjs';
import { complaints } from './access.mjs';
import { launch, path } from './browser.mjs';
import { button, go, load as loaded, open as opened, pick, text, until } from './page.mjs';

const lacking = path() === undefined ? 'there is no Chromium here: install chromium' : undefined;
if (lacking && process.env.CI) throw new Error(lacking);
const skip = lacking ?? false;

const made = synth({ nodes: 8, torrents: 4, pieces: 60, seconds: 120, rate: 5 * 2 ** 20, cut: false });
let server;
let browser;
let folder;

before(async () => {
  if (lacking) return;
  folder = await mkdtemp(join(tmpdir(), 'longshore-page-'));
  browser = await launch();
  server = await mock({ records: made.records, skip: 12_000 });
});

after(async () => {
  await browser?.close();
  await server?.close();
  if (folder) await rm(folder, { recursive: true, force: true });
});

/** Opens the mock's page, or another. */
const open = (use, { url = server.url, ...more } = {}) => opened(browser, url, use, more);
const load = (page, name, content) => loaded(page, folder, name, content);

describe('the swarm', { skip }, () => {
  it('shows hosts and what moves, and asks nobody else', () =>
    open(async (page, asked) => {
      await text(page, 'Have everything');
      await until(async () => !/^0 B/.test(await page.locator('dd').nth(1).innerText()), 'bytes from peers are shown');
      const origin = new URL(page.url()).origin;
      assert.deepEqual(asked.filter((url) => !url.startsWith(origin)), []);
      assert.ok(asked.filter((url) => url.includes('/events')).length === 1, 'one stream');
    }));

  it('is walked by keys, and told as a table', () =>
    open(async (page) => {
      await until(async () => /[1-9]/.test(await page.locator('dd').nth(3).innerText()), 'nodes are there');
      await page.getByRole('application').focus();
      await page.keyboard.press('ArrowRight');
      await page.getByRole('region', { name: /^Host / }).or(page.locator('section.host')).first().waitFor();
      await page.keyboard.press('Escape');
      await page.locator('section.host').waitFor({ state: 'detached' });
      // Also from within what is told of a host.
      await page.keyboard.press('ArrowRight');
      await button(page, 'Close').focus();
      await page.keyboard.press('Escape');
      await page.locator('section.host').waitFor({ state: 'detached' });
      await button(page, 'Table').click();
      await page.getByRole('table', { name: 'Hosts' }).waitFor();
      await page.getByRole('button', { name: 'Receives' }).click();
      await page.locator('th[aria-sort=descending]', { hasText: 'Receives' }).waitFor();
    }));

  it('shows one content by itself', () =>
    open(async (page) => {
      await until(async () => !/^0 B/.test(await page.locator('dd').nth(1).innerText()), 'bytes are shown');
      const whole = await page.locator('dd').nth(1).innerText();
      const { contents } = await (await fetch(`${server.url}/lab`)).json();
      await pick(page, 'Showing', contents.at(1)?.name ?? contents[0].name);
      await until(async () => (await page.locator('dd').nth(1).innerText()) !== whole, 'the figures are of that alone');
      assert.match(page.url(), /of=/);
    }, { hash: '' }));
});

describe('the lab', { skip }, () => {
  it('cuts, heals, stops, starts, kills and limits a host', () =>
    open(async (page) => {
      const leecher = async () => (await (await fetch(`${server.url}/lab`)).json()).hosts.find((host) => host.kind === 'leecher');
      const { name } = await leecher();
      await page.evaluate((hash) => { location.hash = hash; }, `#/swarm?node=${name}`);
      await button(page, 'Cut its link').click();
      await button(page, 'Heal its link').click();
      await button(page, 'Cut its link').waitFor();
      await button(page, 'Stop', { exact: true }).click();
      await button(page, 'Start', { exact: true }).click();
      await button(page, 'Kill').click();
      await button(page, 'Start', { exact: true }).click();
      await page.getByLabel('Speed of its link').fill('20mbit');
      await button(page, 'Limit').click();
      await until(async () => (await leecher()).rate === 20_000_000, 'its link has the speed');
      await page.getByLabel('Speed of its link').fill('quick');
      await button(page, 'Limit').click();
      await text(page, 'is no speed');
    }));

  it('adds nodes and pulls again', () =>
    open(async (page) => {
      const count = async () => (await (await fetch(`${server.url}/lab`)).json()).hosts.length;
      const before = await count();
      await page.getByLabel('How many').fill('2');
      await button(page, 'Add', { exact: true }).click();
      await until(async () => (await count()) === before + 2, 'two more hosts');
      await button(page, 'Pull', { exact: true }).click();
      await until(() => server.actions.some((action) => action.action === 'pull'), 'all are told to');
    }));

  it('says what traffic it makes, and its fields say the same until others are filled in', () =>
    open(async (page) => {
      const pulls = page.getByLabel('Pulls a minute');
      const deaths = page.getByLabel('Deaths a minute');
      const set = (wanted) => until(async () => (await pulls.inputValue()) === wanted[0] && (await deaths.inputValue()) === wanted[1], `the fields say ${wanted}`);
      await set(['0', '0']);
      await pulls.fill('3');
      await text(page, 'The lab makes none.');
      await button(page, 'Set').click();
      await text(page, 'The lab makes 3 pulls a minute.');
      // Somebody else sets it.
      await fetch(`${server.url}/lab/actions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify({ action: 'churn', pulls_per_minute: 10, churn_per_minute: 1 }) });
      await text(page, 'The lab makes 10 pulls a minute and 1 death a minute.');
      await set(['10', '1']);
      await pulls.fill('0');
      await deaths.fill('0');
      await button(page, 'Set').click();
      await text(page, 'The lab makes none.');
      await set(['0', '0']);
    }));

  it('calls those gone who are, and counts them no more', async () => {
    const own = await mock({ records: made.records, skip: 12_000 });
    try {
      await opened(browser, own.url, async (page) => {
        const figure = () => page.locator('dd').nth(3).innerText();
        await until(async () => /of\s8/.test(await figure()), 'all are counted');
        const panel = page.getByRole('region', { name: 'The lab' });
        assert.equal(await panel.locator('s').count(), 0);
        await fetch(`${own.url}/lab/actions`, { method: 'POST', headers: { 'content-type': 'application/json' }, body: '{"action":"kill","host":"seed-1"}' });
        await panel.locator('s', { hasText: 'seed-1' }).first().waitFor();
        await panel.getByText('8 nodes, 1 of them gone').waitFor();
        await until(async () => /of\s7/.test(await figure()), 'the dead one is not counted');
        await go(page, '#/swarm?node=host-1');
        await page.locator('.partners s', { hasText: 'seed-1' }).waitFor();
        await go(page, '#/tables');
        const rows = page.locator('table[aria-label=Torrents] tbody tr', { hasText: 'seed-1' });
        await rows.locator('s').first().waitFor();
        await rows.getByText('its node is gone').first().waitFor();
        assert.equal(await rows.locator('td.act button').count(), 0);
        await go(page, '#/tables?tab=peers');
        await page.locator('table[aria-label=Peers] s', { hasText: 'seed-1' }).first().waitFor();
      });
    } finally {
      await own.close();
    }
  });

  it('tells its latest problems, and the others when asked', async () => {
    const own = await mock({ records: made.records, skip: 12_000 });
    try {
      await opened(browser, own.url, async (page) => {
        const panel = page.getByRole('region', { name: 'The lab' });
        await panel.waitFor();
        const lab = await (await fetch(`${own.url}/lab`)).json();
        const problems = [1, 2, 3, 4, 5].map((at) => `problem ${at}`);
        own.shout(`data: ${JSON.stringify({ ...lab, node: 'lab', at_ms: Date.now(), kind: 'lab', problems })}\n\n`);
        await panel.getByText('3 earlier problems').waitFor();
        for (const at of [1, 2, 3, 4, 5]) assert.equal(await panel.getByText(`problem ${at}`, { exact: true }).isVisible(), at > 3);
        await panel.getByText('3 earlier problems').click();
        await panel.getByText('problem 1', { exact: true }).waitFor();
      });
    } finally {
      await own.close();
    }
  });

  it('ends only when it is said twice', () =>
    open(async (page) => {
      await button(page, 'End the lab').click();
      await button(page, 'Leave it').click();
      assert.ok(!server.actions.some((action) => action.action === 'down'));
      await button(page, 'End the lab').click();
      await button(page, 'End it').click();
      await until(() => server.actions.some((action) => action.action === 'down'), 'it is told to end');
    }));
});

describe('blocks', { skip }, () => {
  it('tell piece, peer, time and size to the pointer and to keys, under every lens', () =>
    open(async (page) => {
      await button(page, /^\S+, [\d.]+ \S+, [\d<. ]+ %$/).first().waitFor();
      await page.getByRole('application').focus();
      for (const lens of ['Source', 'Rarity', 'Time']) {
        await button(page, lens).click();
        await page.getByRole('application').focus();
        await page.keyboard.press('ArrowRight');
        await page.locator('.said', { hasText: /Piece \d+.*of.*nodes have it/s }).waitFor();
        await page.keyboard.press('Escape');
      }
      await page.getByRole('application').hover({ position: { x: 20, y: 20 } });
      await page.locator('.said', { hasText: 'Piece 0' }).waitFor();
    }, { hash: '#/blocks' }));

  it('of all nodes stand side by side, and who gave whom is a matrix', () =>
    open(async (page) => {
      await button(page, 'All nodes').click();
      await page.getByRole('application').focus();
      await page.keyboard.press('ArrowDown');
      await page.locator('.said', { hasText: /Piece \d+ on / }).waitFor();
      await button(page, 'Who gave whom').click();
      await page.getByRole('application').focus();
      await page.keyboard.press('ArrowRight');
      await page.locator('.said', { hasText: '→' }).waitFor();
      for (const [show, table] of [['Who gave whom', 'Who gave whom'], ['All nodes', 'Nodes'], ['One node', 'Pieces']]) {
        await button(page, show).click();
        if ((await button(page, 'Table').count()) > 0) await button(page, 'Table').click();
        await page.getByRole('table', { name: table }).waitFor();
      }
    }, { hash: '#/blocks' }));

  it('of a recording sum up to exactly what it says', () =>
    open(async (page) => {
      const small = synth({ nodes: 4, seeders: 1, torrents: 2, pieces: 20, seconds: 14 });
      await load(page, 'sums.ndjson', ndjson(small.records));
      await button(page, 'Leave the recording').waitFor();
      const slider = page.getByLabel('Moment', { exact: true });
      await slider.press('End');
      await page.evaluate(() => { location.hash = '#/blocks?show=matrix'; });
      await button(page, 'Table').click();
      await pick(page, 'Torrent', small.torrents[0].name.slice(0, 12));
      const truth = new Truth();
      small.records.forEach((record) => truth.take(record));
      const want = truth.matrix(new Set([small.torrents[0].info_hash]));
      await until(async () => {
        const rows = await page.locator('table[aria-label="Who gave whom"] tbody tr').allInnerTexts();
        const have = Object.fromEntries(rows.map((row) => row.split('\t').map((cell) => cell.trim())).map(([giver, taker, , sum]) => [`${giver} ${taker}`, Number(sum)]));
        return rows.length > 0 && JSON.stringify(Object.entries(have).sort()) === JSON.stringify(Object.entries(want).sort());
      }, 'the table says what the records say, to the byte');
    }));
});

describe('why', { skip }, () => {
  it('shows a pull as bars, and as a table', () =>
    open(async (page) => {
      const { contents } = await (await fetch(`${server.url}/lab`)).json();
      if (!contents.some((content) => content.kind === 'image')) return text(page, 'No pull yet');
      await page.locator('.bar').first().waitFor();
      // The pull may go on meanwhile, and its bars move.
      await until(async () => {
        await page.locator('.bar').first().focus();
        return await page.locator('.told', { hasText: /tag|directory|lease|peers|origin|checked|client/ }).count() > 0;
      }, 'the bar tells what it is');
      await button(page, 'Table').click();
      await page.getByRole('table', { name: 'Spans' }).waitFor();
    }, { hash: '#/why' }));

  it('gives each pull an entry of its own, also of the same content', async () => {
    const at = (ms) => Date.UTC(2026, 4, 4, 9, 30) + ms;
    const span = (kind, from, to, more = {}) => ({ kind, from_ms: at(from), to_ms: at(to), ...more });
    const head = { node: 'n1', at_ms: at(0) };
    const home = 'r.example/app';
    // The node got it by itself; then two clients at once, and none of its layers' lengths is known.
    const manifest = [span('tag', 1000, 1003, { note: '1.2' }), span('tag', 60_000, 60_004, { note: '1.2' }), span('tag', 60_001, 60_004, { note: '1.2' })];
    const layer = [span('swarm', 1010, 3010, { bytes: 5000 }), span('client', 60_010, 60_100, { bytes: 5000 }), span('client', 60_012, 60_212, { bytes: 5000 })];
    const records = [
      { ...head, kind: 'hello', format: 1, version: '0.1.0' },
      { ...head, kind: 'status', status: { node: 'n1', version: '0.1.0', uptime: 1, totals: {} } },
      { ...head, kind: 'trace', digest: `sha256:${'a'.repeat(64)}`, home, what: 'manifest', began_ms: at(1003), ended_ms: at(1009), spans: manifest },
      { ...head, kind: 'trace', digest: `sha256:${'b'.repeat(64)}`, home, what: 'blob', began_ms: at(1010), ended_ms: at(3010), spans: layer },
    ];
    const twice = await mock({ mode: 'node', records });
    try {
      await open(async (page) => {
        await text(page, 'by a client');
        const pull = page.locator('.pick > button', { hasText: 'Pull' });
        await pull.click();
        const entries = page.getByRole('listbox', { name: 'Pull' }).getByRole('option');
        await until(async () => (await entries.count()) === 4, 'the latest, and three pulls');
        const told = (await entries.allInnerTexts()).slice(1).map((entry) => entry.replace(/\d+:\d+:\d+/, 'then').split('\n').map((line) => line.trim()));
        assert.deepEqual(told, [
          ['r.example/app:1.2', 'then by a client · 2 parts, 4.88 KiB in 99 ms'],
          ['r.example/app:1.2', 'then by a client · 2 parts, 4.88 KiB in 212 ms'],
          ['r.example/app:1.2', 'then by the node’s API · 2 parts, 4.88 KiB in 2.01 s'],
        ]);
        const labels = async () => (await page.locator('.label').allInnerTexts()).join(' ');
        assert.ok(!/(^|\n)\s*·/.test(await labels()), 'no line begins with a dot');
        await page.locator('.label .what', { hasText: 'layer' }).waitFor();
        await entries.nth(3).click();
        await page.locator('.headline', { hasText: '2.01 s for 2 parts, mostly swarm' }).waitFor();
        await text(page, 'by the node’s API');
      }, { url: twice.url, hash: '#/why' });
    } finally {
      await twice.close();
    }
  });

  it('explains a reference, and says so where it cannot', () =>
    open(async (page) => {
      await page.locator('.bar').first().waitFor();
      await page.getByLabel('Image to explain').fill('registry.lab/fleet/unknown:1');
      await button(page, 'Explain', { exact: true }).click();
      await text(page, 'knows nothing of');
      assert.equal(await page.locator('.headline, .fall').count(), 0, 'no other pull stands below');
      await page.getByLabel('Image to explain').fill('registry.lab/fleet/atlas:1');
      await button(page, 'Explain', { exact: true }).click();
      await page.locator('.what', { hasText: 'manifest' }).first().waitFor();
      await button(page, 'Back to the pulls').click();
    }, { hash: '#/why' }));
});

describe('rates', { skip }, () => {
  it('are drawn of nodes, torrents and peers', () =>
    open(async (page) => {
      await page.locator('.uplot canvas').waitFor();
      for (const by of ['Torrents', 'Peers', 'Nodes']) {
        await button(page, by, { exact: true }).click();
        await page.getByRole('table', { name: 'Rates' }).waitFor();
        await page.locator('.uplot canvas').waitFor();
      }
      await button(page, 'From the origin').click();
      await button(page, 'Table').click();
      await page.locator('.uplot').waitFor({ state: 'detached' });
    }, { hash: '#/rates' }));

  it('are of what was chosen, in the picture and in the table, and still when one comes back', () =>
    open(async (page) => {
      // No new record may draw anything: the choice alone does.
      await page.locator('.uplot canvas').waitFor();
      await button(page, 'Pause').click();
      const drawn = () => page.locator('.uplot canvas').evaluate((canvas) => canvas.toDataURL());
      const told = () => page.locator('table[aria-label=Rates] tbody').innerText();
      const before = { picture: new Map(), table: new Map() };
      for (const way of ['Received', 'Given', 'From the origin']) {
        await button(page, way, { exact: true }).click();
        await until(async () => ![...before.picture.values()].includes(await drawn()), `the picture is of ${way} alone`);
        await until(async () => ![...before.table.values()].includes(await told()), `the table is of ${way} alone`);
        before.picture.set(way, await drawn());
        before.table.set(way, await told());
      }
      for (const view of ['Swarm', 'Rates']) await page.getByRole('link', { name: view, exact: true }).click();
      await page.locator('button[aria-pressed=true]', { hasText: 'From the origin' }).waitFor();
    }, { hash: '#/rates' }));
});

describe('tables', { skip }, () => {
  it('are searched and sorted', () =>
    open(async (page) => {
      const rows = page.locator('table[aria-label=Torrents] tbody tr');
      await rows.first().waitFor();
      await page.getByLabel('Search', { exact: true }).fill('nothing has this name');
      await text(page, 'Nothing matches');
      await page.getByLabel('Search', { exact: true }).fill('');
      await page.getByRole('button', { name: 'Size' }).click();
      await page.locator('th[aria-sort=descending]', { hasText: 'Size' }).waitFor();
      for (const tab of ['Images', 'Peers', 'Trackers', 'Files', 'Torrents']) await button(page, new RegExp(`^${tab}`)).first().click();
    }, { hash: '#/tables' }));

  it('start, stop, verify, limit and remove a torrent', () =>
    open(async (page) => {
      const title = made.torrents[1].name;
      const called = (method, end) => until(() => server.calls.some((call) => call.method === method && call.path.includes(end)), `${method} …${end}`);
      await page.getByLabel('Search', { exact: true }).fill(title);
      await button(page, `Stop ${title}`).first().click();
      await called('POST', `${made.torrents[1].info_hash}/stop`);
      await button(page, `Verify ${title}`).first().click();
      await called('POST', '/verify');
      await button(page, `Limits of ${title}`).first().click();
      await page.getByLabel('Receive at most').fill('2 MiB');
      await button(page, 'Set').click();
      await called('PATCH', made.torrents[1].info_hash);
      assert.deepEqual(server.calls.findLast((call) => call.method === 'PATCH').body, { down: 2_097_152, up: 0 });
      await button(page, `Remove ${title}`).first().click();
      await button(page, 'Keep it').click();
      await button(page, `Remove ${title}`).first().click();
      await page.getByLabel('Delete its files too').check();
      await button(page, 'Remove', { exact: true }).click();
      await called('DELETE', '?data=true');
      const stopped = { ...made.records.find((r) => r.kind === 'torrents').changed.find((t) => !t.digest), info_hash: 'ee'.repeat(20), name: 'halted.img', state: 'stopped' };
      server.shout(`data: ${JSON.stringify({ node: made.nodes[0], at_ms: Date.now(), kind: 'torrents', changed: [stopped] })}\n\n`);
      await page.getByLabel('Search', { exact: true }).fill('stopped');
      await button(page, /^Start /).first().click();
      await called('POST', '/start');
    }, { hash: '#/tables?tab=torrents' }));

  it('take torrents by file and by link, and pull images', () =>
    open(async (page) => {
      await button(page, 'Torrent', { exact: true }).click();
      await page.getByLabel('Magnet links or addresses').fill('magnet:?xt=urn:btih:abc\nhttps://h.example/x.torrent');
      const file = join(folder, 'some.torrent');
      await writeFile(file, 'd4:infode');
      await page.getByLabel('Torrent files').setInputFiles(file);
      await button(page, 'Add', { exact: true }).click();
      await text(page, '3 torrents are added');
      const added = server.calls.filter((call) => call.path.includes('/v1/torrents?start=true'));
      assert.deepEqual(added.map((call) => call.body ?? call.type), ['application/x-bittorrent', { magnet: 'magnet:?xt=urn:btih:abc' }, { url: 'https://h.example/x.torrent' }]);
      await button(page, 'Pull an image').click();
      await page.getByLabel('Reference').fill('r.example/missing:1');
      await button(page, 'Pull', { exact: true }).click();
      await text(page, 'has no such image');
      await page.getByLabel('Reference').fill('r.example/app:1');
      await button(page, 'Pull', { exact: true }).click();
      await text(page, 'from peers');
      await text(page, 'are here');
    }, { hash: '#/tables' }));

  it('of 0, 1 and 10,000 torrents read well', async () => {
    const hash = (at) => at.toString(16).padStart(40, '0');
    for (const count of [0, 1, 10_000]) {
      const changed = Array.from({ length: count }, (_, at) => ({ info_hash: hash(at), name: `content ${at}`, size: 1000 + at, bytes_done: at % 1000, pieces: 1, pieces_done: 0, peers: 0, down_bytes: 0, up_bytes: 0, down_rate: 0, up_rate: 0 }));
      const status = { node: 'n1', version: '0.1.0', uptime: 1, totals: {} };
      const records = [{ node: 'n1', at_ms: 1, kind: 'hello', format: 1, version: '0.1.0' }, { node: 'n1', at_ms: 1, kind: 'status', status }, { node: 'n1', at_ms: 2, kind: 'torrents', all: true, changed }];
      const many = await mock({ mode: 'node', records });
      try {
        await open(async (page) => {
          if (count === 0) await text(page, 'No torrent yet');
          else {
            await page.locator('table[aria-label=Torrents] tbody tr').first().waitFor();
            assert.ok((await page.locator('table[aria-label=Torrents] tbody tr').count()) < 80);
            await until(async () => (await page.locator('table[aria-label=Torrents]').getAttribute('aria-rowcount')) === String(count + 1), 'each torrent has a row');
          }
          for (const view of ['swarm', 'blocks', 'why', 'rates']) {
            await page.evaluate((to) => { location.hash = to; }, `#/${view}`);
            await page.locator('h1').waitFor();
          }
        }, { url: many.url, hash: '#/tables?tab=torrents' });
      } finally {
        await many.close();
      }
    }
  });
});

describe('settings and log', { skip }, () => {
  it('change the theme, show the configuration, and set limits', () =>
    open(async (page) => {
      for (const theme of ['light', 'dark']) {
        await button(page, theme === 'light' ? 'Light' : 'Dark', { exact: true }).click();
        await until(async () => (await page.evaluate(() => document.documentElement.dataset.theme)) === theme, theme);
      }
      await page.getByRole('table', { name: 'Configuration' }).getByText('content.stall_seconds').waitFor();
      await button(page, 'Change').click();
      await page.getByLabel('Give at most').fill('1 MiB');
      await button(page, 'Set').click();
      await text(page, '1.00 MiB/s');
    }, { hash: '#/settings' }));

  it('show a further node, which is kept', async () => {
    const other = await mock({ mode: 'node', records: synth({ nodes: 3, torrents: 1, seconds: 5, lab: false }).records.map((r) => ({ ...r, node: `far-${r.node}` })), skip: 5000 });
    try {
      await open(async (page) => {
        await page.getByLabel('Address of a node').fill('not an address at all');
        await button(page, 'Add the node').click();
        await text(page, 'is no address');
        await page.getByLabel('Address of a node').fill(other.url);
        await button(page, 'Add the node').click();
        await page.locator('li', { hasText: other.url }).getByText('answers').waitFor();
        await page.reload();
        await page.locator('li', { hasText: other.url }).getByText('answers').waitFor();
        await button(page, `Remove ${other.url}`).click();
      }, { hash: '#/settings' });
    } finally {
      await other.close();
    }
  });

  it('the log is searched', () =>
    open(async (page) => {
      await page.locator('[role=log] li').first().waitFor();
      const told = await page.locator('[role=log] li bdi').allTextContents();
      assert.deepEqual(told.filter((line) => /INFO|2026/.test(line)), [], 'time and level stand there once');
      await page.getByLabel('Search the log').fill('tracker');
      await page.locator('[role=log] li', { hasText: 'did not answer' }).first().waitFor();
      await page.getByLabel('Least level').selectOption('error');
      await text(page, 'Nothing matches');
    }, { hash: '#/log' }));
});

describe('time', { skip }, () => {
  it('is paused, stepped, scrubbed, played at any speed, and live again', () =>
    open(async (page) => {
      await page.waitForTimeout(1500);
      await button(page, 'Pause').click();
      const at = () => page.locator('.time').innerText();
      const paused = await at();
      await button(page, 'Step back').click();
      await button(page, 'Step on').click();
      await page.getByLabel('Moment', { exact: true }).press('Home');
      await until(async () => (await at()).startsWith('0:00.0'), 'it is at the beginning');
      await page.getByLabel('Speed', { exact: true }).selectOption('16');
      await button(page, 'Play').click();
      await until(async () => !(await at()).startsWith('0:00.0'), 'it moves');
      await button(page, 'Live').click();
      await page.locator('.live[aria-pressed=true]').waitFor();
      assert.ok(paused.length > 0);
    }));

  it('is saved, and opened again', () =>
    open(async (page) => {
      await until(async () => /[1-9]/.test(await page.locator('dd').nth(3).innerText()), 'nodes are there');
      const [download] = await Promise.all([page.waitForEvent('download'), button(page, 'Save recording').click()]);
      const saved = await readFile(await download.path(), 'utf8');
      assert.match(saved.split('\n')[0], /"kind":"hello"/);
      await load(page, 'saved.ndjson', saved);
      await button(page, 'Leave the recording').click();
      await page.locator('.live').waitFor();
    }));

  it('in which nobody can be told anything offers nothing of the kind, and knows the blobs that moved', () =>
    open(async (page) => {
      await load(page, 'past.ndjson', ndjson(made.records));
      await button(page, 'Leave the recording').waitFor();
      await page.getByLabel('Moment', { exact: true }).press('End');
      await page.locator('table[aria-label=Torrents] tbody tr').first().waitFor();
      for (const name of ['Torrent', 'Pull an image']) assert.ok(await button(page, name, { exact: true }).isDisabled(), name);
      assert.equal(await page.locator('td.act button').count(), 0);
      await go(page, '#/tables?tab=images&node=host-1');
      const digests = new Set(made.records.filter(({ node, kind }) => node === 'host-1' && kind === 'torrents').flatMap(({ changed }) => changed.flatMap(({ digest }) => digest ?? [])));
      await until(async () => (await page.locator('table[aria-label=Images] tbody tr').count()) === digests.size, 'each blob has a row');
      await go(page, '#/why?node=host-1');
      assert.ok(await button(page, 'Explain', { exact: true }).isDisabled());
    }, { hash: '#/tables' }));

  it('of another format, or of junk, is refused in words', () =>
    open(async (page) => {
      await load(page, 'old.ndjson', `${JSON.stringify({ node: 'n', at_ms: 1, kind: 'hello', format: 9, version: '7.0' })}\n`);
      await text(page, 'has format 9');
      await load(page, 'junk.ndjson', 'PK\u0003\u0004 junk\n');
      await text(page, 'no recording of Longshore');
      await load(page, 'empty.ndjson', '');
      await text(page, 'The file is empty');
      const lines = ndjson(synth({ nodes: 2, torrents: 1, seconds: 2 }).records).split('\n');
      lines.splice(5, 0, '{"kind":"dance"}', 'not json', '[]');
      await load(page, 'mixed.ndjson', lines.join('\n'));
      await text(page, '3 lines of the recording could not be understood');
      await button(page, 'Leave the recording').waitFor();
    }));
});

describe('what goes wrong', { skip }, () => {
  it('a token is asked for, and used', async () => {
    const locked = await mock({ token: 'secret', records: made.records, skip: 12_000 });
    try {
      await open(async (page) => {
        await page.getByRole('dialog').getByLabel('Token').fill('wrong');
        await button(page, 'Log in').click();
        await page.getByRole('dialog').getByLabel('Token').fill('secret');
        await button(page, 'Log in').click();
        await until(async () => /[1-9]/.test(await page.locator('dd').nth(3).innerText()), 'nodes are there');
      }, { url: locked.url });
    } finally {
      await locked.close();
    }
  });

  it('a node that cannot do a thing says so, and the rest goes on', async () => {
    const old = await mock({ mode: 'node', records: made.records, skip: 12_000, old: true });
    try {
      await open(async (page) => {
        await page.locator('table[aria-label=Torrents] tbody tr').first().waitFor();
        await button(page, /^Stop /).first().click();
        await text(page, 'this node cannot do that (404)');
        await button(page, 'Pull an image').click();
        await page.getByLabel('Reference').fill('r.example/app:1');
        await button(page, 'Pull', { exact: true }).click();
        await text(page, 'this node cannot do that (501)');
        await button(page, 'Close').click();
        for (const view of ['settings', 'log', 'why']) {
          await page.evaluate((to) => { location.hash = to; }, `#/${view}`);
          await text(page, 'this node cannot do that');
        }
      }, { url: old.url, hash: '#/tables?tab=torrents' });
    } finally {
      await old.close();
    }
  });

  it('names with script in them stay text, and no name changes what objects are', async () => {
    const bad = await mock({ records: synth({ nodes: 4, torrents: 2, seconds: 30, hostile: true }).records, skip: 8000 });
    try {
      await open(async (page) => {
        await text(page, '<img src=x');
        for (const view of ['swarm', 'blocks', 'rates', 'tables?tab=files']) {
          await page.evaluate((to) => { location.hash = to; }, `#/${view}`);
          await page.locator('h1').waitFor();
          await page.waitForTimeout(300);
        }
        assert.match(await page.title(), /Longshore$/);
        assert.equal(await page.locator('img[src=x], main script').count(), 0);
        assert.ok(!(await page.locator('body').innerText()).includes('\u202e'));
        const link = { peer_id: 'ef'.repeat(20), address: '__proto__', torrents: 1, down_bytes: 5, up_bytes: 6, down_rate: 0, up_rate: 0 };
        bad.shout(`data: ${JSON.stringify({ node: bad.names[0], at_ms: Date.now(), kind: 'links', changed: [link] })}\n\n`);
        await go(page, `#/swarm?node=${bad.names[0]}`);
        await page.locator('.partners').getByText('__proto__').waitFor();
        assert.equal(await page.evaluate(() => ({}).down), undefined);
      }, { url: bad.url, hash: '#/tables?tab=torrents' });
    } finally {
      await bad.close();
    }
  });

  it('a lab that vanishes is said to have, and taken back when it is there again', async () => {
    const shaky = await mock({ records: made.records, skip: 12_000 });
    await open(async (page) => {
      await page.locator('li', { hasText: 'lab' }).getByText('answers').waitFor();
      shaky.hangUp();
      await text(page, 'Trying again');
      await page.locator('li', { hasText: 'lab' }).getByText('answers').waitFor();
      const { port } = new URL(shaky.url);
      await shaky.close();
      await page.locator('li', { hasText: 'lab' }).getByText('cannot be reached').waitFor();
      const again = await mock({ records: made.records, skip: 12_000, port: Number(port) });
      await page.locator('li', { hasText: 'lab' }).getByText('answers').waitFor();
      await page.close();
      await again.close();
    }, { url: shaky.url, hash: '#/settings', quiet: false });
  });

  it('records that are none, and a hundred thousand a second, are lived through', async () => {
    const loud = await mock({ records: synth({ nodes: 3, torrents: 1, seconds: 3 }).records, skip: 3000 });
    try {
      await open(async (page) => {
        await until(async () => /[1-9]/.test(await page.locator('dd').nth(3).innerText()), 'nodes are there');
        loud.shout('data: {"kind":"dance"}\n\ndata: }{\n\n');
        await text(page, 'could not be understood');
        const torrent = (at) => ({ info_hash: (at % 500).toString(16).padStart(40, '0'), name: `t${at % 500}`, size: 1e6, bytes_done: at % 1e6, pieces: 1, pieces_done: 0, peers: 0, down_bytes: at, up_bytes: 0, down_rate: at, up_rate: 0 });
        for (let part = 0; part < 50; part += 1) {
          let out = '';
          for (let at = 0; at < 2000; at += 1) out += `data: ${JSON.stringify({ node: `crowd-${at % 40}`, at_ms: Date.now(), kind: 'torrents', changed: [torrent(part * 2000 + at)] })}\n\n`;
          loud.shout(out);
        }
        loud.shout(`data: ${JSON.stringify({ node: 'the-last', at_ms: Date.now(), kind: 'torrents', changed: [torrent(7)] })}\n\n`);
        await button(page, 'Table').click();
        await until(async () => (await page.getByText('the-last').count()) > 0 || (await page.locator('dd').nth(3).innerText()).includes('44'), 'the last record is shown');
      }, { url: loud.url });
    } finally {
      await loud.close();
    }
  });
});

describe('every view', { skip }, () => {
  for (const [size, viewport] of [['a phone', { width: 390, height: 844 }], ['a wide screen', { width: 1920, height: 1080 }]]) {
    it(`fits ${size}`, () =>
      open(async (page) => {
        await text(page, 'Have everything');
        for (const view of ['swarm', 'blocks', 'blocks?show=rows', 'blocks?show=matrix', 'why', 'rates', 'tables', 'settings', 'log']) {
          await page.evaluate((to) => { location.hash = to; }, `#/${view}`);
          await page.locator('h1').waitFor();
          await page.waitForTimeout(250);
          const wide = await page.evaluate(() => Math.max(document.documentElement.scrollWidth, document.querySelector('.view').scrollWidth) - innerWidth);
          assert.ok(wide <= 0, `${view} is ${wide} pixels too wide`);
        }
      }, { viewport }));
  }

  for (const colorScheme of ['dark', 'light']) {
    it(`is readable, and all in it has a name, ${colorScheme}`, () =>
      open(async (page) => {
        await text(page, 'Have everything');
        for (const view of ['swarm', 'swarm?node=host-1', 'blocks', 'blocks?show=rows&lens=rarity', 'blocks?show=matrix', 'why?node=host-1', 'rates', 'tables', 'tables?tab=images', 'tables?tab=peers', 'settings', 'log']) {
          await go(page, `#/${view}`);
          await page.locator('h1', { hasText: new RegExp(view.split('?')[0], 'i') }).waitFor();
          // What comes a moment later is complained of just the same: the last look counts.
          let found = [];
          await until(async () => (found = await page.evaluate(complaints)).length === 0, '').catch(() => assert.deepEqual(found, [], view));
        }
      }, { colorScheme }));
  }

  it('shows on a phone which table it is', () =>
    open(async (page) => {
      const files = button(page, /^Files/);
      await files.waitFor();
      const within = () => files.evaluate((one) => one.getBoundingClientRect().right <= one.parentElement.getBoundingClientRect().right + 1);
      assert.equal(await within(), false, 'there is no room for all of them');
      await go(page, '#/tables?tab=files');
      await until(within, 'the chosen one is seen');
    }, { hash: '#/tables', viewport: { width: 360, height: 700 } }));

  it('shows that the picture has the focus', () =>
    open(async (page) => {
      await text(page, 'Have everything');
      const swarm = page.getByRole('application');
      await swarm.focus();
      await page.keyboard.press('ArrowRight');
      const [outline, offset] = await swarm.evaluate((canvas) => [getComputedStyle(canvas).outlineStyle, parseFloat(getComputedStyle(canvas).outlineOffset)]);
      assert.equal(outline, 'solid');
      assert.ok(offset <= -2, 'within what is not cut off');
    }));

  it('moves for whoever wants it to, and for nobody else', async () => {
    // Rates stay as they are when nothing more is told.
    const begin = made.records[0].at_ms;
    const still = await mock({ records: made.records.filter((record) => record.at_ms < begin + 12_000), skip: 12_000 });
    /** Whether the picture is another one some frames later; nothing while there is none. */
    const moves = (page) =>
      page.evaluate(async () => {
        const canvas = document.querySelector('canvas[role=application]');
        const before = canvas.toDataURL();
        if (!canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0)) return undefined;
        for (let frame = 0; frame < 20; frame += 1) await new Promise(requestAnimationFrame);
        return canvas.toDataURL() !== before;
      });
    try {
      await opened(browser, still.url, async (page) => {
        await until(async () => (await page.locator('dd').first().innerText()) !== '0 B/s', 'rates are told');
        await until(async () => (await moves(page)) === true, 'dots move');
      });
      await opened(browser, still.url, async (page) => {
        await until(async () => (await page.locator('dd').first().innerText()) !== '0 B/s', 'rates are told');
        await until(async () => (await moves(page)) === false, 'dots stand');
      }, { reducedMotion: 'reduce' });
    } finally {
      await still.close();
    }
  });

  it('is reached by keys alone', () =>
    open(async (page) => {
      await text(page, 'Have everything');
      for (let presses = 0; presses < 4; presses += 1) await page.keyboard.press('Tab');
      await page.keyboard.press('Enter');
      await until(async () => (await page.locator('h1').innerText()) !== 'Swarm', 'another view');
    }));
});
