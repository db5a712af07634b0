// SPDX-License-Identifier: Apache-2.0
//
// The reference implementation of OMS, model_signing 1.1.1 (scripts/setup model-signing).
import { join } from 'node:path';
import { repoRoot, run, type RunResult } from './workspace.ts';

/** Runs `model_signing`; what it says is on stdout or stderr, whichever it chose. */
export function modelSigning(...args: string[]): Promise<RunResult> {
  const venv = join(repoRoot, '.cache/model-signing');
  // Whatever Python this machine has set up for itself must not be found.
  return run(join(venv, 'bin/model_signing'), args, {
    env: { PATH: '/usr/bin:/bin', LANG: 'C.UTF-8' },
    timeout: 60_000,
  });
}
