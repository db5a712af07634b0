// SPDX-License-Identifier: Apache-2.0
import { open, type FileHandle } from 'node:fs/promises';
import { asSealiftError } from '../../errors.ts';
import type { BlobSource } from '../../store/store.ts';

/** 1 MiB doubles the hashing rate over Node's default of 64 KiB (DESIGN §8). */
const CHUNK_BYTES = 1024 * 1024;

/** A stretch of a local file as a blob. @param start where it begins in the file; `size` in bytes */
export function localSource(path: string, start = 0, size = Number.MAX_SAFE_INTEGER): BlobSource {
  // Promise, not async: a generator opens nothing until it is read, so nothing can leak.
  return {
    open: (offset) => Promise.resolve({ offset, body: readLocal(path, start + offset, size - offset) }),
  };
}

/** Up to `size` bytes of a file from `start` on. Less when the file is shorter: whoever reads checks the digest. */
export async function* readLocal(
  path: string,
  start = 0,
  size = Number.MAX_SAFE_INTEGER,
): AsyncGenerator<Buffer> {
  let handle: FileHandle | undefined;
  try {
    handle = await open(path, 'r');
    for (let at = start, left = size; left > 0;) {
      const buffer = Buffer.allocUnsafe(Math.min(CHUNK_BYTES, left));
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, at);
      if (bytesRead === 0) return;
      at += bytesRead;
      left -= bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  } catch (error) {
    throw asSealiftError(error, `reading ${path}`);
  } finally {
    await handle?.close();
  }
}
