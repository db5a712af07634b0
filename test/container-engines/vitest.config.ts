// SPDX-License-Identifier: Apache-2.0
/** A configuration of its own, so that neither `vitest run` nor scripts/test starts these by accident. */
import { resolve } from 'node:path';
import { defineConfig } from 'vitest/config';

export default defineConfig({
  root: resolve(import.meta.dirname, '../..'),
  test: {
    name: 'engines',
    include: ['test/container-engines/**/*.test.ts'],
    fileParallelism: false,
    testTimeout: 600_000,
    // The first time, debootstrap makes the root folder of a suite.
    hookTimeout: 1_800_000,
  },
});
