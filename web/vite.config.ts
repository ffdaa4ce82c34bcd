import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vitest/config';

// The page runs under a policy that forbids inline scripts and styles, and asks nobody but nodes: all it needs is in
// files of its own.
export default defineConfig({
  plugins: [svelte()],
  build: {
    target: 'es2022',
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    sourcemap: false,
  },
  test: { include: ['test/unit/**/*.test.ts'], environment: 'node' },
});
