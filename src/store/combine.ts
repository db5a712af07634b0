// SPDX-License-Identifier: Apache-2.0
/**
 * Sums of files in GF(2^8), byte by byte: out = c1·in1 + c2·in2 + …, the arithmetic under parity volumes (FORMAT.md §12).
 * The field is that of x^8 + x^4 + x^3 + x^2 + 1 (0x11d), generator 2; addition is XOR (J. S. Plank, "A Tutorial on
 * Reed-Solomon Coding for Fault-Tolerance in RAID-like Systems", 1997, with its correction of 2003).
 */

const EXP = new Uint8Array(510);
const LOG = new Uint8Array(256);
for (let power = 0, value = 1; power < 255; power++) {
  EXP[power] = EXP[power + 255] = value;
  LOG[value] = power;
  value = value < 128 ? value << 1 : (value << 1) ^ 0x11d;
}

export const multiply = (a: number, b: number): number => (a === 0 || b === 0 ? 0 : EXP[LOG[a]! + LOG[b]!]!);

/** @param a not 0 */
export const invert = (a: number): number => EXP[255 - LOG[a]!]!;

/** Products of a coefficient with two bytes at once; made when they are first needed, 128 KiB each. */
const products = new Map<number, Uint16Array>();

/** Tables that a thread keeps. A large set has all 255, which would be 32 MiB in each; to make one takes 0.1 ms. */
const MAX_TABLES = 64;

function productsOf(coefficient: number): Uint16Array {
  const known = products.get(coefficient);
  if (known !== undefined) return known;
  const single = Uint8Array.from({ length: 256 }, (_, byte) => multiply(coefficient, byte));
  const table = unusedTable();
  for (let pair = 0; pair < table.length; pair++)
    table[pair] = single[pair & 255]! | (single[pair >> 8]! << 8);
  products.set(coefficient, table);
  return table;
}

/** The oldest one is written over: thrown away, they would pile up faster than they are collected. */
function unusedTable(): Uint16Array {
  if (products.size < MAX_TABLES) return new Uint16Array(65_536);
  const [oldest, table] = products.entries().next().value!;
  products.delete(oldest);
  return table;
}

/**
 * sum += coefficient · bytes.
 * @param sum as long as `bytes`; both of whole 4 bytes, and in memory at a multiple of 4
 */
export function addProduct(sum: Uint8Array, bytes: Uint8Array, coefficient: number): void {
  if (coefficient === 0) return;
  if (coefficient === 1) {
    const into = new Uint32Array(sum.buffer, sum.byteOffset, sum.length / 4);
    const from = new Uint32Array(bytes.buffer, bytes.byteOffset, sum.length / 4);
    for (let i = 0; i < into.length; i++) into[i]! ^= from[i]!;
    return;
  }
  const table = productsOf(coefficient);
  const into = new Uint16Array(sum.buffer, sum.byteOffset, sum.length / 2);
  const from = new Uint16Array(bytes.buffer, bytes.byteOffset, sum.length / 2);
  for (let i = 0; i < into.length; i++) into[i]! ^= table[from[i]!]!;
}
