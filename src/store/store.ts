// SPDX-License-Identifier: Apache-2.0
/**
 * Bytes by digest. `blobs/sha256/<hex>` holds finished blobs only: content lands there by rename after its
 * digest matched and it was fsynced, so whatever is there is whole. `partial/<hex>` holds what a download has
 * brought so far; it survives a kill and is hashed again from the start when the download goes on.
 */
import { randomUUID } from 'node:crypto';
import { mkdir, open, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { asSealiftError, SealiftError } from '../errors.ts';
import { digestOf, Hasher, hexOf, type Digest, type Expected } from './digest.ts';
import { fsyncDir, readFileChunks } from './files.ts';

/** How often a body that broke off without bringing a single byte is opened again. */
const ATTEMPTS_WITHOUT_PROGRESS = 4;

export interface BlobSource {
  /**
   * Opens the content at `offset` or earlier; `offset` of the result says where the body really starts
   * (0 from servers that ignore ranges). A chunk of the body is the receiver's until it asks for the next one.
   */
  open(offset: number, signal?: AbortSignal): Promise<{ offset: number; body: AsyncIterable<Uint8Array> }>;
}

export interface AddOptions {
  /** Called with bytes gained; negative when a download has to start over. */
  onBytes?: (delta: number) => void;
  signal?: AbortSignal;
  /** What the blob is, for messages. */
  what?: string;
}

export class Store {
  readonly root: string;
  /** Blobs on their way, so that two users of one blob in one process share one download. */
  readonly #arriving = new Map<Digest, Promise<void>>();

  private constructor(root: string) {
    this.root = root;
  }

  static async open(root: string): Promise<Store> {
    await mkdir(join(root, 'blobs', 'sha256'), { recursive: true });
    await mkdir(join(root, 'partial'), { recursive: true });
    return new Store(root);
  }

  path(digest: Digest): string {
    return join(this.root, 'blobs', 'sha256', hexOf(digest));
  }

  async has(expected: Expected): Promise<boolean> {
    try {
      const info = await stat(this.path(expected.digest));
      return info.isFile() && info.size === expected.size;
    } catch {
      return false;
    }
  }

  /**
   * Brings a blob whose digest is known, going on with an earlier partial download.
   * @throws {SealiftError} SOURCE_CHANGED when the bytes differ (nothing is kept); NETWORK_ERROR when the
   *   source stops making progress (the partial is kept); DISK_FULL, IO_ERROR
   */
  async add(expected: Expected, source: BlobSource, options: AddOptions = {}): Promise<void> {
    const arriving = this.#arriving.get(expected.digest);
    if (arriving) return arriving;
    const added = this.#add(expected, source, options).finally(() => this.#arriving.delete(expected.digest));
    this.#arriving.set(expected.digest, added);
    return added;
  }

  async #add(expected: Expected, source: BlobSource, options: AddOptions): Promise<void> {
    if (await this.has(expected)) return;
    const what = options.what ?? expected.digest;
    const partial = join(this.root, 'partial', hexOf(expected.digest));
    const handle = await open(partial, 'a+', 0o644);
    try {
      await new Download(partial, handle, expected, what, options).complete(source);
    } catch (error) {
      await handle.close();
      if (error instanceof SealiftError && error.code === 'SOURCE_CHANGED')
        await rm(partial, { force: true });
      throw asSealiftError(error, `storing ${what} in ${this.root}`);
    }
    await handle.close();
    await this.#publish(partial, expected.digest);
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
   * @param options.maxBytes more than this is refused with SOURCE_INVALID
   */
  async addStream(
    body: AsyncIterable<Uint8Array>,
    options: AddOptions & { maxBytes?: number } = {},
  ): Promise<Expected> {
    const temp = join(this.root, 'partial', `new-${randomUUID()}`);
    const hasher = new Hasher();
    try {
      const handle = await open(temp, 'wx', 0o644);
      try {
        for await (const chunk of body) {
          options.signal?.throwIfAborted();
          hasher.update(chunk);
          if (hasher.size > (options.maxBytes ?? Number.MAX_SAFE_INTEGER)) throw tooLarge(options);
          await writeFully(handle, chunk);
          options.onBytes?.(chunk.length);
        }
        await handle.sync();
      } finally {
        await handle.close();
      }
      const expected = { digest: hasher.digest(), size: hasher.size };
      await this.#publish(temp, expected.digest);
      return expected;
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
    await fsyncDir(dirname(path));
  }
}

/** One blob on its way into a partial file. */
class Download {
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #expected: Expected;
  readonly #what: string;
  readonly #options: AddOptions;
  #hasher = new Hasher();

  constructor(path: string, handle: FileHandle, expected: Expected, what: string, options: AddOptions) {
    this.#path = path;
    this.#handle = handle;
    this.#expected = expected;
    this.#what = what;
    this.#options = options;
  }

  /**
   * A partial that a power cut tore (sizes reach the disk before data) must not be blamed on the source: when a
   * resumed download does not match, it is brought once more from the start.
   */
  async complete(source: BlobSource): Promise<void> {
    await this.#resume();
    const resumed = this.#hasher.size > 0;
    await this.#run(source);
    let digest = this.#hasher.digest();
    if (digest !== this.#expected.digest && resumed) {
      await this.#restart();
      await this.#run(source);
      digest = this.#hasher.digest();
    }
    if (digest !== this.#expected.digest) throw this.#changed(digest);
    await this.#handle.sync();
  }

  /** Hashes what an earlier run left. Too much of it means another kind of mistake: start over. */
  async #resume(): Promise<void> {
    const { size } = await this.#handle.stat();
    if (size > this.#expected.size) return this.#restart();
    for await (const chunk of readFileChunks(this.#path, 0, size, true)) {
      this.#hasher.update(chunk);
      this.#options.onBytes?.(chunk.length);
    }
  }

  async #run(source: BlobSource): Promise<void> {
    let failures = 0;
    while (this.#hasher.size < this.#expected.size) {
      const before = this.#hasher.size;
      // What open() throws, the source has already tried again as often as it makes sense.
      const opened = await source.open(before, this.#options.signal);
      try {
        await this.#receive(opened);
        if (this.#hasher.size < this.#expected.size)
          throw new SealiftError('NETWORK_ERROR', `${this.#what} ended early`);
      } catch (error) {
        const retryable = error instanceof SealiftError && error.code === 'NETWORK_ERROR';
        failures = this.#hasher.size > before ? 0 : failures + 1;
        if (!retryable || failures >= ATTEMPTS_WITHOUT_PROGRESS) throw error;
      }
    }
  }

  async #receive({ offset, body }: Awaited<ReturnType<BlobSource['open']>>): Promise<void> {
    let skip = this.#hasher.size - offset;
    if (skip < 0)
      throw new SealiftError(
        'SOURCE_INVALID',
        `${this.#what}: the source answered past the place it was asked for`,
      );
    if (offset === 0 && skip > 0) {
      await this.#restart(); // hashing what is there again costs no more than downloading it
      skip = 0;
    }
    for await (const chunk of body) {
      this.#options.signal?.throwIfAborted();
      const rest = chunk.subarray(Math.min(skip, chunk.length));
      skip -= chunk.length - rest.length;
      if (rest.length > 0) await this.#write(rest);
    }
  }

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.#hasher.size + chunk.length > this.#expected.size) throw this.#changed(undefined);
    await writeFully(this.#handle, chunk);
    this.#hasher.update(chunk);
    this.#options.onBytes?.(chunk.length);
  }

  async #restart(): Promise<void> {
    if (this.#hasher.size > 0) this.#options.onBytes?.(-this.#hasher.size);
    this.#hasher = new Hasher();
    await this.#handle.truncate(0);
  }

  #changed(got: Digest | undefined): SealiftError {
    return new SealiftError(
      'SOURCE_CHANGED',
      `${this.#what}: the source sends other bytes than the lock says`,
      {
        details: [
          ['locked', `${this.#expected.digest} (${this.#expected.size} bytes)`],
          ['received', got ?? `more than ${this.#expected.size} bytes`],
        ],
        hint: 'run again; if it stays so and the change is meant, run `sealift lock`, review it, then build',
      },
    );
  }
}

/** FileHandle.write may write less than asked, for example when the disk is nearly full. */
export async function writeFully(handle: FileHandle, chunk: Uint8Array): Promise<void> {
  let done = 0;
  while (done < chunk.length) {
    const { bytesWritten } = await handle.write(chunk, done, chunk.length - done, null);
    done += bytesWritten;
  }
}

function tooLarge(options: AddOptions & { maxBytes?: number }): SealiftError {
  return new SealiftError(
    'SOURCE_INVALID',
    `${options.what ?? 'content'} is larger than the ${options.maxBytes} bytes allowed`,
  );
}
