// SPDX-License-Identifier: Apache-2.0
/**
 * The inside of a worker thread that moves and hashes bytes (transfer.ts has the outside): synchronous calls into one
 * buffer. Streams in one thread reach half of that, on one core.
 */
import { createHash, hash, type Hash } from 'node:crypto';
import { closeSync, constants, fstatSync, openSync, readSync, writeSync } from 'node:fs';
import { parentPort } from 'node:worker_threads';
import { addProduct } from './combine.ts';
import { onPage } from './memory.ts';
import { READ_BYTES, Reader } from './reader.ts';
import { BUFFER_BYTES, Sink, type Stretch } from './sink.ts';
import { attempt, errno, Failure, type Place, type Trouble } from './trouble.ts';

/** A whole file that the worker opens itself. One that has another size is an error (EBADSIZE). */
export interface WholeFile {
  path: string;
  length: number;
}

/** Where bytes are also written, in the pass in which they are hashed, and what stands around them there. */
export interface Destination {
  /** As many bytes as are read, together with `before` and `after`; or more, when nobody knows how many will come. */
  to: readonly Stretch[];
  /** Written before them, and not hashed. */
  before?: Uint8Array;
  /** So many zero bytes are written after them, at most 4 Ki. */
  after?: number;
}

export interface TransferJob extends Partial<Destination> {
  from: readonly Stretch[] | WholeFile;
}

/** Sums of files (combine.ts), over the bytes `from` to `to`. */
export interface CombineJob {
  /** What lies behind the end of a file counts as zero. */
  inputs: readonly { fd: number; size: number }[];
  /** Each has `size` bytes; sums behind that are not written. */
  outputs: readonly { fd: number; size: number; coefficients: readonly number[] }[];
  from: number;
  to: number;
}

export interface Order {
  jobs: readonly (TransferJob | CombineJob)[];
  /** Set to 1 by the other side to stop the worker. */
  stop: Int32Array;
}

/** `moved` bytes since the last word; results in the order of the jobs. */
export type Word = { moved: number } | { results: readonly (string | Trouble)[] };

/** About content that comes bit by bit: pieces of `memory` that are hashed and written in the order of these words. */
export type InletOrder = { inlet: number } & (
  | { destinations: readonly Destination[]; memory: SharedArrayBuffer }
  | { from: number; length: number }
  | { close: true }
);

/** The piece at `free` may be overwritten; `failed` when the rest is of no use. The last word has the result. */
export type InletWord = { inlet: number } & (
  { free: number; failed: boolean } | { result: string | Trouble }
);

/** Bytes between two words on progress. */
const WORD_BYTES = 8 * 1024 * 1024;

const buffer = Buffer.from(onPage(BUFFER_BYTES, 'own'));
const ZEROS = Buffer.alloc(4096);

let silence = 0;

function say(word: Word | InletWord): void {
  parentPort!.postMessage(word);
}

function moved(bytes: number): void {
  silence += bytes;
  if (silence < WORD_BYTES) return;
  say({ moved: silence });
  silence = 0;
}

/**
 * Reads stretches to their end: each byte once.
 * @param take gets each piece, which is good until the next one
 * @param room where to put a piece that comes through the page cache
 */
function readAll(
  from: readonly Stretch[],
  stop: Int32Array,
  take: (piece: Uint8Array) => void,
  room?: () => Uint8Array,
): void {
  for (const [stretch, { fd, offset, length }] of from.entries()) {
    const reader = new Reader(fd, offset, offset + length, { bySectors: room !== undefined });
    try {
      for (let done = 0; done < length;) {
        const place = { side: 'read', stretch, at: offset + done } as const;
        demandGoingOn(stop, place);
        const piece = attempt(place, () => reader.next(room?.()));
        demandMore(piece.length, place);
        take(piece);
        done += piece.length;
        moved(piece.length);
      }
    } finally {
      reader.close();
    }
  }
}

/** Hashes stretches and writes them in the same pass. What comes in small pieces is written in large ones. */
function pump(from: readonly Stretch[], hasher: Hash, sink: Sink, stop: Int32Array): void {
  let held = 0;
  const flush = (): void => {
    sink.write(buffer.subarray(0, held));
    held = 0;
  };
  const take = (piece: Uint8Array): void => {
    hasher.update(piece);
    if (piece.buffer === buffer.buffer) {
      held += piece.length;
      if (held === sink.wanted) flush();
      return;
    }
    flush();
    sink.write(piece);
  };
  readAll(from, stop, take, () => buffer.subarray(held, sink.wanted));
  flush();
}

function demandGoingOn(stop: Int32Array, place: Place): void {
  if (Atomics.load(stop, 0) !== 0) throw new Failure(errno('ECANCELED', 'stopped'), place);
}

function demandMore(bytes: number, place: Place): void {
  if (bytes === 0) throw new Failure(errno('EEND', 'the file ends there'), place);
}

function readPiece(fd: number, into: number, want: number, place: Place): number {
  const bytes = attempt(place, () => readSync(fd, buffer, into, want, place.at));
  demandMore(bytes, place);
  return bytes;
}

/** O_NONBLOCK, because a FIFO under the name of a file must not stop everything. */
function withFile<T>({ path, length }: WholeFile, use: (stretch: Stretch) => T): T {
  const place = { side: 'read', stretch: 0, at: 0 } as const;
  const fd = attempt(place, () => openSync(path, constants.O_RDONLY | constants.O_NONBLOCK));
  try {
    const info = fstatSync(fd);
    if (!info.isFile() || info.size !== length)
      throw new Failure(errno('EBADSIZE', `it has ${info.size} bytes, not ${length}`), place);
    return use({ fd, offset: 0, length });
  } finally {
    closeSync(fd);
  }
}

function run(job: TransferJob, stop: Int32Array): string {
  const { from, to, before, after = 0 } = job;
  if ('path' in from) return withFile(from, (stretch) => run({ ...job, from: [stretch] }, stop));
  const sink = to && new Sink(to);
  const [only] = from;
  const around = (before?.length ?? 0) + after;
  if (from.length === 1 && only!.length + around <= READ_BYTES) return small(only!, job, sink, stop);
  const hasher = createHash('sha256');
  if (sink === undefined) readAll(from, stop, (piece) => hasher.update(piece));
  else copyAll(job, from, hasher, sink, stop);
  return hasher.digest('hex');
}

function copyAll(
  { before, after = 0 }: Partial<Destination>,
  from: readonly Stretch[],
  hasher: Hash,
  sink: Sink,
  stop: Int32Array,
): void {
  try {
    if (before) sink.write(before);
    pump(from, hasher, sink, stop);
    sink.write(ZEROS.subarray(0, after));
  } finally {
    sink.close();
  }
}

/** Reads bytes into the buffer, all of them, from `into` on. */
function fill({ fd, offset, length }: Stretch, into: number, stretch: number, stop: Int32Array): void {
  for (let bytes = 0; bytes < length;) {
    const place = { side: 'read', stretch, at: offset + bytes } as const;
    demandGoingOn(stop, place);
    const more = readPiece(fd, into + bytes, length - bytes, place);
    bytes += more;
    moved(more);
  }
}

/** What fits into the buffer, in one write and without a hash object: there may be 20,000 of these. */
function small(
  from: Stretch,
  { before, after = 0 }: Partial<Destination>,
  sink: Sink | undefined,
  stop: Int32Array,
): string {
  const start = before?.length ?? 0;
  const end = start + from.length;
  fill(from, start, 0, stop);
  if (sink !== undefined) {
    if (before) buffer.set(before);
    buffer.fill(0, end, end + after);
    sink.write(buffer.subarray(0, end + after));
  }
  return hash('sha256', buffer.subarray(start, end), 'hex');
}

/**
 * Bytes of sums that a thread holds, whatever their number. From each file as much is read as makes up a sum, before the
 * next one has its turn: a disk with a head would otherwise move it for every quarter of a MiB.
 */
const SUMS_BYTES = 8 * 1024 * 1024;
const MAX_SUM_BYTES = 4 * 1024 * 1024;

function combine(job: CombineJob, stop: Int32Array): string {
  const { outputs, from, to } = job;
  const share = Math.min(MAX_SUM_BYTES, SUMS_BYTES / outputs.length);
  const bytes = Math.max(1, Math.floor(share / READ_BYTES)) * READ_BYTES;
  const sums = outputs.map(() => Buffer.allocUnsafeSlow(Math.min(bytes, roundUp(to - from))));
  for (let at = from; at < to; at += bytes) {
    const length = Math.min(bytes, to - at);
    for (const sum of sums) sum.fill(0, 0, roundUp(length));
    for (const input of job.inputs.keys()) addInput(job, input, at, length, sums, stop);
    for (const [stretch, { fd, size }] of outputs.entries()) {
      const here = Math.min(length, size - at);
      if (here > 0) writeSum(sums[stretch]!.subarray(0, here), fd, at, stretch);
    }
  }
  return '';
}

/** Sums are made of four bytes at a time. */
const roundUp = (bytes: number): number => Math.ceil(bytes / 4) * 4;

/** Adds bytes of one input to all sums. */
function addInput(
  { inputs, outputs }: CombineJob,
  input: number,
  at: number,
  length: number,
  sums: readonly Buffer[],
  stop: Int32Array,
): void {
  const { fd, size } = inputs[input]!;
  const here = Math.min(length, size - at);
  for (let done = 0; done < here; done += READ_BYTES) {
    const bytes = Math.min(READ_BYTES, here - done);
    fill({ fd, offset: at + done, length: bytes }, 0, input, stop);
    const whole = roundUp(bytes);
    buffer.fill(0, bytes, whole);
    for (const [i, { coefficients }] of outputs.entries())
      addProduct(sums[i]!.subarray(done, done + whole), buffer.subarray(0, whole), coefficients[input]!);
  }
}

function writeSum(sum: Buffer, fd: number, at: number, stretch: number): void {
  try {
    for (let done = 0; done < sum.length;) done += writeSync(fd, sum, done, sum.length - done, at + done);
  } catch (error) {
    throw new Failure(error, { side: 'write', stretch, at });
  }
}

function resultOf(job: TransferJob | CombineJob, stop: Int32Array): string | Trouble {
  try {
    return 'inputs' in job ? combine(job, stop) : run(job, stop);
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    // One sum that cannot be made makes all others useless.
    if ('inputs' in job) Atomics.store(stop, 0, 1);
    return error.trouble;
  }
}

/** Content on its way, hashed and written as it comes. */
class Inlet {
  readonly #memory: Uint8Array;
  readonly #hasher = createHash('sha256');
  readonly #destinations: readonly { sink: Sink; after: number }[];
  #trouble: Trouble | undefined;

  constructor(destinations: readonly Destination[], memory: SharedArrayBuffer) {
    this.#memory = new Uint8Array(memory);
    this.#destinations = destinations.map(({ to, after = 0 }) => ({ sink: new Sink(to), after }));
    this.#attempt(() => {
      for (const [i, { before }] of destinations.entries())
        if (before) this.#destinations[i]!.sink.write(before);
    });
  }

  get failed(): boolean {
    return this.#trouble !== undefined;
  }

  take(from: number, length: number): void {
    const piece = this.#memory.subarray(from, from + length);
    this.#attempt(() => {
      this.#hasher.update(piece);
      for (const { sink } of this.#destinations) sink.write(piece);
    });
  }

  close(): string | Trouble {
    this.#attempt(() => {
      for (const { sink, after } of this.#destinations) sink.write(ZEROS.subarray(0, after));
    });
    for (const { sink } of this.#destinations) sink.close();
    return this.#trouble ?? this.#hasher.digest('hex');
  }

  /** After a failure nothing more is written. */
  #attempt(work: () => void): void {
    if (this.#trouble !== undefined) return;
    try {
      work();
    } catch (error) {
      if (!(error instanceof Failure)) throw error;
      this.#trouble = error.trouble;
    }
  }
}

const inlets = new Map<number, Inlet>();

function serveInlet(order: InletOrder): void {
  const id = order.inlet;
  if ('memory' in order) {
    inlets.set(id, new Inlet(order.destinations, order.memory));
    return;
  }
  const inlet = inlets.get(id)!;
  if ('from' in order) {
    inlet.take(order.from, order.length);
    say({ inlet: id, free: order.from, failed: inlet.failed });
    return;
  }
  inlets.delete(id);
  say({ inlet: id, result: inlet.close() });
}

function carryOut({ jobs, stop }: Order): void {
  const results = jobs.map((job) => resultOf(job, stop));
  if (silence > 0) say({ moved: silence });
  silence = 0;
  say({ results });
}

parentPort!.on('message', (order: Order | InletOrder) => {
  if ('inlet' in order) serveInlet(order);
  else carryOut(order);
});
