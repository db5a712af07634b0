// SPDX-License-Identifier: Apache-2.0
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { findBundle } from '../../src/cli/files.ts';
import type { Io } from '../../src/cli/context.ts';
import { mediaOf, parseSize } from '../../src/cli/volumes.ts';
import { tempDir } from '../support/workspace.ts';

it.each<[string, number]>([
  ['4GiB-1', 2 ** 32 - 1],
  ['4.7GB', 4_700_000_000],
  ['25GB', 25_000_000_000],
  ['650MiB', 650 * 2 ** 20],
  ['1000000', 1_000_000],
  ['64kB', 64_000],
])('%s is %d bytes', (text, bytes) => {
  expect(parseSize(text, '--volume-size')).toBe(bytes);
});

it.each(['', '0', '-1', '4 GiB', '4GiB-5GiB', '1-1', 'large', '1e9', '9'.repeat(30), '4GIB', '0.0000001B'])(
  '%j is no size, and that is said',
  (text) => {
    expect(() => parseSize(text, '--volume-size')).toThrow(`--volume-size: '${text}' is not a size`);
  },
);

it('a bundle in volumes is found by its name, by any volume, and in a folder', async () => {
  const dir = tempDir('find');
  for (const name of ['b.sealift.tar.001', 'b.sealift.tar.002', 'b.sealift.tar.volumes'])
    writeFileSync(join(dir, name), '');
  const first = join(dir, 'b.sealift.tar.001');
  for (const path of [dir, join(dir, 'b.sealift.tar'), first, join(dir, 'b.sealift.tar.002')])
    expect(await findBundle(path)).toBe(first);
  const second = join(dir, 'second medium');
  mkdirSync(second);
  writeFileSync(join(second, 'b.sealift.tar.002'), '');
  expect(await findBundle(second)).toBe(join(second, 'b.sealift.tar.001'));
  for (const name of ['p01', 'volumes']) {
    // What is left when every volume is lost, or lies on other media.
    const left = join(dir, name);
    mkdirSync(left);
    writeFileSync(join(left, `b.sealift.tar.${name}`), '');
    for (const path of [left, join(left, `b.sealift.tar.${name}`)])
      expect(await findBundle(path)).toBe(join(left, 'b.sealift.tar.001'));
  }
  await expect(findBundle(join(dir, 'c.sealift.tar'))).rejects.toMatchObject({ code: 'FILE_MISSING' });
  writeFileSync(join(dir, 'other.sealift.tar'), '');
  await expect(findBundle(dir)).rejects.toMatchObject({ code: 'USAGE' });
});

it('a person is asked for a medium at a terminal, and nobody elsewhere', async () => {
  const questions: string[] = [];
  const io = (available: boolean): Io =>
    ({
      prompt: { available, wait: (text: string) => Promise.resolve(void questions.push(text)) },
    }) as unknown as Io;
  await mediaOf(['/a'], io(true)).ask!(['b.002']);
  expect(questions).toEqual(['insert the medium with b.002, then press Enter']);
  expect(mediaOf(['/a'], io(false))).toEqual({ folders: ['/a'], ask: undefined });
});
