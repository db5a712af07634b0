// SPDX-License-Identifier: Apache-2.0
/**
 * Bytes by digest. `blobs/sha256/<hex>` holds finished blobs only: content lands there by rename after its
 * digest matched, so whatever is there is whole. `partial/<hex>` holds what a download has brought so far; it survives
 * a kill, and is hashed when it is complete.
 */
import { randomUUID } from 'node:crypto';
import { constants, rmSync, statSync } from 'node:fs';
import { mkdir, open, readdir, rename, rm, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { asSealiftError, SealiftError } from '../errors.ts';
import type { Emit } from '../events.ts';
import { digestOf, Hasher, hexOf, type Digest, type Expected } from './digest.ts';
import { journalPath, readArrived } from './download-journal.ts';
import {
  Download,
  FLOW_BYTES,
  sourceChanged,
  WrongBytes,
  writeFully,
  type BlobSource,
  type Landing,
} from './download.ts';
import { stretchWriter, writeAll } from './batch.ts';
import { fsyncDir, readFileChunks } from './files.ts';
import { Inlet } from './inlet.ts';
import { inParallel } from './pool.ts';
import { cut } from './sink.ts';
import { transfer, TransferError, type Destination, type Stretch } from './transfer.ts';

export type { BlobSource } from './download.ts';

export interface AddOptions {
  /** Called with bytes gained; negative when a download has to start over. */
  onBytes?: ((delta: number) => void) | undefined;
  signal?: AbortSignal | undefined;
  /** What the blob is, for messages. */
  what?: string;
}

export interface StreamOptions extends AddOptions {
  /** More than this is refused. In bytes. */
  maxBytes?: number;
  /** About as many bytes will come. */
  expectedBytes?: number;
}

export interface ArrivalOptions extends AddOptions {
  /** Where the content is also written, in the pass in which it is hashed. */
  into?: Destination | undefined;
  /** Other contents keep the connection busy: this one is asked for in its order, so that it is hashed as it comes. */
  inOrder?: boolean;
}

/**
 * `durable`: a blob survives a power cut before anything refers to it. `cache`: it may be lost, since it is hashed
 * whenever it is used, and can be fetched again; nothing waits for the disk.
 */
export type StoreKind = 'durable' | 'cache';

/** Writes a blob to where it is told, and returns only when its digest has matched. */
export type Fill = (blob: Expected, to: readonly Stretch[], signal: AbortSignal) => Promise<void>;

/** Blobs that are asked for together. */
const MANY = 1000;

/** Blobs that are placed at the same time: the disk has work while others are hashed. */
const PLACED_AT_ONCE = 8;

export class Store {
  readonly root: string;
  /** Blobs on their way, so that two users of one blob in one process share one download. */
  readonly #arriving = new Map<Digest, Promise<void>>();

  readonly #durable: boolean;

  private constructor(root: string, kind: StoreKind) {
    this.root = root;
    this.#durable = kind === 'durable';
  }

  static async open(root: string, kind: StoreKind = 'durable'): Promise<Store> {
    await mkdir(join(root, 'blobs', 'sha256'), { recursive: true });
    await mkdir(join(root, 'partial'), { recursive: true });
    return new Store(root, kind);
  }

  path(digest: Digest): string {
    return join(this.root, 'blobs', 'sha256', hexOf(digest));
  }

  // oxlint-disable-next-line require-await
  async has(expected: Expected): Promise<boolean> {
    // Synchronously, because this is asked of 20,000 files in a row, and a thread's answer takes ten times as long.
    try {
      const info = statSync(this.path(expected.digest), { throwIfNoEntry: false });
      return info !== undefined && info.isFile() && info.size === expected.size;
    } catch {
      return false;
    }
  }

  /** Those of the blobs that are there. Of many, one look into the folder spares a look at each that is not. */
  async present(blobs: readonly Expected[]): Promise<ReadonlySet<Digest>> {
    const names =
      blobs.length < MANY ? undefined : new Set(await readdir(join(this.root, 'blobs', 'sha256')));
    const present = new Set<Digest>();
    for (const blob of blobs)
      if (names?.has(hexOf(blob.digest)) !== false && (await this.has(blob))) present.add(blob.digest);
    return present;
  }

  /**
   * Brings a blob whose digest is known, going on with an earlier partial download. One of a cache that has rotted is
   * brought again.
   * @throws {SealiftError} SOURCE_CHANGED when the bytes differ (nothing is kept); NETWORK_ERROR when the
   *   source stops making progress (the partial is kept); DISK_FULL, IO_ERROR
   */
  async add(expected: Expected, source: BlobSource, options: ArrivalOptions = {}): Promise<void> {
    const arriving = this.#arriving.get(expected.digest);
    if (arriving) {
      await arriving;
      if (options.into) await this.copy(expected, options.into, options);
      return;
    }
    const added = this.#add(expected, source, options).finally(() => this.#arriving.delete(expected.digest));
    this.#arriving.set(expected.digest, added);
    return added;
  }

  async #add(expected: Expected, source: BlobSource, options: ArrivalOptions): Promise<void> {
    if (await this.has(expected)) {
      if (options.into === undefined || (await this.#copied(expected, options.into, options))) return;
      await this.remove(expected.digest);
    }
    const what = options.what ?? expected.digest;
    const partial = this.#partial(expected.digest);
    const handle = await open(partial, constants.O_RDWR | constants.O_CREAT, 0o644);
    const here = [{ fd: handle.fd, offset: 0, length: expected.size }];
    try {
      const places = [{ to: here }, ...(options.into ? [options.into] : [])];
      await bring({ partial, here, file: handle }, places, expected, source, { ...options, what });
      if (this.#durable) await handle.sync();
    } catch (error) {
      await handle.close();
      if (error instanceof WrongBytes) await this.#forget(expected.digest);
      throw asSealiftError(error, `storing ${what} in ${this.root}`);
    }
    await handle.close();
    rmSync(journalPath(partial), { force: true }); // for 20,000 files, as in has()
    await this.#publish(partial, expected.digest);
  }

  /** Bytes of a blob that an earlier, interrupted download left. */
  arrived({ digest, size }: Expected): number {
    return readArrived(this.#partial(digest), size).ranges.bytes;
  }

  /** The journal last: without it, a partial with holes would be taken for one without. */
  async #forget(digest: Digest): Promise<void> {
    const partial = this.#partial(digest);
    await rm(partial, { force: true });
    await rm(journalPath(partial), { force: true });
  }

  /**
   * Copies a blob of the store, hashed on its way.
   * @throws {SealiftError} STORE_DAMAGED
   */
  async copy(expected: Expected, into: Destination, options: AddOptions = {}): Promise<void> {
    if (!(await this.#copied(expected, into, options))) throw this.rotten(expected.digest);
  }

  /** Whether what was copied was right. */
  async #copied(expected: Expected, into: Destination, options: AddOptions): Promise<boolean> {
    const from = { path: this.path(expected.digest), length: expected.size };
    const { onBytes, signal } = options;
    const found = await transfer({ from, ...into }, { onBytes, signal }).catch((error: unknown) => {
      if (error instanceof TransferError && NOT_WHOLE.has(error.code)) return undefined;
      throw asSealiftError(error, `copying ${options.what ?? expected.digest} out of ${this.root}`);
    });
    if (found === expected.digest) return true;
    onBytes?.(-expected.size);
    return false;
  }

  /**
   * Places blobs that somebody else writes and verifies, several at a time. The first failure stops the others.
   * @throws {SealiftError} what `fill` throws, when all have come to rest; DISK_FULL, IO_ERROR
   */
  async place(blobs: readonly Expected[], fill: Fill, signal?: AbortSignal): Promise<void> {
    const one = async (blob: Expected, stop: AbortSignal): Promise<void> => {
      if (!(await this.has(blob))) await this.#placeOne(blob, fill, stop);
    };
    try {
      await inParallel(blobs, signal, one, PLACED_AT_ONCE);
      if (this.#durable) await fsyncDir(join(this.root, 'blobs', 'sha256'));
    } catch (error) {
      throw asSealiftError(error, `storing a blob in ${this.root}`);
    }
  }

  async #placeOne(blob: Expected, fill: Fill, signal: AbortSignal): Promise<void> {
    const partial = this.#partial(blob.digest);
    const handle = await open(partial, constants.O_RDWR | constants.O_CREAT | constants.O_TRUNC, 0o644);
    try {
      await fill(blob, [{ fd: handle.fd, offset: 0, length: blob.size }], signal);
      if (this.#durable) await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(partial, this.path(blob.digest));
  }

  #partial(digest: Digest): string {
    return join(this.root, 'partial', hexOf(digest));
  }

  async addBytes(bytes: Uint8Array): Promise<Expected> {
    const expected = { digest: digestOf(bytes), size: bytes.length };
    // oxlint-disable-next-line require-await
    const once = async function* (): AsyncGenerator<Uint8Array> {
      yield bytes;
    };
    if (!(await this.has(expected))) await this.addStream(once());
    return expected;
  }

  /**
   * Adds content whose digest is not known beforehand.
   * @throws {SealiftError} SOURCE_INVALID for more than `maxBytes`; DISK_FULL, IO_ERROR
   */
  async addStream(body: AsyncIterable<Uint8Array>, options: StreamOptions = {}): Promise<Expected> {
    const temp = join(this.root, 'partial', `new-${randomUUID()}`);
    try {
      const handle = await open(temp, 'wx', 0o644);
      let received: Expected;
      try {
        received = await receive(body, handle, options);
        if (this.#durable) await handle.sync();
      } finally {
        await handle.close();
      }
      await this.#publish(temp, received.digest);
      return received;
    } catch (error) {
      await rm(temp, { force: true });
      throw asSealiftError(error, `storing ${options.what ?? 'a blob'} in ${this.root}`);
    }
  }

  /**
   * A small blob, hashed again as it is read.
   * @throws {SealiftError} STORE_DAMAGED when the store's copy has rotted
   */
  async readBytes(expected: Expected, maxBytes: number): Promise<Buffer> {
    if (expected.size > maxBytes) {
      throw new SealiftError(
        'SOURCE_INVALID',
        `${expected.digest} is ${expected.size} bytes, more than the ${maxBytes} allowed`,
      );
    }
    const chunks: Buffer[] = [];
    for await (const chunk of this.stream(expected.digest)) chunks.push(chunk);
    const bytes = Buffer.concat(chunks);
    if (digestOf(bytes) !== expected.digest) throw this.rotten(expected.digest);
    return bytes;
  }

  /**
   * A small blob if the store has it. A copy that has rotted is removed, so that it is fetched again.
   * @returns undefined when there is none, or none any more
   */
  async readIfSound(expected: Expected, maxBytes: number, emit: Emit): Promise<Buffer | undefined> {
    if (!(await this.has(expected))) return undefined;
    try {
      return await this.readBytes(expected, maxBytes);
    } catch (error) {
      if (!(error instanceof SealiftError) || error.code !== 'STORE_DAMAGED') throw error;
      await this.remove(expected.digest);
      const message = `${error.message}, and is fetched again`;
      emit({ type: 'warning', code: 'STORE_DAMAGED', message });
      return undefined;
    }
  }

  /** The content of a blob in chunks; whoever relies on it hashes it. @param reuse see readFileChunks */
  stream(digest: Digest, reuse = false): AsyncIterable<Buffer> {
    return readFileChunks(this.path(digest), 0, undefined, reuse);
  }

  async remove(digest: Digest): Promise<void> {
    await rm(this.path(digest), { force: true });
  }

  /** The error for a blob of the store that no longer hashes to its name. */
  rotten(digest: Digest): SealiftError {
    return new SealiftError('STORE_DAMAGED', `the store's copy of ${digest} is damaged`, {
      hint: `remove ${this.path(digest)} and run again: it is fetched again`,
    });
  }

  /**
   * A crash before the rename leaves only a partial; one after it leaves a whole blob, because the content was
   * fsynced first. The folder's own fsync makes the name itself survive.
   */
  async #publish(temp: string, digest: Digest): Promise<void> {
    const path = this.path(digest);
    await rename(temp, path);
    if (this.#durable) await fsyncDir(dirname(path));
  }
}

/**
 * Brings a blob to a place that is not the store's, which keeps nothing of it, going on with what came to this place before.
 * @param notes path beside which is noted what has come
 * @throws {SealiftError} as `Store.add`
 */
export async function bringAlone(
  expected: Expected,
  source: BlobSource,
  { into, notes, ...options }: Omit<ArrivalOptions, 'into'> & { into: Destination; notes: string },
): Promise<void> {
  const what = options.what ?? expected.digest;
  const here = cut(into.to, into.before?.length ?? 0, expected.size);
  try {
    await bring({ partial: notes, here }, [into], expected, source, { ...options, what });
  } catch (error) {
    if (error instanceof WrongBytes) await rm(journalPath(notes), { force: true });
    throw asSealiftError(error, `writing ${what}`);
  }
}

/**
 * A partial that a power cut tore (sizes reach the disk before data) must not be blamed on the source: when a
 * resumed download does not match, it is brought once more from the start.
 * @param places where it is written; the first one is where it lands
 */
async function bring(
  landing: Landing,
  places: readonly Destination[],
  expected: Expected,
  source: BlobSource,
  options: ArrivalOptions & { what: string },
): Promise<void> {
  const download = new Download(landing, expected, options);
  const [own, into] = places;
  const whole = async (): Promise<Digest | undefined> => {
    await download.bring(source);
    await writeAround(own!, expected.size);
    return transfer({ from: landing.here, ...into }, { signal: options.signal }).catch(unlessShort);
  };
  const resumed = (await download.resume()) > 0;
  const flows = !resumed && options.inOrder === true && expected.size >= FLOW_BYTES;
  let digest = flows ? await flow(download, source, places) : await whole();
  if (digest !== expected.digest && resumed) {
    await download.restart();
    digest = await whole();
  }
  if (digest !== expected.digest)
    throw sourceChanged(options.what, expected, digest ?? 'less than its journal knows of');
}

/** A file that ends before what its journal knows of has lost it. */
function unlessShort(error: unknown): undefined {
  if (!(error instanceof TransferError) || error.code !== 'EEND') throw error;
}

/** What stands before and after content that came without it. */
async function writeAround({ to, before, after = 0 }: Destination, size: number): Promise<void> {
  const writer = stretchWriter(to);
  if (before) await writeAll(writer, [before], 0);
  if (after > 0) await writeAll(writer, [Buffer.alloc(after)], (before?.length ?? 0) + size);
}

/** Brings all of it, hashed and written to its places as it comes. */
async function flow(
  download: Download,
  source: BlobSource,
  destinations: readonly Destination[],
): Promise<Digest> {
  const inlet = new Inlet(destinations);
  try {
    await download.bring(source, inlet);
    return await inlet.end();
  } catch (error) {
    await inlet.drop(); // nothing is written any more when the files are closed
    throw error;
  }
}

/** A file of another size, or gone: no fault of the disk. */
const NOT_WHOLE: ReadonlySet<string> = new Set(['EBADSIZE', 'EEND', 'ENOENT']);

/** Where content goes that is hashed on its way; an Inlet is one. */
interface Taker {
  write(bytes: Uint8Array): Promise<void>;
  end(): Promise<Digest>;
  drop(): Promise<void>;
}

/** For little, which is done before a thread has started. */
function takeHere(handle: FileHandle): Taker {
  const hasher = new Hasher();
  return {
    write: (bytes) => {
      hasher.update(bytes);
      return writeFully(handle, bytes);
    },
    end: () => Promise.resolve(hasher.digest()),
    drop: () => Promise.resolve(),
  };
}

/**
 * Writes content of any length into an empty file, hashed on its way.
 * @throws {SealiftError} SOURCE_INVALID for more than `maxBytes`; what `body` and the operating system throw
 */
export async function receive(
  body: AsyncIterable<Uint8Array>,
  handle: FileHandle,
  options: StreamOptions = {},
): Promise<Expected> {
  const { expectedBytes = 0, maxBytes = Number.MAX_SAFE_INTEGER, signal, onBytes } = options;
  const everything = [{ fd: handle.fd, offset: 0, length: Number.MAX_SAFE_INTEGER }];
  const taker = expectedBytes >= FLOW_BYTES ? new Inlet([{ to: everything }]) : takeHere(handle);
  let size = 0;
  try {
    for await (const chunk of body) {
      signal?.throwIfAborted();
      size += chunk.length;
      if (size > maxBytes) throw tooLarge(options);
      await taker.write(chunk);
      onBytes?.(chunk.length);
    }
    return { digest: await taker.end(), size };
  } catch (error) {
    await taker.drop(); // nothing is written any more when the file is closed
    throw error;
  }
}

function tooLarge(options: StreamOptions): SealiftError {
  return new SealiftError(
    'SOURCE_INVALID',
    `${options.what ?? 'content'} is larger than the ${options.maxBytes} bytes allowed`,
  );
}
