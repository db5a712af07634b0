// SPDX-License-Identifier: Apache-2.0
/**
 * Parity volumes (FORMAT.md §12): NAME.p01 and on, from which as many lost or damaged volumes come back as there are parity
 * volumes. List and parity are not signed: they bring back bytes, and no verdict rests on them.
 */
import { open, readFile, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { z } from 'zod';
import { asSealiftError, SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import { parseJson } from '../json.ts';
import { hexOf, type Digest } from '../store/digest.ts';
import { exists, fsyncDir, writeFileDurably } from '../store/files.ts';
import { multiply } from '../store/combine.ts';
import { describeShortage, findShortages, shortageDetails } from '../store/space.ts';
import { combineAll, transfer, type CombineJob } from '../store/transfer.ts';
import { coefficient, MAX_SHARDS, recipe } from './parity.ts';
import { temporary } from './target.ts';
import { baseOf, diagnose, listName, parseList, VolumeSet, type Media, type VolumeList } from './volumes.ts';

/** Bytes before the sums: JSON, padded with spaces. */
const HEADER_BYTES = 4096;

/** Bytes of every volume that one thread sums up at a time. */
const RANGE_BYTES = 32 * 1024 * 1024;

/** Most parity volumes: a sum of each is held in memory by every thread. */
export const MAX_PARITY = 32;

const Header = z.strictObject({
  schema: z.literal('sealift/parity/v1'),
  volumes: z.number().int().min(1).max(MAX_SHARDS),
  parity: z.number().int().min(1).max(MAX_PARITY),
  /** From 1. */
  index: z.number().int().min(1).max(MAX_PARITY),
  volumeBytes: z.number().int().min(1).max(Number.MAX_SAFE_INTEGER),
  totalBytes: z.number().int().min(1).max(Number.MAX_SAFE_INTEGER),
});
type Header = z.infer<typeof Header>;

export const parityName = (base: string, index: number): string =>
  `${base}.p${String(index).padStart(2, '0')}`;
export const isParity = (name: string): boolean => /\.p\d{2}$/.test(name);

export interface RepairOptions {
  emit?: Emit;
  signal?: AbortSignal | undefined;
}

/**
 * Adds parity volumes to volumes that are whole, and writes them into the list.
 * @param base path of the volumes without a number
 * @throws {SealiftError} USAGE, DISK_FULL, IO_ERROR, INTERRUPTED; nothing of the parity is left then
 */
export async function addParity(base: string, parity: number, options: RepairOptions = {}): Promise<void> {
  const list = parseList(await readFile(listName(base), 'utf8'));
  const volumes = [...list.digests.keys()];
  const header = { schema: 'sealift/parity/v1', volumes: volumes.length, parity } as const;
  const sizes = { volumeBytes: list.volumeBytes!, totalBytes: list.totalBytes! };
  const names = Array.from({ length: parity }, (_, i) => basename(parityName(base, i + 1)));
  const shards = shardsOf({ ...header, ...sizes, index: 1 }, [...volumes, ...names]);
  const lost = new Set(names.map((_, i) => volumes.length + i));
  const folder = dirname(base);
  const paths = new Map(volumes.map((name) => [name, join(folder, name)]));
  const made = await rebuild({ shards, paths, lost, folder, header: { ...header, ...sizes } }, options);
  const digests = await placeAll(made, folder, options);
  const lines = [...digests].map(([name, digest]) => `${hexOf(digest)}  ${name}\n`).join('');
  await writeFileDurably(listName(base), (await readFile(listName(base), 'utf8')) + lines);
}

/** @throws {SealiftError} USAGE */
export function demandParity(parity: number, volumeBytes: number, totalBytes: number): void {
  const volumes = Math.ceil(totalBytes / volumeBytes);
  if (parity <= MAX_PARITY && volumes + parity <= MAX_SHARDS) return;
  throw new SealiftError('USAGE', `${parity} parity volumes for ${volumes} volumes are too many`, {
    hint: `there can be ${MAX_PARITY} of them, and ${MAX_SHARDS} volumes in all: take larger volumes`,
  });
}

interface Shard {
  name: string;
  /** Bytes of the file, and where in it the content begins. */
  size: number;
  offset: number;
}

/** All files of a set, volumes first: what each holds of the content. */
function shardsOf({ volumes, volumeBytes, totalBytes }: Header, names: readonly string[]): Shard[] {
  return names.map((name, i) =>
    i < volumes
      ? { name, size: Math.min(volumeBytes, totalBytes - i * volumeBytes), offset: 0 }
      : { name, size: Math.min(volumeBytes, totalBytes), offset: HEADER_BYTES },
  );
}

interface Rebuild {
  shards: readonly Shard[];
  /** Where the files are that are there. */
  paths: ReadonlyMap<string, string>;
  lost: ReadonlySet<number>;
  /** Where the others are written, under temporary names. */
  folder: string;
  header: Omit<Header, 'index'>;
}

/** Writes what is lost under temporary names. @returns their names */
async function rebuild(work: Rebuild, { emit = silent, signal }: RepairOptions): Promise<string[]> {
  const { shards, paths, lost, folder, header } = work;
  const how = recipe(header.volumes, header.parity, lost)!;
  const handles: FileHandle[] = [];
  const names = how.outputs.map(({ index }) => shards[index]!.name);
  const opened = async (path: string, flags: string): Promise<FileHandle> => {
    const handle = await open(path, flags, 0o644);
    handles.push(handle);
    return handle;
  };
  try {
    const inputs = [];
    for (const index of how.inputs) {
      const { name, size, offset } = shards[index]!;
      inputs.push({ fd: (await opened(paths.get(name)!, 'r')).fd, offset, size });
    }
    const outputs = [];
    for (const { index, coefficients } of how.outputs) {
      const { name, size, offset } = shards[index]!;
      const handle = await opened(temporary(join(folder, name)), 'w+');
      if (offset > 0)
        await handle.write(headerBytes({ ...header, index: index - header.volumes + 1 }), 0, HEADER_BYTES, 0);
      outputs.push({ fd: handle.fd, offset, size, coefficients });
    }
    await sumUp(inputs, outputs, { emit, signal });
    for (const handle of handles.slice(how.inputs.length)) await handle.sync();
    return names;
  } catch (error) {
    await discard(names, folder);
    throw asSealiftError(error, 'rebuilding volumes');
  } finally {
    for (const handle of handles) await handle.close();
  }
}

async function sumUp(
  inputs: CombineJob['inputs'],
  outputs: CombineJob['outputs'],
  { emit = silent, signal }: RepairOptions,
): Promise<void> {
  const longest = Math.max(...outputs.map(({ size }) => size));
  const bytes = inputs.reduce((sum, { size }) => sum + Math.min(size, longest), 0);
  emit({ type: 'stage', name: 'parity', totalBytes: bytes });
  emit({
    type: 'item-start',
    id: 'parity',
    kind: 'bundle',
    label: `${inputs.length} volumes, summed up`,
    bytes,
  });
  const jobs: CombineJob[] = [];
  for (let from = 0; from < longest; from += RANGE_BYTES)
    jobs.push({ inputs, outputs, from, to: Math.min(longest, from + RANGE_BYTES) });
  await combineAll(jobs, {
    signal,
    onBytes: (delta) => emit({ type: 'item-progress', id: 'parity', delta }),
  });
  emit({ type: 'item-end', id: 'parity', outcome: 'done' });
}

const headerBytes = (header: Header): Buffer =>
  Buffer.from(`${JSON.stringify(header)}\n`.padStart(HEADER_BYTES, ' '));

async function discard(names: readonly string[], folder: string): Promise<void> {
  for (const name of names) await rm(temporary(join(folder, name)), { force: true });
}

/** Gives what was rebuilt its names. A damaged file that is in the way is kept. @returns digests by name */
async function placeAll(
  names: readonly string[],
  folder: string,
  { signal }: RepairOptions,
  expected?: ReadonlyMap<string, Digest>,
): Promise<Map<string, Digest>> {
  const digests = new Map<string, Digest>();
  for (const name of names) {
    const path = temporary(join(folder, name));
    const handle = await open(path, 'r');
    const { size } = await handle.stat();
    const digest = await transfer({ from: [{ fd: handle.fd, offset: 0, length: size }] }, { signal });
    await handle.close();
    if (expected !== undefined && expected.get(name) !== digest) {
      await discard(names, folder);
      throw new SealiftError('REPAIR_FAILED', `${name} was rebuilt, and is not what ${listOf(name)} lists`, {
        hint: 'list and parity do not belong together: carry all of them again',
      });
    }
    digests.set(name, digest);
  }
  for (const name of names) {
    const path = join(folder, name);
    if (await exists(path)) await rename(path, `${path}.damaged`);
    await rename(temporary(path), path);
  }
  await fsyncDir(folder);
  return digests;
}

const listOf = (name: string): string => listName(name.replace(/\.p?\d+$/, ''));

export interface Repaired {
  /** Names of what was rebuilt; none when nothing was wrong. */
  rebuilt: string[];
  folder: string;
}

/**
 * Rebuilds every volume that the list calls damaged or missing, and parity volumes, too. What is written has the digest
 * that the list names, before it gets its name; a damaged volume stays, as NAME.003.damaged.
 * @param folder where it is written; by default beside the volumes
 * @throws {SealiftError} REPAIR_FAILED when there is no list or too little parity (with what to carry again); DISK_FULL,
 *   IO_ERROR, INTERRUPTED
 */
export async function repairVolumes(
  path: string,
  media: Media,
  folder: string | undefined,
  options: RepairOptions = {},
): Promise<Repaired> {
  const base = baseOf(path) ?? path;
  const set = await VolumeSet.of(base, media);
  const { list } = set;
  if (list === undefined || list.digests.size === 0)
    throw new SealiftError(
      'REPAIR_FAILED',
      `there is no ${basename(listName(base))}, which says what is damaged`,
      {
        hint: 'carry it again: it is small, and lies beside the volumes on the staging side',
      },
    );
  options.emit?.({ type: 'stage', name: 'hash' });
  const findings = await diagnose(set, { signal: options.signal });
  const target = folder ?? dirname(base);
  if (findings.length === 0) return { rebuilt: [], folder: target };
  const names = [...list.digests.keys()];
  const bad = new Set(findings.map(({ name }) => name));
  const header = await readHeader(set, list, bad);
  const lost = new Set(names.flatMap((name, i) => (bad.has(name) ? [i] : [])));
  if (recipe(header.volumes, header.parity, lost) === undefined) throw tooLittle(names, bad);
  const shards = shardsOf(header, names);
  await demandRoom(
    target,
    [...lost].map((index) => shards[index]!),
  );
  const paths = new Map<string, string>();
  for (const name of names) if (!bad.has(name)) paths.set(name, (await set.find(name))!);
  const { index: _, ...common } = header;
  const rebuilt = await rebuild({ shards, paths, lost, folder: target, header: common }, options);
  await placeAll(rebuilt, target, options, list.digests);
  return { rebuilt, folder: target };
}

/** The header of any good parity volume; all of it must fit the list. */
async function readHeader(set: VolumeSet, list: VolumeList, bad: ReadonlySet<string>): Promise<Header> {
  const names = [...list.digests.keys()];
  const parity = names.filter(isParity);
  const good = parity.find((name) => !bad.has(name));
  if (good === undefined) return headerByList(list, names, bad);
  const handle = await open((await set.find(good))!, 'r');
  try {
    const bytes = Buffer.alloc(HEADER_BYTES);
    await handle.read(bytes, 0, HEADER_BYTES, 0);
    const parsed = Header.safeParse(parseJson(bytes, good, 'REPAIR_FAILED', HEADER_BYTES));
    const header = parsed.data;
    const volumes = names.length - parity.length;
    const fits =
      header !== undefined &&
      header.volumes === volumes &&
      header.parity === parity.length &&
      names.every((name, i) => isParity(name) === i >= volumes) &&
      Math.ceil(header.totalBytes / header.volumeBytes) === volumes;
    if (fits) return header;
  } finally {
    await handle.close();
  }
  throw new SealiftError('REPAIR_FAILED', `${good} does not belong to these volumes`, {
    hint: 'carry all of them again, the list too',
  });
}

/** Without a parity volume that is good the list alone says what is to be made again, when no volume is lost. */
function headerByList(
  { volumeBytes, totalBytes }: VolumeList,
  names: readonly string[],
  bad: ReadonlySet<string>,
): Header {
  const parity = names.filter(isParity).length;
  const volumes = names.length - parity;
  const fits = volumeBytes !== undefined && totalBytes !== undefined && [...bad].every(isParity);
  if (!fits || parity > MAX_PARITY || Math.ceil(totalBytes / volumeBytes) !== volumes)
    throw tooLittle(names, bad);
  return { schema: 'sealift/parity/v1', volumes, parity, index: 1, volumeBytes, totalBytes };
}

function tooLittle(names: readonly string[], bad: ReadonlySet<string>): SealiftError {
  const lost = names.filter((name) => bad.has(name) && !isParity(name));
  const left = names.filter((name) => isParity(name) && !bad.has(name)).length;
  const parity = left === 0 ? 'no parity volume is' : `${left} parity volume${left === 1 ? ' is' : 's are'}`;
  return new SealiftError(
    'REPAIR_FAILED',
    `${lost.length} volumes are damaged or missing, and ${parity} good`,
    {
      details: lost.map((name) => ['lost', name]),
      hint: `carry again ${lost.length - left === lost.length ? 'all' : `any ${lost.length - left}`} of: ${lost.join(', ')}`,
    },
  );
}

async function demandRoom(folder: string, shards: readonly Shard[]): Promise<void> {
  const bytes = shards.reduce((sum, { size, offset }) => sum + size + offset, 0);
  const shortages = await findShortages([{ folder, what: 'rebuilt volumes', bytes }]);
  if (shortages.length === 0) return;
  throw new SealiftError('DISK_FULL', shortages.map(describeShortage).join('; '), {
    details: shortageDetails(shortages),
    hint: 'free space there, or name another folder with --output',
  });
}

/**
 * After a change of a few bytes in the first volume: the code is linear, so each parity volume changes by its coefficient
 * times the difference, at the same place.
 * @returns names of the parity volumes that were changed
 * @throws {SealiftError} IO_ERROR
 */
export async function updateParity(
  base: string,
  offset: number,
  before: Uint8Array,
  after: Uint8Array,
): Promise<string[]> {
  const list = parseList(await readFile(listName(base), 'utf8'));
  const names = [...list.digests.keys()].filter(isParity);
  const volumes = list.digests.size - names.length;
  const difference = Buffer.from(before.map((byte, i) => byte ^ after[i]!));
  for (const [row, name] of names.entries()) {
    const handle = await open(join(dirname(base), name), 'r+');
    try {
      const sums = Buffer.alloc(difference.length);
      await handle.read(sums, 0, sums.length, HEADER_BYTES + offset);
      const factor = coefficient(row, 0, volumes);
      for (const [i, byte] of difference.entries()) sums[i]! ^= multiply(factor, byte);
      await handle.write(sums, 0, sums.length, HEADER_BYTES + offset);
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
  return names;
}
