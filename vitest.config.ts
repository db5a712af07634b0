// SPDX-License-Identifier: Apache-2.0
import { defineConfig } from 'vitest/config';

/** Files beside the code they test that start a container engine. */
const WITH_ENGINE = [
  'test/install/{audit,engine,monitoring,podman,remember,stack,unfinished,upgrade}.test.ts',
  'test/build/sources/daemon.test.ts',
];

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          name: 'unit',
          include: ['test/**/*.test.ts'],
          exclude: ['test/e2e/**', 'test/container-engines/**', ...WITH_ENGINE], // scripts/test-engines
          testTimeout: 30_000,
          hookTimeout: 120_000,
        },
      },
      {
        // Real engines, registries and daemons: one file at a time, with room for a slow machine.
        test: {
          name: 'e2e',
          include: ['test/e2e/**/*.test.ts', ...WITH_ENGINE],
          fileParallelism: false,
          testTimeout: 600_000,
          hookTimeout: 600_000,
        },
      },
    ],
  },
});
