// SPDX-License-Identifier: Apache-2.0
/** Prints the one closing line of a test run, and fails it in CI when a test was skipped. */
import { readFileSync } from 'node:fs';

interface Results {
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  numTodoTests: number;
}

const results = JSON.parse(readFileSync(process.argv[2]!, 'utf8')) as Results;
const skipped = results.numPendingTests + results.numTodoTests;
console.log(`${results.numPassedTests} passed, ${results.numFailedTests} failed, ${skipped} skipped`);
if (process.env['CI'] && skipped > 0) {
  console.error('a test was skipped: in CI every test runs');
  process.exitCode = 1;
}
