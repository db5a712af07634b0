// SPDX-License-Identifier: Apache-2.0
/**
 * Moves and hashes bytes on all cores, each byte read once and, if wanted, written once. Threads start with the first
 * job and keep no process alive. Nothing here knows what a blob is; whoever gives a job compares the digest.
 */
import { availableParallelism } from 'node:os';
import { getRawAsset, isSea } from 'node:sea';
import { Worker } from 'node:worker_threads';
import type { Digest } from './digest.ts';
import type { CombineJob, Order, TransferJob, Word } from './transfer-worker.ts';
import type { Trouble } from './trouble.ts';

export type { Stretch } from './sink.ts';
export type { CombineJob, Destination, TransferJob, WholeFile } from './transfer-worker.ts';

/** Two for each core, since one waits for the disk while another hashes; more than four wait for the memory. */
export const THREADS = Math.min(2 * availableParallelism(), 4);

/** Jobs are handed over in parcels, so that 20,000 small files are not 20,000 messages. */
const PARCEL_JOBS = 64;
const PARCEL_BYTES = 4 * 1024 * 1024;

/** A job that could not be carried out. `code` is that of the operating system, or one of `Trouble`. */
export class TransferError extends Error implements Trouble {
  readonly code: string;
  readonly side: 'read' | 'write';
  readonly stretch: number;
  readonly at: number;

  constructor({ code, message, side, stretch, at }: Trouble) {
    super(message);
    this.code = code;
    this.side = side;
    this.stretch = stretch;
    this.at = at;
  }
}

export interface TransferOptions {
  /** Called with bytes that have been moved, every few MiB. */
  onBytes?: ((bytes: number) => void) | undefined;
  signal?: AbortSignal | undefined;
}

type Result = Digest | TransferError;

type Answer = readonly (string | Trouble)[];

/** What a thread is sent to do at a time. */
interface Errand {
  jobs: Order['jobs'];
  stop: Int32Array;
  onBytes: ((bytes: number) => void) | undefined;
}

interface Parcel extends Errand {
  resolve: (results: Answer) => void;
  reject: (error: unknown) => void;
}

/**
 * The sha256 of everything that the job reads.
 * @throws {TransferError}; the signal's reason when it was aborted
 */
export async function transfer(job: TransferJob, options: TransferOptions = {}): Promise<Digest> {
  const [result] = await transferAll([job], options);
  if (result instanceof TransferError) throw result;
  return result!;
}

/**
 * Carries out many jobs, as many at a time as there are threads, begun in their order. A job that fails does not stop
 * the others: its result is the error.
 * @throws the signal's reason, when all threads have come to rest
 */
export async function transferAll(
  jobs: readonly TransferJob[],
  options: TransferOptions = {},
): Promise<Result[]> {
  return (await send(parcelsOf(jobs), options)).map((r): Result =>
    typeof r === 'string' ? `sha256:${r}` : new TransferError(r),
  );
}

/**
 * Writes sums of files; each job is carried out by one thread. The first that fails stops the others.
 * @throws {TransferError}; the signal's reason, when all threads have come to rest
 */
export async function combineAll(jobs: readonly CombineJob[], options: TransferOptions = {}): Promise<void> {
  const results = await send(
    jobs.map((job) => [job]),
    options,
  );
  const failed = results.filter((result) => typeof result !== 'string');
  // The others were stopped by the first.
  const cause = failed.find(({ code }) => code !== 'ECANCELED') ?? failed[0];
  if (cause !== undefined) throw new TransferError(cause);
}

async function send(
  parcels: readonly Order['jobs'][],
  options: TransferOptions,
): Promise<(string | Trouble)[]> {
  const { signal, onBytes } = options;
  signal?.throwIfAborted();
  const stop = new Int32Array(new SharedArrayBuffer(4));
  const abort = (): void => void Atomics.store(stop, 0, 1);
  signal?.addEventListener('abort', abort, { once: true });
  try {
    const settled = await threads.send(parcels.map((jobs) => ({ jobs, stop, onBytes })));
    signal?.throwIfAborted();
    return settled.flatMap((parcel) => {
      if (parcel.status === 'rejected') throw parcel.reason;
      return parcel.value;
    });
  } finally {
    signal?.removeEventListener('abort', abort);
  }
}

function parcelsOf(jobs: readonly TransferJob[]): TransferJob[][] {
  const parcels: TransferJob[][] = [];
  let bytes = Infinity;
  for (const job of jobs) {
    const size = sizeOf(job);
    if (bytes + size > PARCEL_BYTES || parcels.at(-1)!.length === PARCEL_JOBS) {
      parcels.push([]);
      bytes = 0;
    }
    parcels.at(-1)!.push(job);
    bytes += size;
  }
  return parcels;
}

const sizeOf = ({ from }: TransferJob): number =>
  'path' in from ? from.length : from.reduce((sum, { length }) => sum + length, 0);

/** One thread; it carries out one parcel at a time. */
class Thread {
  readonly #worker: Worker;
  #parcel: Parcel | undefined;

  constructor(onRest: (thread: Thread) => void, onEnd: (thread: Thread) => void) {
    this.#worker = newThread('sealift transfer');
    this.#worker.on('message', (word: Word) => {
      if ('moved' in word) {
        this.#parcel?.onBytes?.(word.moved);
        return;
      }
      this.#worker.unref();
      const parcel = this.#parcel;
      this.#parcel = undefined;
      onRest(this);
      parcel?.resolve(word.results);
    });
    this.#worker.on('error', (error: unknown) => this.#parcel?.reject(error));
    this.#worker.on('exit', () => {
      onEnd(this);
      this.#parcel?.reject(new Error('a thread that moves bytes ended'));
    });
  }

  start(parcel: Parcel): void {
    this.#parcel = parcel;
    this.#worker.ref();
    const { jobs, stop } = parcel;
    this.#worker.postMessage({ jobs, stop } satisfies Order);
  }
}

/**
 * Inside of the single executable; else beside this file: as TypeScript in the sources, and as scripts/build.ts names it
 * beside the built programs.
 */
function workerProgram(): URL {
  if (isSea()) {
    const program = Buffer.from(getRawAsset('transfer-worker.mjs')).toString('base64');
    return new URL(`data:text/javascript;base64,${program}`);
  }
  const name = import.meta.url.endsWith('.ts') ? './transfer-worker.ts' : './transfer-worker.mjs';
  return new URL(name, import.meta.url);
}

/** A thread with transfer-worker.ts, which keeps no process alive. */
export function newThread(name: string): Worker {
  // Without the flags of this process, which may be about its own entry point.
  const worker = new Worker(workerProgram(), { name, execArgv: [] });
  worker.unref();
  return worker;
}

/** All threads of the process, and what waits for them. */
class Threads {
  readonly #all = new Set<Thread>();
  readonly #resting: Thread[] = [];
  /** The parcels of each caller who waits, the last one first: taking one from the end moves no others. */
  readonly #waiting: Parcel[][] = [];

  /** Settles when every parcel has come to its end. */
  send(parcels: readonly Errand[]): Promise<PromiseSettledResult<Answer>[]> {
    const waiting: Parcel[] = [];
    const ends = parcels.map(
      (parcel) => new Promise<Answer>((resolve, reject) => void waiting.push({ ...parcel, resolve, reject })),
    );
    if (waiting.length > 0) this.#waiting.push(waiting.reverse());
    for (let i = 0; i < THREADS; i++) this.#next();
    return Promise.allSettled(ends);
  }

  /** Callers take turns: a download that has arrived does not wait until half a terabyte has been copied. */
  #next(): void {
    const [caller] = this.#waiting;
    if (caller === undefined) return;
    const thread = this.#resting.pop() ?? this.#another();
    if (thread === undefined) return;
    this.#waiting.shift();
    thread.start(caller.pop()!);
    if (caller.length > 0) this.#waiting.push(caller);
  }

  #another(): Thread | undefined {
    if (this.#all.size >= THREADS) return undefined;
    const thread = new Thread(
      (rested) => {
        this.#resting.push(rested);
        this.#next();
      },
      (ended) => {
        this.#all.delete(ended);
        const at = this.#resting.indexOf(ended);
        if (at >= 0) this.#resting.splice(at, 1);
        this.#next(); // what waits gets a new thread, or the reason why there is none
      },
    );
    this.#all.add(thread);
    return thread;
  }
}

const threads = new Threads();
