// SPDX-License-Identifier: Apache-2.0
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import {
  addRange,
  bytesOf,
  formatJournal,
  missingRanges,
  parseJournal,
  type Range,
} from '../../src/store/ranges.ts';

const SIZE = 200;
const range = fc.tuple(fc.nat(SIZE), fc.nat(SIZE)).map(([a, b]): Range => [Math.min(a, b), Math.max(a, b)]);
const ranges = fc.array(range, { maxLength: 20 });
const bits = (list: readonly Range[]): boolean[] =>
  Array.from({ length: SIZE }, (_, i) => list.some(([from, to]) => i >= from && i < to));

it('keeps what has come, whatever the order, and what is missing is the rest', () => {
  fc.assert(
    fc.property(ranges, fc.integer({ min: 1, max: SIZE }), (list, piece) => {
      const held = list.reduce<Range[]>((all, one) => addRange(all, one), []);
      expect(bits(held)).toEqual(bits(list));
      expect(bytesOf(held)).toBe(bits(list).filter(Boolean).length);
      for (const [i, [from, to]] of held.entries()) {
        expect(from).toBeLessThan(to);
        if (i > 0) expect(held[i - 1]![1]).toBeLessThan(from);
      }
      const missing = missingRanges(held, SIZE, piece);
      expect(bits(missing)).toEqual(bits(list).map((bit) => !bit));
      expect(bytesOf(missing) + bytesOf(held)).toBe(SIZE);
      expect(missing.every(([from, to]) => to - from <= piece && from < to)).toBe(true);
      expect(parseJournal(formatJournal(SIZE, held), SIZE, SIZE)).toEqual(held);
    }),
  );
});

it.each([
  ['no JSON', 'x'],
  ['another size', formatJournal(SIZE + 1, [[0, 10]])],
  ['more than the file has', formatJournal(SIZE, [[0, 151]])],
  [
    'ranges out of order',
    formatJournal(SIZE, [
      [50, 60],
      [0, 10],
    ]),
  ],
  [
    'ranges that touch',
    formatJournal(SIZE, [
      [0, 10],
      [10, 20],
    ]),
  ],
  ['an empty range', formatJournal(SIZE, [[5, 5]])],
  ['a negative one', formatJournal(SIZE, [[-5, 5]])],
  ['something else', '{"size":200,"ranges":[["0","1"]]}'],
])('takes nothing from notes that are damaged: %s', (_, text) => {
  expect(parseJournal(text, SIZE, 150)).toBeUndefined();
});
