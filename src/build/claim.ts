// SPDX-License-Identifier: Apache-2.0
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { lockFolder } from '../store/lock.ts';
import type { Store } from '../store/store.ts';

/**
 * Takes the store for one command and clears away what a killed one left that nobody can go on with: content
 * whose digest was not known yet. Downloads by digest stay, they resume.
 * @returns a function that gives the store back
 * @throws {SealiftError} LOCKED
 */
export async function claimStore(store: Store, command: 'lock' | 'build'): Promise<() => Promise<void>> {
  const release = await lockFolder(store.root, command);
  try {
    const partial = join(store.root, 'partial');
    const orphans = (await readdir(partial)).filter(
      (name) => name.startsWith('new-') || name.endsWith('.tmp'),
    );
    await Promise.all(orphans.map((name) => rm(join(partial, name), { force: true })));
  } catch (error) {
    await release();
    throw error;
  }
  return release;
}
