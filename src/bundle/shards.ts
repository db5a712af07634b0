// SPDX-License-Identifier: Apache-2.0
/** Which files a set of volumes with parity consists of, and how large each is (FORMAT.md §12). */
import { SealiftError } from '../errors.ts';
import { MAX_SHARDS } from './parity.ts';
import { volumeName, type VolumeList } from './volumes.ts';

/** Most parity volumes: every thread holds a sum for each. */
export const MAX_PARITY = 32;

/** What determines a set: how many files, and how large. */
export interface Shape {
  volumes: number;
  /** Parity volumes. */
  parity: number;
  /** Bytes of every volume but the last, and of all together. */
  volumeBytes: number;
  totalBytes: number;
}

/** A file of a set: volumes first, then parity volumes. */
export interface Shard {
  /** Without folder. */
  name: string;
  /** Bytes. */
  size: number;
}

/** @param index from 1 */
export const parityName = (base: string, index: number): string =>
  `${base}.p${String(index).padStart(2, '0')}`;

export const isParity = (name: string): boolean => /\.p\d{2}$/.test(name);

/** Bytes of a parity volume: those of the longest volume. */
export const parityBytes = ({ volumeBytes, totalBytes }: Omit<Shape, 'volumes' | 'parity'>): number =>
  Math.min(volumeBytes, totalBytes);

/** @param base name without a number */
export function shardsOf(base: string, shape: Shape): Shard[] {
  const { volumes, parity, volumeBytes, totalBytes } = shape;
  const bytes = parityBytes(shape);
  return [
    ...Array.from({ length: volumes }, (_, i) => ({
      name: volumeName(base, i + 1),
      size: Math.min(volumeBytes, totalBytes - i * volumeBytes),
    })),
    ...Array.from({ length: parity }, (_, i) => ({ name: parityName(base, i + 1), size: bytes })),
  ];
}

/**
 * The set that a list describes. A list comes from the medium: its names become names of files that are written, so none is
 * taken but those that a set has (THREATS.md, T31).
 * @returns undefined when sizes and names do not fit each other
 */
export function shapeOf(base: string, { volumeBytes, totalBytes, digests }: VolumeList): Shape | undefined {
  if (!volumeBytes || !totalBytes) return undefined;
  const volumes = Math.ceil(totalBytes / volumeBytes);
  const parity = digests.size - volumes;
  if (parity < 1 || parity > MAX_PARITY || digests.size > MAX_SHARDS) return undefined;
  const shape = { volumes, parity, volumeBytes, totalBytes };
  return shardsOf(base, shape).every(({ name }) => digests.has(name)) ? shape : undefined;
}

/** @throws {SealiftError} USAGE */
export function demandParity(parity: number, volumeBytes: number, totalBytes: number): void {
  const volumes = Math.ceil(totalBytes / volumeBytes);
  if (parity === 0 || (parity <= MAX_PARITY && volumes + parity <= MAX_SHARDS)) return;
  throw new SealiftError('USAGE', `${parity} parity volumes for ${volumes} volumes are too many`, {
    hint: `there can be ${MAX_PARITY} of them, and ${MAX_SHARDS} volumes in all: take larger volumes`,
  });
}
