// SPDX-License-Identifier: Apache-2.0
import { asSealiftError } from '../../errors.ts';
import { readFileChunks } from '../../store/files.ts';
import type { BlobSource } from '../../store/store.ts';

/** A whole local file as a blob. */
export const localSource = (path: string): BlobSource => ({ ...partSource(path), path });

/** A stretch of a local file as a blob. @param start where it begins in the file; `size` in bytes */
export function partSource(path: string, start = 0, size = Number.MAX_SAFE_INTEGER): BlobSource {
  // Promise, not async: a generator opens nothing until it is read, so nothing can leak.
  return {
    open: (offset) => Promise.resolve({ offset, body: readLocal(path, start + offset, size - offset) }),
  };
}

/**
 * Up to `size` bytes of a file from `start` on. Less when the file is shorter: whoever reads checks the digest. A
 * chunk is valid until the next one is asked for.
 */
async function* readLocal(path: string, start = 0, size = Number.MAX_SAFE_INTEGER): AsyncGenerator<Buffer> {
  try {
    yield* readFileChunks(path, start, size, true);
  } catch (error) {
    throw asSealiftError(error, `reading ${path}`);
  }
}
