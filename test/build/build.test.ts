// SPDX-License-Identifier: Apache-2.0
import { existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { cp } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { buildBundle, composeInventory, type BuildInput, type BuiltBundle } from '../../src/build/build.ts';
import { resolveLock, type Lock } from '../../src/build/lock.ts';
import { parseManifest, type Manifest } from '../../src/build/manifest.ts';
import { digestOf, hexOf, type Digest, type Expected } from '../../src/store/digest.ts';
import { Store } from '../../src/store/store.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { tinyImage } from '../support/images.ts';
import { person, policyOf, verifyAll } from '../support/sample.ts';
import { tempDir } from '../support/workspace.ts';
import {
  bench,
  COMMIT,
  ENGINE,
  failure,
  fakeWorld,
  manifestOf,
  NOW,
  TINY,
  type Bench,
  type FakeWorld,
} from './fakes.ts';

interface Site extends Bench {
  world: FakeWorld;
  manifest: Manifest;
  lock: Lock;
  out: string;
}

/** A staging box where everything is locked and nothing is built. */
async function site(world = fakeWorld(), manifest = manifestOf()): Promise<Site> {
  const where = await bench();
  const lock = await resolveLock(manifest, where.context, undefined, NOW, world.sources);
  world.asked.length = 0;
  where.events.length = 0;
  return { ...where, world, manifest, lock, out: join(tempDir('out'), 'demo.sealift.tar') };
}

const build = (
  { world, manifest, lock, context, out }: Site,
  more: Partial<BuildInput> = {},
): Promise<BuiltBundle> =>
  buildBundle({
    manifest,
    lock,
    context,
    out,
    signers: [],
    emit: context.emit,
    sources: world.sources,
    ...more,
  });

const anna = person('anna');
const ben = person('ben');

test('a built bundle opens, is signed by each signer, and holds what the lock says', async () => {
  const here = await site();
  const built = await build(here, { signers: [keySigner(anna.key), keySigner(ben.key)] });
  const bundle = await verifyAll(built.path, policyOf([anna, ben], 2));
  expect(bundle.digest).toBe(built.digest);
  expect(bundle.size).toBe(built.size);
  expect(readFileSync(built.path)).toHaveLength(built.size);
  expect(bundle.verdict.accepted.map(({ signer }) => signer)).toEqual(['anna', 'ben']);
  expect(bundle.inventory).toEqual(composeInventory(here.manifest, here.lock));
  expect(bundle.inventory).toMatchObject({
    name: 'demo',
    version: '1.0.0',
    created: '2026-11-23T10:00:00Z',
    services: [{ name: 'chat', engine: 'vllm', image: 'engine', model: 'tiny', gpus: 0 }],
    gateway: { image: 'gateway' },
  });
});

test('without a signer the bundle is there, unsigned, for `sign`', async () => {
  const here = await site();
  const { path } = await build(here);
  expect(await failure(verifyAll(path, policyOf([anna])))).toMatchObject({ code: 'NOT_SIGNED' });
});

test('two builds of one lock on two boxes are byte-identical from bundle.json on', async () => {
  const [one, two] = [await site(), await site()];
  expect(two.lock).toEqual(one.lock);
  const a = await build(one, { signers: [keySigner(anna.key)] });
  const b = await build(two, { signers: [keySigner(ben.key)] });
  expect(b.digest).toBe(a.digest);
  const [x, y] = [readFileSync(a.path), readFileSync(b.path)];
  const from = x.indexOf('bundle.json\0');
  expect(from).toBeGreaterThan(8 * 16384);
  expect(x.equals(y)).toBe(false); // the signatures differ
  expect(x.subarray(from).equals(y.subarray(from))).toBe(true);
});

test('a shared layer is fetched once; a second build fetches nothing and asks nobody', async () => {
  const here = await site();
  await build(here);
  const shared = here.world.images.get(ENGINE)!.image.layers[0]!.digest;
  expect(here.world.count(`open ${shared}`)).toBe(1);
  expect(here.world.count(`resolve ${TINY}`)).toBe(1);
  here.world.asked.length = 0;
  here.events.length = 0;
  const again = await build({ ...here, out: `${here.out}.2` });
  expect(here.world.asked).toEqual([]);
  const items = here.events.flatMap((event) => (event.type === 'item-start' ? [event.label] : []));
  expect(items).toEqual(['what is on this machine already']);
  expect(existsSync(again.path)).toBe(true);
});

test('a new store is filled from the lock alone', async () => {
  const here = await site();
  const first = await build(here);
  const context = { ...here.context, store: await Store.open(tempDir('store')) };
  const second = await build({ ...here, context, out: `${here.out}.2` });
  expect(second.digest).toBe(first.digest);
});

test.each([
  ['a file of the model', 'model.safetensors', 'x'.repeat(50_000)],
  ['a longer file', 'model.safetensors', 'x'.repeat(50_001)],
])('%s that differs from the lock is refused, and there is no bundle', async (_, key, lie) => {
  const here = await site();
  here.world.lies.set(key, lie);
  const error = await failure(build(here));
  expect(error.code).toBe('SOURCE_CHANGED');
  expect(error.message).toContain('tiny/model.safetensors');
  expect(existsSync(here.out)).toBe(false);
  expect(existsSync(`${here.out}.partial`)).toBe(false);
});

test.each([
  ['other content', 'x'.repeat(50_000)],
  ['another size', 'w'.repeat(49_000)],
])('%s of a file in the list of the hub is refused before it is fetched', async (_, text) => {
  const here = await site();
  const model = [...here.world.models.values()][0]!;
  model.files['model.safetensors'] = text;
  const error = await failure(build(here));
  expect(error.code).toBe('SOURCE_CHANGED');
  expect(error.message).toContain('tiny/model.safetensors');
  expect(here.world.count('open model.safetensors')).toBe(0);
});

test('a layer that differs from the lock is refused', async () => {
  const here = await site();
  const { digest } = here.world.images.get(ENGINE)!.image.layers[1]!;
  here.world.lies.set(digest, 'x');
  expect((await failure(build(here))).code).toMatch(/SOURCE_CHANGED|NETWORK_ERROR/);
  here.world.lies.set(digest, 'x'.repeat(100_000));
  expect((await failure(build(here))).message).toContain('engine layer 2/2');
});

test('a tag that moved after locking: a new store gets the locked image or an error, never the new one', async () => {
  const here = await site();
  here.world.images.get(ENGINE)!.image = tinyImage({ name: 'e', payload: 'moved', architecture: 'amd64' });
  const context = { ...here.context, store: await Store.open(tempDir('store')) };
  const error = await failure(build({ ...here, context }));
  expect(error.code).toBe('SOURCE_CHANGED');
  expect(error.details.map(([label]) => label)).toEqual(['locked', 'found']);
});

test('a config that was edited after locking is refused with a hint', async () => {
  const here = await site();
  writeFileSync(join(here.context.baseDir, 'prometheus.yml'), 'scrape: [1]\n');
  const error = await failure(build(here));
  expect(error.code).toBe('SOURCE_CHANGED');
  expect(error.message).toBe('config prometheus.yml: ./prometheus.yml changed after it was locked');
  expect(error.hint).toContain('sealift lock');
});

test('a lock that is not of this manifest is stale; nothing is asked', async () => {
  const here = await site();
  const manifest = manifestOf((text) => text.replace('version: 1.0.0', 'version: 1.0.1'));
  expect(await failure(build({ ...here, manifest }))).toMatchObject({ code: 'LOCK_STALE' });
  const edited: Lock[] = [
    { ...here.lock, platform: 'linux/arm64' },
    { ...here.lock, images: here.lock.images.slice(1) },
    { ...here.lock, models: [{ ...here.lock.models[0]!, from: 'hf:other/model@main' }] },
    { ...here.lock, configs: [] },
  ];
  for (const lock of edited) expect((await failure(build({ ...here, lock }))).code).toBe('LOCK_STALE');
  expect(here.world.asked).toEqual([]);
});

test('an output that is there is not overwritten unasked', async () => {
  const here = await site();
  writeFileSync(here.out, 'precious');
  expect(await failure(build(here))).toMatchObject({ code: 'FILE_EXISTS' });
  expect(here.world.asked).toEqual([]);
  expect(readFileSync(here.out, 'utf8')).toBe('precious');
  await build(here, { overwrite: true });
  await verifyAll(here.out, policyOf([anna])).catch((error: unknown) =>
    expect(error).toMatchObject({ code: 'NOT_SIGNED' }),
  );
  mkdirSync(`${here.out}.dir`);
  const dir = build({ ...here, out: `${here.out}.dir` }, { overwrite: true });
  expect(await failure(dir)).toMatchObject({ code: 'FILE_EXISTS' });
});

test('a folder that is not there is told before the work', async () => {
  const here = await site();
  expect(await failure(build({ ...here, out: '/nonexistent/x.tar' }))).toMatchObject({
    code: 'FILE_MISSING',
  });
  expect(
    await failure(build({ ...here, out: join(here.context.baseDir, 'prometheus.yml', 'x.tar') })),
  ).toMatchObject({
    code: 'FILE_MISSING',
  });
  expect(here.world.asked).toEqual([]);
});

test('nine signers are one too many', async () => {
  const here = await site();
  const signers = Array.from({ length: 9 }, () => keySigner(anna.key));
  expect(await failure(build(here, { signers }))).toMatchObject({ code: 'SLOTS_FULL' });
});

test('a build that cannot fit says how many bytes are needed and free, before it downloads', async () => {
  const here = await site();
  const huge = 2 ** 50;
  here.lock.models[0]!.files.push({ path: 'zz.safetensors', digest: digestOf('huge'), size: huge });
  const error = await failure(build(here));
  expect(error.code).toBe('DISK_FULL');
  expect(error.message).toMatch(/^\d+ bytes are needed on the file system of .*, \d+ are free: \d+ too few$/);
  const [downloads, bundle] = error.details.map(([, text]) => Number(/^\d+/.exec(text)?.[0]));
  const layers = new Map(
    [...here.world.images.values()].flatMap(({ image }) =>
      image.layers.map((l) => [l.digest, l.bytes.length]),
    ),
  );
  const bytes = [...layers.values()].reduce((a, b) => a + b, 0);
  expect(downloads).toBe(huge + 50_000 + bytes);
  expect(bundle).toBeGreaterThan(huge + 50_000 + bytes);
  expect(bundle! % 512).toBe(0);
  expect(here.world.asked.filter((asked) => asked.startsWith('open'))).toEqual([]);
});

test('what an interrupted download left is not counted twice', async () => {
  const here = await site();
  const { digest } = { digest: digestOf('huge') };
  here.lock.models[0]!.files.push({ path: 'zz.safetensors', digest, size: 2 ** 50 });
  const before = Number(/^\d+/.exec((await failure(build(here))).details[0]![1])?.[0]);
  const partial = join(here.context.store.root, 'partial', hexOf(digest));
  writeFileSync(partial, '');
  truncateSync(partial, 1_000_000);
  const after = Number(/^\d+/.exec((await failure(build(here))).details[0]![1])?.[0]);
  expect(before - after).toBe(1_000_000);
});

test('after a broken build the next one goes on where it was', async () => {
  const here = await site();
  here.world.drops.set('model.safetensors', [30_000, 0, 0, 0, 0]);
  expect(await failure(build(here))).toMatchObject({ code: 'NETWORK_ERROR' });
  const partial = join(here.context.store.root, 'partial', hexOf(digestOf('w'.repeat(50_000))));
  expect(readFileSync(partial)).toHaveLength(30_000);
  here.world.drops.clear();
  here.world.asked.length = 0;
  writeFileSync(`${here.out}.partial`, 'left by a killed build');
  const built = await build(here);
  expect(here.world.count('open model.safetensors')).toBe(1);
  expect(existsSync(`${here.out}.partial`)).toBe(false);
  expect(built.digest).toBe((await build({ ...here, out: `${here.out}.2` })).digest);
});

test('the progress of a build adds up to what it carries, whether that is fetched or here already', async () => {
  const here = await site();
  for (const out of [here.out, `${here.out}.2`]) {
    here.events.length = 0;
    await build({ ...here, out });
    const stages = here.events.flatMap((event) => (event.type === 'stage' ? [event] : []));
    expect(stages.map(({ name }) => name)).toEqual(['build']);
    const moved = here.events.reduce(
      (sum, event) => sum + (event.type === 'item-progress' ? event.delta : 0),
      0,
    );
    expect(moved).toBe(stages[0]!.totalBytes);
  }
});

test('a copy in the store that has rotted is fetched again, and said', async () => {
  const here = await site();
  const signers = [keySigner(anna.key)];
  const first = await build(here, { signers });
  const { image } = here.world.images.get(ENGINE)!;
  const manifest = here.lock.images.find(({ name }) => name === 'engine')!.manifest.digest;
  const { config } = JSON.parse(readFileSync(here.context.store.path(manifest), 'utf8')) as {
    config: Expected;
  };
  const blobs: Digest[] = [
    digestOf('w'.repeat(50_000)),
    image.layers[0]!.digest as Digest,
    config.digest,
    manifest,
  ];
  for (const [i, digest] of blobs.entries()) {
    const path = here.context.store.path(digest);
    const bytes = readFileSync(path);
    for (const rot of [Buffer.alloc(bytes.length, 'x'), bytes.with(bytes.length - 1, bytes.at(-1)! ^ 1)]) {
      writeFileSync(path, rot);
      here.events.length = 0;
      const again = await build({ ...here, out: `${here.out}.${i}-${rot[0]}` }, { signers });
      expect(again.digest).toBe(first.digest);
      const warning = expect.objectContaining({ type: 'warning', code: 'STORE_DAMAGED' }) as unknown;
      expect(here.events.filter((event) => event.type === 'warning')).toEqual([warning]);
      expect(digestOf(readFileSync(path))).toBe(digest);
      await verifyAll(again.path, policyOf([anna]));
    }
  }
});

test('an interruption ends it with INTERRUPTED, and the store is free again', async () => {
  const here = await site();
  expect(await failure(build(here, { signal: AbortSignal.abort() }))).toMatchObject({ code: 'INTERRUPTED' });
  expect(existsSync(here.out)).toBe(false);
  await build(here);
});

test('a signer that fails leaves no bundle', async () => {
  const here = await site();
  const signer = { ...keySigner(anna.key), sign: () => Promise.reject(new Error('the token is locked')) };
  await expect(build(here, { signers: [signer] })).rejects.toThrow('the token is locked');
  expect(existsSync(here.out)).toBe(false);
});

// ---- the same with the real sources ----

async function realSite(): Promise<{ baseDir: string; manifest: Manifest }> {
  const baseDir = tempDir('real');
  tinyImage({
    name: 'docker.io/demo/engine:1',
    payload: 'engine',
    dir: join(baseDir, 'engine'),
    architecture: 'amd64',
    shared: true,
  });
  tinyImage({
    name: 'docker.io/demo/gateway:1',
    payload: 'gateway',
    dir: join(baseDir, 'gateway'),
    architecture: 'amd64',
    shared: true,
  });
  mkdirSync(join(baseDir, 'weights/sub folder'), { recursive: true });
  writeFileSync(join(baseDir, 'weights/config.json'), '{}');
  writeFileSync(join(baseDir, 'weights/tokenizer.json'), '{}');
  writeFileSync(join(baseDir, 'weights/model.safetensors'), Buffer.alloc(3_000_000, 7));
  writeFileSync(join(baseDir, 'weights/LICENSE'), 'free');
  writeFileSync(join(baseDir, 'weights/empty.txt'), '');
  writeFileSync(join(baseDir, 'weights/sub folder/ü #1.json'), '{}');
  const text = `
apiVersion: sealift.dev/v1
kind: Bundle
metadata: { name: real, version: 2.0.0-rc.1 }
platform: linux/amd64
images:
  engine: { from: "oci:./engine", as: docker.io/demo/engine:1 }
  gateway: { from: "oci:./gateway", as: docker.io/demo/gateway:1 }
models:
  tiny: { from: "file:./weights" }
services:
  chat: { engine: vllm, image: engine, model: tiny }
gateway: { image: gateway }
`;
  return { baseDir, manifest: parseManifest(text, 'real.yaml') };
}

test('layouts and a local model, locked and built in two folders with two stores: one digest', async () => {
  const { baseDir, manifest } = await realSite();
  const copy = join(tempDir('copy'), 'elsewhere');
  await cp(baseDir, copy, { recursive: true });
  const results: { lock: Lock; digest: Digest; bytes: Buffer }[] = [];
  for (const folder of [baseDir, copy]) {
    const where = await bench();
    const context = { ...where.context, baseDir: folder };
    const lock = await resolveLock(manifest, context, undefined, NOW);
    expect(where.warnings()).toEqual([]);
    const out = join(tempDir('out'), 'real.tar');
    const signers = [keySigner(anna.key)];
    const { digest } = await buildBundle({ manifest, lock, context, out, signers, emit: context.emit });
    await verifyAll(out, policyOf([anna]));
    results.push({ lock, digest, bytes: readFileSync(out) });
  }
  const [a, b] = results as [(typeof results)[0], (typeof results)[0]];
  expect(b.lock).toEqual(a.lock);
  expect(b.digest).toBe(a.digest);
  const from = a.bytes.indexOf('bundle.json\0');
  expect(a.bytes.subarray(from).equals(b.bytes.subarray(from))).toBe(true);
  expect(a.bytes.includes(baseDir), 'a path of the staging box').toBe(false);
});

test('weights that changed on the disk after locking are refused', async () => {
  const { baseDir, manifest } = await realSite();
  const where = await bench();
  const context = { ...where.context, baseDir };
  const lock = await resolveLock(manifest, context, undefined, NOW);
  writeFileSync(join(baseDir, 'weights/model.safetensors'), Buffer.alloc(3_000_000, 8));
  const out = join(tempDir('out'), 'real.tar');
  const building = buildBundle({ manifest, lock, context, out, signers: [], emit: context.emit });
  expect(await failure(building)).toMatchObject({ code: 'SOURCE_CHANGED' });
  expect(existsSync(out)).toBe(false);
});

test('a model is asked for at the hub that was locked', async () => {
  const here = await site();
  const locked: unknown[] = [];
  const model: typeof here.world.sources.model = (from, context, at) => {
    locked.push(at);
    return here.world.sources.model(from, context, at);
  };
  await build(here, { sources: { ...here.world.sources, model } });
  expect(locked).toEqual([{ revision: COMMIT, hub: 'https://huggingface.co' }]);
});
