// SPDX-License-Identifier: Apache-2.0
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { lockFolder } from '../../src/store/lock.ts';
import { tempDir } from '../support/workspace.ts';

it('lets one in, names the holder to the next, and lets that one in afterwards', async () => {
  const dir = tempDir('lock');
  const release = await lockFolder(dir, 'build');
  await expect(lockFolder(dir, 'install')).rejects.toMatchObject({
    code: 'LOCKED',
    message: expect.stringContaining("'sealift build'"),
  });
  await release();
  await (
    await lockFolder(dir, 'install')
  )();
  expect(await readdir(dir)).toEqual([]);
});

it.each([
  ['a process that is gone', { pid: 2 ** 22 + 1, started: '1', what: 'build' }],
  ['a process whose number was given to another', { pid: process.pid, started: '1', what: 'build' }],
])('takes over from %s', async (_, holder) => {
  const dir = tempDir('lock');
  await writeFile(join(dir, 'lock'), JSON.stringify(holder));
  await (
    await lockFolder(dir, 'install')
  )();
});

it('takes over a lock that a power cut tore', async () => {
  const dir = tempDir('lock');
  await writeFile(join(dir, 'lock'), '');
  await (
    await lockFolder(dir, 'install')
  )();
});
