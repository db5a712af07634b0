// SPDX-License-Identifier: Apache-2.0
import { mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { SOURCES } from '../../src/build/context.ts';
import { lockBytes, lockPath, parseLock, resolveLock, type Lock } from '../../src/build/lock.ts';
import { manifestDigest } from '../../src/build/manifest.ts';
import { SealiftError } from '../../src/errors.ts';
import { digestOf } from '../../src/store/digest.ts';
import { lockFolder } from '../../src/store/lock.ts';
import { Store } from '../../src/store/store.ts';
import { tinyImage } from '../support/images.ts';
import {
  bench,
  COMMIT,
  ENGINE,
  failure,
  fakeWorld,
  GATEWAY,
  manifestOf,
  NOW,
  TINY,
  type Bench,
} from './fakes.ts';

const lockOnce = async (
  world = fakeWorld(),
  where?: Bench,
  manifest = manifestOf(),
  previous?: Lock,
  now = NOW,
): Promise<Lock> => resolveLock(manifest, (where ?? (await bench())).context, previous, now, world.sources);

test('a lock pins everything: digests, commit, sha256 and size of each file', async () => {
  const world = fakeWorld();
  const lock = await lockOnce(world);
  const { image } = world.images.get(ENGINE)!;
  expect(lock).toMatchObject({
    apiVersion: 'sealift.dev/v1',
    kind: 'Lock',
    created: '2026-11-23T10:00:00Z',
    manifest: manifestDigest(manifestOf()),
    platform: 'linux/amd64',
  });
  expect(lock.images[0]).toEqual({
    name: 'engine',
    from: ENGINE,
    ref: ENGINE,
    manifest: image.manifest,
    index: `sha256:${'1'.repeat(64)}`,
  });
  expect(lock.images[1]).not.toHaveProperty('index');
  expect(lock.models).toEqual([
    {
      name: 'tiny',
      from: TINY,
      hub: 'https://huggingface.co',
      repo: 'sealift/tiny',
      revision: COMMIT,
      license: 'apache-2.0',
      files: [
        { path: 'LICENSE', digest: digestOf('free'), size: 4 },
        { path: 'config.json', digest: digestOf('{}'), size: 2 },
        { path: 'model.safetensors', digest: digestOf('w'.repeat(50_000)), size: 50_000 },
        { path: 'sub/empty.txt', digest: digestOf(''), size: 0 },
      ],
    },
  ]);
  expect(lock.configs).toEqual([{ name: 'prometheus.yml', digest: digestOf('scrape: []\n'), size: 11 }]);
  expect(parseLock(lockBytes(lock), 'demo.lock.json')).toEqual(lock);
});

test('only small things are fetched: manifests, image configs, files outside LFS', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  const lock = await lockOnce(world, where);
  const { image } = world.images.get(ENGINE)!;
  expect(world.count('open model.safetensors')).toBe(0);
  expect(world.count('open sub/empty.txt')).toBe(0); // hubs differ in what they answer for an empty file
  for (const layer of image.layers) expect(world.count(`open ${layer.digest}`)).toBe(0);
  const { store } = where.context;
  expect(await store.has(lock.images[0]!.manifest)).toBe(true);
  expect((await store.readBytes({ digest: digestOf('free'), size: 4 }, 100)).toString()).toBe('free');
  expect(await store.has({ digest: digestOf('w'.repeat(50_000)), size: 50_000 })).toBe(false);
});

test('locking again fetches nothing and gives the same bytes, with the first date', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  const first = await lockOnce(world, where);
  world.asked.length = 0;
  const second = await lockOnce(world, where, manifestOf(), first, new Date('2027-01-01T00:00:00Z'));
  expect(lockBytes(second).equals(lockBytes(first))).toBe(true);
  expect(world.asked.filter((asked) => asked.startsWith('open'))).toEqual([]);
});

test('a change gives a new date', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  const first = await lockOnce(world, where);
  world.images.get(GATEWAY)!.image = tinyImage({ name: 'g', payload: 'new', architecture: 'amd64' });
  const second = await lockOnce(world, where, manifestOf(), first, new Date('2027-01-01T00:00:00Z'));
  expect(second.created).toBe('2027-01-01T00:00:00Z');
  expect(second.images[0]).toEqual(first.images[0]);
  expect(second.images[1]).not.toEqual(first.images[1]);
});

test('after a failure the next run fetches only what is missing', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  world.lies.set('config.json', '[]');
  expect((await failure(lockOnce(world, where))).code).toBe('SOURCE_INVALID');
  world.lies.clear();
  const before = world.count('open LICENSE');
  await lockOnce(world, where);
  expect(before).toBe(1);
  expect(world.count('open LICENSE')).toBe(1);
  expect(world.count('open config.json')).toBe(2);
});

test('one repository does not answer for another with the same git object id', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  await lockOnce(world, where);
  world.models.set('hf:other/tiny@main', world.models.get(TINY)!);
  await lockOnce(
    world,
    where,
    manifestOf((text) => text.replace(TINY, 'hf:other/tiny@main')),
  );
  expect(world.count('open LICENSE')).toBe(2);
});

test('a blob that vanished from the store is fetched again', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  await lockOnce(world, where);
  await where.context.store.remove(digestOf('free'));
  await lockOnce(world, where);
  expect(world.count('open LICENSE')).toBe(2);
});

test.each([
  ['other bytes of the same length', 'FREE', 'listed', 'received'],
  ['more bytes', 'free of charge', 'listed', 'received'],
])('a hub that sends %s than it lists is refused, and nothing is kept', async (_, lie, ...labels) => {
  const [world, where] = [fakeWorld(), await bench()];
  world.lies.set('LICENSE', lie);
  const error = await failure(lockOnce(world, where));
  expect(error.code).toBe('SOURCE_INVALID');
  expect(error.message).toBe('model tiny: LICENSE: the hub sends other bytes than it lists');
  expect(error.details.map(([label]) => label)).toEqual(labels);
  expect(await where.context.store.has({ digest: digestOf(lie), size: lie.length })).toBe(false);
  expect(readdirSync(join(where.context.store.root, 'partial'))).toEqual([]);
});

test('a file whose connection drops is asked for again, and its progress is taken back', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  world.drops.set('LICENSE', [2, 0, 1]);
  await lockOnce(world, where);
  expect(world.count('open LICENSE')).toBe(4);
  expect(where.events.filter((event) => event.type === 'retry')).toHaveLength(3);
  const done = where.events.reduce((sum, e) => sum + (e.type === 'item-progress' ? e.delta : 0), 0);
  expect(done).toBe('free'.length + '{}'.length);
});

test('a connection that keeps dropping is an error after four attempts', async () => {
  const world = fakeWorld();
  world.drops.set('LICENSE', [0, 0, 0, 0, 0]);
  expect((await failure(lockOnce(world))).code).toBe('NETWORK_ERROR');
  expect(world.count('open LICENSE')).toBe(4);
});

test('a short body counts as a dropped connection', async () => {
  const world = fakeWorld();
  world.lies.set('LICENSE', 'fr');
  expect(await failure(lockOnce(world))).toMatchObject({
    code: 'NETWORK_ERROR',
    message: 'model tiny: LICENSE ended after 2 of 4 bytes',
  });
});

test.each(['../evil', '/etc/passwd', 'a/../b', 'a\\b', 'x\u202Etxt', 'a//b'])(
  'the file name %j is refused before anything is fetched',
  async (path) => {
    const world = fakeWorld();
    world.models.get(TINY)!.files[path] = 'x';
    const error = await failure(lockOnce(world));
    expect(error.code).toBe('UNSAFE_NAME');
    expect(error.message).not.toMatch(/\u202E/);
    expect(world.count('open LICENSE')).toBe(0);
  },
);

test('an unsafe name that is left out does no harm', async () => {
  const world = fakeWorld();
  world.models.get(TINY)!.files['x\u200Dy.png'] = 'x';
  const manifest = manifestOf((text) => text.replace(`${TINY} }`, `${TINY}, exclude: ["*.png"] }`));
  expect((await lockOnce(world, undefined, manifest)).models[0]!.files).toHaveLength(4);
});

test('a file that is a folder of another file is refused', async () => {
  const world = fakeWorld();
  world.models.get(TINY)!.files['sub'] = 'x';
  expect((await failure(lockOnce(world))).code).toBe('SOURCE_INVALID');
});

test('include and exclude choose the files; a pattern without a file is warned of', async () => {
  const where = await bench();
  const manifest = manifestOf((text) =>
    text.replace(
      `${TINY} }`,
      `${TINY}, include: ["*.safetensors", "*.json", "NOTICE*"], exclude: ["config.*", "*.bin"] }`,
    ),
  );
  const lock = await lockOnce(undefined, where, manifest);
  expect(lock.models[0]!.files.map(({ path }) => path)).toEqual(['model.safetensors']);
  expect(where.warnings()).toEqual([
    "PATTERN_UNUSED model tiny: no file fits the include pattern 'NOTICE*'",
    "PATTERN_UNUSED model tiny: no file fits the exclude pattern '*.bin'",
    'NO_LICENSE_FILE model tiny carries no licence file; see that its terms reach the enclave',
  ]);
});

test('patterns that leave nothing are an error that shows what there is', async () => {
  const manifest = manifestOf((text) => text.replace(`${TINY} }`, `${TINY}, include: ["*.gguf"] }`));
  const error = await failure(lockOnce(undefined, undefined, manifest));
  expect(error.code).toBe('MANIFEST_INVALID');
  expect(error.hint).toContain('it has 4 files, such as ');
});

test('files and configs that collide where case is ignored are warned of, both named', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  world.models.get(TINY)!.files['Config.json'] = '{}';
  writeFileSync(join(where.context.baseDir, 'b'), 'b');
  await lockOnce(
    world,
    where,
    manifestOf((text) => text.replace('configs:', 'configs:\n  PROMETHEUS.yml: b')),
  );
  const files = "model tiny: 'Config.json' and 'config.json' are one file on a disk that ignores case";
  expect(where.warnings()).toEqual([
    "CASE_COLLISION configs 'PROMETHEUS.yml' and 'prometheus.yml' are one file on a disk that ignores case",
    `CASE_COLLISION ${files}`,
  ]);
});

test('a missing config is an error that names it', async () => {
  const manifest = manifestOf((text) => text.replace('./prometheus.yml', './nowhere.yml'));
  const error = await failure(lockOnce(undefined, undefined, manifest));
  expect(error.code).toBe('FILE_MISSING');
  expect(error.message).toContain('reading config prometheus.yml');
  const folder = manifestOf((text) => text.replace('./prometheus.yml', './sub'));
  expect((await failure(lockOnce(undefined, undefined, folder))).code).toBe('MANIFEST_INVALID');
});

test('two images under one reference are refused when they differ, with both digests', async () => {
  const manifest = manifestOf((text) => text.replace(`${GATEWAY} }`, `${GATEWAY}, as: ${ENGINE} }`));
  const error = await failure(lockOnce(undefined, undefined, manifest));
  expect(error.code).toBe('MANIFEST_INVALID');
  expect(error.details.map(([name]) => name)).toEqual(['engine', 'gateway']);
  const world = fakeWorld();
  world.images.get(GATEWAY)!.image = world.images.get(ENGINE)!.image;
  expect((await lockOnce(world, undefined, manifest)).images[1]!.ref).toBe(ENGINE);
});

test.each([undefined, 'sha256:abc', 'local'])(
  'an image that is called %j where it comes from needs `as`',
  async (ref) => {
    const world = fakeWorld();
    world.images.get(ENGINE)!.ref = ref;
    const error = await failure(lockOnce(world));
    expect(error.code).toBe('MANIFEST_INVALID');
    expect(error.hint).toContain('as: docker.io/library/engine:1.0');
    const manifest = manifestOf((text) =>
      text.replace(`${ENGINE} }`, `${ENGINE}, as: local.example/engine:2 }`),
    );
    expect((await lockOnce(world, undefined, manifest)).images[0]!.ref).toBe('local.example/engine:2');
  },
);

test('an image for another platform is refused', async () => {
  const world = fakeWorld();
  world.images.get(ENGINE)!.image = tinyImage({ name: 'e', payload: 'x', architecture: 'arm64' });
  expect((await failure(lockOnce(world))).code).toBe('PLATFORM_NOT_FOUND');
});

test('a manifest that does not hash to its digest is refused', async () => {
  const world = fakeWorld();
  const found = world.images.get(ENGINE)!;
  found.image.blobs.set(found.image.manifest.digest, Buffer.from('{}'));
  expect((await failure(lockOnce(world))).code).toBe('SOURCE_INVALID');
});

test('the first failure stops the rest; the error is the first one', async () => {
  const world = fakeWorld();
  world.images.delete(ENGINE);
  const error = await failure(lockOnce(world));
  expect(error.code).toBe('IMAGE_NOT_FOUND');
});

test('an interruption ends it with INTERRUPTED', async () => {
  const where = await bench();
  const context = { ...where.context, signal: AbortSignal.abort() };
  const locking = resolveLock(manifestOf(), context, undefined, NOW, fakeWorld().sources);
  await expect(locking).rejects.toThrow(expect.objectContaining({ code: 'INTERRUPTED' }));
});

test('a store that another command writes to is not touched', async () => {
  const where = await bench();
  const release = await lockFolder(where.context.store.root, 'build');
  expect(await failure(lockOnce(undefined, where))).toMatchObject({ code: 'LOCKED' });
  await release();
  await lockOnce(undefined, where);
  await lockOnce(undefined, where); // and it is free again
});

test('what a killed run left half-written is cleared away, but a download that can go on is kept', async () => {
  const where = await bench();
  const partial = join(where.context.store.root, 'partial');
  writeFileSync(join(partial, 'new-1234'), 'torn');
  writeFileSync(join(partial, 'f'.repeat(64)), 'half of it');
  await lockOnce(undefined, where);
  expect(readdirSync(partial)).toEqual(['f'.repeat(64)]);
});

test('files of equal content are fetched once', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  Object.assign(world.models.get(TINY)!.files, { 'a.json': '{}', 'b/c.json': '{}' });
  const lock = await lockOnce(world, where);
  expect(world.asked.filter((asked) => asked.endsWith('.json'))).toHaveLength(1);
  expect(lock.models[0]!.files.filter(({ digest }) => digest === digestOf('{}'))).toHaveLength(3);
});

test('the notes about git objects may be lost or damaged', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  await lockOnce(world, where);
  const notes = join(where.context.store.root, 'git');
  for (const name of readdirSync(notes)) writeFileSync(join(notes, name), 'sha256:nonsense');
  await lockOnce(world, where);
  expect(world.count('open LICENSE')).toBe(2);
  rmSync(notes, { recursive: true });
  await lockOnce(world, {
    ...where,
    context: { ...where.context, store: await Store.open(where.context.store.root) },
  });
  expect(world.count('open LICENSE')).toBe(3);
});

// ---- the file ----

test.each([
  ['demo.yaml', 'demo.lock.json'],
  ['dir.yaml/demo.yml', 'dir.yaml/demo.lock.json'],
  ['manifest', 'manifest.lock.json'],
])('the lock of %s is %s', (manifest, lock) => {
  expect(lockPath(manifest)).toBe(lock);
});

type Edit = (lock: Record<string, unknown> & Lock) => unknown;

test.each<[string, Edit]>([
  ['unknown key', (lock) => ({ ...lock, extra: 1 })],
  ['another version', (lock) => ({ ...lock, apiVersion: 'sealift.dev/v2' })],
  ['another kind', (lock) => ({ ...lock, kind: 'Bundle' })],
  ['a date with fractions', (lock) => ({ ...lock, created: '2026-11-23T10:00:00.123Z' })],
  ['a date in another zone', (lock) => ({ ...lock, created: '2026-11-23T10:00:00+01:00' })],
  ['a digest in upper case', (lock) => ({ ...lock, manifest: `sha256:${'A'.repeat(64)}` })],
  ['no images', (lock) => ({ ...lock, images: undefined })],
  ['an image twice', (lock) => ({ ...lock, images: [lock.images[0], lock.images[0]] })],
  ['images out of order', (lock) => ({ ...lock, images: lock.images.toReversed() })],
  ['a model without files', (lock) => ({ ...lock, models: [{ ...lock.models[0], files: [] }] })],
  [
    'a file twice',
    (lock) => ({
      ...lock,
      models: [{ ...lock.models[0]!, files: lock.models[0]!.files.flatMap((f) => [f, f]) }],
    }),
  ],
  [
    'a path that climbs out',
    (lock) => ({
      ...lock,
      models: [{ ...lock.models[0]!, files: [{ ...lock.models[0]!.files[0], path: '../x' }] }],
    }),
  ],
  ['a negative size', (lock) => ({ ...lock, configs: [{ ...lock.configs[0], size: -1 }] })],
])('a lock with %s is invalid', async (_, edit) => {
  const lock = await lockOnce();
  const bytes = Buffer.from(JSON.stringify(edit(lock)));
  expect(() => parseLock(bytes, 'demo.lock.json')).toThrow(SealiftError);
  expect(() => parseLock(bytes, 'demo.lock.json')).toThrow(
    expect.objectContaining({
      code: 'LOCK_INVALID',
      message: expect.stringMatching(/^demo\.lock\.json: /) as string,
    }),
  );
});

test('a lock that is not JSON is invalid', () => {
  expect(() => parseLock(Buffer.from('<<<<<<< HEAD'), 'x')).toThrow(
    expect.objectContaining({ code: 'LOCK_INVALID' }),
  );
});

test('a source that cannot be opened is not opened again: it has tried often enough itself', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  world.closed.add('config.json');
  expect((await failure(lockOnce(world, where))).code).toBe('NETWORK_ERROR');
  expect(world.count('open config.json')).toBe(1);
});

test('what is retried is said once', async () => {
  const [world, where] = [fakeWorld(), await bench()];
  world.drops.set('config.json', [1]);
  world.lies.set('LICENSE', 'fr');
  await failure(lockOnce(world, where));
  const retries = where.events.flatMap((e) => (e.type === 'retry' ? [[e.what, e.reason]] : []));
  expect(retries).toContainEqual(['model tiny: config.json', 'config.json: connection reset']);
  expect(retries).toContainEqual(['model tiny: LICENSE', 'ended after 2 of 4 bytes']);
});

test('a local folder: what is excluded is not hashed, may be anything, and is not in the revision', async () => {
  const where = await bench();
  const weights = join(where.context.baseDir, 'weights');
  mkdirSync(weights);
  writeFileSync(join(weights, 'a.bin'), 'one');
  const manifest = manifestOf((text) =>
    text.replace(`${TINY} }`, `"file:./weights", exclude: ["*.log", "venv"] }`),
  );
  const world = fakeWorld();
  world.sources.model = (...args) => SOURCES.model(...args);
  const before = await lockOnce(world, where, manifest);
  mkdirSync(join(weights, 'venv'));
  symlinkSync('/etc/passwd', join(weights, 'venv/python'));
  writeFileSync(join(weights, 'run.log'), 'x');
  const hashed = where.events.length;
  expect((await lockOnce(world, where, manifest)).models).toEqual(before.models);
  expect(JSON.stringify(where.events.slice(hashed))).not.toContain('run.log');
  const locked = await SOURCES.model('file:./weights', where.context, before.models[0]).resolve(() => {});
  expect(() => locked.file('venv/python')).toThrow(expect.objectContaining({ code: 'UNSAFE_NAME' }));
});
