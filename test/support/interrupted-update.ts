// SPDX-License-Identifier: Apache-2.0
/** `trust update`, hit by a fault at each of its calls in turn. */
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect } from 'vitest';
import { Home } from '../../src/install/home.ts';
import { readTrustState } from '../../src/install/trust-state.ts';
import { PROGRAM } from './stack.ts';
import { runWithFault, type Fault } from './strace.ts';
import { run, tempDir } from './workspace.ts';

export interface UpdateCase {
  /** A home that has adopted the old policy. */
  home: Home;
  /** Texts of the two policies. */
  before: string;
  after: string;
  /** What follows `trust update`: the new file and its signatures. */
  args: readonly string[];
}

/**
 * After each fault the policy is the old one or the new one, whole, a host goes by it, and the same command ends
 * the update. @returns which of the two were seen right after a fault
 */
export async function interruptAtEach(
  { home: start, before, after, args }: UpdateCase,
  syscall: string,
  fault: Fault,
): Promise<Set<string>> {
  const seen = new Set<string>();
  for (let n = 1; ; n++) {
    const home = new Home(join(tempDir('interrupted'), 'home'));
    cpSync(start.root, home.root, { recursive: true });
    const argv = [PROGRAM.inside, 'trust', 'update', ...args, '--yes', '--home', home.root];
    if ((await runWithFault(argv, syscall, n, fault)) === undefined) return seen;
    const found = readFileSync(home.trustFile, 'utf8');
    expect([before, after]).toContain(found);
    seen.add(found === before ? 'old' : 'new');
    // To be told that this very policy stands there already, the host must go by it.
    const again = await run(process.execPath, argv);
    expect([again.code, again.stderr], `${syscall} ${n}`).toMatchObject([0, expect.any(String)]);
    expect(readFileSync(home.trustFile, 'utf8')).toBe(after);
    const state = await readTrustState(home);
    expect(state?.policy.version).toBe(2);
    expect(state?.next).toBeUndefined();
  }
}
