// SPDX-License-Identifier: Apache-2.0
/** The progress display of a terminal: a total line and up to four items, redrawn in place, gone at the end. */
import type { Emit } from '../events.ts';
import { sayLine } from './evidence.ts';
import { formatBytes } from '../text.ts';
import { type Output } from './output.ts';
import { printable } from '../text.ts';
import type { Progress } from './progress.ts';
import { Tally, type Item } from './tally.ts';

const FRAME_MS = 100;
const MAX_ITEMS = 4;
const DEFAULT_COLUMNS = 80;

export class TtyProgress implements Progress {
  readonly #out: Output;
  readonly #tally = new Tally(() => performance.now());
  readonly #timer: NodeJS.Timeout;
  #drawn = 0;

  constructor(out: Output) {
    this.#out = out;
    out.beforeNote = () => this.#clear();
    this.#timer = setInterval(() => this.#draw(), FRAME_MS).unref();
  }

  readonly emit: Emit = (event) => {
    this.#tally.add(event);
    sayLine(event, this.#out);
  };

  end(): void {
    clearInterval(this.#timer);
    this.#clear();
    this.#out.beforeNote = undefined;
  }

  #clear(): void {
    // Up to the first line that was drawn, then erase everything below.
    if (this.#drawn > 0) this.#out.draw(`\x1b[${this.#drawn}A\x1b[0J`);
    this.#drawn = 0;
  }

  #draw(): void {
    const items = [...this.#tally.active.values()];
    // An idle command (a question is asked, a container starts) keeps the terminal to itself.
    if (items.length === 0) {
      this.#clear();
      return;
    }
    const lines = [this.#tally.summary(), ...items.slice(0, MAX_ITEMS).map(itemLine)];
    if (items.length > MAX_ITEMS) lines.push(`  and ${items.length - MAX_ITEMS} more`);
    this.#clear();
    this.#out.draw(lines.map((line) => `${this.#fit(line)}\n`).join(''));
    this.#drawn = lines.length;
  }

  /** A line that wraps would break the count of lines to erase. */
  #fit(line: string): string {
    const columns = Math.max(10, (this.#out.stderr.columns ?? DEFAULT_COLUMNS) - 1);
    const chars = [...printable(line)];
    return chars.length <= columns ? chars.join('') : `${chars.slice(0, columns - 1).join('')}…`;
  }
}

function itemLine(item: Item): string {
  const amount = item.bytes === undefined ? formatBytes(item.done) : percent(item.done, item.bytes);
  return `  ${amount.padStart(8)}  ${item.label}`;
}

const percent = (done: number, total: number): string =>
  `${total === 0 ? 100 : Math.min(100, Math.floor((done / total) * 100))} %`;
