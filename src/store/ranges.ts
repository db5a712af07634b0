// SPDX-License-Identifier: Apache-2.0
/** Which bytes of a file have come: ranges that do not touch, in order. No input or output here. */
import { z } from 'zod';

/** From the first byte up to, and without, the second. */
export type Range = readonly [from: number, to: number];

/** Adds a range to others. */
export function addRange(ranges: readonly Range[], [from, to]: Range): Range[] {
  if (from >= to) return [...ranges];
  const before = ranges.filter(([, end]) => end < from);
  const after = ranges.filter(([start]) => start > to);
  const touching = ranges.filter(([start, end]) => end >= from && start <= to);
  const merged: Range = [
    Math.min(from, ...touching.map(([start]) => start)),
    Math.max(to, ...touching.map(([, end]) => end)),
  ];
  return [...before, merged, ...after];
}

/** What is missing of `size` bytes, in pieces of at most `pieceBytes`. */
export function missingRanges(ranges: readonly Range[], size: number, pieceBytes: number): Range[] {
  const missing: Range[] = [];
  let at = 0;
  for (const [from, to] of [...ranges, [size, size] as const]) {
    for (; at < from; at = Math.min(from, at + pieceBytes))
      missing.push([at, Math.min(from, at + pieceBytes)]);
    at = Math.max(at, to);
  }
  return missing;
}

export const bytesOf = (ranges: readonly Range[]): number =>
  ranges.reduce((sum, [from, to]) => sum + to - from, 0);

const Journal = z.strictObject({
  size: z.number().int().min(0).max(Number.MAX_SAFE_INTEGER),
  ranges: z.array(z.tuple([z.number().int().min(0), z.number().int().min(1)])).max(100_000),
});

export const formatJournal = (size: number, ranges: readonly Range[]): string =>
  JSON.stringify({ size, ranges });

/**
 * Reads what an earlier process has noted.
 * @param size bytes of the whole content, `fileBytes` of the partial file
 * @returns undefined when it is damaged, or of something else: then nothing is known
 */
export function parseJournal(text: string, size: number, fileBytes: number): Range[] | undefined {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return undefined;
  }
  const journal = Journal.safeParse(json);
  if (!journal.success || journal.data.size !== size) return undefined;
  const { ranges } = journal.data;
  const sound = ranges.every(
    ([from, to], i) => from < to && to <= Math.min(size, fileBytes) && (i === 0 || ranges[i - 1]![1] < from),
  );
  return sound ? ranges : undefined;
}
