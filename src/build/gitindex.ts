// SPDX-License-Identifier: Apache-2.0
/**
 * Small files of a hub have no sha256 beforehand, only git's sha1 of their blob. What was fetched once is noted
 * under `git/` of the store, so that locking again, or after a kill, does not fetch it again.
 */
import { createHash } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SealiftError } from '../errors.ts';
import { isDigest, type Digest, type Expected } from '../store/digest.ts';
import { writeFileDurably } from '../store/files.ts';
import type { Store } from '../store/store.ts';

/** Where a file was listed. The repository is part of the key: sha1 can collide, and one repository must not answer for another. */
export interface GitFile {
  hub: string;
  repo: string;
  /** Object id that git gives the blob, 40 hex digits. */
  oid: string;
  /** Bytes. */
  size: number;
}

/** The blob of the store that holds the file, if it was fetched before and is still there. */
export async function recall(store: Store, file: GitFile): Promise<Expected | undefined> {
  const digest = await readFile(notePath(store, file), 'utf8').catch(() => undefined);
  if (!isDigest(digest)) return undefined;
  const known = { digest, size: file.size };
  return (await store.has(known)) ? known : undefined;
}

export async function remember(store: Store, file: GitFile, digest: Digest): Promise<void> {
  const path = notePath(store, file);
  await mkdir(join(store.root, 'git'), { recursive: true });
  await writeFileDurably(path, digest);
}

function notePath(store: Store, { hub, repo, oid, size }: GitFile): string {
  const key = createHash('sha256')
    .update(JSON.stringify([hub, repo, oid, size]))
    .digest('hex');
  return join(store.root, 'git', key);
}

/**
 * Passes a body on, and fails before its end when it is not the blob that git's object id names
 * (sha1 over `blob <size>\0` and the content).
 * @throws {SealiftError} SOURCE_INVALID
 */
export async function* checkedByGit(
  body: AsyncIterable<Uint8Array>,
  file: { oid: string | undefined; size: number },
  what: string,
): AsyncGenerator<Uint8Array> {
  const hash = createHash('sha1').update(`blob ${file.size}\0`);
  let size = 0;
  for await (const chunk of body) {
    hash.update(chunk);
    size += chunk.length;
    if (size > file.size) break;
    yield chunk;
  }
  // A body that is too short is most likely a dropped connection, which is worth another try.
  if (size < file.size)
    throw new SealiftError('NETWORK_ERROR', `${what} ended after ${size} of ${file.size} bytes`);
  const got = hash.digest('hex');
  if (size > file.size || (file.oid !== undefined && got !== file.oid)) {
    throw new SealiftError('SOURCE_INVALID', `${what}: the hub sends other bytes than it lists`, {
      details: [
        ['listed', `git ${file.oid ?? 'unknown'} (${file.size} bytes)`],
        ['received', size > file.size ? `more than ${file.size} bytes` : `git ${got}`],
      ],
      hint: 'run again; if it stays so, the hub or something on the way to it damages or replaces content',
    });
  }
}
