// SPDX-License-Identifier: Apache-2.0
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { coefficient, recipe } from '../../src/bundle/parity.ts';
import { slowly } from '../support/field.ts';

describe('parity', () => {
  it('has XOR in its first row, and no coefficient of zero', () => {
    for (const volumes of [1, 2, 7, 200])
      for (let volume = 0; volume < volumes; volume++) {
        expect(coefficient(0, volume, volumes)).toBe(1);
        for (let row = 1; row < 20; row++) expect(coefficient(row, volume, volumes)).not.toBe(0);
      }
  });

  // Computed in Python, from the words of FORMAT.md §12.2.
  it('has the coefficients that another program has', () => {
    const matrix = (rows: number, columns: readonly number[], volumes: number): number[][] =>
      Array.from({ length: rows }, (_, row) => columns.map((v) => coefficient(row, v, volumes)));
    expect(matrix(3, [0, 1, 2, 3, 4], 5)).toEqual([
      [1, 1, 1, 1, 1],
      [143, 210, 200, 245, 142],
      [104, 245, 82, 143, 244],
    ]);
    expect(matrix(4, [0, 1, 100, 250], 251)).toEqual([
      [1, 1, 1, 1],
      [97, 198, 48, 122],
      [57, 30, 243, 186],
      [154, 47, 114, 71],
    ]);
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
