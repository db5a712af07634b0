// SPDX-License-Identifier: Apache-2.0
/** A bundle that is the only copy of what it carries (`build --sole-copy`): written once, gone on with, believed by its hashes alone. */
import {
  existsSync,
  linkSync,
  readFileSync,
  readdirSync,
  renameSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { buildBundle, type BuildInput, type BuiltBundle } from '../../src/build/build.ts';
import { resolveLock, type Lock } from '../../src/build/lock.ts';
import { SealiftError } from '../../src/errors.ts';
import { digestOf } from '../../src/store/digest.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { person, policyOf, verifyAll } from '../support/sample.ts';
import { tempDir } from '../support/workspace.ts';
import { bench, failure, fakeWorld, manifestOf, NOW, type Bench, TINY, type FakeWorld } from './fakes.ts';

const anna = person('anna');
const WEIGHTS = 'w'.repeat(2_000_000);

interface Site extends Bench {
  world: FakeWorld;
  lock: Lock;
  out: string;
}

async function site(): Promise<Site> {
  const world = fakeWorld();
  world.models.get(TINY)!.files['model.safetensors'] = WEIGHTS;
  const where = await bench();
  const lock = await resolveLock(manifestOf(), where.context, undefined, NOW, world.sources);
  world.asked.length = 0;
  where.events.length = 0;
  return { ...where, world, lock, out: join(tempDir('out'), 'demo.sealift.tar') };
}

const build = ({ world, lock, context, out }: Site, more: Partial<BuildInput> = {}): Promise<BuiltBundle> =>
  buildBundle({
    manifest: manifestOf(),
    lock,
    context,
    out,
    signers: [keySigner(anna.key)],
    soleCopy: true,
    emit: context.emit,
    sources: world.sources,
    ...more,
  });

/** One that was stopped when everything had come, and nobody had signed yet. */
async function stopped(): Promise<Site> {
  const here = await site();
  const gone = new SealiftError('INTERRUPTED', 'the signer went home');
  const signer = { name: 'gone', sign: () => Promise.reject(gone) };
  expect(await failure(build(here, { signers: [signer] }))).toBe(gone);
  expect(existsSync(here.out)).toBe(false);
  expect(here.world.count('open model.safetensors')).toBe(1);
  here.world.asked.length = 0;
  here.events.length = 0;
  return here;
}

async function demandWhole(here: Site): Promise<void> {
  const { inventory } = await verifyAll(here.out, policyOf([anna]));
  expect(inventory.name).toBe('demo');
  expect(existsSync(`${here.out}.partial`)).toBe(false);
  expect(readdirSync(join(here.context.store.root, 'partial'))).toEqual([]);
}

test('it is the same bundle, and the store keeps nothing that can be had again', async () => {
  const here = await site();
  await build(here, { signers: [] });
  const alone = readFileSync(here.out);
  expect(existsSync(here.context.store.path(digestOf(WEIGHTS)))).toBe(false);
  const kept = { ...here, out: `${here.out}.kept` };
  await build(kept, { signers: [], soleCopy: false });
  expect(readFileSync(kept.out).equals(alone)).toBe(true);
  expect(existsSync(here.context.store.path(digestOf(WEIGHTS)))).toBe(true);
});

test('what the store has is taken over and not fetched; what is nowhere else stays there', async () => {
  const here = await site();
  await build({ ...here, out: `${here.out}.kept` }, { soleCopy: false });
  const before = readdirSync(join(here.context.store.root, 'blobs/sha256'));
  here.world.asked.length = 0;
  await build(here);
  await demandWhole(here);
  expect(here.world.asked.filter((asked) => asked.startsWith('open '))).toEqual([]);
  const after = readdirSync(join(here.context.store.root, 'blobs/sha256'));
  expect(after.length).toBeLessThan(before.length);
  const config = here.lock.configs[0]!.digest.slice('sha256:'.length);
  expect(after).toContain(config);
  expect(existsSync(here.context.store.path(digestOf(WEIGHTS)))).toBe(false);
});

test('one that was stopped goes on with what had come, and its progress adds up', async () => {
  const here = await stopped();
  await build(here);
  await demandWhole(here);
  expect(here.world.asked.filter((asked) => asked.startsWith('open '))).toEqual([]);
  const total = here.events.find((event) => event.type === 'stage')!.totalBytes!;
  const moved = here.events.reduce(
    (sum, event) => sum + (event.type === 'item-progress' ? event.delta : 0),
    0,
  );
  expect(moved).toBe(total);
});

test('what was damaged meanwhile is found, wherever it is, and fetched again', async () => {
  for (const damage of ['content', 'header', 'padding'] as const) {
    const here = await stopped();
    const partial = `${here.out}.partial`;
    const bytes = readFileSync(partial);
    const content = bytes.indexOf(WEIGHTS);
    const at = { content: content + 30_000, header: content - 512, padding: content + WEIGHTS.length }[
      damage
    ];
    bytes[at]! ^= 1;
    writeFileSync(partial, bytes);
    await build(here);
    await demandWhole(here);
    expect(here.world.count('open model.safetensors')).toBe(damage === 'content' ? 1 : 0);
  }
});

test('notes that say too much, as after a power cut, cost a download and no wrong byte', async () => {
  const here = await stopped();
  writeFileSync(`${here.out}.partial`, Buffer.alloc(4096));
  await build(here);
  await demandWhole(here);
  expect(here.world.count('open model.safetensors')).toBe(1);
});

test('another file in its place is not written to: another one, a link, one with a second name', async () => {
  for (const kind of ['other', 'link', 'second name'] as const) {
    const here = await stopped();
    const partial = `${here.out}.partial`;
    const victim = join(tempDir('victim'), 'victim');
    if (kind === 'other') renameSync(partial, victim);
    else if (kind === 'second name') linkSync(partial, victim);
    else {
      renameSync(partial, victim);
      symlinkSync(victim, partial);
    }
    const before = readFileSync(victim);
    await build(here);
    await demandWhole(here);
    expect(readFileSync(victim).equals(before), kind).toBe(true);
    expect(here.world.count('open model.safetensors')).toBe(1);
  }
});

test('wrong bytes are refused, and the next run has the right ones', async () => {
  const here = await site();
  here.world.lies.set('model.safetensors', `${WEIGHTS.slice(1)}x`);
  expect(await failure(build(here))).toMatchObject({ code: 'SOURCE_CHANGED' });
  expect(existsSync(here.out)).toBe(false);
  here.world.lies.clear();
  await build(here);
  await demandWhole(here);
});

test('the store gives nothing up before the bundle has its name', async () => {
  const here = await site();
  await build({ ...here, out: `${here.out}.kept` }, { soleCopy: false });
  const blobs = join(here.context.store.root, 'blobs/sha256');
  const before = readdirSync(blobs);
  const signer = {
    name: 'gone',
    sign: () => {
      expect(readdirSync(blobs)).toEqual(before);
      return Promise.reject(new SealiftError('INTERRUPTED', 'the signer went home'));
    },
  };
  expect(await failure(build(here, { signers: [signer] }))).toMatchObject({ code: 'INTERRUPTED' });
  expect(readdirSync(blobs)).toEqual(before);
});

test('what had begun to come into the store is ended there, and leaves it in the end', async () => {
  const here = await site();
  here.world.drops.set('model.safetensors', [1_500_000, 0, 0, 0, 0]);
  expect(await failure(build(here, { soleCopy: false }))).toMatchObject({ code: 'NETWORK_ERROR' });
  here.world.drops.clear();
  here.world.lies.set('model.safetensors', `${'x'.repeat(1_500_000)}${WEIGHTS.slice(1_500_000)}`);
  await build(here); // of the beginning, which would be another now, nothing is asked again
  await demandWhole(here);
  expect(existsSync(here.context.store.path(digestOf(WEIGHTS)))).toBe(false);
});

test('a bundle that another build has put there meanwhile does not get the name', async () => {
  for (const soleCopy of [true, false]) {
    const here = await site();
    const other = await bench();
    const key = keySigner(anna.key);
    const signer = {
      name: 'slow',
      sign: async (sums: Uint8Array) => {
        const late = { ...here, context: other.context };
        const gone = {
          name: 'gone',
          sign: () => Promise.reject(new SealiftError('INTERRUPTED', 'stopped')),
        };
        await failure(build(late, { signers: [gone], soleCopy: true }));
        return key.sign(sums);
      },
    };
    const error = await failure(build(here, { signers: [signer], soleCopy }));
    expect([error.code, error.message]).toEqual(['IO_ERROR', expect.stringContaining('was replaced')]);
    expect(existsSync(here.out)).toBe(false);
  }
});

test('a file that is shorter than the notes say costs a download', async () => {
  const here = await stopped();
  truncateSync(`${here.out}.partial`, 100);
  await build(here);
  await demandWhole(here);
  expect(here.world.count('open model.safetensors')).toBe(1);
});

test('what was left of another bundle makes way, and its notes too', async () => {
  const here = await stopped();
  const lock = { ...here.lock, created: '2026-11-23T11:00:00Z' };
  await build({ ...here, lock });
  await demandWhole(here);
  expect(here.world.count('open model.safetensors')).toBe(1);
});

test('volumes are refused before anything is written', async () => {
  const here = await site();
  expect(await failure(build(here, { volumeBytes: 20_000 }))).toMatchObject({ code: 'USAGE' });
  expect(readdirSync(join(here.out, '..'))).toEqual([]);
});
