// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import { constants } from 'node:fs';
import { lstat, open, rename, rm, statfs, type FileHandle } from 'node:fs/promises';
import { dirname } from 'node:path';

/** Whether something stands at `path`, a link that leads nowhere included. Any trouble in finding out counts as no. */
export const exists = (path: string): Promise<boolean> =>
  lstat(path).then(
    () => true,
    () => false,
  );

/** Makes a rename or unlink inside `dir` survive a power cut. */
export async function fsyncDir(dir: string): Promise<void> {
  const handle = await open(dir, constants.O_RDONLY);
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}

/**
 * Replaces a small file so that a reader sees the old or the new content, never a mixture, also after a power
 * cut: temp in the same folder, fsync, rename, fsync of the folder.
 * @param mode permission bits of the new file, by default 0644
 */
export async function writeFileDurably(
  path: string,
  bytes: Uint8Array | string,
  mode = 0o644,
): Promise<void> {
  const temp = `${path}.${randomUUID()}.tmp`;
  try {
    const handle = await open(temp, 'w', mode);
    try {
      await handle.chmod(mode); // the umask may have narrowed it
      await handle.writeFile(bytes);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temp, path);
  } catch (error) {
    await rm(temp, { force: true });
    throw error;
  }
  await fsyncDir(dirname(path));
}

/** What a killed run leaves of a file, and the next one writes over. */
export const temporary = (path: string): string => `${path}.partial`;

/**
 * A new file under the temporary name of `path`. What stands there is a leftover, or was put there on a medium: a link,
 * through which another file would be written (THREATS.md, T31).
 */
export async function createTemporary(path: string): Promise<FileHandle> {
  await rm(temporary(path), { force: true });
  return open(temporary(path), 'wx+', 0o644);
}

/** What an earlier run left under the temporary name of `path`; undefined when that is no plain file, or has other names. */
export async function openTemporary(path: string): Promise<FileHandle | undefined> {
  const flags = constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK;
  const handle = await open(temporary(path), flags).catch(() => undefined);
  const info = await handle?.stat();
  if (info?.isFile() === true && info.nlink === 1) return handle;
  await handle?.close();
  return undefined;
}

/** Bytes that an unprivileged writer can still put on the file system of `path`, and which one that is. */
export async function freeBytes(path: string): Promise<{ bytes: number; device: string }> {
  const fs = await statfs(path, { bigint: true });
  return { bytes: Number(fs.bavail * fs.bsize), device: path };
}

/** Chunk size for reading files, in bytes: 1 MiB doubles the hashing rate over Node's default of 64 KiB (DESIGN §8). */
const CHUNK_BYTES = 1024 * 1024;

/**
 * Up to `length` bytes of a file from `start` on, in chunks of at most 1 MiB; less when the file is shorter. No
 * buffer is larger than what is left: a megabyte for each of 20,000 small files keeps the garbage collector
 * busier than the disk.
 * @param reuse one buffer for all chunks, for receivers that are done with one before they ask for the next. The
 *   kernel maps and clears the pages of each new buffer, which made copying a file four times as slow as cp
 */
export async function* readFileChunks(
  path: string,
  start = 0,
  length = Number.MAX_SAFE_INTEGER,
  reuse = false,
): AsyncGenerator<Buffer> {
  const handle = await open(path, 'r');
  try {
    let left = Math.min(length, (await handle.stat()).size - start);
    const shared = reuse ? Buffer.allocUnsafe(Math.min(CHUNK_BYTES, Math.max(left, 0))) : undefined;
    for (let at = start; left > 0;) {
      const want = Math.min(CHUNK_BYTES, left);
      const buffer = shared?.subarray(0, want) ?? Buffer.allocUnsafe(want);
      const { bytesRead } = await handle.read(buffer, 0, buffer.length, at);
      if (bytesRead === 0) return;
      at += bytesRead;
      left -= bytesRead;
      yield buffer.subarray(0, bytesRead);
    }
  } finally {
    await handle.close();
  }
}
