// SPDX-License-Identifier: Apache-2.0
/** Writing into stretches of files, and past the page cache where that can be done. */
import { closeSync, constants, writeSync } from 'node:fs';
import { MIN_DIRECT_BYTES, openDirect, PAGE_BYTES } from './direct.ts';
import { copyBytes, onPage } from './memory.ts';
import { Failure } from './trouble.ts';

/** Bytes of a file that is open in this process. */
export interface Stretch {
  fd: number;
  /** Bytes. */
  offset: number;
  length: number;
}

/** The part of stretches that begins `from` bytes after their beginning. */
export function cut(stretches: readonly Stretch[], from: number, length: number): Stretch[] {
  const parts: Stretch[] = [];
  let at = 0;
  for (const stretch of stretches) {
    const begin = Math.max(from, at);
    const end = Math.min(from + length, at + stretch.length);
    if (begin < end) parts.push({ fd: stretch.fd, offset: stretch.offset + begin - at, length: end - begin });
    at += stretch.length;
  }
  return parts;
}

/** Written at a time. A disk that is written to past the page cache wants more in one call. */
export const BUFFER_BYTES = 1024 * 1024;

/**
 * Where the next bytes go. Much data goes past the page cache (O_DIRECT), where the file system can do that: finding
 * pages for hundreds of gigabytes and copying into them costs more time than all the rest, and drives out of memory
 * what others have there.
 */
export class Sink {
  readonly #stretches: readonly Stretch[];
  /** The same files, open once more; undefined when all goes through the page cache. */
  #direct: Map<number, number> | undefined;
  #index = 0;
  #done = 0;

  constructor(stretches: readonly Stretch[]) {
    this.#stretches = stretches;
    const bytes = stretches.reduce((sum, { length }) => sum + length, 0);
    if (bytes >= MIN_DIRECT_BYTES) this.#direct = new Map();
  }

  /** Bytes that are best written next: as many as lead to a page's beginning, or else the whole buffer. */
  get wanted(): number {
    const at = (this.#stretches[this.#index]?.offset ?? 0) + this.#done;
    return this.#direct === undefined ? BUFFER_BYTES : toPage(at) || BUFFER_BYTES;
  }

  write(bytes: Uint8Array): void {
    for (let from = 0; from < bytes.length;) {
      const { fd, offset, length } = this.#stretches[this.#index]!;
      const piece = bytes.subarray(from, from + length - this.#done);
      const at = offset + this.#done;
      try {
        const written = piece.length === 0 ? 0 : this.#writeSome(fd, piece, at);
        from += written;
        this.#done += written;
      } catch (error) {
        throw new Failure(error, { side: 'write', stretch: this.#index, at });
      }
      if (this.#done === length) {
        this.#index++;
        this.#done = 0;
      }
    }
  }

  #writeSome(fd: number, piece: Uint8Array, at: number): number {
    if (this.#direct === undefined) return writeSync(fd, piece, 0, piece.length, at);
    const lead = toPage(at);
    const whole = piece.length - (piece.length % PAGE_BYTES);
    if (lead === 0 && whole > 0) {
      const written = this.#writeDirect(fd, onPages(piece.subarray(0, whole)), at);
      if (written > 0) return written;
    }
    return writeSync(fd, piece, 0, lead === 0 ? piece.length : Math.min(lead, piece.length), at);
  }

  /** @returns 0 when it cannot be done here */
  #writeDirect(fd: number, pages: Uint8Array, at: number): number {
    try {
      const direct = this.#direct?.get(fd) ?? this.#reopen(fd);
      return direct === undefined ? 0 : writeSync(direct, pages, 0, pages.length, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw error;
      this.close();
      return 0;
    }
  }

  #reopen(fd: number): number | undefined {
    if (this.#direct === undefined) return undefined;
    const direct = openDirect(fd, constants.O_WRONLY);
    if (direct === undefined) this.close();
    else this.#direct.set(fd, direct);
    return direct;
  }

  /** Closes what this has opened; what is written afterwards goes through the page cache. */
  close(): void {
    for (const fd of this.#direct?.values() ?? []) closeSync(fd);
    this.#direct = undefined;
  }
}

/** Bytes up to the next beginning of a page, which may be here. */
const toPage = (at: number): number => (PAGE_BYTES - (at % PAGE_BYTES)) % PAGE_BYTES;

let staging: Buffer | undefined;

/** The same bytes, or the first of them, in memory that begins on a page. */
function onPages(bytes: Uint8Array): Uint8Array {
  if (bytes.byteOffset % PAGE_BYTES === 0) return bytes;
  staging ??= Buffer.from(onPage(BUFFER_BYTES, 'own'));
  const piece = bytes.subarray(0, BUFFER_BYTES);
  copyBytes(piece, staging, 0);
  return staging.subarray(0, piece.length);
}
