// SPDX-License-Identifier: Apache-2.0
/**
 * Reads a file from one place to another, once through, and past the page cache (O_DIRECT) where the kernel would have to
 * fill it first: finding pages for hundreds of gigabytes and copying out of them costs as much as half of the hashing,
 * and drives out of memory what others have there. What is in the cache already is read from it.
 */
import { closeSync, constants, readFileSync, readSync } from 'node:fs';
import { MIN_DIRECT_BYTES, openDirect, PAGE_BYTES, SECTOR_BYTES } from './direct.ts';
import { onPage } from './memory.ts';

/** Read through the page cache at a time, in bytes: the fastest of 64 KiB to 4 MiB, since it stays in the second-level cache. */
export const READ_BYTES = 256 * 1024;

/** Read past it at a time, in bytes: nothing is read ahead there, so each read must keep the disk busy by itself. */
export const DIRECT_BYTES = 4 * 1024 * 1024;

/** Enough to see whether the cache has it, and little enough that the kernel reads little ahead. In bytes. */
const PROBE_BYTES = 64 * 1024;

/** Bytes until the cache is asked again. */
const STEP_BYTES = 64 * 1024 * 1024;

/**
 * Bytes a second that a thread must be brought; there are four of them. With a slower medium the cores have time for the
 * page cache, and whoever reads the same again, as an install does after a verify, is served from it.
 */
const FAST = 100e6;

/** Bytes before a medium is judged. */
const TRIAL_BYTES = 16 * 1024 * 1024;

/** Codes of disks with larger sectors, and of file systems that open such files and do not read them. */
const NOT_HERE: ReadonlySet<string | undefined> = new Set(['EINVAL', 'EOPNOTSUPP', 'ENOTSUP']);

export interface ReaderOptions {
  /**
   * Begins at sectors rather than at pages, so that content of an archive comes to lie on a page and can be written from
   * there. Some file systems then read through the cache after all.
   */
  bySectors?: boolean;
  /** Bytes that this thread has had fetched from disks so far; undefined when nobody counts them. */
  fetched?: () => number | undefined;
  /** Milliseconds. */
  now?: () => number;
}

let memory: { cached: Buffer; direct: Buffer } | undefined;

export class Reader {
  readonly #fd: number;
  readonly #end: number;
  readonly #fetched: () => number | undefined;
  readonly #now: () => number;
  #at: number;
  /** The same file, opened once more. */
  #direct: number | undefined;
  /** Bytes until the next probe; infinite when there will be none. */
  #left = 0;
  #past = false;
  /** What places and lengths are multiples of when it is read past the cache, in bytes. */
  #unit: number;
  /** What was read past the cache, in bytes, and how long that took, in milliseconds. */
  #tried = { bytes: 0, ms: 0 };

  /** @param end behind the last byte that is wanted, which the file may not have */
  constructor(
    fd: number,
    at: number,
    end: number,
    { bySectors = false, fetched = fetchedByThread, now = () => performance.now() }: ReaderOptions = {},
  ) {
    this.#fd = fd;
    this.#at = at;
    this.#end = end;
    this.#fetched = fetched;
    this.#now = now;
    this.#unit = bySectors ? SECTOR_BYTES : PAGE_BYTES;
    memory ??= {
      cached: Buffer.allocUnsafeSlow(READ_BYTES),
      direct: Buffer.from(onPage(DIRECT_BYTES, 'own')),
    };
  }

  /**
   * The next bytes, good until the next call of any reader of this thread; none at the end of the file.
   * @param room what comes through the page cache is put at its beginning; what is read past it lies elsewhere
   * @throws what the operating system says
   */
  next(room: Uint8Array = memory!.cached): Uint8Array {
    const due = this.#left <= 0 && this.#end - this.#at >= MIN_DIRECT_BYTES && room.length >= PROBE_BYTES;
    const bytes = due
      ? this.#probe(room)
      : this.#past
        ? this.#readDirect(room)
        : this.#read(room, READ_BYTES);
    this.#at += bytes.length;
    this.#left -= bytes.length;
    return bytes;
  }

  close(): void {
    if (this.#direct !== undefined) closeSync(this.#direct);
    this.#direct = undefined;
  }

  #read(room: Uint8Array, most: number): Uint8Array {
    const want = Math.min(most, room.length, this.#end - this.#at);
    return room.subarray(0, readSync(this.#fd, room, 0, want, this.#at));
  }

  /** A little through the cache, and whether it had to be fetched says how to go on. */
  #probe(room: Uint8Array): Uint8Array {
    const before = this.#fetched();
    const bytes = this.#read(room, PROBE_BYTES);
    this.#left = before === undefined ? Infinity : STEP_BYTES;
    const fetched = before !== undefined && this.#fetched()! > before;
    if (fetched) this.#direct ??= openDirect(this.#fd, constants.O_RDONLY);
    this.#past = fetched && this.#direct !== undefined;
    return bytes;
  }

  /** From the beginning of the sector in which the next byte lies. */
  #readDirect(room: Uint8Array): Uint8Array {
    const { direct } = memory!;
    const lead = this.#at % this.#unit;
    const want = this.#end - this.#at;
    const begun = this.#now();
    try {
      const length = Math.min(direct.length, Math.ceil((lead + want) / this.#unit) * this.#unit);
      const read = readSync(this.#direct!, direct, 0, length, this.#at - lead);
      this.#judge(read, this.#now() - begun);
      return direct.subarray(lead, Math.max(lead, Math.min(read, lead + want)));
    } catch (error) {
      if (!NOT_HERE.has((error as NodeJS.ErrnoException).code)) throw error;
      if (this.#unit < PAGE_BYTES) {
        this.#unit = PAGE_BYTES;
        return this.#readDirect(room);
      }
      this.#giveUp();
      return this.#read(room, READ_BYTES);
    }
  }

  #judge(bytes: number, ms: number): void {
    this.#tried.bytes += bytes;
    this.#tried.ms += ms;
    if (this.#tried.bytes >= TRIAL_BYTES && this.#tried.bytes < FAST * (this.#tried.ms / 1000))
      this.#giveUp();
  }

  #giveUp(): void {
    this.#past = false;
    this.#left = Infinity;
  }
}

/** `read_bytes` of proc_pid_io(5): what was fetched because of this thread, also ahead of its reading. */
function fetchedByThread(): number | undefined {
  try {
    const found = /^read_bytes: (\d+)$/m.exec(readFileSync('/proc/thread-self/io', 'utf8'));
    return found === null ? undefined : Number(found[1]);
  } catch {
    return undefined;
  }
}
