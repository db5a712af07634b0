// SPDX-License-Identifier: Apache-2.0
/** The folder of an installation: what an undo may touch, and what is swept. */
import { existsSync, mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { beforeEach, describe, expect, it } from 'vitest';
import { Home } from '../../src/install/home.ts';
import { undoFiles } from '../../src/install/steps/files.ts';
import { tempDir } from '../support/workspace.ts';

let home: Home;
beforeEach(async () => {
  home = new Home(tempDir('home'));
  await home.prepare();
});

function put(folder: string, text: string): void {
  mkdirSync(home.path('releases', folder), { recursive: true });
  writeFileSync(home.path('releases', folder, 'receipt.json'), text);
}
const inFolder = (): string => readFileSync(home.receiptFile('demo-1.0.0'), 'utf8');

describe('taking the files of a release back', () => {
  const record = { kind: 'files', release: 'demo-1.0.0', hadFolder: true } as const;

  it('leaves the folder that stood there when the step had not moved it yet', async () => {
    put('demo-1.0.0', 'running');
    put('.demo-1.0.0.partial', 'new');
    await undoFiles(record, home);
    expect(inFolder()).toBe('running');
    expect(readdirSync(home.path('releases'))).toEqual(['demo-1.0.0']);
  });

  it('brings it back, and leaves it there when it is done once more', async () => {
    put('demo-1.0.0', 'new');
    put('.demo-1.0.0.previous', 'running');
    await undoFiles(record, home);
    expect(inFolder()).toBe('running');
    await undoFiles(record, home);
    expect(inFolder()).toBe('running');
  });

  it('removes what two runs made where there was no folder', async () => {
    put('demo-1.0.0', 'of the second run');
    put('.demo-1.0.0.previous', 'of the first run');
    await undoFiles({ ...record, hadFolder: false }, home);
    expect(readdirSync(home.path('releases'))).toEqual([]);
  });
});

it('sweeps what killed writers left, wherever they write', async () => {
  const uuid = '0b5e7a6e-0000-4000-8000-000000000000';
  put('demo-1.0.0', 'stays');
  const left = [
    `journal.json.${uuid}.tmp`,
    'current.123.tmp',
    `secrets/api-keys.${uuid}.tmp`,
    `releases/demo-1.0.0/receipt.json.${uuid}.tmp`,
    `lock.${uuid}`,
  ].map((name) => home.path(name));
  for (const file of left) writeFileSync(file, '');
  const waiting = home.path('lock.0b5e7a6e-0000-4000-8000-000000000001');
  writeFileSync(waiting, '');
  utimesSync(left.at(-1)!, new Date(0), new Date(0));
  await home.sweep();
  expect(left.filter((file) => existsSync(file))).toEqual([]);
  expect(existsSync(waiting)).toBe(true); // of a process that takes the lock just now
  expect(inFolder()).toBe('stays');
});
