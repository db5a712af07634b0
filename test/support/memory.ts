// SPDX-License-Identifier: Apache-2.0
/** A bundle in memory, so that a hundred thousand of them can be opened, and reads be counted. */
import { vi } from 'vitest';
import { openBundle, type OpenOptions, type VerifiedBundle } from '../../src/bundle/open.ts';
import { FileSource, incomplete, type ByteSource } from '../../src/bundle/source.ts';

export class MemorySource implements ByteSource {
  readonly name = 'memory';
  readonly size: number;
  /** End of the furthest read so far, in bytes from the start. */
  furthest = 0;
  readonly #bytes: Buffer;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.size = bytes.length;
  }

  readInto(target: Uint8Array, position: number): Promise<void> {
    const end = position + target.length;
    if (end > this.size) return Promise.reject(incomplete(this.name, end, this.size));
    this.furthest = Math.max(this.furthest, end);
    target.set(this.#bytes.subarray(position, end));
    return Promise.resolve();
  }

  close(): Promise<void> {
    return Promise.resolve();
  }
}

/** openBundle, with this source in place of a file's. */
export async function openMemory(source: MemorySource, options: OpenOptions): Promise<VerifiedBundle> {
  const open = vi.spyOn(FileSource, 'open').mockResolvedValue(source as unknown as FileSource);
  try {
    return await openBundle('memory', options);
  } finally {
    open.mockRestore();
  }
}
