// SPDX-License-Identifier: Apache-2.0
/**
 * Turns events into what a person or a program sees while the command runs. On a terminal: one total line and
 * up to four active items (progress-tty.ts). Elsewhere: a line at start and end of each large artefact, a sum
 * of the small ones at the end of the stage, and a heartbeat, never an animation in a log. `json`: the events themselves, one a line.
 */
import { EVENT_STREAM_VERSION, type Emit, type SealiftEvent } from '../events.ts';
import { count, formatDuration } from './format.ts';
import { formatBytes } from '../text.ts';
import { sayAlways, sayLine } from './evidence.ts';
import type { Output } from './output.ts';
import { TtyProgress } from './progress-tty.ts';
import { Tally, type Item } from './tally.ts';

export const PROGRESS_MODES = ['auto', 'tty', 'plain', 'json', 'none'] as const;
export type ProgressMode = (typeof PROGRESS_MODES)[number];

export interface Progress {
  emit: Emit;
  /** Stops timers and takes the display off the terminal. */
  end(): void;
}

/** Time between two signs of life in a log, in milliseconds. */
const HEARTBEAT_MS = 30_000;
/** Artefacts below this size, in bytes, have no line of their own in a log unless they fail. */
const SMALL_BYTES = 1_000_000;
/** Deltas of one item are added up over this time before they become one JSON event. */
const JSON_FLUSH_MS = 500;

/** @param dumb whether the terminal cannot move its cursor (TERM=dumb) */
export function startProgress(mode: ProgressMode, out: Output, dumb: boolean): Progress {
  const auto = out.stderr.isTTY === true && !dumb ? 'tty' : 'plain';
  switch (mode === 'auto' ? auto : mode) {
    case 'tty':
      return new TtyProgress(out);
    case 'plain':
      return new PlainProgress(out);
    case 'json':
      return new JsonProgress(out);
    default:
      return { emit: (event) => sayAlways(event, out), end: () => {} };
  }
}

class PlainProgress implements Progress {
  readonly #out: Output;
  readonly #tally = new Tally(() => performance.now());
  readonly #timer: NodeJS.Timeout;
  /** Small artefacts of this stage that are done and have had no line. */
  #small = { items: 0, bytes: 0 };

  constructor(out: Output) {
    this.#out = out;
    this.#timer = setInterval(() => this.#heartbeat(), HEARTBEAT_MS).unref();
  }

  readonly emit: Emit = (event) => {
    if (event.type === 'stage') this.#endStage();
    const ended = this.#tally.add(event);
    if (sayLine(event, this.#out)) return;
    if (event.type === 'stage') {
      this.#out.note(`sealift: ${event.name}${sized(event.totalBytes)}`);
    } else if (event.type === 'item-start') {
      // Thousands of small files would drown a log; the end of the stage says how many there were.
      if (!isSmall(event.bytes)) this.#out.note(`sealift: ${event.label}${sized(event.bytes)}`);
    } else if (event.type === 'item-end' && ended) {
      this.#endItem(ended, event);
    }
  };

  end(): void {
    clearInterval(this.#timer);
    this.#endStage();
  }

  #endItem(item: Item, end: ItemEnd): void {
    const well = end.outcome === 'done' || end.outcome === 'cached';
    if (!well || !isSmall(item.bytes)) {
      this.#out.note(`sealift: ${endLine(item, end)}`);
    } else if (end.outcome === 'done') {
      this.#small.items++;
      this.#small.bytes += item.bytes ?? 0;
    }
  }

  #endStage(): void {
    const { items, bytes } = this.#small;
    this.#small = { items: 0, bytes: 0 };
    if (items === 0) return;
    const stage = this.#tally.stage === '' ? '' : `${this.#tally.stage}: `;
    this.#out.note(`sealift: ${stage}${count(items, 'small item')} done, ${formatBytes(bytes)} together`);
  }

  #heartbeat(): void {
    if (this.#tally.active.size === 0) return;
    const labels = [...this.#tally.active.values()].slice(0, 4).map((item) => item.label);
    this.#out.note(`sealift: ${this.#tally.summary()}; working on ${labels.join(', ')}`);
  }
}

const isSmall = (bytes: number | undefined): boolean => bytes !== undefined && bytes < SMALL_BYTES;

const sized = (bytes: number | undefined): string =>
  bytes === undefined || bytes === 0 ? '' : ` (${formatBytes(bytes)})`;

type ItemEnd = Extract<SealiftEvent, { type: 'item-end' }>;

function endLine(item: Item, end: ItemEnd): string {
  const ms = performance.now() - item.startedAt;
  const took = ms < 1000 || end.outcome === 'cached' ? '' : ` in ${formatDuration(ms)}`;
  const outcome = end.outcome === 'cached' ? 'already there' : end.outcome;
  return `${item.label}${sized(item.bytes)}: ${outcome}${took}${end.detail === undefined ? '' : `, ${end.detail}`}`;
}

class JsonProgress implements Progress {
  readonly #out: Output;
  readonly #pending = new Map<string, number>();
  readonly #timer: NodeJS.Timeout;

  constructor(out: Output) {
    this.#out = out;
    out.jsonNotes = true;
    out.event({ type: 'stream', schema: `sealift/events/v${EVENT_STREAM_VERSION}` });
    this.#timer = setInterval(() => this.#flush(), JSON_FLUSH_MS).unref();
  }

  readonly emit: Emit = (event) => {
    if (event.type === 'item-progress') {
      this.#pending.set(event.id, (this.#pending.get(event.id) ?? 0) + event.delta);
      return;
    }
    this.#flush();
    this.#out.event(event);
  };

  end(): void {
    clearInterval(this.#timer);
    this.#flush();
  }

  #flush(): void {
    for (const [id, delta] of this.#pending) this.#out.event({ type: 'item-progress', id, delta });
    this.#pending.clear();
  }
}
