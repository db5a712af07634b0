// SPDX-License-Identifier: Apache-2.0
/**
 * Which bytes of a partial file are real, in `<partial>.json` beside it. It is written before the first byte lands past
 * a hole, so a partial without one was written from the start without holes. It is never fsynced, and neither is the
 * partial: the order survives a kill, and after a power cut the digest of the whole file decides.
 */
import { readFileSync, rmSync, statSync } from 'node:fs';
import { rename, rm, writeFile } from 'node:fs/promises';
import { journalText, Ranges, readJournal } from './segments.ts';

/** Milliseconds between two notes of what has come. A kill costs what came since the last one. */
const NOTE_MS = 1000;

export const journalPath = (partial: string): string => `${partial}.json`;

export interface Arrived {
  ranges: Ranges;
  /** The partial may have holes. */
  journalled: boolean;
  /** There is something that cannot be gone on with. */
  useless: boolean;
}

/**
 * What an earlier run left of a file of `size` bytes. Synchronously, because there is nothing for most of 20,000 small
 * files, and a thread's answer takes ten times as long.
 */
export function readArrived(partial: string, size: number): Arrived {
  const there = statSync(partial, { throwIfNoEntry: false })?.size ?? 0;
  const bytes = there === 0 ? undefined : readIfAny(journalPath(partial));
  const known = bytes === undefined ? new Ranges([{ from: 0, to: there }]) : readJournal(bytes, size);
  const fits = known !== undefined && there <= size && known.end <= there;
  const ranges = fits ? known : new Ranges();
  return { ranges, journalled: bytes !== undefined, useless: there > 0 && ranges.bytes === 0 };
}

/** The same of content that has no file of its own: what is not noted has not come. */
export function readNoted(partial: string, size: number): Arrived {
  const bytes = readIfAny(journalPath(partial));
  const ranges = (bytes && readJournal(bytes, size)) ?? new Ranges();
  return { ranges, journalled: bytes !== undefined, useless: false };
}

/** A journal that cannot be read is a damaged one. */
function readIfAny(path: string): Buffer | undefined {
  try {
    return readFileSync(path);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' ? undefined : Buffer.alloc(0);
  }
}

/** The journal of one download, written by one process at a time (store/lock.ts). */
export class DownloadJournal {
  readonly #path: string;
  readonly #size: number;
  #writing: Promise<void> | undefined;
  #written = -Infinity;

  constructor(partial: string, size: number) {
    this.#path = journalPath(partial);
    this.#size = size;
  }

  /** Writes down what has come, unless that was done a moment ago. */
  async note(ranges: Ranges): Promise<void> {
    if (this.#writing || performance.now() - this.#written < NOTE_MS) return;
    await this.save(ranges);
  }

  /** @throws what the file system reports */
  async save(ranges: Ranges): Promise<void> {
    while (this.#writing) await this.#writing.catch(() => undefined);
    this.#writing = this.#write(journalText(ranges, this.#size)).finally(() => {
      this.#writing = undefined;
      this.#written = performance.now();
    });
    await this.#writing;
  }

  /** After the partial has gone or is complete; before that, holes would be taken for content. */
  remove(): void {
    rmSync(this.#path, { force: true });
  }

  async #write(text: string): Promise<void> {
    const temp = `${this.#path}.tmp`;
    try {
      await writeFile(temp, text);
      await rename(temp, this.#path);
    } catch (error) {
      await rm(temp, { force: true });
      throw error;
    }
  }
}
