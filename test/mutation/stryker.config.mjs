// SPDX-License-Identifier: Apache-2.0
/** What scripts/mutation runs. Paths are relative to the root of the repository. */
export default {
  testRunner: 'vitest',
  vitest: { configFile: 'test/mutation/vitest.config.ts', related: false },
  plugins: ['@stryker-mutator/*', './test/mutation/ignore-texts.mjs'],
  mutate: [
    'src/json.ts',
    'src/trust/*.ts',
    // The reader. The writer is held by the reader, and by the other programs that read tar.
    'src/bundle/*.ts',
    '!src/bundle/write.ts',
  ],
  ignorers: ['words'],
  coverageAnalysis: 'perTest',
  incremental: true,
  incrementalFile: '.cache/mutation/incremental.json',
  tempDirName: '.cache/mutation/sandbox',
  ignorePatterns: ['.cache', 'dist', 'coverage'],
  // Stryker would rewrite tsconfig.json through TypeScript's API, which version 7 does not have. Nothing reads it here.
  tsconfigFile: 'none',
  reporters: ['clear-text', 'json'],
  clearTextReporter: { allowColor: false, reportTests: false },
  jsonReporter: { fileName: '.cache/mutation/report.json' },
  thresholds: { high: 90, low: 85, break: 85 },
  concurrency: 2,
  timeoutMS: 10_000,
};
