// SPDX-License-Identifier: Apache-2.0
import { expect, it } from 'vitest';
import { freeBytes } from '../../src/store/files.ts';
import { describeShortage, findShortages, shortageDetails } from '../../src/store/space.ts';
import { makeDir, tempDir } from '../support/workspace.ts';

it('adds up what goes to one file system, and says how much is missing there', async () => {
  const dir = tempDir('space');
  const [a, b] = [makeDir(dir, 'a'), makeDir(dir, 'b')];
  // Far more than other programs write or free in this moment.
  const bytes = Math.ceil((await freeBytes(dir)).bytes * 0.6);
  expect(await findShortages([{ folder: a, what: 'downloads', bytes }])).toEqual([]);
  const shortages = await findShortages([
    { folder: a, what: 'downloads', bytes },
    { folder: b, what: 'bundle', bytes },
  ]);
  expect(shortages).toMatchObject([{ folder: a, needed: 2 * bytes }]);
  const { free } = shortages[0]!;
  expect(describeShortage(shortages[0]!)).toBe(
    `${2 * bytes} bytes are needed on the file system of ${a}, ${free} are free: ${2 * bytes - free} too few`,
  );
  expect(shortageDetails(shortages)).toEqual([
    ['downloads', `${bytes} bytes in ${a}`],
    ['bundle', `${bytes} bytes in ${b}`],
  ]);
});
