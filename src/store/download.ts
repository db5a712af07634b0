// SPDX-License-Identifier: Apache-2.0
/**
 * One blob on its way into a partial file: in one stream, or, where the source can open ranges, in several at a time. What
 * has come is noted beside it, so that a killed download goes on. Knows nothing of digests: whoever gives the file a
 * name hashes it first, and notes that lie cost a download and nothing else.
 */
import { readFile, rename, rm, stat, writeFile, type FileHandle } from 'node:fs/promises';
import pLimit from 'p-limit';
import { SealiftError } from '../errors.ts';
import type { Expected } from './digest.ts';
import { addRange, bytesOf, formatJournal, missingRanges, parseJournal, type Range } from './ranges.ts';

/** How often a body that broke off without bringing a single byte is opened again. */
const ATTEMPTS_WITHOUT_PROGRESS = 4;

/** Bytes of one request. Smaller files come in one stream: a request more costs more than it brings. */
const SEGMENT_BYTES = 32 * 1024 * 1024;

/** Connections of the process that bring content, over all files; some registries refuse more from one address. */
const MAX_CONNECTIONS = 6;

/** Connections for one file, so that a large one does not starve the others. */
const MAX_SEGMENTS = 4;

/** Time between two notes of what has come, in milliseconds: so much may be fetched again after a kill. */
const NOTE_MS = 1000;

const connections = pLimit(MAX_CONNECTIONS);

export interface BlobSource {
  /**
   * Opens the content at `offset` or earlier; `offset` of the result says where the body really starts
   * (0 from servers that ignore ranges). A chunk of the body is the receiver's until it asks for the next one.
   */
  open(offset: number, signal?: AbortSignal): Promise<{ offset: number; body: AsyncIterable<Uint8Array> }>;
  /**
   * Opens exactly the bytes from `from` up to, and without, `to`; a body that ends too early is a NETWORK_ERROR.
   * Undefined when the far side does not honour ranges.
   */
  openRange?(from: number, to: number, signal?: AbortSignal): Promise<AsyncIterable<Uint8Array> | undefined>;
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

/** The far side sends everything, whatever is asked for. */
class NoRanges extends Error {}

export class Download {
  readonly #path: string;
  readonly #handle: FileHandle;
  readonly #expected: Expected;
  readonly #options: DownloadOptions;
  #ranges: Range[] = [];
  #notedAt = 0;

  /** @param path of the partial file, `handle` to it */
  constructor(path: string, handle: FileHandle, expected: Expected, options: DownloadOptions) {
    this.#path = path;
    this.#handle = handle;
    this.#expected = expected;
    this.#options = options;
  }

  /** Takes over what an earlier run left. @returns its bytes */
  async resume(): Promise<number> {
    const { size } = await this.#handle.stat();
    if (size > this.#expected.size) await this.restart();
    else for (const range of await arrivedRanges(this.#path, this.#expected.size, size)) this.#gain(range);
    return bytesOf(this.#ranges);
  }

  /** Forgets everything that has come. */
  async restart(): Promise<void> {
    const lost = bytesOf(this.#ranges);
    this.#ranges = [];
    if (lost > 0) this.#options.onBytes?.(-lost);
    await this.#handle.truncate(0);
    await forget(this.#path);
  }

  /**
   * Brings what is missing, and goes on after cuts.
   * @throws {SealiftError} SOURCE_CHANGED when more comes than expected; NETWORK_ERROR when nothing comes any more
   */
  async bring(source: BlobSource): Promise<void> {
    const missing = missingRanges(this.#ranges, this.#expected.size, SEGMENT_BYTES);
    if (missing.length === 0) return;
    try {
      const inPieces = source.openRange !== undefined && (missing.length > 1 || !this.#isPrefix());
      if (!inPieces || !(await this.#inPieces(source, missing)))
        await connections(() => this.#inOneStream(source));
    } finally {
      // Also after a failure: the next run goes on from here.
      if (bytesOf(this.#ranges) < this.#expected.size) await this.#note();
    }
  }

  /** Whether what has come is the beginning, so that one stream can go on. */
  #isPrefix(): boolean {
    return this.#ranges.length === 0 || (this.#ranges.length === 1 && this.#ranges[0]![0] === 0);
  }

  /** @returns false when the far side does not honour ranges */
  async #inPieces(source: BlobSource, missing: readonly Range[]): Promise<boolean> {
    const ended = new AbortController();
    const { signal } = this.#options;
    const both = signal === undefined ? ended.signal : AbortSignal.any([signal, ended.signal]);
    const own = pLimit(MAX_SEGMENTS);
    const pieces = missing.map((range) =>
      own(() => connections(() => this.#piece(source, range, both))).catch((error: unknown) => {
        ended.abort(error); // the others stop at once, and the first error is the one that is told
        throw error;
      }),
    );
    const settled = await Promise.allSettled(pieces);
    if (settled.every(({ status }) => status === 'fulfilled')) return true;
    signal?.throwIfAborted();
    if (ended.signal.reason instanceof NoRanges) return false;
    throw ended.signal.reason;
  }

  async #piece(source: BlobSource, [from, to]: Range, signal: AbortSignal): Promise<void> {
    let at = from;
    let failures = 0;
    while (at < to) {
      signal.throwIfAborted();
      const before = at;
      const body = await source.openRange!(at, to, signal);
      if (body === undefined) throw new NoRanges();
      try {
        for await (const chunk of body) {
          if (at + chunk.length > to) throw this.#tooMuch();
          await this.#write(chunk, at);
          at += chunk.length;
        }
        if (at < to) throw new SealiftError('NETWORK_ERROR', `${this.#options.what} ended early`);
      } catch (error) {
        failures = at > before ? 0 : failures + 1;
        if (!isCut(error) || failures >= ATTEMPTS_WITHOUT_PROGRESS) throw error;
      }
    }
  }

  async #inOneStream(source: BlobSource): Promise<void> {
    if (!this.#isPrefix()) await this.restart();
    const size = (): number => this.#ranges[0]?.[1] ?? 0;
    let failures = 0;
    while (size() < this.#expected.size) {
      const before = size();
      // What open() throws, the source has already tried again as often as it makes sense.
      const opened = await source.open(before, this.#options.signal);
      try {
        await this.#receive(opened, before);
        if (size() < this.#expected.size)
          throw new SealiftError('NETWORK_ERROR', `${this.#options.what} ended early`);
      } catch (error) {
        failures = size() > before ? 0 : failures + 1;
        if (!isCut(error) || failures >= ATTEMPTS_WITHOUT_PROGRESS) throw error;
      }
    }
  }

  async #receive({ offset, body }: Awaited<ReturnType<BlobSource['open']>>, size: number): Promise<void> {
    let skip = size - offset;
    let at = size;
    if (skip < 0)
      throw new SealiftError(
        'SOURCE_INVALID',
        `${this.#options.what}: the source answered past the place it was asked for`,
      );
    for await (const chunk of body) {
      this.#options.signal?.throwIfAborted();
      const rest = chunk.subarray(Math.min(skip, chunk.length));
      skip -= chunk.length - rest.length;
      if (rest.length > 0) await this.#write(rest, at);
      at += rest.length;
    }
  }

  async #write(chunk: Uint8Array, position: number): Promise<void> {
    const end = position + chunk.length;
    if (end > this.#expected.size) throw this.#tooMuch();
    await writeFully(this.#handle, chunk, position);
    this.#gain([position, end]);
    if (performance.now() - this.#notedAt > NOTE_MS) await this.#note();
  }

  #gain(range: Range): void {
    this.#ranges = addRange(this.#ranges, range);
    this.#options.onBytes?.(range[1] - range[0]);
  }

  /** Renamed into place; not fsynced, since what a power cut makes of it is found out by the hash. */
  async #note(): Promise<void> {
    this.#notedAt = performance.now();
    const temp = `${journalOf(this.#path)}.tmp`;
    await writeFile(temp, formatJournal(this.#expected.size, this.#ranges));
    await rename(temp, journalOf(this.#path));
  }

  #tooMuch(): SealiftError {
    return sourceChanged(this.#options.what, this.#expected, `more than ${this.#expected.size} bytes`);
  }
}

const isCut = (error: unknown): boolean => error instanceof SealiftError && error.code === 'NETWORK_ERROR';

const journalOf = (path: string): string => `${path}.ranges`;

/** What an earlier run has brought of a partial file. Without notes it came in one stream, from the beginning. */
export async function arrivedRanges(path: string, size: number, fileBytes?: number): Promise<Range[]> {
  const bytes = fileBytes ?? (await stat(path).catch(() => undefined))?.size ?? 0;
  const text = await readFile(journalOf(path), 'utf8').catch(() => undefined);
  if (text !== undefined) return parseJournal(text, size, bytes) ?? [];
  return bytes === 0 || bytes > size ? [] : [[0, bytes]];
}

/** Removes the notes of a partial file. */
export const forget = (path: string): Promise<void> => rm(journalOf(path), { force: true });

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
