// SPDX-License-Identifier: Apache-2.0
/**
 * Content that comes bit by bit, in its order: hashed by a thread and written to all its places while it comes, so that
 * nothing has to be read again. The bytes cross to the thread in memory that both share.
 */
import { Worker } from 'node:worker_threads';
import type { Digest } from './digest.ts';
import { copyBytes, onPage } from './memory.ts';
import type { Destination, InletOrder, InletWord } from './transfer-worker.ts';
import type { Trouble } from './trouble.ts';
import { newThread, THREADS, TransferError } from './transfer.ts';

/** Bytes that are handed over together. */
const SLOT_BYTES = 1024 * 1024;

/** Slots of an inlet: one is filled while others are hashed and written. */
const SLOTS = 4;

/** So much may have been taken and not been written yet. In bytes. */
export const INLET_BYTES = SLOTS * SLOT_BYTES;

/** What has come is written after this long, in milliseconds, however little it is: it survives a kill. */
const WAIT_MS = 250;

/**
 * Memory of inlets that have come to rest. The garbage collector of neither side feels how large it is, and an image has a
 * hundred layers.
 */
const spare: Uint8Array<SharedArrayBuffer>[] = [];

export class Inlet {
  readonly #line: Line;
  readonly #memory = spare.pop() ?? new Uint8Array(onPage(SLOTS * SLOT_BYTES, 'shared'));
  readonly #free = Array.from({ length: SLOTS }, (_, i) => i * SLOT_BYTES);
  /** Where the slot that is being filled begins, and how much is in it. */
  #slot: number | undefined;
  #filled = 0;
  #begun = 0;
  #failed = false;
  #closed: Promise<string | Trouble> | undefined;
  #wake: (() => void) | undefined;

  /** @param destinations each gets all of it; open until `end` or `drop` has settled */
  constructor(destinations: readonly Destination[]) {
    this.#line = threads.connect((word) => {
      this.#free.push(word.free);
      this.#failed ||= word.failed;
      this.#wake?.();
    });
    this.#line.send({ destinations, memory: this.#memory.buffer });
  }

  /**
   * Takes the bytes; they may be overwritten when this has settled, but need not have been written.
   * @throws {TransferError} when those before could not be
   */
  async write(bytes: Uint8Array): Promise<void> {
    for (let from = 0; from < bytes.length;) {
      this.#slot ??= await this.#nextSlot();
      const length = Math.min(SLOT_BYTES - this.#filled, bytes.length - from);
      copyBytes(bytes.subarray(from, from + length), this.#memory, this.#slot + this.#filled);
      this.#filled += length;
      from += length;
      if (this.#filled === SLOT_BYTES || performance.now() - this.#begun >= WAIT_MS) this.#handOver();
    }
  }

  /**
   * Everything has come.
   * @returns sha256 of all of it, when all of it has been written
   * @throws {TransferError}
   */
  async end(): Promise<Digest> {
    this.#handOver();
    const result = await this.#close();
    if (typeof result === 'string') return `sha256:${result}`;
    throw new TransferError(result);
  }

  /** The rest will not come. When this has settled, what was taken has been written or will not be. */
  async drop(): Promise<void> {
    this.#handOver();
    await this.#close().catch(() => undefined); // the thread has ended, and writes no more
  }

  /** Once. The thread has then let go of the memory. */
  #close(): Promise<string | Trouble> {
    return (this.#closed ??= this.#line.close().then((result) => {
      spare.push(this.#memory);
      return result;
    }));
  }

  async #nextSlot(): Promise<number> {
    while (this.#free.length === 0 && !this.#failed) {
      await Promise.race([this.#line.lost, new Promise<void>((resolve) => (this.#wake = resolve))]);
    }
    if (this.#failed) await this.end(); // throws
    this.#begun = performance.now();
    return this.#free.pop()!;
  }

  #handOver(): void {
    if (this.#slot === undefined) return;
    if (this.#filled > 0) this.#line.send({ from: this.#slot, length: this.#filled });
    this.#slot = undefined;
    this.#filled = 0;
  }
}

type Order = InletOrder extends infer O ? (O extends InletOrder ? Omit<O, 'inlet'> : never) : never;
type Freed = Extract<InletWord, { free: number }>;

/** From one inlet to its thread and back. */
interface Line {
  send(order: Order): void;
  close(): Promise<string | Trouble>;
  /** Rejects when the thread ends. */
  lost: Promise<never>;
}

interface Connection {
  onFree: (word: Freed) => void;
  onResult: (result: string | Trouble) => void;
  onLost: (error: Error) => void;
}

/** Threads that serve inlets alone: a copy of hundreds of gigabytes must not keep a connection waiting. */
class InletThreads {
  readonly #threads: { worker: Worker; connections: Map<number, Connection> }[] = [];
  #count = 0;

  connect(onFree: (word: Freed) => void): Line {
    const inlet = this.#count++;
    const { worker, connections } = this.#leastBusy();
    let onResult!: Connection['onResult'];
    let onLost!: Connection['onLost'];
    const result = new Promise<string | Trouble>((resolve) => (onResult = resolve));
    const lost = new Promise<never>((_, reject) => (onLost = reject));
    lost.catch(() => undefined); // whoever waits is told
    connections.set(inlet, { onFree, onResult, onLost });
    worker.ref();
    const send = (order: Order): void => worker.postMessage({ inlet, ...order });
    const close = (): Promise<string | Trouble> => {
      send({ close: true });
      return Promise.race([result, lost]);
    };
    return { send, close, lost };
  }

  #leastBusy(): { worker: Worker; connections: Map<number, Connection> } {
    const [idlest] = this.#threads.toSorted((a, b) => a.connections.size - b.connections.size);
    return idlest === undefined || (idlest.connections.size > 0 && this.#threads.length < THREADS)
      ? this.#another()
      : idlest;
  }

  #another(): { worker: Worker; connections: Map<number, Connection> } {
    const thread = { worker: newThread('sealift inlet'), connections: new Map<number, Connection>() };
    const { worker, connections } = thread;
    worker.on('message', (word: InletWord) => {
      const connection = connections.get(word.inlet)!;
      if ('free' in word) {
        connection.onFree(word);
        return;
      }
      connections.delete(word.inlet);
      if (connections.size === 0) worker.unref();
      connection.onResult(word.result);
    });
    const end = (error: Error): void => {
      const at = this.#threads.indexOf(thread);
      if (at >= 0) this.#threads.splice(at, 1);
      for (const { onLost } of connections.values()) onLost(error);
      connections.clear();
    };
    worker.on('error', (error: Error) => end(error));
    worker.on('exit', () => end(new Error('a thread that moves bytes ended')));
    this.#threads.push(thread);
    return thread;
  }
}

const threads = new InletThreads();
