// SPDX-License-Identifier: Apache-2.0
import { open, readFile, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { Batch } from '../../src/store/batch.ts';
import { tempDir } from '../support/workspace.ts';

const dir = tempDir('batch');
let files = 0;

it('everything lands where it belongs, whatever comes in one piece and however little a call writes', async () => {
  const pieces = fc.array(fc.record({ skip: fc.nat(3), length: fc.integer({ min: 1, max: 9 }) }), {
    maxLength: 20,
  });
  await fc.assert(
    fc.asyncProperty(pieces, fc.nat(30), fc.integer({ min: 1, max: 12 }), async (list, maxBytes, most) => {
      const path = join(dir, String(files++));
      const handle = await open(path, 'w+');
      const wanted = Buffer.alloc(300);
      const written: [number, number][] = [];
      let end = 0;
      try {
        const batch = new Batch(
          stingy(handle, most),
          maxBytes,
          async (from, to) => void written.push([from, to]),
        );
        for (const [i, { skip, length }] of list.entries()) {
          const at = end + skip;
          end = at + length;
          wanted.fill(i + 1, at, end);
          await batch.add(Buffer.alloc(length, i + 1), at);
        }
        await batch.flush();
      } finally {
        await handle.close();
      }
      expect(await readFile(path)).toEqual(wanted.subarray(0, end));
      const there = Buffer.alloc(300);
      for (const [from, to] of written) there.fill(1, from, to);
      expect(there).toEqual(wanted.map((byte) => Math.min(byte, 1)));
    }),
    { numRuns: 50 },
  );
});

/** A file handle that writes at most so many bytes in one call. */
function stingy(handle: FileHandle, most: number): FileHandle {
  const writev = async (pieces: readonly Uint8Array[], at: number): Promise<{ bytesWritten: number }> => {
    const all = Buffer.concat(pieces).subarray(0, most);
    return handle.write(all, 0, all.length, at);
  };
  return Object.assign(Object.create(handle) as FileHandle, { writev });
}

it('many pieces are one call', async () => {
  const handle = await open(join(dir, 'many'), 'w+');
  let calls = 0;
  const counted = Object.assign(Object.create(handle) as FileHandle, {
    writev: (...args: Parameters<FileHandle['writev']>) => {
      calls++;
      return handle.writev(...args);
    },
  });
  const batch = new Batch(counted, 1000, async () => {});
  for (let i = 0; i < 10; i++) await batch.add(Buffer.alloc(100), i * 100);
  await batch.flush();
  await handle.close();
  expect(calls).toBe(1);
});

it('gives memory back that is its own, and nothing else', async () => {
  const handle = await open(join(dir, 'memory'), 'w+');
  try {
    for (const maxBytes of [0, 10]) {
      const [own, part] = [new Uint8Array(6), new Uint8Array(6).subarray(1)];
      const batch = new Batch(handle, maxBytes, async () => {});
      await batch.add(own, 0);
      await batch.add(part, 6);
      await batch.flush();
      expect([own.length, part.length]).toEqual([maxBytes === 0 ? 6 : 0, 5]);
    }
  } finally {
    await handle.close();
  }
});
