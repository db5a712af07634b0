// SPDX-License-Identifier: Apache-2.0
/** Adds up the events of one command: what runs, how much is done, how fast. Knows nothing of terminals. */
import type { SealiftEvent } from '../events.ts';
import { formatDuration } from './format.ts';
import { formatBytes } from '../text.ts';

export interface Item {
  label: string;
  /** Size in bytes, when known. */
  bytes: number | undefined;
  done: number;
  startedAt: number;
}

/** The rate is the mean over this many milliseconds, so that one slow file does not make the estimate jump. */
const WINDOW_MS = 15_000;

export class Tally {
  stage = '';
  total: number | undefined;
  done = 0;
  readonly active = new Map<string, Item>();
  readonly #now: () => number;
  #samples: { at: number; done: number }[] = [];

  /** @param now milliseconds, from any clock that only goes forward */
  constructor(now: () => number) {
    this.#now = now;
  }

  /** Takes one event; returns the item that it ended, if it did. */
  add(event: SealiftEvent): Item | undefined {
    switch (event.type) {
      case 'stage':
        this.#begin(event.name, event.totalBytes);
        return undefined;
      case 'item-start':
        this.active.set(event.id, {
          label: event.label,
          bytes: event.bytes,
          done: 0,
          startedAt: this.#now(),
        });
        return undefined;
      case 'item-progress':
        this.#progress(event.id, event.delta);
        return undefined;
      case 'item-end':
        return this.#end(event.id, event.outcome);
      default:
        return undefined;
    }
  }

  /** Bytes per second over the last seconds; undefined before there is anything to divide. */
  rate(): number | undefined {
    const now = this.#now();
    this.#samples.push({ at: now, done: this.done });
    while (this.#samples.length > 2 && now - this.#samples[0]!.at > WINDOW_MS) this.#samples.shift();
    const first = this.#samples[0]!;
    const elapsed = now - first.at;
    return elapsed < 500 || this.done <= first.done ? undefined : ((this.done - first.done) / elapsed) * 1000;
  }

  /** `build: 1.2 GB of 20 GB (6 %), 80 MB/s, 4 min 10 s left` */
  summary(): string {
    const parts = [this.#amount()];
    const rate = this.rate();
    if (rate !== undefined) {
      parts.push(`${formatBytes(rate)}/s`);
      const left = this.total === undefined ? 0 : this.total - this.done;
      if (left > 0) parts.push(`${formatDuration((left / rate) * 1000)} left`);
    }
    return `${this.stage === '' ? '' : `${this.stage}: `}${parts.join(', ')}`;
  }

  #amount(): string {
    if (this.total === undefined || this.total === 0) return formatBytes(this.done);
    const percent = Math.min(100, Math.floor((this.done / this.total) * 100));
    return `${formatBytes(this.done)} of ${formatBytes(this.total)} (${percent} %)`;
  }

  #begin(name: string, total: number | undefined): void {
    this.stage = name;
    this.total = total;
    this.done = 0;
    this.#samples = [{ at: this.#now(), done: 0 }];
  }

  #progress(id: string, delta: number): void {
    const item = this.active.get(id);
    if (item) item.done += delta;
    this.done += delta;
  }

  #end(id: string, outcome: 'done' | 'cached' | 'failed' | 'stopped'): Item | undefined {
    const item = this.active.get(id);
    this.active.delete(id);
    // What was there already counts as done, so that the total adds up; what failed does not.
    if (item && outcome === 'cached') this.done += (item.bytes ?? 0) - item.done;
    if (item && (outcome === 'failed' || outcome === 'stopped')) this.done -= item.done;
    return item;
  }
}
