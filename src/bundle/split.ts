// SPDX-License-Identifier: Apache-2.0
/** Cuts a bundle that exists, signed or not, into volumes (FORMAT.md §11). The bundle itself is only read. */
import { basename, dirname } from 'node:path';
import { asSealiftError, SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import type { Digest } from '../store/digest.ts';
import { exists } from '../store/files.ts';
import { describeShortage, findShortages, shortageDetails } from '../store/space.ts';
import { transferAll, TransferError, type Stretch } from '../store/transfer.ts';
import { ArchiveWalk, readHead } from './archive.ts';
import { demandParity, parityBytes } from './shards.ts';
import type { StoredSource } from './source.ts';
import { VolumeTarget } from './target.ts';
import { openSource, volumeName } from './volumes.ts';

export interface SplitOptions {
  /** Path of the volumes without a number. */
  out: string;
  volumeBytes: number;
  /** How many parity volumes to add. */
  parity?: number;
  emit?: Emit;
  signal?: AbortSignal | undefined;
}

/**
 * @returns how many volumes there are
 * @throws {SealiftError} NOT_A_BUNDLE, BUNDLE_MALFORMED, BUNDLE_INCOMPLETE, FILE_EXISTS, USAGE, DISK_FULL, IO_ERROR, INTERRUPTED
 */
export async function splitBundle(path: string, options: SplitOptions): Promise<number> {
  const { out, volumeBytes, parity = 0, emit = silent, signal } = options;
  const source = await openSource(path);
  try {
    const { slotExtents } = await readHead(source, new ArchiveWalk(source));
    const { offset, size } = slotExtents.at(-1)!;
    const cut = { volumeBytes, totalBytes: source.size, parity };
    demandVolumeSize(volumeBytes, source.size, offset + size);
    demandParity(parity, volumeBytes, source.size);
    await demandRoom(out, source.size + parity * parityBytes(cut));
    const target = await VolumeTarget.create(out, cut, { emit, signal });
    emit({ type: 'stage', name: 'split', totalBytes: source.size });
    try {
      await target.finish(await copyAll(source, target, volumeBytes, emit, signal));
    } catch (error) {
      await target.discard();
      throw asSealiftError(error, `splitting ${path}`);
    }
    return Math.ceil(source.size / volumeBytes);
  } finally {
    await source.close();
  }
}

/** @returns digests of the volumes, by name */
async function copyAll(
  source: StoredSource,
  target: VolumeTarget,
  volumeBytes: number,
  emit: Emit,
  signal: AbortSignal | undefined,
): Promise<Map<string, Digest>> {
  const id = target.name;
  emit({ type: 'item-start', id, kind: 'bundle', label: basename(id), bytes: source.size });
  const jobs: { from: readonly Stretch[]; to: readonly Stretch[] }[] = [];
  for (let at = 0; at < source.size; at += volumeBytes) {
    const length = Math.min(volumeBytes, source.size - at);
    jobs.push({ from: (await source.stretches(at, length)) ?? [], to: target.stretches(at, length) });
  }
  const onBytes = (delta: number): void => {
    target.wrote(delta);
    emit({ type: 'item-progress', id, delta });
  };
  const digests = new Map<string, Digest>();
  for (const [i, result] of (await transferAll(jobs, { onBytes, signal })).entries()) {
    const name = volumeName(basename(id), i + 1);
    if (!(result instanceof TransferError)) digests.set(name, result);
    else if (result.side === 'read') throw source.failed(result, jobs[i]!.from);
    else throw asSealiftError(result, `writing ${name}`);
  }
  emit({ type: 'item-end', id, outcome: 'done' });
  return digests;
}

/** Most volumes of one bundle: three digits, and all of them open at a time. */
const MAX_VOLUMES = 999;

/**
 * The signature slots lie in the first volume, so that it alone is needed for signing.
 * @param headBytes where the slots end
 * @throws {SealiftError} USAGE
 */
export function demandVolumeSize(volumeBytes: number, totalBytes: number, headBytes: number): void {
  const least = Math.max(headBytes, Math.ceil(totalBytes / MAX_VOLUMES));
  if (volumeBytes >= least) return;
  throw new SealiftError('USAGE', `volumes of ${volumeBytes} bytes are too small for this bundle`, {
    hint: `take at least ${least} bytes: the first one holds the signatures, and there can be ${MAX_VOLUMES}`,
  });
}

/** @throws {SealiftError} FILE_EXISTS, DISK_FULL */
async function demandRoom(out: string, bytes: number): Promise<void> {
  await demandNoVolumes(out);
  const shortages = await findShortages([{ folder: dirname(out), what: 'volumes', bytes }]);
  if (shortages.length === 0) return;
  throw new SealiftError('DISK_FULL', shortages.map(describeShortage).join('; '), {
    details: shortageDetails(shortages),
    hint: 'free space there, or name another folder with --output',
  });
}

/** @throws {SealiftError} FILE_EXISTS; without the first one, others are what a killed run left */
export async function demandNoVolumes(out: string): Promise<void> {
  const first = volumeName(out, 1);
  if (!(await exists(first))) return;
  throw new SealiftError('FILE_EXISTS', `${first} is already there`, {
    hint: 'name another folder or file with --output, or remove the volumes',
  });
}
