// SPDX-License-Identifier: Apache-2.0
/** A bundle in memory, so that a hundred thousand of them can be opened, and reads be counted. */
import { openBundle, type OpenOptions, type VerifiedBundle } from '../../src/bundle/open.ts';
import { FileSource, incomplete, type ByteSource } from '../../src/bundle/source.ts';

export class MemorySource implements ByteSource {
  readonly name = 'memory';
  readonly size: number;
  /** End of the furthest read so far, in bytes from the start. */
  furthest = 0;
  closed = false;
  readonly #bytes: Buffer;
  #broken = false;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.size = bytes.length;
  }

  readInto(target: Uint8Array, position: number): Promise<void> {
    const end = position + target.length;
    if (end > this.size || this.#broken) return Promise.reject(incomplete(this.name, end, this.size));
    this.furthest = Math.max(this.furthest, end);
    target.set(this.#bytes.subarray(position, end));
    return Promise.resolve();
  }

  close(): Promise<void> {
    this.closed = true;
    return Promise.resolve();
  }

  /** From now on every read fails, as on a medium that was pulled out. */
  breakOff(): void {
    this.#broken = true;
  }
}

const fromFile = FileSource.open.bind(FileSource);

/** openBundle, with this source in place of a file's. */
export async function openMemory(source: MemorySource, options: OpenOptions): Promise<VerifiedBundle> {
  FileSource.open = () => Promise.resolve(source as unknown as FileSource);
  try {
    return await openBundle('memory', options);
  } finally {
    FileSource.open = fromFile;
  }
}
