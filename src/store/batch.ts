// SPDX-License-Identifier: Apache-2.0
import { writev } from 'node:fs';
import { promisify } from 'node:util';
import { giveBack } from './memory.ts';
import { cut, type Stretch } from './sink.ts';

/** Pieces wait for one another this long, in milliseconds: a slow connection is to be seen, and survive a kill. */
const WAIT_MS = 250;

/** Writes some of the pieces, at least a byte, from a place in the content on; a FileHandle is one. */
export interface Writer {
  writev(pieces: readonly Uint8Array[], at: number): Promise<{ bytesWritten: number }>;
}

const writeSome = promisify(writev);

/** Writes into stretches as if they were one file. */
export const stretchWriter = (to: readonly Stretch[]): Writer => ({
  writev: async (pieces, at) => {
    const bytes = pieces.reduce((sum, { length }) => sum + length, 0);
    const [stretch] = cut(to, at, bytes);
    return writeSome(stretch!.fd, beginning(pieces, stretch!.length), stretch!.offset);
  },
});

/** As many of the pieces, the last one cut, as make up so many bytes. */
function beginning(pieces: readonly Uint8Array[], bytes: number): Uint8Array[] {
  let left = bytes;
  return pieces.flatMap((piece) => {
    const part = piece.subarray(0, left);
    left -= part.length;
    return part.length > 0 ? [part] : [];
  });
}

/**
 * Writes pieces of a file in few calls. A socket gives 64 KiB at a time, and handing each over to the thread that
 * writes costs as much as receiving it.
 */
export class Batch {
  readonly #writer: Writer;
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
  constructor(writer: Writer, maxBytes: number, onWritten: (from: number, to: number) => Promise<void>) {
    this.#writer = writer;
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
    await writeAll(this.#writer, pieces, from);
    if (this.#maxBytes > 0) for (const piece of pieces) giveBack(piece);
    await this.#onWritten(from, to);
  }
}

/** One call may write less than asked, for example when the disk is nearly full. */
export async function writeAll(
  writer: Writer,
  pieces: readonly Uint8Array[],
  position: number,
): Promise<void> {
  let at = position;
  let rest = [...pieces];
  while (rest.length > 0) {
    const { bytesWritten } = await writer.writev(rest, at);
    at += bytesWritten;
    let skip = bytesWritten;
    rest = rest.flatMap((piece) => {
      const left = piece.subarray(Math.min(skip, piece.length));
      skip -= piece.length - left.length;
      return left.length > 0 ? [left] : [];
    });
  }
}
