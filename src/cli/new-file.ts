// SPDX-License-Identifier: Apache-2.0
import { open, rm } from 'node:fs/promises';
import { asSealiftError, SealiftError } from '../errors.ts';

/**
 * Writes a small file that must not be there yet, and syncs it. What could only be half written is removed.
 * @throws {SealiftError} FILE_EXISTS, IO_ERROR, DISK_FULL
 */
export async function writeNew(path: string, content: string | Uint8Array, mode = 0o644): Promise<void> {
  let created = false;
  try {
    const handle = await open(path, 'wx', mode);
    created = true;
    try {
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (thrown) {
    if (created) await rm(path, { force: true });
    if ((thrown as NodeJS.ErrnoException).code === 'EEXIST') {
      throw new SealiftError('FILE_EXISTS', `${path} is already there`, {
        hint: 'name another file, or remove it',
        cause: thrown,
      });
    }
    throw asSealiftError(thrown, `writing ${path}`);
  }
}
