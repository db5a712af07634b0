// SPDX-License-Identifier: Apache-2.0
/** Models from a local folder: `file:./weights`. */
import { readdir, realpath, stat } from 'node:fs/promises';
import { join, relative, resolve, sep } from 'node:path';
import { isSafePath } from '../../bundle/inventory.ts';
import { asSealiftError, SealiftError } from '../../errors.ts';
import type { Emit } from '../../events.ts';
import { digestOf, Hasher, hexOf, type Digest } from '../../store/digest.ts';
import type { BlobSource } from '../../store/store.ts';
import { printable } from './image.ts';
import { localSource, readLocal } from './local-file.ts';
import type { ModelSource, ResolvedModel, SourceContext, SourceFile } from './source.ts';

/** Files of one model. */
const MAX_FILES = 100_000;

/**
 * Without a lock every file is hashed, since the revision is made of the digests. With one, the lock's revision is
 * taken over and nothing is hashed here: every byte is checked against the lock when it is stored.
 */
export function folderModel(
  location: string,
  context: SourceContext,
  locked?: { revision: string },
): ModelSource {
  const root = resolve(context.baseDir, location);
  return {
    async resolve(emit) {
      const files = await listFolder(root, location);
      if (locked) return resolved(root, locked.revision, files);
      const hashed: (SourceFile & { digest: Digest })[] = [];
      for (const file of files)
        hashed.push({ ...file, digest: await hashFile(root, file, emit, context.signal) });
      return resolved(root, revisionOf(hashed), hashed);
    },
  };
}

/** `sha256:` over the lines that `sha256sum` would print for the files in order of their paths. */
export function revisionOf(files: readonly { path: string; digest: Digest }[]): Digest {
  return digestOf(files.map(({ path, digest }) => `${hexOf(digest)}  ${path}\n`).join(''));
}

function resolved(root: string, revision: string, files: SourceFile[]): ResolvedModel {
  const known = new Set(files.map(({ path }) => path));
  const file = (path: string): BlobSource => {
    if (known.has(path)) return localSource(join(root, path));
    throw new SealiftError('SOURCE_CHANGED', `${root} has no file '${printable(path)}' any more`);
  };
  return { revision, files, file };
}

async function listFolder(root: string, location: string): Promise<SourceFile[]> {
  const files: SourceFile[] = [];
  try {
    const realRoot = await realpath(root);
    const entries = await readdir(realRoot, { recursive: true, withFileTypes: true });
    if (entries.length > MAX_FILES)
      throw new SealiftError('SOURCE_INVALID', `${location} has more than ${MAX_FILES} entries`);
    for (const entry of entries) {
      if (entry.isDirectory()) continue;
      files.push(await describeFile(realRoot, join(entry.parentPath, entry.name), entry.isSymbolicLink()));
    }
  } catch (error) {
    throw asSealiftError(error, `reading the model at ${root}`);
  }
  return files.toSorted((a, b) => (a.path < b.path ? -1 : 1));
}

async function describeFile(realRoot: string, file: string, isLink: boolean): Promise<SourceFile> {
  const path = relative(realRoot, file).split(sep).join('/');
  if (!isSafePath(path))
    throw new SealiftError('UNSAFE_NAME', `'${printable(path)}' is not a name that a bundle can carry`);
  // A link is followed only to what the folder holds anyway: nobody packs /etc/shadow by unpacking a download.
  const target = isLink ? await realpath(file) : file;
  if (!target.startsWith(realRoot + sep)) {
    throw new SealiftError('UNSAFE_NAME', `${printable(path)} is a link that leads out of its folder`, {
      hint: 'copy the folder with its links resolved: cp -rL',
    });
  }
  const info = await stat(target);
  if (info.isFile()) return { path, size: info.size };
  throw new SealiftError('SOURCE_INVALID', `${printable(path)} is neither a file nor a link to one`);
}

async function hashFile(
  root: string,
  file: SourceFile,
  emit: Emit,
  signal: AbortSignal | undefined,
): Promise<Digest> {
  const id = `hash:${file.path}`;
  const hasher = new Hasher();
  emit({ type: 'item-start', id, kind: 'file', label: file.path, bytes: file.size });
  for await (const chunk of readLocal(join(root, file.path))) {
    if (signal?.aborted) throw new SealiftError('INTERRUPTED', `hashing ${file.path}: interrupted`);
    hasher.update(chunk);
    emit({ type: 'item-progress', id, delta: chunk.length });
  }
  if (hasher.size !== file.size)
    throw new SealiftError('SOURCE_CHANGED', `${file.path} changed while it was read`);
  emit({ type: 'item-end', id, outcome: 'done' });
  return hasher.digest();
}
