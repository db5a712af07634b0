// SPDX-License-Identifier: Apache-2.0
import { fork } from 'node:child_process';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { lockFolder } from '../../src/store/lock.ts';
import { tempDir } from '../support/workspace.ts';

const deadHolders: [string, string][] = [
  ['a process that is gone', JSON.stringify({ pid: 2 ** 22 + 1, started: '1', what: 'build' })],
  [
    'a process whose number was given to another',
    JSON.stringify({ pid: process.pid, started: '1', what: 'build' }),
  ],
  ['a power cut that tore the file', ''],
];
const deadName = 'lock.00000000-0000-4000-8000-000000000000';

it('lets one in, names the holder to the next, and lets that one in afterwards', async () => {
  const dir = tempDir('lock');
  const release = await lockFolder(dir, 'build');
  await expect(lockFolder(dir, 'install')).rejects.toMatchObject({
    code: 'LOCKED',
    message: expect.stringContaining("'sealift build'") as string,
  });
  await release();
  await (
    await lockFolder(dir, 'install')
  )();
  expect(await readdir(dir)).toEqual([]);
});

it.each(deadHolders)('takes over from %s', async (_, content) => {
  const dir = tempDir('lock');
  await writeFile(join(dir, deadName), content);
  await (
    await lockFolder(dir, 'install')
  )();
  expect(await readdir(dir)).toEqual([]);
});

it('lets in one at a time when many come to a stale lock at once', async () => {
  const dir = tempDir('lock');
  for (let round = 0; round < 4; round++) {
    await writeFile(join(dir, deadName), deadHolders[0]![1]);
    const children = Array.from({ length: 6 }, () => fork(join(import.meta.dirname, 'lock-child.ts'), [dir]));
    const ended = children.map(
      (child) => new Promise<number>((done) => child.once('exit', (code) => done(code ?? -1))),
    );
    const codes = await Promise.all(ended);
    expect(
      codes.filter((code) => code === 9),
      'someone saw another inside',
    ).toEqual([]);
    expect(codes.every((code) => code === 0 || code === 1)).toBe(true);
  }
});
