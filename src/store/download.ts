// SPDX-License-Identifier: Apache-2.0
/**
 * One blob on its way into a partial file: large ones in segments, several at a time, from sources that can be asked for
 * them. Knows nothing of digests: whoever gives the file a name hashes it first.
 */
import type { FileHandle } from 'node:fs/promises';
import { SealiftError } from '../errors.ts';
import { Batch, stretchWriter } from './batch.ts';
import { INLET_BYTES, type Inlet } from './inlet.ts';
import { giveBack } from './memory.ts';
import type { Expected } from './digest.ts';
import { DownloadJournal, readArrived, readNoted } from './download-journal.ts';
import { planSegments, Ranges, segmentBytes, type Range } from './segments.ts';
import type { Stretch } from './sink.ts';

/** How often a body that broke off without bringing a single byte is opened again. */
const ATTEMPTS_WITHOUT_PROGRESS = 4;

/** Segments of one file that are on their way at a time. The transport bounds what all files take together. */
const SEGMENTS_AT_ONCE = 6;

/** Bytes that are written in one call, if the source allows for it. */
const BATCH_BYTES = 1024 * 1024;

export interface Opened {
  /** Where the body really starts: 0 from servers that ignore ranges. */
  offset: number;
  body: AsyncIterable<Uint8Array>;
  /** A chunk is the receiver's for good, memory and all; else only until it asks for the next one. */
  lasting?: boolean;
}

export interface BlobSource {
  /** Opens the content at `offset` or earlier, to its end. */
  open(offset: number, signal?: AbortSignal): Promise<Opened>;
  /** Opens exactly this range, several at a time; undefined when the far side turns out to know no ranges. */
  openRange?(range: Range, signal?: AbortSignal): Promise<Opened | undefined>;
  /** Bytes to ask for at a time; by default it depends on the size of the content. */
  readonly segmentBytes?: number | undefined;
  /** Path of a file of this machine that is the content, whole: it needs no copy. */
  readonly path?: string;
}

/** Less than this comes in a moment, and nothing is noted of it on its way. In bytes. */
export const FLOW_BYTES = 4 * 1024 * 1024;

/** Where content lands. */
export interface Landing {
  /** What is known of it stands beside this path: of the file, when it has one of its own. */
  partial: string;
  /** Where it lies, from its first byte on. */
  here: readonly Stretch[];
  /** Its own file, for reading and writing; undefined when it is a part of another. */
  file?: FileHandle | undefined;
}

export interface DownloadOptions {
  /** Called with bytes gained; negative when a download has to start over. */
  onBytes?: ((delta: number) => void) | undefined;
  signal?: AbortSignal | undefined;
  /** What the blob is, for messages. */
  what: string;
}

/** Takes pieces of the content, and tells of them when they need not come again. */
interface Intake {
  add(piece: Uint8Array, at: number): Promise<void>;
  flush(): Promise<void>;
}

type OpenRange = NonNullable<BlobSource['openRange']>;

/** A source that answered ranges has stopped doing so. */
class NoRanges extends Error {}

export class Download {
  readonly #landing: Landing;
  readonly #expected: Expected;
  readonly #options: DownloadOptions;
  readonly #journal: DownloadJournal;
  #ranges = new Ranges();
  /** The partial has holes, or may get some: what has come must be written down. */
  #journalled = false;
  /** Where the content goes, in its order, instead of into the partial file. */
  #inlet: Inlet | undefined;

  constructor(landing: Landing, expected: Expected, options: DownloadOptions) {
    this.#landing = landing;
    this.#expected = expected;
    this.#options = options;
    this.#journal = new DownloadJournal(landing.partial, expected.size);
  }

  /** Takes over what an earlier run left, and starts over when that cannot be told. @returns its bytes */
  async resume(): Promise<number> {
    const { partial, file } = this.#landing;
    const { size } = this.#expected;
    const { ranges, journalled, useless } = (file ? readArrived : readNoted)(partial, size);
    if (useless) await this.restart();
    this.#ranges = ranges;
    this.#journalled = file ? journalled && !useless : size >= FLOW_BYTES;
    if (ranges.bytes > 0) this.#options.onBytes?.(ranges.bytes);
    return ranges.bytes;
  }

  /** Forgets everything that has come. */
  async restart(): Promise<void> {
    if (this.#ranges.bytes > 0) this.#options.onBytes?.(-this.#ranges.bytes);
    this.#ranges = new Ranges();
    await this.#landing.file?.truncate(0);
    this.#journal.remove();
    if (this.#landing.file) this.#journalled = false;
  }

  /**
   * Brings what is missing, and goes on after cuts.
   * @param inlet takes the content, all of it and in its order: nothing may have come before
   * @throws {SealiftError} SOURCE_CHANGED when more comes than expected; NETWORK_ERROR when nothing comes any more
   */
  async bring(source: BlobSource, inlet?: Inlet): Promise<void> {
    this.#inlet = inlet;
    const { size } = this.#expected;
    const { signal } = this.#options;
    const segment = source.segmentBytes ?? segmentBytes(size);
    try {
      if (source.openRange && size > segment) {
        const openRange: OpenRange = (range, stop) => source.openRange!(range, stop);
        if (await this.#bringSegments(segment, openRange)) return;
      }
      await this.#fill({ from: 0, to: size }, signal, (at) => source.open(at, signal));
    } finally {
      // A journal that is a second old does no harm, and must not hide why we are here.
      if (this.#journalled) await this.#journal.save(this.#lasting()).catch(() => undefined);
    }
  }

  /** @returns false when the source knows no ranges, or none any more */
  async #bringSegments(bytes: number, openRange: OpenRange): Promise<boolean> {
    const queue = planSegments(this.#ranges.gaps(0, this.#expected.size), bytes);
    const [first] = queue;
    if (first === undefined) return true;
    const stop = new AbortController();
    const signal = AbortSignal.any([stop.signal, ...(this.#options.signal ? [this.#options.signal] : [])]);
    // One answer shows whether there are ranges; else all of them would begin to send everything.
    let opened = await openRange(first, signal);
    if (opened === undefined) return false;
    this.#journalled ||= this.#inlet === undefined; // in order there are no holes
    await this.#save();
    const work = async (): Promise<void> => {
      for (let segment = queue.shift(); segment !== undefined; segment = queue.shift()) {
        const { to } = segment;
        const begun = opened;
        opened = undefined;
        await this.#fill(
          segment,
          signal,
          async (at) => demand(await openRange({ from: at, to }, signal)),
          begun,
        );
        await this.#save(); // a segment that is done is never asked for again
      }
    };
    return this.#together(
      Array.from({ length: this.#inlet === undefined ? SEGMENTS_AT_ONCE : 1 }, () => work()),
      stop,
    );
  }

  async #save(): Promise<void> {
    if (this.#journalled) await this.#journal.save(this.#lasting());
  }

  /** What is there also after a kill: what a thread was given a moment ago need not have been written. */
  #lasting(): Ranges {
    return this.#inlet === undefined ? this.#ranges : this.#ranges.upTo(this.#ranges.bytes - INLET_BYTES);
  }

  /** Waits for all to come to rest, since nothing may be written afterwards. @returns false when one met NoRanges */
  async #together(work: readonly Promise<void>[], stop: AbortController): Promise<boolean> {
    let first: { error: unknown } | undefined;
    const failed = (error: unknown): void => {
      first ??= { error };
      stop.abort();
    };
    await Promise.all(work.map((one) => one.catch(failed)));
    if (first === undefined) return true;
    if (first.error instanceof NoRanges) return false;
    throw first.error;
  }

  /** Brings what is missing of a range. */
  async #fill(
    { from, to }: Range,
    signal: AbortSignal | undefined,
    open: (at: number) => Promise<Opened>,
    begun?: Opened,
  ): Promise<void> {
    let failures = 0;
    for (let opened = begun; ; opened = undefined) {
      const missing = this.#ranges.gaps(from, to);
      const at = missing[0]?.from;
      if (at === undefined) return;
      // What open() throws, the source has already tried again as often as it makes sense.
      opened ??= await open(at);
      try {
        await this.#receive(opened, { from: at, to }, signal);
        if (this.#ranges.gaps(from, to).length > 0)
          throw new SealiftError('NETWORK_ERROR', `${this.#options.what} ended early`);
      } catch (error) {
        const retryable = error instanceof SealiftError && error.code === 'NETWORK_ERROR';
        const progress = total(this.#ranges.gaps(from, to)) < total(missing);
        failures = progress ? 0 : failures + 1;
        if (!retryable || failures >= ATTEMPTS_WITHOUT_PROGRESS) throw error;
      }
    }
  }

  /** Writes what was asked for and is not there yet. */
  async #receive(
    { offset, body, lasting = false }: Opened,
    { from, to }: Range,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const { what } = this.#options;
    const { size } = this.#expected;
    if (offset > from)
      throw new SealiftError(
        'SOURCE_INVALID',
        `${what}: the source answered past the place it was asked for`,
      );
    const intake = this.#intake(lasting);
    let at = offset;
    try {
      for await (const chunk of body) {
        signal?.throwIfAborted();
        const end = at + chunk.length;
        if (end > size) throw sourceChanged(what, this.#expected, `more than ${size} bytes`);
        for (const gap of this.#ranges.gaps(at, Math.min(end, to)))
          await intake.add(chunk.subarray(gap.from - at, gap.to - at), gap.from);
        at = end;
        if (at > to) return; // more than was asked for, which others bring
      }
    } finally {
      await intake.flush();
    }
  }

  #intake(lasting: boolean): Intake {
    const inlet = this.#inlet;
    if (inlet === undefined)
      return new Batch(stretchWriter(this.#landing.here), lasting ? BATCH_BYTES : 0, (...part) =>
        this.#written(...part),
      );
    return {
      add: async (piece, at) => {
        if (at !== this.#ranges.bytes) throw new Error(`bytes from ${at} on are out of order`);
        const to = at + piece.length;
        await inlet.write(piece);
        if (lasting) giveBack(piece);
        await this.#written(at, to);
      },
      flush: () => Promise.resolve(),
    };
  }

  async #written(from: number, to: number): Promise<void> {
    const gained = this.#ranges.add(from, to);
    if (gained > 0) this.#options.onBytes?.(gained);
    if (this.#journalled) await this.#journal.note(this.#lasting());
  }
}

const total = (ranges: readonly Range[]): number => ranges.reduce((sum, { from, to }) => sum + to - from, 0);

function demand(opened: Opened | undefined): Opened {
  if (opened === undefined) throw new NoRanges();
  return opened;
}

/** The source has sent other bytes: none of them may stay. */
export class WrongBytes extends SealiftError {}

/** The one clear line when the far side has changed. */
export function sourceChanged(what: string, { digest, size }: Expected, received: string): SealiftError {
  return new WrongBytes('SOURCE_CHANGED', `${what}: the source sends other bytes than the lock says`, {
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
