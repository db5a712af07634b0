// SPDX-License-Identifier: Apache-2.0
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { asSealiftError, SealiftError } from '../errors.ts';
import type { Stretch, TransferError } from '../store/transfer.ts';

/** Random access to the bytes of a bundle, wherever they are. */
export interface ByteSource {
  /** How messages call it. */
  readonly name: string;
  /** Bytes in all. */
  readonly size: number;
  /** Fills `target` from `position`; reading past the end is BUNDLE_INCOMPLETE. */
  readInto(target: Uint8Array, position: number): Promise<void>;
  close(): Promise<void>;
}

/** A bundle in one file or several, which threads can read. */
export interface StoredSource extends ByteSource {
  /** Where in open files these bytes are; undefined when a medium would have to be asked for. */
  stretches(position: number, length: number): Promise<Stretch[] | undefined>;
  /** What it means that one of these stretches could not be read. */
  failed(error: TransferError, stretches: readonly Stretch[]): SealiftError;
}

/** One file, opened once: replacing the file's name between check and use changes nothing (THREATS.md, T9). */
export class FileSource implements StoredSource {
  readonly name: string;
  readonly size: number;
  readonly #handle: FileHandle;

  private constructor(name: string, size: number, handle: FileHandle) {
    this.name = name;
    this.size = size;
    this.#handle = handle;
  }

  static async open(path: string): Promise<FileSource> {
    try {
      // A medium can hold a FIFO or a device under the bundle's name: opening one must not block.
      const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
      const info = await handle.stat();
      if (info.isFile()) return new FileSource(path, info.size, handle);
      await handle.close();
    } catch (error) {
      throw asSealiftError(error, `opening ${path}`);
    }
    throw new SealiftError('NOT_A_BUNDLE', `${path} is not a regular file`);
  }

  async readInto(target: Uint8Array, position: number): Promise<void> {
    let done = 0;
    while (done < target.length) {
      const bytesRead = await this.#read(target, done, position + done);
      if (bytesRead === 0) throw incomplete(this.name, position + target.length, position + done);
      done += bytesRead;
    }
  }

  stretches(offset: number, length: number): Promise<Stretch[]> {
    return Promise.resolve([{ fd: this.#handle.fd, offset, length }]);
  }

  failed(error: TransferError): SealiftError {
    return readingFailed(error, this.name);
  }

  async close(): Promise<void> {
    await this.#handle.close();
  }

  async #read(target: Uint8Array, from: number, position: number): Promise<number> {
    try {
      return (await this.#handle.read(target, from, target.length - from, position)).bytesRead;
    } catch (error) {
      throw asSealiftError(error, `reading ${this.name} at byte ${position}`);
    }
  }
}

/** What a thread's failure to read a file of a bundle means. */
export function readingFailed(error: TransferError, name: string): SealiftError {
  if (error.code === 'EEND') return incomplete(name, error.at + 1, error.at);
  return asSealiftError(error, `reading ${name} at byte ${error.at}`);
}

export function incomplete(name: string, needed: number, size: number): SealiftError {
  return new SealiftError(
    'BUNDLE_INCOMPLETE',
    `${name} ends at byte ${size}, but goes on at least to byte ${needed}`,
    {
      hint: 'the copy broke off: compare sizes with the original and copy it again',
    },
  );
}
