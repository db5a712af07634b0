// SPDX-License-Identifier: Apache-2.0
import { renameSync, truncateSync, writeFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { FileSource } from '../../src/bundle/source.ts';
import { tempDir } from '../support/workspace.ts';

function fileOf(text: string): string {
  const path = `${tempDir('source')}/x.tar`;
  writeFileSync(path, text);
  return path;
}

it('reads any piece of a file', async () => {
  const path = fileOf('hello world');
  const source = await FileSource.open(path);
  const piece = Buffer.alloc(5);
  await source.readInto(piece, 6);
  expect(piece.toString()).toBe('world');
  expect([source.name, source.size]).toEqual([path, 11]);
  await source.readInto(Buffer.alloc(0), 11);
  await source.close();
});

it('goes on with the file that it opened, when another one takes its name', async () => {
  const path = fileOf('first');
  const source = await FileSource.open(path);
  renameSync(fileOf('other'), path);
  const piece = Buffer.alloc(5);
  await source.readInto(piece, 0);
  await source.close();
  expect(piece.toString()).toBe('first');
});

it('finds a file that became shorter after it was opened', async () => {
  const path = fileOf('hello world');
  const source = await FileSource.open(path);
  truncateSync(path, 8);
  await expect(source.readInto(Buffer.alloc(5), 6)).rejects.toMatchObject({
    code: 'BUNDLE_INCOMPLETE',
    message: `${path} ends at byte 8, but goes on at least to byte 11`,
    hint: expect.stringMatching(/./),
  });
  await source.close();
});

it('is a file that is there', async () => {
  const folder = tempDir('source');
  await expect(FileSource.open(folder)).rejects.toMatchObject({ code: 'NOT_A_BUNDLE' });
  await expect(FileSource.open(`${folder}/none`)).rejects.toMatchObject({
    code: 'FILE_MISSING',
    message: expect.stringContaining(`opening ${folder}/none`),
  });
});

it('says at which byte reading failed', async () => {
  const path = fileOf('hello');
  const source = await FileSource.open(path);
  await source.close();
  await expect(source.readInto(Buffer.alloc(1), 3)).rejects.toMatchObject({
    code: 'IO_ERROR',
    message: expect.stringContaining(`reading ${path} at byte 3`),
  });
});
