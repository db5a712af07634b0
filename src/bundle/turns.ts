// SPDX-License-Identifier: Apache-2.0
/**
 * Work that may go on together, and work that must be alone. Asking a person for another medium closes the files of the
 * one before: no thread may be reading them, and no two may ask for different media.
 */
export class Turns {
  readonly #together = new Set<Promise<unknown>>();
  /** The last of those who wanted to be alone; never rejects. */
  #alone: Promise<unknown> = Promise.resolve();

  async together<T>(work: () => Promise<T>): Promise<T> {
    for (let last; last !== this.#alone;) {
      last = this.#alone;
      await last;
    }
    const running = work();
    this.#together.add(running);
    try {
      return await running;
    } finally {
      this.#together.delete(running);
    }
  }

  /** Begins when everything that was begun before has ended; what is asked for later waits. */
  async alone<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#alone;
    const running = (async (): Promise<T> => {
      await before;
      await Promise.allSettled(this.#together);
      return work();
    })();
    this.#alone = running.catch(() => undefined);
    return running;
  }
}
