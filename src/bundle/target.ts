// SPDX-License-Identifier: Apache-2.0
/** Where a bundle is written to. Threads write blobs, in any order; the rest is written here. */
import { writeSync } from 'node:fs';
import { lstat, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { SealiftError } from '../errors.ts';
import type { Digest } from '../store/digest.ts';
import { createTemporary, fsyncDir, openTemporary, temporary, writeFileDurably } from '../store/files.ts';
import type { Stretch } from '../store/transfer.ts';
import { recipe } from './parity.ts';
import { hashOpen, sumUp, type OpenShard, type RebuildOptions } from './rebuild.ts';
import { shardsOf, type Shape } from './shards.ts';
import { formatList, listName } from './volumes.ts';

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
  /** Leaves nothing, or what a later run can go on with. */
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
    await this.#handle.sync();
    await this.rest(); // one that began meanwhile may be the one that was told of a failure
    if (this.#failed !== undefined) throw this.#failed.error;
  }
}

/** One file, under a temporary name until it is whole. */
export class FileTarget implements ByteTarget {
  readonly name: string;
  readonly #handle: FileHandle;
  readonly #sync: EarlySync;
  readonly #stays: boolean;

  private constructor(name: string, handle: FileHandle, stays: boolean) {
    this.name = name;
    this.#handle = handle;
    this.#sync = new EarlySync(handle);
    this.#stays = stays;
  }

  /** @param options.stays what is given up stays, for `resume` */
  static async create(path: string, { stays = false } = {}): Promise<FileTarget> {
    return new FileTarget(path, await createTemporary(path), stays);
  }

  /**
   * Goes on with the file that stayed; undefined when there is none. Whoever does so hashes what is in it.
   * @param size bytes that the archive will have
   */
  static async resume(path: string, size: number): Promise<FileTarget | undefined> {
    const handle = await openTemporary(path);
    if (handle !== undefined && (await handle.stat()).size > size) await handle.truncate(size);
    return handle && new FileTarget(path, handle, true);
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
    await demandOwn(this.#handle, this.name);
    await this.#handle.close();
    await rename(temporary(this.name), this.name);
    await fsyncDir(dirname(this.name));
  }

  async discard(): Promise<void> {
    await this.#sync.rest();
    await this.#handle.close().catch(() => undefined); // it may have failed in closing
    if (!this.#stays) await rm(temporary(this.name), { force: true });
  }
}

/**
 * What gets the name is what was written, and not what another build has put there meanwhile.
 * @throws {SealiftError} IO_ERROR
 */
async function demandOwn(handle: FileHandle, path: string): Promise<void> {
  const [own, there] = await Promise.all([
    handle.stat({ bigint: true }),
    lstat(temporary(path), { bigint: true }).catch(() => undefined),
  ]);
  if (there?.ino === own.ino && there.dev === own.dev) return;
  throw new SealiftError('IO_ERROR', `${temporary(path)} was replaced while it was written`, {
    hint: 'another program writes to the same place, perhaps another build: run again when it has ended',
  });
}

interface OpenVolume extends OpenShard {
  path: string;
  sync: EarlySync;
}

/** How volumes are cut, and how many parity volumes there are. */
type Cut = Omit<Shape, 'volumes'>;

/**
 * Volumes of a fixed size, and parity volumes, under temporary names until all are whole. The list is written before the
 * first volume gets its name, so NAME.001 means that everything is there.
 */
export class VolumeTarget implements ByteTarget {
  readonly name: string;
  readonly #cut: Cut;
  /** Volumes first, then parity volumes. */
  readonly #files: readonly OpenVolume[];
  readonly #volumes: readonly OpenVolume[];
  readonly #options: RebuildOptions;

  private constructor(name: string, cut: Cut, files: readonly OpenVolume[], options: RebuildOptions) {
    this.name = name;
    this.#cut = cut;
    this.#files = files;
    this.#volumes = files.slice(0, files.length - cut.parity);
    this.#options = options;
  }

  /**
   * @param path the bundle's, without a number
   * @param options what `finish` tells of its progress, and what stops it
   */
  static async create(path: string, cut: Cut, options: RebuildOptions = {}): Promise<VolumeTarget> {
    const volumes = Math.ceil(cut.totalBytes / cut.volumeBytes);
    const files: OpenVolume[] = [];
    for (const shard of shardsOf(basename(path), { ...cut, volumes })) {
      const own = join(dirname(path), shard.name);
      const handle = await createTemporary(own);
      files.push({ ...shard, path: own, handle, sync: new EarlySync(handle) });
    }
    return new VolumeTarget(path, cut, files, options);
  }

  stretches(position: number, length: number): Stretch[] {
    const stretches: Stretch[] = [];
    for (let done = 0; done < length;) {
      const at = position + done;
      const volume = Math.floor(at / this.#cut.volumeBytes);
      const offset = at - volume * this.#cut.volumeBytes;
      const part = Math.min(length - done, this.#cut.volumeBytes - offset);
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

  /** @param known digests of the volumes, when they have been hashed on their way */
  async finish(known?: ReadonlyMap<string, Digest>): Promise<void> {
    const digests = new Map(known ?? (await hashOpen(this.#volumes, this.#options)));
    if (this.#cut.parity > 0) await this.#sumUp();
    const parity = await hashOpen(this.#files.slice(this.#volumes.length), this.#options);
    for (const [name, digest] of parity) digests.set(name, digest);
    for (const { sync, handle, path } of this.#files) {
      await sync.end();
      await demandOwn(handle, path);
      await handle.close();
    }
    const [first, ...others] = this.#files;
    for (const { path } of others) await rename(temporary(path), path);
    await writeFileDurably(listName(this.name), formatList({ ...this.#cut, digests }));
    await rename(temporary(first!.path), first!.path);
    await fsyncDir(dirname(this.name));
  }

  async #sumUp(): Promise<void> {
    const volumes = this.#volumes.length;
    const parity = new Set(Array.from({ length: this.#cut.parity }, (_, i) => volumes + i));
    const how = recipe(volumes, this.#cut.parity, parity)!;
    await sumUp(how, new Map(this.#files.entries()), this.#options);
  }

  async discard(): Promise<void> {
    for (const { sync, handle, path } of this.#files) {
      await sync.rest();
      await handle.close().catch(() => undefined);
      await rm(temporary(path), { force: true });
    }
  }
}
