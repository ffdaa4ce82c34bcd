import { readFileSync } from 'node:fs';

import { svelte } from '@sveltejs/vite-plugin-svelte';
import type { Plugin } from 'vite';
import { defineConfig } from 'vitest/config';

/** What of others is in the page, whose licences want to go with it. */
const CARRIED = { Figtree: '@fontsource-variable/figtree', Svelte: 'svelte', uPlot: 'uplot' };

const licences: Plugin = {
  name: 'licences',
  generateBundle() {
    const texts = Object.entries(CARRIED).map(([name, folder]) => {
      const file = folder === 'svelte' ? 'LICENSE.md' : 'LICENSE';
      return `${name}\n\n${readFileSync(`node_modules/${folder}/${file}`, 'utf8').trim()}\n`;
    });
    this.emitFile({ type: 'asset', fileName: 'licences.txt', source: texts.join('\n\n') });
  },
};

// The page runs under a policy that forbids inline scripts and styles, and asks nobody but nodes: all it needs is in
// files of its own.
export default defineConfig({
  plugins: [svelte(), licences],
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    sourcemap: false,
  },
  // A machine may be slow and busy.
  test: { include: ['test/unit/**/*.test.ts'], environment: 'node', testTimeout: 120_000 },
});
