// SPDX-License-Identifier: Apache-2.0
/** Which bytes of a file are there, which are asked for together, and how that is written down. No input or output here. */
import * as z from 'zod';
import { parseJson } from '../json.ts';

/** Bytes `from` up to but not including `to`. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

const MIB = 1024 * 1024;
/** Smallest and largest request, in bytes. A hub counts requests, and a cut connection costs what was in flight. */
const SEGMENT_BYTES = { min: 32 * MIB, max: 256 * MIB };
/** A file is asked for in about so many pieces, so that its last ones keep all connections busy. */
const SEGMENTS_A_FILE = 64;

/** Parts of a file, sorted, disjoint, never touching one another. */
export class Ranges {
  #list: Range[] = [];

  constructor(ranges: Iterable<Range> = []) {
    for (const { from, to } of ranges) this.add(from, to);
  }

  /** @returns bytes that were not there before */
  add(from: number, to: number): number {
    if (from >= to) return 0;
    const touched = this.#list.filter((range) => range.from <= to && range.to >= from);
    const overlap = touched.reduce(
      (sum, r) => sum + Math.max(0, Math.min(r.to, to) - Math.max(r.from, from)),
      0,
    );
    const merged = {
      from: Math.min(from, touched[0]?.from ?? from),
      to: Math.max(to, touched.at(-1)?.to ?? to),
    };
    const before = this.#list.findIndex((range) => range.to >= from);
    this.#list.splice(before === -1 ? this.#list.length : before, touched.length, merged);
    return to - from - overlap;
  }

  /** What is missing between two places, in order. */
  gaps(from: number, to: number): Range[] {
    const gaps: Range[] = [];
    let at = from;
    for (const range of this.#list) {
      if (range.to <= at) continue;
      if (range.from >= to) break;
      if (range.from > at) gaps.push({ from: at, to: range.from });
      at = range.to;
    }
    if (at < to) gaps.push({ from: at, to });
    return gaps;
  }

  /** Those of the first `bytes` bytes of the file. */
  upTo(bytes: number): Ranges {
    return new Ranges(
      this.#list
        .filter(({ from }) => from < bytes)
        .map(({ from, to }) => ({ from, to: Math.min(to, bytes) })),
    );
  }

  clear(): void {
    this.#list = [];
  }

  get list(): readonly Range[] {
    return this.#list;
  }

  /** Bytes in all. */
  get bytes(): number {
    return this.#list.reduce((sum, { from, to }) => sum + to - from, 0);
  }

  /** Where the last one ends; 0 when there is none. */
  get end(): number {
    return this.#list.at(-1)?.to ?? 0;
  }
}

/** Bytes of one request for a file of `size` bytes. What is no larger is asked for at once. */
export function segmentBytes(size: number): number {
  const even = Math.ceil(size / SEGMENTS_A_FILE / MIB) * MIB;
  return Math.min(SEGMENT_BYTES.max, Math.max(SEGMENT_BYTES.min, even));
}

/** The gaps in pieces of at most `bytes` bytes, in order. */
export function planSegments(gaps: readonly Range[], bytes: number): Range[] {
  return gaps.flatMap(({ from, to }) =>
    Array.from({ length: Math.ceil((to - from) / bytes) }, (_, i) => ({
      from: from + i * bytes,
      to: Math.min(to, from + (i + 1) * bytes),
    })),
  );
}

const offset = z.int().min(0);
const Journal = z.strictObject({
  version: z.literal(1),
  /** Of the whole file, in bytes. */
  size: offset,
  ranges: z.array(z.tuple([offset, offset])),
});
/** Far more than any download has. */
const MAX_JOURNAL_BYTES = 4 * MIB;

export function journalText(ranges: Ranges, size: number): string {
  const pairs = ranges.list.map(({ from, to }): [number, number] => [from, to]);
  return `${JSON.stringify({ version: 1, size, ranges: pairs } satisfies z.infer<typeof Journal>)}\n`;
}

/** What a journal says; undefined when it is damaged, or about a file of another size. */
export function readJournal(bytes: Uint8Array, size: number): Ranges | undefined {
  const journal = Journal.safeParse(jsonOrNothing(bytes)).data;
  if (journal?.size !== size) return undefined;
  let end = -1;
  for (const [from, to] of journal.ranges) {
    if (from <= end || to <= from || to > size) return undefined;
    end = to;
  }
  return new Ranges(journal.ranges.map(([from, to]) => ({ from, to })));
}

function jsonOrNothing(bytes: Uint8Array): unknown {
  try {
    return parseJson(bytes, 'journal', 'IO_ERROR', MAX_JOURNAL_BYTES);
  } catch {
    return undefined;
  }
}
