// SPDX-License-Identifier: Apache-2.0
/** Damaged files of a home: what an install remembers. A damaged memory is an error, never an empty one. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { Home } from '../../src/install/home.ts';
import { readJournal } from '../../src/install/journal.ts';
import { readReceipt, type Receipt } from '../../src/install/receipt.ts';
import { tempDir } from '../support/workspace.ts';
import { campaign, type Campaign } from './campaign.ts';
import { damageJson } from './mutate.ts';

const digest = (n: number): `sha256:${string}` => `sha256:${String(n).repeat(64)}`;
const home = new Home(tempDir('home'));

/** Puts each damaged document in the place of the file and reads the home. */
function file(path: string, good: unknown, read: () => Promise<unknown>): Campaign {
  mkdirSync(dirname(path), { recursive: true });
  return {
    make: (random) => damageJson(random, good),
    async read(bytes) {
      writeFileSync(path, bytes);
      if ((await read()) === undefined) throw new Error('the file was taken for missing');
    },
    codes: ['IO_ERROR'],
  };
}

const record = { kind: 'image', ref: 'docker.io/library/nginx:1.29', id: digest(1) } as const;
const current = {
  kind: 'current',
  name: 'demo',
  made: 'demo-1.0.0',
  hadReceipt: false,
  installed: { version: '0.9.0', digest: digest(2) },
};

campaign(
  'journal',
  file(
    home.journalFile,
    {
      schema: 'sealift/journal/v1',
      bundle: digest(3),
      release: 'demo-1.0.0',
      startedAt: '2026-11-23T12:00:00.000Z',
      entries: [
        { id: 'image gateway', state: 'done', record },
        { id: 'current', state: 'begun', record: current },
        {
          id: 'model tiny',
          state: 'begun',
          record: { kind: 'folder', path: 'models/tiny/0', blobs: [digest(4)], inUse: false },
        },
      ],
    },
    () => readJournal(home),
  ),
);

const receipt: Receipt = {
  schema: 'sealift/receipt/v1',
  bundle: { name: 'demo', version: '1.0.0', digest: digest(3), created: '2026-11-23T10:00:00Z' },
  release: 'demo-1.0.0',
  signatures: {
    threshold: 1,
    policyVersion: 1,
    signers: [{ slot: 0, signer: 'alice', fingerprint: digest(5) }],
  },
  engine: { version: '28.0.0', apiVersion: '1.48', platform: 'linux/amd64', store: 'containerd' },
  images: [{ name: 'gateway', ref: record.ref, id: digest(1), manifest: digest(6), proof: 'manifest' }],
  models: [{ name: 'tiny', revision: 'a'.repeat(40), path: 'models/tiny/a', files: 2, bytes: 100 }],
  configs: { path: 'configs/x', files: 1 },
  services: [{ name: 'chat', engine: 'vllm', image: 'gateway', model: 'tiny', servedModel: 'tiny' }],
  smoke: [{ service: 'chat', model: 'tiny', answer: 'hello' }],
  startedAt: '2026-11-23T12:00:00.000Z',
  finishedAt: '2026-11-23T12:01:00.000Z',
  steps: [{ id: 'image gateway', outcome: 'done', brought: true, record }],
};
campaign(
  'receipt',
  file(home.receiptFile('demo-1.0.0'), receipt, () => readReceipt(home, 'demo-1.0.0')),
);

campaign(
  'installed versions',
  file(
    home.path('installed.json'),
    { schema: 'sealift/installed/v1', bundles: { demo: { version: '1.0.0', digest: digest(3) } } },
    () => home.installed(),
  ),
);
