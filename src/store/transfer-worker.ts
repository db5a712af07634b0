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

/** Bytes of a file that is open in this process. */
export interface Stretch {
  fd: number;
  /** Bytes. */
  offset: number;
  length: number;
}

/** A whole file that the worker opens itself. One that has another size is an error (EBADSIZE). */
export interface WholeFile {
  path: string;
  length: number;
}

/** Where bytes are also written, in the pass in which they are hashed, and what stands around them there. */
export interface Destination {
  /** As many bytes as are read, together with `before` and `after`. */
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

/** What went wrong in a job, in a form that crosses between threads. */
export interface Trouble {
  /** Of the operating system; EEND when the source ends too early, EBADSIZE, ECANCELED. */
  code: string;
  message: string;
  side: 'read' | 'write';
  /** Which stretch, from 0, and at which byte of its file. */
  stretch: number;
  at: number;
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

/** Read and hashed at a time: the fastest of 64 KiB to 4 MiB, since it stays in the second-level cache. */
const READ_BYTES = 256 * 1024;

/** Written at a time. A disk that is written to past the page cache wants more in one call. */
const BUFFER_BYTES = 1024 * 1024;

/** What O_DIRECT wants memory, places and lengths to be multiples of, in bytes: enough for every disk. */
const PAGE_BYTES = 4096;

/** For less than this, opening a file once more does not pay. */
const DIRECT_BYTES = 4 * 1024 * 1024;

/** Bytes between two words on progress. */
const WORD_BYTES = 8 * 1024 * 1024;

const buffer = Buffer.from(onPage(BUFFER_BYTES, 'own'));
const ZEROS = Buffer.alloc(4096);

class Failure extends Error {
  readonly trouble: Trouble;

  constructor(cause: unknown, place: Omit<Trouble, 'code' | 'message'>) {
    const { code = 'EUNKNOWN', message } = cause as NodeJS.ErrnoException;
    super(message, { cause });
    this.trouble = { code, message, ...place };
  }
}

const errno = (code: string, message: string): Error => Object.assign(new Error(message), { code });

/**
 * Where the next bytes go. Much data goes past the page cache (O_DIRECT), where the file system can do that: finding
 * pages for hundreds of gigabytes and copying into them costs more time than all the rest, and drives out of memory
 * what others have there.
 */
class Sink {
  readonly #stretches: readonly Stretch[];
  /** The same files, open once more; undefined when all goes through the page cache. */
  #direct: Map<number, number> | undefined;
  #index = 0;
  #done = 0;

  constructor(stretches: readonly Stretch[]) {
    this.#stretches = stretches;
    const bytes = stretches.reduce((sum, { length }) => sum + length, 0);
    if (bytes >= DIRECT_BYTES && constants.O_DIRECT !== undefined) this.#direct = new Map();
  }

  /** Bytes that are best written next: as many as lead to a page's beginning, or else the whole buffer. */
  get wanted(): number {
    const at = (this.#stretches[this.#index]?.offset ?? 0) + this.#done;
    return this.#direct === undefined ? BUFFER_BYTES : toPage(at) || BUFFER_BYTES;
  }

  write(bytes: Uint8Array): void {
    for (let from = 0; from < bytes.length;) {
      const { fd, offset, length } = this.#stretches[this.#index]!;
      const piece = bytes.subarray(from, from + length - this.#done);
      const at = offset + this.#done;
      try {
        const written = piece.length === 0 ? 0 : this.#writeSome(fd, piece, at);
        from += written;
        this.#done += written;
      } catch (error) {
        throw new Failure(error, { side: 'write', stretch: this.#index, at });
      }
      if (this.#done === length) {
        this.#index++;
        this.#done = 0;
      }
    }
  }

  #writeSome(fd: number, piece: Uint8Array, at: number): number {
    if (this.#direct === undefined) return writeSync(fd, piece, 0, piece.length, at);
    const lead = toPage(at);
    const whole = piece.length - (piece.length % PAGE_BYTES);
    if (lead === 0 && whole > 0) {
      const written = this.#writeDirect(fd, onPages(piece.subarray(0, whole)), at);
      if (written > 0) return written;
    }
    return writeSync(fd, piece, 0, lead === 0 ? piece.length : Math.min(lead, piece.length), at);
  }

  /** @returns 0 when it cannot be done here */
  #writeDirect(fd: number, pages: Uint8Array, at: number): number {
    try {
      const direct = this.#direct?.get(fd) ?? this.#reopen(fd);
      return direct === undefined ? 0 : writeSync(direct, pages, 0, pages.length, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EINVAL') throw error;
      this.close();
      return 0;
    }
  }

  /** By the descriptor, since the name may be another's by now. Not every file system has O_DIRECT. */
  #reopen(fd: number): number | undefined {
    if (this.#direct === undefined) return undefined;
    try {
      const direct = openSync(`/proc/self/fd/${fd}`, constants.O_WRONLY | constants.O_DIRECT);
      this.#direct.set(fd, direct);
      return direct;
    } catch {
      this.close();
      return undefined;
    }
  }

  /** Closes what this has opened; what is written afterwards goes through the page cache. */
  close(): void {
    for (const fd of this.#direct?.values() ?? []) closeSync(fd);
    this.#direct = undefined;
  }
}

/** Bytes up to the next beginning of a page, which may be here. */
const toPage = (at: number): number => (PAGE_BYTES - (at % PAGE_BYTES)) % PAGE_BYTES;

let staging: Buffer | undefined;

/** The same bytes, in memory that begins on a page. */
function onPages(bytes: Uint8Array): Uint8Array {
  if (bytes.byteOffset % PAGE_BYTES === 0) return bytes;
  staging ??= Buffer.from(onPage(BUFFER_BYTES, 'own'));
  staging.set(bytes);
  return staging.subarray(0, bytes.length);
}

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

/** Reads stretches to their end, hashes them, and writes them: each byte once. */
function pump(from: readonly Stretch[], hasher: Hash, sink: Sink | undefined, stop: Int32Array): void {
  let held = 0;
  for (const [stretch, { fd, offset, length }] of from.entries()) {
    for (let done = 0; done < length;) {
      const place = { side: 'read', stretch, at: offset + done } as const;
      if (Atomics.load(stop, 0) !== 0) throw new Failure(errno('ECANCELED', 'stopped'), place);
      const wanted = (sink?.wanted ?? READ_BYTES) - held;
      const bytes = readPiece(fd, held, Math.min(READ_BYTES, wanted, length - done), place);
      hasher.update(buffer.subarray(held, held + bytes));
      done += bytes;
      held += bytes;
      if (bytes === wanted) {
        sink?.write(buffer.subarray(0, held));
        held = 0;
      }
      moved(bytes);
    }
  }
  sink?.write(buffer.subarray(0, held));
}

function readPiece(fd: number, into: number, want: number, place: Omit<Trouble, 'code' | 'message'>): number {
  let bytes: number;
  try {
    bytes = readSync(fd, buffer, into, want, place.at);
  } catch (error) {
    throw new Failure(error, place);
  }
  if (bytes === 0) throw new Failure(errno('EEND', 'the file ends there'), place);
  return bytes;
}

/** O_NONBLOCK, because a FIFO under the name of a file must not stop everything. */
function withFile<T>({ path, length }: WholeFile, use: (stretch: Stretch) => T): T {
  const place = { side: 'read', stretch: 0, at: 0 } as const;
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    throw new Failure(error, place);
  }
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
  try {
    if (before) sink?.write(before);
    pump(from, hasher, sink, stop);
    sink?.write(ZEROS.subarray(0, after));
  } finally {
    sink?.close();
  }
  return hasher.digest('hex');
}

/** Reads bytes into the buffer, all of them, from `into` on. */
function fill({ fd, offset, length }: Stretch, into: number, stretch: number, stop: Int32Array): void {
  for (let bytes = 0; bytes < length;) {
    const place = { side: 'read', stretch, at: offset + bytes } as const;
    if (Atomics.load(stop, 0) !== 0) throw new Failure(errno('ECANCELED', 'stopped'), place);
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
