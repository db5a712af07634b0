// SPDX-License-Identifier: Apache-2.0
import { expect } from 'vitest';
import type { RunResult } from './workspace.ts';

/** What a program printed that has to end with 0; what it complained of otherwise. */
export async function succeed(result: Promise<RunResult>): Promise<string> {
  const { code, stdout, stderr } = await result;
  expect(code, stderr).toBe(0);
  return stdout;
}
