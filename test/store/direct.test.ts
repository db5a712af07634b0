// SPDX-License-Identifier: Apache-2.0
/** Writing past the page cache: that it is done, that it changes no byte, and that nothing depends on it. */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { beforeEach, expect, it } from 'vitest';
import { digestOf } from '../../src/store/digest.ts';
import { transfer, type Stretch } from '../../src/store/transfer.ts';

import { runWithFault, traced } from '../support/strace.ts';
import { outOfCache, repoRoot, tempDir } from '../support/workspace.ts';

const dir = tempDir('direct');
const [source, target] = [join(dir, 'source'), join(dir, 'target')];
const bytes = randomBytes(9 * 1024 * 1024 + 77);
writeFileSync(source, bytes);

beforeEach(() => writeFileSync(target, ''));

it.each([
  ['read through the page cache', false],
  ['read past it', true],
])('every byte arrives, wherever stretches begin and end: %s', async (_, cold) => {
  const place = fc.nat(bytes.length);
  const cuts = fc.array(
    fc.oneof(
      place,
      place.map((at) => at - (at % 512)),
    ),
    { maxLength: 4 },
  );
  await fc.assert(
    fc.asyncProperty(cuts, cuts, fc.nat(9000), fc.nat(600), async (from, to, shift, header) => {
      writeFileSync(target, '');
      if (cold) await outOfCache(source);
      const [fd, out] = [openSync(source, 'r'), openSync(target, 'r+')];
      const before = Buffer.alloc(header, 'h');
      try {
        const job = { from: stretches(fd, 0, from, 0), to: stretches(out, shift, to, header + 5), before };
        expect(await transfer({ ...job, after: 5 })).toBe(digestOf(bytes));
      } finally {
        closeSync(fd);
        closeSync(out);
      }
      const wanted = Buffer.concat([Buffer.alloc(shift), before, bytes, Buffer.alloc(5)]);
      expect(readFileSync(target).equals(wanted)).toBe(true);
    }),
    { numRuns: 20 },
  );
});

/** As many bytes as the source has, and `more`, in stretches that end at these places. */
function stretches(fd: number, shift: number, cuts: readonly number[], more: number): Stretch[] {
  const ends = [...new Set([...cuts, bytes.length + more])].toSorted((a, b) => a - b);
  return ends.map((end, i) => ({ fd, offset: shift + (ends[i - 1] ?? 0), length: end - (ends[i - 1] ?? 0) }));
}

/** Copies the source into the target, 512 bytes from its beginning, as a program of its own. */
const copyFrom = (offset: number): string[] => [
  '--input-type=module',
  '--eval',
  `import { openSync } from 'node:fs';
   import { transfer } from '${join(repoRoot, 'src/store/transfer.ts')}';
   const length = ${bytes.length} - ${offset};
   const from = [{ fd: openSync('${source}', 'r'), offset: ${offset}, length }];
   await transfer({ from, to: [{ fd: openSync('${target}', 'r+'), offset: 512, length }] });`,
];

const copying = copyFrom(0);

const arrived = (offset = 0): boolean => readFileSync(target).subarray(512).equals(bytes.subarray(offset));

it('all but the edges goes past the page cache', async () => {
  const calls = await traced(copying, 'openat,pwrite64');
  const fd = /O_WRONLY.*O_DIRECT.* = (\d+)</.exec(
    calls.find((call) => /O_WRONLY.*O_DIRECT/.test(call))!,
  )![1]!;
  const direct = calls.filter((call) => call.includes(`pwrite64(${fd}<`));
  const written = direct.map((call) => Number(/= (\d+)$/.exec(call)![1]));
  expect(written.reduce((sum, n) => sum + n, 0)).toBeGreaterThan(bytes.length - 2 * 4096);
  expect(arrived()).toBe(true);
});

it('what is on the disk alone is not brought into the page cache on its way', async () => {
  await outOfCache(source);
  const calls = await traced(copying, 'pread64');
  const bytesRead = (name: string): number =>
    calls
      .filter((call) => call.includes(name))
      .reduce((sum, call) => sum + Number(/= (\d+)$/.exec(call)?.[1] ?? 0), 0);
  expect(bytesRead(source)).toBeGreaterThanOrEqual(bytes.length);
  const large = calls.filter((call) => / = \d{7,}$/.test(call));
  expect(large.length).toBeGreaterThan(1);
  expect(arrived()).toBe(true);
});

it('a disk with larger sectors is read from their beginning, and what lies askew in memory is straightened', async () => {
  await outOfCache(source);
  // The first call leads to a page of the target, the second one looks what the cache has, the third one goes past it.
  const result = await runWithFault(copyFrom(1536), 'pread64', 3, 'error=EINVAL', { path: source });
  expect(result).toMatchObject({ code: 0 });
  expect(arrived(1536)).toBe(true);
});

it('a file system that opens no file in this way is written to as ever', async () => {
  const again = Array.from({ length: 100 }, (_, fd) => `/proc/self/fd/${fd}`);
  const result = await runWithFault(copying, 'openat', 1, 'error=EINVAL', { path: again, stays: true });
  expect(result).toMatchObject({ code: 0 });
  expect(arrived()).toBe(true);
});

it('one that opens it but does not write in this way, too', async () => {
  // The first call is for the bytes before the first page, the second one goes past the page cache.
  const result = await runWithFault(copying, 'pwrite64', 2, 'error=EINVAL', { path: target });
  expect(result).toMatchObject({ code: 0 });
  expect(arrived()).toBe(true);
});

it('a full disk is no reason to try it in another way', async () => {
  const result = await runWithFault(copying, 'pwrite64', 2, 'error=ENOSPC', { path: target });
  expect(result!.code).not.toBe(0);
  expect(result!.stderr).toContain('ENOSPC');
});
