// The page in the browser, for all tests of it: opened, closed, and whatever it complains of a failure.

import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Opens the page at `url`, and closes it after `use`, which gets it and the addresses that it has asked. */
export async function open(browser, url, use, options = {}) {
  const { hash = '', quiet = true, ...context } = options;
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, ...context });
  const complaints = [];
  const asked = [];
  page.setDefaultTimeout(60_000);
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('console', (message) => message.type() === 'error' && !/Failed to load resource/.test(message.text()) && complaints.push(message.text()));
  page.on('request', (request) => asked.push(request.url()));
  try {
    await page.goto(`${url}/${hash}`);
    await use(page, asked);
    if (quiet) assert.deepEqual(complaints, []);
  } finally {
    await page.close();
  }
}

export const button = (page, name, more = {}) => page.getByRole('button', { name, ...more });
export const text = (page, what) => page.getByText(what).first().waitFor();

/** Goes to another view. */
export const go = (page, hash) => page.evaluate((to) => { location.hash = to; }, hash);

/** Waits until a function gives true; `seconds` is for a machine that is slow and busy. */
export async function until(what, why, seconds = 60) {
  const end = performance.now() + seconds * 1000;
  let last;
  while (performance.now() < end) {
    try {
      if (await what()) return;
      last = undefined;
    } catch (error) {
      last = error;
    }
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  assert.fail(last === undefined ? why : `${why}: ${last}`);
}

export async function pick(page, label, choice) {
  await page.locator('.pick > button', { hasText: label }).click();
  await page.getByRole('combobox', { name: /^Search/ }).fill(choice);
  // What is told a moment later is not there to be picked yet.
  await page.getByRole('option').filter({ hasText: choice }).first().waitFor();
  await page.keyboard.press('Enter');
}

/** Opens a recording. */
export async function load(page, folder, name, content) {
  const file = join(folder, name);
  await writeFile(file, content);
  await page.setInputFiles('input[aria-label="Recording"]', file);
}
