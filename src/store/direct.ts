// SPDX-License-Identifier: Apache-2.0
/** Files past the page cache (O_DIRECT, open(2)): what reading and writing in this way have in common. */
import { constants, openSync } from 'node:fs';

/** What memory, places and lengths must be multiples of, in bytes: enough for every disk. */
export const PAGE_BYTES = 4096;

/** The same for places and lengths on most disks, and so small that content in an archive begins on one. */
export const SECTOR_BYTES = 512;

/** For less than this, in bytes, opening a file once more does not pay. */
export const MIN_DIRECT_BYTES = 4 * 1024 * 1024;

/**
 * Opens an open file once more, by its descriptor, since the name may be another's by now.
 * @param access O_RDONLY or O_WRONLY
 * @returns undefined where the system or the file system has no such thing
 */
export function openDirect(fd: number, access: number): number | undefined {
  if (constants.O_DIRECT === undefined) return undefined;
  try {
    return openSync(`/proc/self/fd/${fd}`, access | constants.O_DIRECT);
  } catch {
    return undefined;
  }
}
