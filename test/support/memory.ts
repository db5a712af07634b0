// SPDX-License-Identifier: Apache-2.0
/** A bundle in memory, so that a hundred thousand of them can be opened, and reads be counted. */
import { openBundle, type OpenOptions, type VerifiedBundle } from '../../src/bundle/open.ts';
import { closeSync, openSync, rmSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import type { SealiftError } from '../../src/errors.ts';
import type { Stretch, TransferError } from '../../src/store/transfer.ts';
import { FileSource, incomplete, readingFailed, type StoredSource } from '../../src/bundle/source.ts';
import { tempDir } from './workspace.ts';

export class MemorySource implements StoredSource {
  readonly name = 'memory';
  readonly size: number;
  /** End of the furthest read so far, in bytes from the start. */
  furthest = 0;
  closed = false;
  readonly #bytes: Buffer;
  #broken = false;
  /** A file without a name, for threads: they cannot read the memory of another. */
  #fd: number | undefined;

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

  stretches(offset: number, length: number): Promise<Stretch[]> {
    this.furthest = Math.max(this.furthest, offset + length);
    this.#fd ??= namelessFile(this.#broken ? Buffer.alloc(0) : this.#bytes);
    return Promise.resolve([{ fd: this.#fd, offset, length }]);
  }

  failed(error: TransferError): SealiftError {
    return readingFailed(error, this.name);
  }

  close(): Promise<void> {
    this.closed = true;
    if (this.#fd !== undefined) closeSync(this.#fd);
    this.#fd = undefined;
    return Promise.resolve();
  }

  /** From now on every read fails, as on a medium that was pulled out. */
  breakOff(): void {
    this.#broken = true;
  }
}

function namelessFile(bytes: Uint8Array): number {
  const path = join(tempDir('memory'), 'bytes');
  const fd = openSync(path, 'wx+');
  writeSync(fd, bytes);
  rmSync(path);
  return fd;
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
