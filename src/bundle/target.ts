// SPDX-License-Identifier: Apache-2.0
/** Where a bundle is written to. Threads write blobs, in any order; the rest is written here. */
import { writeSync } from 'node:fs';
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { fsyncDir, writeFileDurably } from '../store/files.ts';
import { transfer, type Stretch } from '../store/transfer.ts';
import { formatList, listName, volumeName } from './volumes.ts';

export interface ByteTarget {
  /** How messages call it. */
  readonly name: string;
  /** Where in open files these bytes go. */
  stretches(position: number, length: number): Stretch[];
  /** Small pieces between the blobs. */
  write(bytes: Uint8Array, position: number): void;
  /** Told of bytes that a thread has written, so that the disk gets its work early. */
  wrote(bytes: number): void;
  /** Makes it durable and gives it its name. */
  finish(): Promise<void>;
  /** Leaves nothing. */
  discard(): Promise<void>;
}

/** Bytes after which the disk is told to begin. */
const SYNC_BYTES = 128 * 1024 * 1024;

/** Writes to the disk while there is still something to do, and not all of it at the end. */
export class EarlySync {
  readonly #handle: FileHandle;
  #since = 0;
  #running: Promise<unknown> | undefined;
  #failed: { error: unknown } | undefined;

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  wrote(bytes: number): void {
    this.#since += bytes;
    if (this.#since < SYNC_BYTES || this.#running !== undefined) return;
    this.#since = 0;
    this.#running = this.#handle
      .datasync()
      // The kernel tells of a failed write once: it must not be lost here.
      .catch((error: unknown) => (this.#failed ??= { error }))
      .finally(() => (this.#running = undefined));
  }

  /** What was begun comes to its end. */
  async rest(): Promise<void> {
    await this.#running;
  }

  /** Everything is on the disk. @throws what any of the disk's work threw */
  async end(): Promise<void> {
    await this.rest();
    if (this.#failed !== undefined) throw this.#failed.error;
    await this.#handle.sync();
  }
}

/** One file, under a temporary name until it is whole. */
export class FileTarget implements ByteTarget {
  readonly name: string;
  readonly #handle: FileHandle;
  readonly #sync: EarlySync;

  private constructor(name: string, handle: FileHandle) {
    this.name = name;
    this.#handle = handle;
    this.#sync = new EarlySync(handle);
  }

  static async create(path: string): Promise<FileTarget> {
    return new FileTarget(path, await open(temporary(path), 'w', 0o644));
  }

  stretches(offset: number, length: number): Stretch[] {
    return [{ fd: this.#handle.fd, offset, length }];
  }

  write(bytes: Uint8Array, position: number): void {
    for (let done = 0; done < bytes.length;)
      done += writeSync(this.#handle.fd, bytes, done, bytes.length - done, position + done);
  }

  wrote(bytes: number): void {
    this.#sync.wrote(bytes);
  }

  async finish(): Promise<void> {
    await this.#sync.end();
    await this.#handle.close();
    await rename(temporary(this.name), this.name);
    await fsyncDir(dirname(this.name));
  }

  async discard(): Promise<void> {
    await this.#sync.rest();
    await this.#handle.close().catch(() => undefined); // it may have failed in closing
    await rm(temporary(this.name), { force: true });
  }
}

/** What a killed build leaves, and the next one writes over. */
export const temporary = (path: string): string => `${path}.partial`;

interface OpenVolume {
  name: string;
  handle: FileHandle;
  sync: EarlySync;
  bytes: number;
}

/**
 * Volumes of a fixed size, under temporary names until all are whole. The list is written before the first volume gets
 * its name, so NAME.001 means that everything is there.
 */
export class VolumeTarget implements ByteTarget {
  readonly name: string;
  readonly #volumeBytes: number;
  readonly #totalBytes: number;
  readonly #volumes: OpenVolume[];

  private constructor(
    name: string,
    sizes: { volumeBytes: number; totalBytes: number },
    volumes: OpenVolume[],
  ) {
    this.name = name;
    this.#volumeBytes = sizes.volumeBytes;
    this.#totalBytes = sizes.totalBytes;
    this.#volumes = volumes;
  }

  /** @param path the bundle's, without a number */
  static async create(
    path: string,
    sizes: { volumeBytes: number; totalBytes: number },
  ): Promise<VolumeTarget> {
    const volumes: OpenVolume[] = [];
    for (let at = 0; at < sizes.totalBytes; at += sizes.volumeBytes) {
      const name = volumeName(path, volumes.length + 1);
      const handle = await open(temporary(name), 'w+', 0o644);
      const bytes = Math.min(sizes.volumeBytes, sizes.totalBytes - at);
      volumes.push({ name, handle, sync: new EarlySync(handle), bytes });
    }
    return new VolumeTarget(path, sizes, volumes);
  }

  stretches(position: number, length: number): Stretch[] {
    const stretches: Stretch[] = [];
    for (let done = 0; done < length;) {
      const at = position + done;
      const volume = Math.floor(at / this.#volumeBytes);
      const offset = at - volume * this.#volumeBytes;
      const part = Math.min(length - done, this.#volumeBytes - offset);
      stretches.push({ fd: this.#volumes[volume]!.handle.fd, offset, length: part });
      done += part;
    }
    return stretches;
  }

  write(bytes: Uint8Array, position: number): void {
    let from = 0;
    for (const { fd, offset, length } of this.stretches(position, bytes.length)) {
      for (let done = 0; done < length;)
        done += writeSync(fd, bytes, from + done, length - done, offset + done);
      from += length;
    }
  }

  wrote(bytes: number): void {
    for (const { sync } of this.#volumes) sync.wrote(bytes / this.#volumes.length);
  }

  async finish(): Promise<void> {
    const jobs = this.#volumes.map(({ handle, bytes }) => ({
      from: [{ fd: handle.fd, offset: 0, length: bytes }],
    }));
    const digests = await Promise.all(jobs.map((job) => transfer(job)));
    for (const { sync, handle } of this.#volumes) {
      await sync.end();
      await handle.close();
    }
    const [first, ...others] = this.#volumes;
    for (const { name } of others) await rename(temporary(name), name);
    const names = this.#volumes.map(({ name }) => basename(name));
    const list = {
      volumeBytes: this.#volumeBytes,
      totalBytes: this.#totalBytes,
      digests: new Map(names.map((name, i) => [name, digests[i]!])),
    };
    await writeFileDurably(listName(this.name), formatList(list));
    await rename(temporary(first!.name), first!.name);
    await fsyncDir(dirname(this.name));
  }

  async discard(): Promise<void> {
    for (const { sync, handle, name } of this.#volumes) {
      await sync.rest();
      await handle.close().catch(() => undefined);
      await rm(temporary(name), { force: true });
    }
  }
}
