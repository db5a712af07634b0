// SPDX-License-Identifier: Apache-2.0
/** Cuts a bundle that exists, signed or not, into volumes (FORMAT.md §11). The bundle itself is only read. */
import { basename, dirname } from 'node:path';
import { asSealiftError, SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import { exists } from '../store/files.ts';
import { describeShortage, findShortages, shortageDetails } from '../store/space.ts';
import { transferAll, TransferError } from '../store/transfer.ts';
import { ArchiveWalk, readHead } from './archive.ts';
import { addParity, demandParity } from './repair.ts';
import { FileSource } from './source.ts';
import { VolumeTarget } from './target.ts';
import { volumeName } from './volumes.ts';

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
  const source = await FileSource.open(path);
  try {
    const { slotExtents } = await readHead(source, new ArchiveWalk(source));
    const { offset, size } = slotExtents.at(-1)!;
    demandVolumeSize(volumeBytes, source.size, offset + size);
    demandParity(parity, volumeBytes, source.size);
    await demandRoom(out, source.size + parity * volumeBytes);
    const target = await VolumeTarget.create(out, { volumeBytes, totalBytes: source.size });
    emit({ type: 'stage', name: 'split', totalBytes: source.size });
    try {
      await copyAll(source, target, volumeBytes, emit, signal);
      await target.finish();
    } catch (error) {
      await target.discard();
      throw asSealiftError(error, `splitting ${path}`);
    }
    if (parity > 0) await addParity(out, parity, { emit, signal });
    return Math.ceil(source.size / volumeBytes);
  } finally {
    await source.close();
  }
}

async function copyAll(
  source: FileSource,
  target: VolumeTarget,
  volumeBytes: number,
  emit: Emit,
  signal: AbortSignal | undefined,
): Promise<void> {
  const id = target.name;
  emit({ type: 'item-start', id, kind: 'bundle', label: basename(id), bytes: source.size });
  const jobs = [];
  for (let at = 0; at < source.size; at += volumeBytes) {
    const length = Math.min(volumeBytes, source.size - at);
    jobs.push({ from: await source.stretches(at, length), to: target.stretches(at, length) });
  }
  const onBytes = (delta: number): void => {
    target.wrote(delta);
    emit({ type: 'item-progress', id, delta });
  };
  for (const [i, result] of (await transferAll(jobs, { onBytes, signal })).entries()) {
    if (!(result instanceof TransferError)) continue;
    if (result.side === 'read') throw source.failed(result);
    throw asSealiftError(result, `writing ${volumeName(id, i + 1)}`);
  }
  emit({ type: 'item-end', id, outcome: 'done' });
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
