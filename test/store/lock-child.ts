// SPDX-License-Identifier: Apache-2.0
/** Takes the lock, is alone inside for a while, and leaves. Exit 0 been inside, 1 locked out, 9 was not alone. */
import { rmdirSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SealiftError } from '../../src/errors.ts';
import { lockFolder } from '../../src/store/lock.ts';

const dir = process.argv[2]!;
try {
  const release = await lockFolder(dir, 'test');
  try {
    mkdirSync(join(dir, 'inside')); // fails when somebody else is inside
    await sleep(30);
    rmdirSync(join(dir, 'inside'));
  } catch {
    process.exit(9);
  }
  await release();
  process.exit(0);
} catch (error) {
  process.exit(error instanceof SealiftError && error.code === 'LOCKED' ? 1 : 8);
}
