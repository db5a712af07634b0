// SPDX-License-Identifier: Apache-2.0
/** Files of a set made from the others (FORMAT.md §12): under temporary names until the caller knows that they are right. */
import { constants } from 'node:fs';
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { asSealiftError, SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import type { Digest } from '../store/digest.ts';
import { createTemporary, exists, fsyncDir, temporary } from '../store/files.ts';
import { combineAll, transferAll, TransferError, type CombineJob } from '../store/transfer.ts';
import type { Recipe } from './parity.ts';
import type { Shard } from './shards.ts';

export interface RebuildOptions {
  emit?: Emit;
  signal?: AbortSignal | undefined;
}

/** A file of a set that is open. */
export interface OpenShard extends Shard {
  handle: FileHandle;
}

/** Bytes of every file that one thread sums up before the next job. */
const RANGE_BYTES = 32 * 1024 * 1024;

/**
 * Writes what a recipe says.
 * @param files of inputs and outputs, by index
 * @throws {SealiftError} IO_ERROR, DISK_FULL, INTERRUPTED; no thread touches the files any more then
 */
export async function sumUp(
  { inputs, outputs }: Recipe,
  files: ReadonlyMap<number, OpenShard>,
  { emit = silent, signal }: RebuildOptions,
): Promise<void> {
  const job = {
    inputs: inputs.map((index) => placeOf(files.get(index)!)),
    outputs: outputs.map(({ index, coefficients }) => ({ ...placeOf(files.get(index)!), coefficients })),
  };
  const longest = Math.max(...job.outputs.map(({ size }) => size));
  const bytes = job.inputs.reduce((sum, { size }) => sum + Math.min(size, longest), 0);
  const item = { id: 'parity', kind: 'bundle', label: 'sums of the volumes', bytes } as const;
  emit({ type: 'stage', name: 'parity', totalBytes: bytes });
  emit({ type: 'item-start', ...item });
  const jobs: CombineJob[] = [];
  for (let from = 0; from < longest; from += RANGE_BYTES)
    jobs.push({ ...job, from, to: Math.min(longest, from + RANGE_BYTES) });
  const onBytes = (delta: number): void => emit({ type: 'item-progress', id: item.id, delta });
  await combineAll(jobs, { signal, onBytes }).catch((error: unknown) => {
    if (!(error instanceof TransferError)) throw asSealiftError(error, 'summing up volumes');
    const index = error.side === 'read' ? inputs[error.stretch]! : outputs[error.stretch]!.index;
    const doing = error.side === 'read' ? 'reading' : 'writing';
    throw asSealiftError(error, `${doing} ${files.get(index)!.name} at byte ${error.at}`);
  });
  emit({ type: 'item-end', id: item.id, outcome: 'done' });
}

const placeOf = ({ handle, size }: OpenShard): { fd: number; size: number } => ({ fd: handle.fd, size });

/** sha256 of open files, all cores at work. @throws {SealiftError} IO_ERROR, INTERRUPTED */
export async function hashOpen(
  files: readonly OpenShard[],
  { signal }: RebuildOptions,
): Promise<Map<string, Digest>> {
  const jobs = files.map(({ handle, size }) => ({ from: [{ fd: handle.fd, offset: 0, length: size }] }));
  const results = await transferAll(jobs, { signal });
  return new Map(
    files.map(({ name }, i) => {
      const result = results[i]!;
      if (result instanceof TransferError)
        throw asSealiftError(result, `reading ${name} at byte ${result.at}`);
      return [name, result];
    }),
  );
}

/** What is lost, and where the rest is. */
export interface Rebuild {
  shards: readonly Shard[];
  recipe: Recipe;
  /** Paths of what is there, by name. */
  paths: ReadonlyMap<string, string>;
  /** Where the others are written. */
  folder: string;
}

/**
 * Writes what is lost under temporary names, down to the disk. Nothing is left of it after an error.
 * @param check is given the digests; what it throws is an error as well
 * @throws {SealiftError} IO_ERROR, DISK_FULL, INTERRUPTED
 */
export async function rebuild(
  { shards, recipe, paths, folder }: Rebuild,
  check: (digests: ReadonlyMap<string, Digest>) => void,
  options: RebuildOptions,
): Promise<string[]> {
  const files = new Map<number, OpenShard>();
  const lost = recipe.outputs.map(({ index }) => shards[index]!.name);
  try {
    for (const index of recipe.inputs)
      files.set(index, await openWhole(shards[index]!, paths.get(shards[index]!.name)!));
    for (const { index } of recipe.outputs) {
      const shard = shards[index]!;
      files.set(index, { ...shard, handle: await createTemporary(join(folder, shard.name)) });
    }
    await sumUp(recipe, files, options);
    const made = recipe.outputs.map(({ index }) => files.get(index)!);
    check(await hashOpen(made, options));
    for (const { handle } of made) await handle.sync();
    return lost;
  } catch (error) {
    for (const name of lost) await rm(temporary(join(folder, name)), { force: true });
    throw asSealiftError(error, `rebuilding volumes in ${folder}`);
  } finally {
    for (const { handle } of files.values()) await handle.close();
  }
}

async function openWhole(shard: Shard, path: string): Promise<OpenShard> {
  const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  if ((await handle.stat()).size === shard.size) return { ...shard, handle };
  await handle.close();
  throw new SealiftError('REPAIR_FAILED', `${path} does not have the ${shard.size} bytes of such a volume`, {
    hint: 'carry all of the volumes again, and their list',
  });
}

/** Gives what was rebuilt its names. What stands there is damaged, and stays under another one. */
export async function giveNames(names: readonly string[], folder: string): Promise<void> {
  for (const name of names) {
    const path = join(folder, name);
    if (await exists(path)) await rename(path, await unusedName(`${path}.damaged`));
    await rename(temporary(path), path);
  }
  await fsyncDir(folder);
}

async function unusedName(path: string): Promise<string> {
  for (let n = 1; ; n++) {
    const name = n === 1 ? path : `${path}.${n}`;
    if (!(await exists(name))) return name;
  }
}
