// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest';
import { Home } from '../../src/install/home.ts';
import { Journal, readJournal } from '../../src/install/journal.ts';
import type { UndoRecord } from '../../src/install/step.ts';
import { digestOf } from '../../src/store/digest.ts';
import { tempDir } from '../support/workspace.ts';

const record: UndoRecord = { kind: 'image', ref: 'docker.io/library/one:1', id: digestOf('one') };

test('entries that are begun and finished together are all there, each as it was last', async () => {
  const home = new Home(tempDir('journal'));
  const journal = Journal.fresh(home, digestOf('bundle'), 'demo-1.0.0', new Date(0));
  const ids = Array.from({ length: 20 }, (_, i) => `step ${i}`);
  const one = async (id: string, i: number): Promise<void> => {
    await journal.begin(id, record);
    expect((await readJournal(home))?.entries.map((entry) => entry.id)).toContain(id);
    if (i % 2 === 0) await journal.finish(id);
  };
  await Promise.all(ids.map(one));
  const found = await readJournal(home);
  expect(found).toEqual(journal.state);
  expect(found?.entries.map(({ id, state }) => [id, state])).toEqual(
    ids.map((id, i) => [id, i % 2 === 0 ? 'done' : 'begun']),
  );
});
