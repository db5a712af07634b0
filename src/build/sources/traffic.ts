// SPDX-License-Identifier: Apache-2.0
/** When a request may be sent: how much comes at a time, and which hosts asked to be left in peace. No input or output. */
import { setTimeout as sleep } from 'node:timers/promises';

export class Traffic {
  readonly #limit: number;
  #busy = 0;
  readonly #waiting: (() => void)[] = [];
  /** Host → when it may be asked again, by the clock of performance.now(). */
  readonly #pauses = new Map<string, number>();

  /** @param limit contents that are on their way at a time */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /**
   * Waits for its turn to ask a host. One that is paused keeps no place taken: others may be asked meanwhile.
   * @returns a function that ends it, to be called once or more
   * @throws the signal's reason
   */
  async enter(host: string, signal: AbortSignal | undefined): Promise<() => void> {
    for (;;) {
      await this.clear(host, signal);
      signal?.throwIfAborted();
      if (this.#busy < this.#limit) this.#busy++;
      else await this.#turn(signal);
      if (this.#pauseOf(host) <= 0) break;
      this.#leave();
    }
    let left = false;
    return () => {
      if (!left) this.#leave();
      left = true;
    };
  }

  /** Everybody stays away from a host that is overloaded, not only the request that it told so. */
  pause(host: string, ms: number): void {
    this.#pauses.set(host, Math.max(this.#pauses.get(host) ?? 0, performance.now() + ms));
  }

  /** Waits until a host may be asked, or the signal is aborted. */
  async clear(host: string, signal: AbortSignal | undefined): Promise<void> {
    for (;;) {
      const ms = this.#pauseOf(host);
      if (ms <= 0 || signal?.aborted === true) return;
      await sleep(Math.ceil(ms), undefined, signal ? { signal } : {}).catch(() => {});
    }
  }

  #pauseOf(host: string): number {
    return (this.#pauses.get(host) ?? 0) - performance.now();
  }

  #turn(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve, reject) => {
      const go = (): void => {
        signal?.removeEventListener('abort', abort);
        resolve();
      };
      const abort = (): void => {
        this.#waiting.splice(this.#waiting.indexOf(go), 1);
        reject(signal!.reason as Error);
      };
      this.#waiting.push(go);
      signal?.addEventListener('abort', abort, { once: true });
    });
  }

  /** The place goes to whoever has waited longest, so that a large file does not keep all to itself. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#busy--;
    else next();
  }
}
