// SPDX-License-Identifier: Apache-2.0
/** Models from a local folder: `file:./weights`. */
import { realpathSync, statSync } from 'node:fs';
import { readdir, realpath } from 'node:fs/promises';
import { join, resolve, sep } from 'node:path';
import { isSafePath } from '../../bundle/inventory.ts';
import { asSealiftError, SealiftError } from '../../errors.ts';
import type { Emit } from '../../events.ts';
import { digestOf, hexOf, type Digest } from '../../store/digest.ts';
import type { BlobSource } from '../../store/store.ts';
import { transferAll, TransferError } from '../../store/transfer.ts';
import { printable } from '../../text.ts';
import { localSource } from './local-file.ts';
import type { ModelSource, ResolvedModel, SourceContext, SourceFile } from './source.ts';

/** Files of one model. */
const MAX_FILES = 100_000;

/**
 * Without a lock every chosen file is hashed, since the revision is made of the digests. With one, the lock's revision is
 * taken over, and nothing is hashed or measured here: every byte is checked against the lock when it is stored.
 */
export function folderModel(
  location: string,
  context: SourceContext,
  locked?: { revision: string },
): ModelSource {
  const root = resolve(context.baseDir, location);
  return {
    async resolve(emit, choose = (all) => [...all]) {
      const { files, refused } = await listFolder(root, location, locked === undefined);
      if (locked) return resolved(root, locked.revision, files, refused);
      const chosen = choose(files);
      for (const { path } of chosen) if (refused.has(path)) throw refused.get(path)!;
      const hashed = await hashFiles(root, location, chosen, emit, context.signal);
      return resolved(root, revisionOf(hashed), hashed, refused);
    },
  };
}

/** `sha256:` over the lines that `sha256sum` would print for the files in order of their paths. */
export function revisionOf(files: readonly { path: string; digest: Digest }[]): Digest {
  return digestOf(files.map(({ path, digest }) => `${hexOf(digest)}  ${path}\n`).join(''));
}

interface Listing {
  /** Sorted by path. */
  files: SourceFile[];
  /** Why some of them cannot be carried, by path: it matters only if they are chosen. */
  refused: ReadonlyMap<string, SealiftError>;
}

function resolved(
  root: string,
  revision: string,
  files: SourceFile[],
  refused: Listing['refused'],
): ResolvedModel {
  const known = new Set(files.map(({ path }) => path));
  const file = (path: string): BlobSource => {
    if (refused.has(path)) throw refused.get(path)!;
    if (known.has(path)) return localSource(join(root, path));
    throw new SealiftError('SOURCE_CHANGED', `${root} has no file '${printable(path, 200)}' any more`);
  };
  return { revision, files, file };
}

/** @param sized whether anybody asks for sizes: without them, only links and their like have to be looked at */
async function listFolder(root: string, location: string, sized: boolean): Promise<Listing> {
  const files: SourceFile[] = [];
  const refused = new Map<string, SealiftError>();
  try {
    const realRoot = await realpath(root);
    const prefix = realRoot.endsWith(sep) ? realRoot : realRoot + sep;
    const entries = await readdir(realRoot, { recursive: true, withFileTypes: true });
    if (entries.length > MAX_FILES)
      throw new SealiftError('SOURCE_INVALID', `${location} has more than ${MAX_FILES} entries`);
    for (const entry of entries) {
      if (entry.isDirectory()) continue;
      const full = join(entry.parentPath, entry.name);
      const path = full.slice(prefix.length);
      try {
        const isPlain = entry.isFile() && !sized && prefix !== sep && isSafePath(path);
        const size = isPlain ? 0 : sizeOf(realRoot, full, path, entry.isSymbolicLink());
        files.push({ path, size });
      } catch (error) {
        refused.set(path, asSealiftError(error, `reading the model at ${root}`));
        files.push({ path, size: 0 });
      }
    }
  } catch (error) {
    throw asSealiftError(error, `reading the model at ${root}`);
  }
  return { files: files.toSorted((a, b) => (a.path < b.path ? -1 : 1)), refused };
}

/** Bytes of a file that may be carried. Synchronously: for 20,000 files that is a tenth of the time. */
function sizeOf(realRoot: string, file: string, path: string, isLink: boolean): number {
  if (!isSafePath(path))
    throw new SealiftError('UNSAFE_NAME', `'${printable(path, 200)}' is not a name that a bundle can carry`);
  // A link is followed only to what the folder holds anyway: nobody packs /etc/shadow by unpacking a download.
  const target = isLink ? realpathSync(file) : file;
  if (!target.startsWith(realRoot + sep)) {
    throw new SealiftError('UNSAFE_NAME', `${printable(path, 200)} is a link that leads out of its folder`, {
      hint: 'copy the folder with its links resolved: cp -rL',
    });
  }
  const info = statSync(target);
  if (info.isFile()) return info.size;
  throw new SealiftError('SOURCE_INVALID', `${printable(path, 200)} is neither a file nor a link to one`);
}

/** By threads. @throws {SealiftError} SOURCE_CHANGED, IO_ERROR, INTERRUPTED */
async function hashFiles(
  root: string,
  location: string,
  files: readonly SourceFile[],
  emit: Emit,
  signal: AbortSignal | undefined,
): Promise<(SourceFile & { digest: Digest })[]> {
  const id = `hash:${location}`;
  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  emit({ type: 'item-start', id, kind: 'model', label: location, bytes });
  const onBytes = (delta: number): void => emit({ type: 'item-progress', id, delta });
  const jobs = files.map(({ path, size }) => ({ from: { path: join(root, path), length: size } }));
  const results = await transferAll(jobs, { onBytes, signal }).catch((error: unknown) => {
    if (signal?.aborted !== true) throw error;
    throw new SealiftError('INTERRUPTED', `hashing ${location}: interrupted`, { cause: error });
  });
  emit({ type: 'item-end', id, outcome: 'done' });
  return files.map((file, i) => ({ ...file, digest: demandHash(file, results[i]!) }));
}

function demandHash({ path }: SourceFile, result: Digest | TransferError): Digest {
  if (!(result instanceof TransferError)) return result;
  if (['EBADSIZE', 'EEND', 'ENOENT'].includes(result.code))
    throw new SealiftError('SOURCE_CHANGED', `${printable(path, 200)} changed while it was read`);
  throw asSealiftError(result, `reading ${printable(path, 200)}`);
}
