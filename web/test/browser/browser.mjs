// The browser of the tests: Debian's Chromium, by playwright-core, which brings none of its own.

import { existsSync } from 'node:fs';

import { chromium } from 'playwright-core';

const PLACES = [process.env.CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

/** Where Chromium is; `undefined` where there is none. */
export const path = () => PLACES.find((place) => place && existsSync(place));

export async function launch(more = []) {
  const executablePath = path();
  if (!executablePath) throw new Error('there is no Chromium here: install chromium');
  return chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-dev-shm-usage', ...more] });
}
