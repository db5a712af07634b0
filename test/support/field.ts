// SPDX-License-Identifier: Apache-2.0
/** Multiplication in GF(2^8) of 0x11d without tables: shift, and reduce by the polynomial. */
export function slowly(a: number, b: number): number {
  let product = 0;
  for (let bit = 0; bit < 8; bit++) if ((b >> bit) & 1) product ^= a << bit;
  for (let bit = 14; bit >= 8; bit--) if ((product >> bit) & 1) product ^= 0x11d << (bit - 8);
  return product;
}
