// SPDX-License-Identifier: Apache-2.0
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { journalText, planSegments, Ranges, readJournal, segmentBytes } from '../../src/store/segments.ts';

const SIZE = 60;
const piece = fc
  .tuple(fc.nat(SIZE), fc.nat(SIZE))
  .map(([a, b]) => ({ from: Math.min(a, b), to: Math.max(a, b) }));
const pieces = fc.array(piece, { maxLength: 12 });

/** The same thing said with one flag a byte. */
function flags(list: readonly { from: number; to: number }[]): boolean[] {
  const there = Array.from({ length: SIZE }, () => false);
  for (const { from, to } of list) there.fill(true, from, to);
  return there;
}
const count = (there: boolean[]): number => there.filter(Boolean).length;

describe('Ranges', () => {
  it('hold exactly what was added, say what was new, and stay in order', () => {
    fc.assert(
      fc.property(pieces, (list) => {
        const ranges = new Ranges();
        let there = flags([]);
        for (const [i, { from, to }] of list.entries()) {
          const next = flags(list.slice(0, i + 1));
          expect(ranges.add(from, to)).toBe(count(next) - count(there));
          there = next;
        }
        expect(flags(ranges.list)).toEqual(there);
        expect(ranges.bytes).toBe(count(there));
        expect(ranges.end).toBe(there.lastIndexOf(true) + 1);
        for (const [i, { from, to }] of ranges.list.entries()) {
          expect(from).toBeLessThan(to);
          if (i > 0) expect(from).toBeGreaterThan(ranges.list[i - 1]!.to);
        }
      }),
    );
  });

  it('have gaps that are everything else between two places', () => {
    fc.assert(
      fc.property(pieces, piece, (list, { from, to }) => {
        const gaps = new Ranges(list).gaps(from, to);
        const there = flags(list);
        expect(flags(gaps)).toEqual(there.map((is, i) => !is && i >= from && i < to));
      }),
    );
  });
});

describe('segments', () => {
  it('cover the gaps, each byte once, none too large', () => {
    fc.assert(
      fc.property(pieces, fc.integer({ min: 1, max: SIZE }), (list, bytes) => {
        const gaps = new Ranges(list).gaps(0, SIZE);
        const segments = planSegments(gaps, bytes);
        expect(flags(segments)).toEqual(flags(gaps));
        expect(segments.reduce((sum, { from, to }) => sum + to - from, 0)).toBe(count(flags(gaps)));
        for (const { from, to } of segments) expect(to - from).toBeLessThanOrEqual(bytes);
      }),
    );
  });

  it('are as large as the file lets them be', () => {
    const MIB = 1024 * 1024;
    expect([0, MIB, 4096 * MIB, 1024 * 1024 * MIB].map(segmentBytes)).toEqual([
      32 * MIB,
      32 * MIB,
      64 * MIB,
      256 * MIB,
    ]);
  });
});

describe('the journal', () => {
  it('comes back as it was written', () => {
    fc.assert(
      fc.property(pieces, (list) => {
        const ranges = new Ranges(list);
        expect(readJournal(Buffer.from(journalText(ranges, SIZE)), SIZE)?.list).toEqual(ranges.list);
      }),
    );
  });

  it('that was torn is no journal', () => {
    const whole = Buffer.from(journalText(new Ranges([{ from: 3, to: 9 }]), SIZE));
    for (let length = 0; length < whole.length - 1; length++)
      expect(readJournal(whole.subarray(0, length), SIZE)).toBeUndefined();
    expect(readJournal(Buffer.alloc(whole.length), SIZE)).toBeUndefined();
  });

  it.each([
    ['another size', { version: 1, size: SIZE + 1, ranges: [] }],
    ['another version', { version: 2, size: SIZE, ranges: [] }],
    ['a range past the end', { version: 1, size: SIZE, ranges: [[0, SIZE + 1]] }],
    ['a range backwards', { version: 1, size: SIZE, ranges: [[9, 3]] }],
    ['an empty range', { version: 1, size: SIZE, ranges: [[3, 3]] }],
    ['ranges that overlap', { version: 1, size: SIZE, ranges: [[0, 5], [4, 9]] }], // prettier-ignore
    ['ranges out of order', { version: 1, size: SIZE, ranges: [[6, 9], [0, 3]] }], // prettier-ignore
    ['half a byte', { version: 1, size: SIZE, ranges: [[0, 1.5]] }],
    ['something more', { version: 1, size: SIZE, ranges: [], also: 1 }],
  ])('with %s is no journal', (_, journal) => {
    expect(readJournal(Buffer.from(JSON.stringify(journal)), SIZE)).toBeUndefined();
  });
});
