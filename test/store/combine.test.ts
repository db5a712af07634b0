// SPDX-License-Identifier: Apache-2.0
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { addProduct, invert, multiply } from '../../src/store/combine.ts';
import { combineAll, TransferError, type CombineJob } from '../../src/store/transfer.ts';
import { slowly } from '../support/field.ts';
import { tempDir } from '../support/workspace.ts';

describe('the field', () => {
  it('is that of 0x11d', () => {
    for (let a = 0; a < 256; a++) {
      const row = Array.from({ length: 256 }, (_, b) => multiply(a, b));
      expect(row).toEqual(Array.from({ length: 256 }, (_, b) => slowly(a, b)));
      if (a > 0) expect(slowly(a, invert(a))).toBe(1);
    }
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

  it('does so with more coefficients than it keeps tables of', () => {
    const bytes = Uint8Array.from({ length: 256 }, (_, i) => i);
    for (let round = 0; round < 2; round++)
      for (let c = 0; c < 256; c++) {
        const sum = new Uint8Array(256);
        addProduct(sum, bytes, c);
        expect([...sum]).toEqual([...bytes].map((byte) => slowly(c, byte)));
      }
  });
});

describe('sums of files', () => {
  const dir = tempDir('combine');
  const open: number[] = [];
  afterEach(() => open.splice(0).forEach((fd) => closeSync(fd)));

  function opened(name: string, flags: string): number {
    const fd = openSync(join(dir, name), flags);
    open.push(fd);
    return fd;
  }

  const MIB = 1024 * 1024;
  /** Of lengths that end within a word, a buffer and a sum; one is empty. */
  const inputs = [5 * MIB + 4099, 9 * MIB + 1, 3, 0, 9 * MIB].map((size, n) =>
    Buffer.from(Uint8Array.from({ length: size }, (_, i) => (i * (n + 3) + (i >> 9)) & 255)),
  );
  const coefficients = [
    [1, 1, 1, 1, 1],
    [7, 0, 255, 3, 29],
    [142, 143, 1, 9, 200],
  ];

  const jobOf = (sizes: readonly number[], from: number, to: number): CombineJob => ({
    inputs: inputs.map((bytes, n) => ({ fd: opened(`in${n}`, 'r'), size: bytes.length })),
    outputs: sizes.map((size, n) => ({ fd: opened(`out${n}`, 'r+'), size, coefficients: coefficients[n]! })),
    from,
    to,
  });

  it('are right at every place, whatever the lengths', async () => {
    for (const [n, bytes] of inputs.entries()) writeFileSync(join(dir, `in${n}`), bytes);
    for (const n of [0, 1, 2]) writeFileSync(join(dir, `out${n}`), '');
    const sizes = [9 * MIB + 1, 9 * MIB + 1, 4 * MIB + 77];
    const longest = 9 * MIB + 1;
    const moved: number[] = [];
    await combineAll([jobOf(sizes, 0, 5 * MIB + 3), jobOf(sizes, 5 * MIB + 3, longest)], {
      onBytes: (bytes) => moved.push(bytes),
    });
    expect(moved.reduce((sum, bytes) => sum + bytes, 0)).toBe(
      inputs.reduce((sum, { length }) => sum + length, 0),
    );
    for (const [n, size] of sizes.entries()) {
      const expected = Buffer.alloc(size);
      for (const [i, bytes] of inputs.entries()) {
        const product = Uint8Array.from({ length: 256 }, (_, byte) => slowly(coefficients[n]![i]!, byte));
        for (let at = 0; at < Math.min(size, bytes.length); at++) expected[at]! ^= product[bytes[at]!]!;
      }
      expect(readFileSync(join(dir, `out${n}`)).equals(expected), `output ${n}`).toBe(true);
    }
  });

  it('end with the first that fails, and say which file it was', async () => {
    const job = jobOf([MIB], 0, MIB);
    const short = { fd: opened('in2', 'r'), size: MIB };
    const ended = combineAll([{ ...job, inputs: [...job.inputs, short] }]);
    await expect(ended).rejects.toMatchObject({ code: 'EEND', side: 'read', stretch: 5, at: 3 });
    const locked = { fd: opened('out1', 'r'), size: MIB, coefficients: coefficients[1]! };
    let moved = 0;
    const jobs = Array.from({ length: 50 }, () => ({ ...job, outputs: [...job.outputs, locked] }));
    const error = await combineAll(jobs, { onBytes: (bytes) => (moved += bytes) }).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(TransferError);
    expect(error).toMatchObject({ code: 'EBADF', side: 'write', stretch: 1, at: 0 });
    // Fifty times three inputs of a MiB would have been read without a stop.
    expect(moved).toBeLessThan(30 * MIB);
  });

  it('stop when they are told to', async () => {
    const signal = AbortSignal.abort(new Error('enough'));
    await expect(combineAll([jobOf([MIB], 0, MIB)], { signal })).rejects.toThrow('enough');
  });
});
