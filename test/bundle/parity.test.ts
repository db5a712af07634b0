// SPDX-License-Identifier: Apache-2.0
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { coefficient, recipe } from '../../src/bundle/parity.ts';
import { addProduct, invert, multiply } from '../../src/store/combine.ts';

/** Multiplication without tables: shift, and reduce by the polynomial. */
function slowly(a: number, b: number): number {
  let product = 0;
  for (let bit = 0; bit < 8; bit++) if ((b >> bit) & 1) product ^= a << bit;
  for (let bit = 14; bit >= 8; bit--) if ((product >> bit) & 1) product ^= 0x11d << (bit - 8);
  return product;
}

describe('the field', () => {
  it('is that of 0x11d', () => {
    for (let a = 0; a < 256; a++) for (let b = 0; b < 256; b++) expect(multiply(a, b)).toBe(slowly(a, b));
    for (let a = 1; a < 256; a++) expect(slowly(a, invert(a))).toBe(1);
    // Of Plank's tutorial and of every RAID-6: 2^8 = 0x1d.
    expect(multiply(0x80, 2)).toBe(0x1d);
  });

  it('adds products to bytes of any length of whole fours', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 64 }), fc.nat(255), (bytes, c) => {
        const sum = Uint8Array.from({ length: 64 }, (_, i) => i * 7);
        addProduct(sum, bytes, c);
        expect([...sum]).toEqual([...bytes].map((byte, i) => ((i * 7) & 255) ^ slowly(c, byte)));
      }),
    );
  });
});

describe('parity', () => {
  it('has XOR in its first row, and no coefficient of zero', () => {
    for (const volumes of [1, 2, 7, 200])
      for (let volume = 0; volume < volumes; volume++) {
        expect(coefficient(0, volume, volumes)).toBe(1);
        for (let row = 1; row < 20; row++) expect(coefficient(row, volume, volumes)).not.toBe(0);
      }
  });

  const shards = fc
    .tuple(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 8 }))
    .chain(([volumes, parity]) =>
      fc.record({
        volumes: fc.constant(volumes),
        parity: fc.constant(parity),
        data: fc.array(fc.nat(255), { minLength: volumes, maxLength: volumes }),
        lost: fc.uniqueArray(fc.nat(volumes + parity - 1), { maxLength: parity }),
      }),
    );

  it('brings back any N of K + N', () => {
    fc.assert(
      fc.property(shards, ({ volumes, parity, data, lost }) => {
        const rows = Array.from({ length: parity }, (_, row) =>
          data.reduce((sum, byte, v) => sum ^ slowly(coefficient(row, v, volumes), byte), 0),
        );
        const all = [...data, ...rows];
        const { inputs, outputs } = recipe(volumes, parity, new Set(lost))!;
        expect(inputs.filter((input) => lost.includes(input))).toEqual([]);
        expect(new Set(outputs.map(({ index }) => index))).toEqual(new Set(lost));
        for (const { index, coefficients } of outputs) {
          const sum = inputs.reduce((s, input, i) => s ^ slowly(coefficients[i]!, all[input]!), 0);
          expect(sum).toBe(all[index]);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('brings back all of the largest set', () => {
    const lost = new Set([0, 100, 250, 253]);
    expect(
      recipe(251, 4, lost)!
        .outputs.map(({ index }) => index)
        .toSorted((a, b) => a - b),
    ).toEqual([0, 100, 250, 253]);
  });

  it('says when more is lost than it can bring back', () => {
    expect(recipe(5, 2, new Set([0, 1, 2]))).toBeUndefined();
    expect(recipe(5, 2, new Set([0, 1, 5]))).toBeUndefined();
    expect(recipe(5, 2, new Set([0, 5]))).toBeDefined();
    expect(recipe(5, 2, new Set([5, 6]))).toBeDefined();
  });
});
