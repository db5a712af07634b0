// SPDX-License-Identifier: Apache-2.0
/** Whether what is going to be written fits, asked before the first byte of it is. */
import { stat } from 'node:fs/promises';
import { freeBytes } from './files.ts';

/** Bytes that will be written under a folder that exists. */
export interface SpaceNeed {
  folder: string;
  /** What for, in the message. */
  what: string;
  bytes: number;
}

/** A file system with too little room for all that is meant for it. */
export interface Shortage {
  /** One of the folders on it. */
  folder: string;
  /** Bytes. */
  needed: number;
  free: number;
  needs: readonly SpaceNeed[];
}

/** Every file system on which the needs, taken together, do not fit. */
export async function findShortages(needs: readonly SpaceNeed[]): Promise<Shortage[]> {
  const byDevice = new Map<number, SpaceNeed[]>();
  for (const need of needs) {
    const { dev } = await stat(need.folder);
    byDevice.set(dev, [...(byDevice.get(dev) ?? []), need]);
  }
  const shortages: Shortage[] = [];
  for (const group of byDevice.values()) {
    const { folder } = group[0]!;
    const free = (await freeBytes(folder)).bytes;
    const needed = group.reduce((sum, need) => sum + need.bytes, 0);
    if (needed > free) shortages.push({ folder, needed, free, needs: group });
  }
  return shortages;
}

/** `9000 bytes are needed on the file system of /srv, 4096 are free: 4904 too few` */
export const describeShortage = ({ folder, needed, free }: Shortage): string =>
  `${needed} bytes are needed on the file system of ${folder}, ${free} are free: ${needed - free} too few`;

/** What needs how much, and where, for an error's details. */
export const shortageDetails = (shortages: readonly Shortage[]): (readonly [string, string])[] =>
  shortages.flatMap(({ needs }) =>
    needs.map(({ what, bytes, folder }) => [what, `${bytes} bytes in ${folder}`]),
  );
