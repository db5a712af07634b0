// SPDX-License-Identifier: Apache-2.0
import type { FileHandle } from 'node:fs/promises';
import { giveBack } from './memory.ts';

/** Pieces wait for one another this long, in milliseconds: a slow connection is to be seen, and survive a kill. */
const WAIT_MS = 250;

/**
 * Writes pieces of a file in few calls. A socket gives 64 KiB at a time, and handing each over to the thread that
 * writes costs as much as receiving it.
 */
export class Batch {
  readonly #handle: FileHandle;
  readonly #maxBytes: number;
  readonly #onWritten: (from: number, to: number) => Promise<void>;
  #pieces: Uint8Array[] = [];
  #from = 0;
  #to = 0;
  #begun = performance.now();

  /**
   * @param maxBytes writes when so much has come together, and gives back the memory of the pieces; 0 writes every piece
   *   at once, and leaves its memory to others
   */
  constructor(handle: FileHandle, maxBytes: number, onWritten: (from: number, to: number) => Promise<void>) {
    this.#handle = handle;
    this.#maxBytes = maxBytes;
    this.#onWritten = onWritten;
  }

  /** @param at where the piece belongs in the file */
  async add(piece: Uint8Array, at: number): Promise<void> {
    if (at !== this.#to) await this.flush();
    if (this.#pieces.length === 0) {
      this.#from = at;
      this.#begun = performance.now();
    }
    this.#pieces.push(piece);
    this.#to = at + piece.length;
    const full = this.#to - this.#from >= this.#maxBytes;
    if (full || performance.now() - this.#begun >= WAIT_MS) await this.flush();
  }

  /** Writes what waits. */
  async flush(): Promise<void> {
    if (this.#pieces.length === 0) return;
    const [pieces, from, to] = [this.#pieces, this.#from, this.#to];
    this.#pieces = [];
    await writeAll(this.#handle, pieces, from);
    if (this.#maxBytes > 0) for (const piece of pieces) giveBack(piece);
    await this.#onWritten(from, to);
  }
}

/** One call may write less than asked, for example when the disk is nearly full. */
async function writeAll(handle: FileHandle, pieces: readonly Uint8Array[], position: number): Promise<void> {
  let at = position;
  let rest = [...pieces];
  while (rest.length > 0) {
    const { bytesWritten } = await handle.writev(rest, at);
    at += bytesWritten;
    let skip = bytesWritten;
    rest = rest.flatMap((piece) => {
      const left = piece.subarray(Math.min(skip, piece.length));
      skip -= piece.length - left.length;
      return left.length > 0 ? [left] : [];
    });
  }
}
