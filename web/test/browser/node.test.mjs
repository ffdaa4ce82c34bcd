// What can be done from the page at a node by itself, whose API asks for a token: a real one, that the program in
// LONGSHORE_BIN is.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { access, mkdtemp, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';

import { lacking, LONG, node, noise, program, remove } from '../real.mjs';
import { launch } from './browser.mjs';
import { button, open, until } from './page.mjs';

/** A torrent of one file. */
function torrentOf(name, data) {
  const length = 1 << 18;
  const pieces = [];
  for (let at = 0; at < data.length; at += length) pieces.push(createHash('sha1').update(data.subarray(at, at + length)).digest());
  const head = `d6:lengthi${data.length}e4:name${name.length}:${name}12:piece lengthi${length}e6:pieces${20 * pieces.length}:`;
  const info = Buffer.concat([Buffer.from(head), ...pieces, Buffer.from('e')]);
  return { info_hash: createHash('sha1').update(info).digest('hex'), file: Buffer.concat([Buffer.from('d4:info'), info, Buffer.from('e')]) };
}

describe('a real node', { skip: lacking ?? false }, () => {
  const data = noise(1_000_000, 9);
  const dropped = torrentOf('dropped.bin', data);
  const linked = torrentOf('linked.bin', noise(500_000, 10));
  let folder;
  let browser;
  let alone;
  let web;

  before(async () => {
    if (lacking) return;
    folder = await mkdtemp(join(tmpdir(), 'longshore-real-'));
    browser = await launch();
    alone = await node(program, folder, 'open sesame');
    await until(() => fetch(alone.url).then((answer) => answer.ok), 'the node answers', LONG);
    web = createServer((_, response) => response.end(linked.file));
    await new Promise((resolve) => web.listen(0, '127.0.0.1', resolve));
  });

  after(async () => {
    await browser?.close();
    await alone?.stop();
    await new Promise((resolve) => (web ? web.close(resolve) : resolve()));
    if (folder) await remove(folder);
  });

  it('asks for its token, and takes, checks, limits, stops and removes torrents', () =>
    open(browser, alone.url, async (page) => {
      for (const token of ['wrong', 'open sesame']) {
        await page.getByRole('dialog').getByLabel('Token').fill(token);
        await button(page, 'Log in').click();
      }
      await page.getByRole('dialog').waitFor({ state: 'detached' });
      const told = async (hash) => (await alone.ask('torrents')).find((torrent) => torrent.info_hash === hash);
      const is = (hash, state) => until(async () => (await told(hash))?.state === state, `it is ${state}`, LONG);

      // By drop: what lies there already is found.
      const half = data.subarray(0, 1 << 19);
      await writeFile(join(alone.files, 'dropped.bin'), half);
      const transfer = await page.evaluateHandle((given) => {
        const files = new DataTransfer();
        files.items.add(new File([new Uint8Array(given)], 'dropped.torrent', { type: 'application/x-bittorrent' }));
        return files;
      }, [...dropped.file]);
      await page.getByRole('region', { name: 'Tables' }).dispatchEvent('drop', { dataTransfer: transfer });
      await button(page, 'Add', { exact: true }).click();
      await is(dropped.info_hash, 'downloading');
      await until(async () => (await told(dropped.info_hash)).bytes_done === half.length, 'it has the half that lay there', LONG);

      await writeFile(join(alone.files, 'dropped.bin'), data);
      await page.getByLabel('Search', { exact: true }).fill('dropped.bin');
      await button(page, 'Verify dropped.bin').click();
      await is(dropped.info_hash, 'seeding');
      await button(page, 'Limits of dropped.bin').click();
      await page.getByLabel('Give at most').fill('1 MiB');
      await button(page, 'Set').click();
      await until(async () => (await told(dropped.info_hash)).limits?.up === 1 << 20, 'it has the limit');
      await button(page, 'Stop dropped.bin').click();
      await is(dropped.info_hash, 'stopped');
      await button(page, 'Start dropped.bin').click();
      await is(dropped.info_hash, 'seeding');

      // By link, dropped as text: a magnet link and an address.
      await page.getByLabel('Search', { exact: true }).fill('');
      const links = await page.evaluateHandle((given) => {
        const transferred = new DataTransfer();
        transferred.setData('text/plain', given);
        return transferred;
      }, `magnet:?xt=urn:btih:${'ab'.repeat(20)}&dn=far&x.pe=127.0.0.1:9\nhttp://127.0.0.1:${web.address().port}/linked.torrent`);
      await page.getByRole('region', { name: 'Tables' }).dispatchEvent('drop', { dataTransfer: links });
      await button(page, 'Add', { exact: true }).click();
      await is('ab'.repeat(20), 'metadata');
      await is(linked.info_hash, 'downloading');
      await button(page, 'Remove far').click();
      await button(page, 'Remove', { exact: true }).click();
      await until(async () => (await told('ab'.repeat(20))) === undefined, 'the magnet link is removed');

      // Without its files, and with them.
      for (const files of [false, true]) {
        await button(page, 'Remove dropped.bin').click();
        if (files) await page.getByLabel('Delete its files too').check();
        await button(page, 'Remove', { exact: true }).click();
        await until(async () => (await told(dropped.info_hash)) === undefined, 'it is removed');
        assert.equal(await access(join(alone.files, 'dropped.bin')).then(() => true, () => false), !files);
        if (files) continue;
        await button(page, 'Torrent', { exact: true }).click();
        await page.getByLabel('Torrent files').setInputFiles({ name: 'dropped.torrent', mimeType: 'application/x-bittorrent', buffer: dropped.file });
        await button(page, 'Add', { exact: true }).click();
        await is(dropped.info_hash, 'seeding');
        await button(page, 'Remove dropped.bin').waitFor();
      }
    }, { hash: '#/tables' }));
});
