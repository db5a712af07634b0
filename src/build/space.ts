// SPDX-License-Identifier: Apache-2.0
import { stat } from 'node:fs/promises';
import { SealiftError } from '../errors.ts';
import { freeBytes } from '../store/files.ts';

/** Bytes that will be written under a folder that exists. */
export interface SpaceNeed {
  folder: string;
  /** What for, in the message. */
  what: string;
  bytes: number;
}

/**
 * Demands that all of it fits, before hours of downloading. Folders of one file system are counted together.
 * @throws {SealiftError} DISK_FULL, naming the bytes that are needed and free
 */
export async function checkSpace(needs: readonly SpaceNeed[]): Promise<void> {
  const byDevice = new Map<number, SpaceNeed[]>();
  for (const need of needs) {
    const { dev } = await stat(need.folder);
    byDevice.set(dev, [...(byDevice.get(dev) ?? []), need]);
  }
  for (const group of byDevice.values()) await checkDevice(group);
}

async function checkDevice(group: readonly SpaceNeed[]): Promise<void> {
  const folder = group[0]!.folder;
  const free = (await freeBytes(folder)).bytes;
  const needed = group.reduce((sum, need) => sum + need.bytes, 0);
  if (needed <= free) return;
  throw new SealiftError(
    'DISK_FULL',
    `${needed} bytes are needed on the file system of ${folder}, ${free} are free: ${needed - free} too few`,
    {
      details: group.map((need) => [need.what, `${need.bytes} bytes in ${need.folder}`]),
      hint: 'free space there, or put the store (--store) or the bundle (--output) on another file system',
    },
  );
}
