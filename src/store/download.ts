// SPDX-License-Identifier: Apache-2.0
/** One blob on its way into a partial file. Knows nothing of digests: whoever gives the file a name hashes it first. */
import type { FileHandle } from 'node:fs/promises';
import { SealiftError } from '../errors.ts';
import type { Expected } from './digest.ts';

/** How often a body that broke off without bringing a single byte is opened again. */
const ATTEMPTS_WITHOUT_PROGRESS = 4;

export interface BlobSource {
  /**
   * Opens the content at `offset` or earlier; `offset` of the result says where the body really starts
   * (0 from servers that ignore ranges). A chunk of the body is the receiver's until it asks for the next one.
   */
  open(offset: number, signal?: AbortSignal): Promise<{ offset: number; body: AsyncIterable<Uint8Array> }>;
  /** Path of a file of this machine that is the content, whole: it needs no copy. */
  readonly path?: string;
}

export interface DownloadOptions {
  /** Called with bytes gained; negative when a download has to start over. */
  onBytes?: ((delta: number) => void) | undefined;
  signal?: AbortSignal | undefined;
  /** What the blob is, for messages. */
  what: string;
}

export class Download {
  readonly #handle: FileHandle;
  readonly #expected: Expected;
  readonly #options: DownloadOptions;
  #size = 0;

  constructor(handle: FileHandle, expected: Expected, options: DownloadOptions) {
    this.#handle = handle;
    this.#expected = expected;
    this.#options = options;
  }

  /** Takes over what an earlier run left. Too much of it means another kind of mistake: start over. @returns its bytes */
  async resume(): Promise<number> {
    const { size } = await this.#handle.stat();
    if (size > this.#expected.size) await this.restart();
    else this.#gain(size);
    return this.#size;
  }

  /** Forgets everything that has come. */
  async restart(): Promise<void> {
    this.#gain(-this.#size);
    await this.#handle.truncate(0);
  }

  /**
   * Brings what is missing, and goes on after cuts.
   * @throws {SealiftError} SOURCE_CHANGED when more comes than expected; NETWORK_ERROR when nothing comes any more
   */
  async bring(source: BlobSource): Promise<void> {
    let failures = 0;
    while (this.#size < this.#expected.size) {
      const before = this.#size;
      // What open() throws, the source has already tried again as often as it makes sense.
      const opened = await source.open(before, this.#options.signal);
      try {
        await this.#receive(opened);
        if (this.#size < this.#expected.size)
          throw new SealiftError('NETWORK_ERROR', `${this.#options.what} ended early`);
      } catch (error) {
        const retryable = error instanceof SealiftError && error.code === 'NETWORK_ERROR';
        failures = this.#size > before ? 0 : failures + 1;
        if (!retryable || failures >= ATTEMPTS_WITHOUT_PROGRESS) throw error;
      }
    }
  }

  async #receive({ offset, body }: Awaited<ReturnType<BlobSource['open']>>): Promise<void> {
    let skip = this.#size - offset;
    if (skip < 0)
      throw new SealiftError(
        'SOURCE_INVALID',
        `${this.#options.what}: the source answered past the place it was asked for`,
      );
    for await (const chunk of body) {
      this.#options.signal?.throwIfAborted();
      const rest = chunk.subarray(Math.min(skip, chunk.length));
      skip -= chunk.length - rest.length;
      if (rest.length > 0) await this.#write(rest);
    }
  }

  async #write(chunk: Uint8Array): Promise<void> {
    if (this.#size + chunk.length > this.#expected.size)
      throw sourceChanged(this.#options.what, this.#expected, `more than ${this.#expected.size} bytes`);
    await writeFully(this.#handle, chunk, this.#size);
    this.#gain(chunk.length);
  }

  #gain(bytes: number): void {
    this.#size += bytes;
    if (bytes !== 0) this.#options.onBytes?.(bytes);
  }
}

/** The one clear line when the far side has changed. */
export function sourceChanged(what: string, { digest, size }: Expected, received: string): SealiftError {
  return new SealiftError('SOURCE_CHANGED', `${what}: the source sends other bytes than the lock says`, {
    details: [
      ['locked', `${digest} (${size} bytes)`],
      ['received', received],
    ],
    hint: 'run again; if it stays so and the change is meant, run `sealift lock`, review it, then build',
  });
}

/**
 * FileHandle.write may write less than asked, for example when the disk is nearly full.
 * @param position in the file; null where it stands
 */
export async function writeFully(
  handle: FileHandle,
  chunk: Uint8Array,
  position: number | null = null,
): Promise<void> {
  for (let done = 0; done < chunk.length;) {
    const at = position === null ? null : position + done;
    done += (await handle.write(chunk, done, chunk.length - done, at)).bytesWritten;
  }
}
