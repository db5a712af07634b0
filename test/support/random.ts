// SPDX-License-Identifier: Apache-2.0
/** Random numbers that can be repeated, which Math.random cannot. */
import { createHash } from 'node:crypto';

/** A small generator of numbers in [0, 1): mulberry32. */
export function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class Random {
  readonly #next: () => number;

  /** The same words give the same numbers. */
  constructor(...words: (string | number)[]) {
    this.#next = mulberry32(createHash('sha256').update(words.join('\0')).digest().readInt32LE());
  }

  /** 0 to `below` - 1; 0 when `below` is 0. */
  int(below: number): number {
    return Math.floor(this.#next() * below);
  }

  /** Small numbers often, large ones seldom: 1 to `max`. */
  few(max: number): number {
    return Math.max(1, Math.ceil(max ** this.#next()));
  }

  chance(probability: number): boolean {
    return this.#next() < probability;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.int(list.length)]!;
  }

  bytes(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => this.int(256)));
  }
}
