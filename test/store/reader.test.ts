// SPDX-License-Identifier: Apache-2.0
/** Reading past the page cache: when it is done, that it changes no byte, and that nothing depends on it. */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { digestOf } from '../../src/store/digest.ts';
import { DIRECT_BYTES, READ_BYTES, Reader, type ReaderOptions } from '../../src/store/reader.ts';
import { runWithFault, traced } from '../support/strace.ts';
import { outOfCache, repoRoot, run, tempDir } from '../support/workspace.ts';

const MIB = 1024 * 1024;
const source = join(tempDir('reader'), 'source');
const bytes = randomBytes(20 * MIB + 77);
writeFileSync(source, bytes);

/** As if each look into the cache had found nothing there. */
const never = (): (() => number) => {
  let count = 0;
  return () => count++;
};

function pieces(from: number, to: number, options: ReaderOptions): Buffer[] {
  const fd = openSync(source, 'r');
  const reader = new Reader(fd, from, to, options);
  const found: Buffer[] = [];
  try {
    for (let at = from; at < to; at += found.at(-1)!.length) {
      found.push(Buffer.from(reader.next()));
      if (found.at(-1)!.length === 0) break;
    }
    return found;
  } finally {
    reader.close();
    closeSync(fd);
  }
}

/** How many pieces are larger than any that is read through the cache. */
const past = (found: readonly Buffer[]): number => found.filter((piece) => piece.length > READ_BYTES).length;

it('every byte comes, wherever it begins and ends, also behind the end of the file', () => {
  const place = fc.nat(bytes.length + 9000);
  fc.assert(
    fc.property(
      place,
      place,
      fc.constantFrom(
        never(),
        () => 0,
        () => undefined,
      ),
      (a, b, fetched) => {
        const [from, to] = [Math.min(a, b), Math.max(a, b)];
        const found = pieces(from, to, { fetched, now: () => 0 });
        expect(Buffer.concat(found).equals(bytes.subarray(from, to))).toBe(true);
        expect(past(found) > 0).toBe(
          fetched() !== 0 && fetched() !== undefined && to - from >= 4 * MIB && bytes.length - from > 2 * MIB,
        );
      },
    ),
    { numRuns: 60 },
  );
});

it('a medium that is slower than the cores is read through the cache, after a trial', () => {
  let ms = 0;
  const at = (rate: number): ReaderOptions => ({
    fetched: never(),
    now: () => (ms += (DIRECT_BYTES / rate) * 1000),
  });
  expect(past(pieces(0, bytes.length, at(110e6)))).toBe(5);
  expect(past(pieces(0, bytes.length, at(90e6)))).toBe(4);
});

/** Hashes the source from 512 on, as a program of its own. */
const hashing = [
  '--input-type=module',
  '--eval',
  `import { openSync } from 'node:fs';
   import { transfer } from '${join(repoRoot, 'src/store/transfer.ts')}';
   const from = [{ fd: openSync('${source}', 'r'), offset: 512, length: ${bytes.length - 512} }];
   if ((await transfer({ from })) !== '${digestOf(bytes.subarray(512))}') throw new Error('wrong digest');`,
];

it('what is on the disk alone is read past the cache, and what is in the cache is not', async () => {
  await outOfCache(source);
  const cold = await traced(hashing, 'openat,pread64');
  const fd = /O_DIRECT.* = (\d+)</.exec(cold.find((call) => call.includes('O_DIRECT')) ?? '')?.[1];
  const direct = cold.filter((call) => call.includes(`pread64(${fd}<`));
  const read = direct.map((call) => Number(/= (\d+)$/.exec(call)?.[1] ?? 0));
  expect(read.reduce((sum, n) => sum + n, 0)).toBeGreaterThan(bytes.length - 512 - 64 * 1024);
  await run('cat', [source]);
  expect((await traced(hashing, 'openat')).some((call) => call.includes('O_DIRECT'))).toBe(false);
});

it('a file system that opens no file in this way is read as ever', async () => {
  await outOfCache(source);
  const again = Array.from({ length: 100 }, (_, fd) => `/proc/self/fd/${fd}`);
  const result = await runWithFault(hashing, 'openat', 1, 'error=EINVAL', { path: again, stays: true });
  expect(result).toMatchObject({ code: 0 });
});

it('one that opens it but does not read in this way, too; and a sector that cannot be read is no reason to go on', async () => {
  for (const [fault, code] of [
    ['error=EINVAL', 0],
    ['error=EIO', 1],
  ] as const) {
    await outOfCache(source);
    // The first call looks what the cache has, the second one goes past it.
    expect(await runWithFault(hashing, 'pread64', 2, fault, { path: source })).toMatchObject({ code });
  }
});
