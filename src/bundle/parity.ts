// SPDX-License-Identifier: Apache-2.0
/**
 * Which sums parity volumes are, and which sums bring lost volumes back (FORMAT.md §12). K volumes and N parity volumes
 * make a code of which any K suffice: the coefficients are a Cauchy matrix, each column scaled so that the first parity
 * volume is plain XOR (scaling a column keeps every square part of it invertible).
 */
import { invert, multiply } from '../store/combine.ts';

/** Volumes and parity volumes together: elements of the field that the matrix can name. */
export const MAX_SHARDS = 255;

/** The coefficient of volume `volume` (from 0, of `volumes`) in parity volume `row` (from 0). */
export function coefficient(row: number, volume: number, volumes: number): number {
  return multiply(invert((volumes + row) ^ volume), volumes ^ volume);
}

/** One lost file as a sum of files that are there: coefficients, in the order of `inputs`. */
export interface Recipe {
  /** Indices of what is there: volumes 0 to K - 1, then parity volumes from K on. */
  inputs: number[];
  outputs: { index: number; coefficients: number[] }[];
}

/**
 * @param lost indices of what is not there, as in Recipe
 * @returns undefined when more volumes are lost than parity volumes are left
 */
export function recipe(volumes: number, parity: number, lost: ReadonlySet<number>): Recipe | undefined {
  const lostVolumes = range(volumes).filter((index) => lost.has(index));
  const rows = range(parity).filter((row) => !lost.has(volumes + row));
  if (lostVolumes.length > rows.length) return undefined;
  const used = rows.slice(0, lostVolumes.length);
  const present = range(volumes).filter((index) => !lost.has(index));
  const inputs = [...present, ...used.map((row) => volumes + row)];
  const inverse = invertMatrix(used.map((row) => lostVolumes.map((v) => coefficient(row, v, volumes))));
  // A lost volume is the inverse applied to: parity minus what the volumes that are there give to it.
  const volumeRows = lostVolumes.map((index, i) => {
    const ofParity = inverse[i]!;
    const ofPresent = present.map((v) =>
      sumOf(used.map((row, j) => multiply(ofParity[j]!, coefficient(row, v, volumes)))),
    );
    return { index, coefficients: [...ofPresent, ...ofParity] };
  });
  const parityRows = range(parity)
    .filter((row) => lost.has(volumes + row))
    .map((row) => ({
      index: volumes + row,
      coefficients: inputs.map((input, i) => {
        const direct = input < volumes ? coefficient(row, input, volumes) : 0;
        const through = volumeRows.map(({ index, coefficients }) =>
          multiply(coefficient(row, index, volumes), coefficients[i]!),
        );
        return sumOf([direct, ...through]);
      }),
    }));
  return { inputs, outputs: [...volumeRows, ...parityRows] };
}

const range = (length: number): number[] => Array.from({ length }, (_, i) => i);
const sumOf = (values: readonly number[]): number => values.reduce((sum, value) => sum ^ value, 0);

/** Gauss and Jordan. @param matrix square and invertible, as every square part of a Cauchy matrix is */
function invertMatrix(matrix: readonly (readonly number[])[]): number[][] {
  const size = matrix.length;
  const rows = matrix.map((row, i) => [...row, ...range(size).map((j) => (i === j ? 1 : 0))]);
  for (let column = 0; column < size; column++) {
    const pivot = rows.findIndex((row, i) => i >= column && row[column] !== 0);
    [rows[column], rows[pivot]] = [rows[pivot]!, rows[column]!];
    const scale = invert(rows[column]![column]!);
    rows[column] = rows[column]!.map((value) => multiply(value, scale));
    for (const [i, row] of rows.entries()) {
      if (i === column || row[column] === 0) continue;
      const factor = row[column]!;
      rows[i] = row.map((value, j) => value ^ multiply(factor, rows[column]![j]!));
    }
  }
  return rows.map((row) => row.slice(size));
}
