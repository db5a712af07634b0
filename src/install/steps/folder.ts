// SPDX-License-Identifier: Apache-2.0
/**
 * Files of a bundle as a folder of hard links into the store: every byte is written once. A folder is built
 * beside its place and renamed, so a half-placed one is never visible. That it is right is checked by inode:
 * a file that is the same inode as a blob of the store has been hashed when it came in.
 */
import { chmod, link, mkdir, readdir, rename, rm, rmdir, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { asSealiftError } from '../../errors.ts';
import { hexOf, type Digest, type Expected } from '../../store/digest.ts';
import { fsyncDir } from '../../store/files.ts';
import type { Fill, Store } from '../../store/store.ts';
import type { Stretch, TransferOptions } from '../../store/transfer.ts';
import { readReceipts, type Receipt } from '../receipt.ts';
import type { Progress, Step, StepState, UndoRecord, World } from '../step.ts';

export interface FolderFile extends Expected {
  path: string;
}

/** What a VerifiedBundle does: it returns only when the digest has matched. */
export interface BlobBody {
  copy(expected: Expected, to: readonly Stretch[], options?: TransferOptions): Promise<void>;
}

interface FolderSpec {
  kind: 'model' | 'config';
  id: string;
  label: string;
  /** Relative to the home. */
  path: string;
  files: readonly FolderFile[];
  /** Those of the files' blobs that the store lacks before anything is placed. */
  missing: readonly FolderFile[];
  /** Whether a release of this home has this folder, so that placing it is a repair. */
  inUse: boolean;
}

export class FolderStep implements Step {
  readonly id: string;
  readonly kind: 'model' | 'config';
  readonly bytes: number;
  readonly record: UndoRecord;
  readonly #world: World;
  readonly #source: BlobBody;
  readonly #spec: FolderSpec;

  private constructor(world: World, source: BlobBody, spec: FolderSpec) {
    this.#world = world;
    this.#source = source;
    this.#spec = spec;
    this.id = spec.id;
    this.kind = spec.kind;
    this.bytes = spec.missing.reduce((sum, file) => sum + file.size, 0);
    const blobs = spec.missing.map((file) => file.digest);
    this.record = { kind: 'folder', path: spec.path, blobs, inUse: spec.inUse };
  }

  static async create(
    world: World,
    source: BlobBody,
    spec: Omit<FolderSpec, 'missing' | 'inUse'>,
  ): Promise<FolderStep> {
    const missing = new Map<Digest, FolderFile>();
    for (const file of spec.files) if (!(await world.store.has(file))) missing.set(file.digest, file);
    const inUse = (await readReceipts(world.home)).some((receipt) => hasFolder(receipt, spec.path));
    return new FolderStep(world, source, { ...spec, missing: [...missing.values()], inUse });
  }

  describe(): string {
    const { label, files, path } = this.#spec;
    return `place ${label}: ${files.length} files in ${path}`;
  }

  async check(): Promise<StepState> {
    const { store, home } = this.#world;
    return (await isPlaced(home.path(this.#spec.path), this.#spec.files, store)) ? 'done' : 'needed';
  }

  async apply(progress: Progress, signal?: AbortSignal): Promise<void> {
    const { files, path } = this.#spec;
    const { home, store } = this.#world;
    // By digest, because that is the order in the bundle: media are read forwards.
    const inOrder = [...new Map(files.map((file) => [file.digest, file])).values()].toSorted((a, b) =>
      a.digest < b.digest ? -1 : 1,
    );
    const fill: Fill = (blob, to, stop) => this.#source.copy(blob, to, { onBytes: progress, signal: stop });
    await store.place(inOrder, fill, signal);
    await place(home.path(path), files, store);
  }
}

/** Whether a receipt names a folder of models or configuration files; `path` is relative to the home. */
export const hasFolder = ({ models, configs }: Receipt, path: string): boolean =>
  configs?.path === path || models.some((model) => model.path === path);

/** True when the folder holds exactly these files, each as a link to its blob. */
export async function isPlaced(folder: string, files: readonly FolderFile[], store: Store): Promise<boolean> {
  const found = await readdir(folder, { recursive: true, withFileTypes: true }).catch(() => undefined);
  if (found === undefined) return false;
  const names = found
    .filter((entry) => !entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name));
  const wanted = new Map(files.map((file) => [join(folder, file.path), file.digest]));
  if (names.length !== wanted.size) return false;
  const same = await Promise.all(
    names.map(async (name) => {
      const digest = wanted.get(name);
      return digest !== undefined && sameInode(name, store.path(digest));
    }),
  );
  return same.every(Boolean);
}

async function sameInode(a: string, b: string): Promise<boolean> {
  const [one, other] = await Promise.all([
    stat(a, { bigint: true }),
    stat(b, { bigint: true }).catch(() => undefined),
  ]);
  return other !== undefined && one.ino === other.ino && one.dev === other.dev;
}

async function place(folder: string, files: readonly FolderFile[], store: Store): Promise<void> {
  const partial = partialOf(folder);
  await rm(partial, { recursive: true, force: true });
  try {
    const folders = new Set<string>([partial]);
    for (const file of files) {
      const target = join(partial, file.path);
      await mkdir(dirname(target), { recursive: true });
      await chmod(store.path(file.digest), 0o444);
      await link(store.path(file.digest), target);
      for (let dir = dirname(target); dir.length > partial.length; dir = dirname(dir)) folders.add(dir);
    }
    // Deepest first: after the rename below every name under the folder survives a power cut. The mode is set
    // because the engine reads as a user of its own, whatever the umask was.
    for (const dir of [...folders].sort((a, b) => b.length - a.length)) {
      await chmod(dir, 0o755);
      await fsyncDir(dir);
    }
    await rm(folder, { recursive: true, force: true }); // what is there is not what was asked for, or check had said so
    await rename(partial, folder);
    await fsyncDir(dirname(folder));
  } catch (error) {
    await rm(partial, { recursive: true, force: true }).catch(() => undefined);
    throw asSealiftError(error, `placing ${folder}`);
  }
}

const partialOf = (folder: string): string => join(dirname(folder), `.${basename(folder)}.partial`);

/**
 * Removes the folder, then the blobs that came with it, unless another folder still links to them. A folder that
 * a release has, and that was only repaired, stays.
 */
export async function undoFolder(
  record: Extract<UndoRecord, { kind: 'folder' }>,
  world: World,
): Promise<void> {
  const folder = world.home.path(record.path);
  const partial = partialOf(folder);
  await rm(partial, { recursive: true, force: true });
  if (!record.inUse) {
    await rename(folder, partial).catch(unlessAbsent);
    await rm(partial, { recursive: true, force: true });
    await rmdir(dirname(folder)).catch(() => undefined); // the model's own folder, if this was its last revision
  }
  for (const digest of record.blobs) await dropBlob(digest, world.store);
}

async function dropBlob(digest: Digest, store: Store): Promise<void> {
  const info = await stat(store.path(digest)).catch(() => undefined);
  if (info !== undefined && info.nlink === 1) await store.remove(digest);
  await rm(join(store.root, 'partial', hexOf(digest)), { force: true });
}

function unlessAbsent(error: unknown): void {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
}
