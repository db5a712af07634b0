// SPDX-License-Identifier: Apache-2.0
/** Signatures of models through lock and build: demanded of the maker, made by ourselves. */
import { createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { buildBundle, composeInventory } from '../../src/build/build.ts';
import { lockBytes, parseLock, resolveLock, type Lock } from '../../src/build/lock.ts';
import { manifestDigest } from '../../src/build/manifest.ts';
import { fingerprintOf } from '../../src/build/upstream/keys.ts';
import { omsFile, signOms } from '../../src/build/upstream/oms.ts';
import { Inventory } from '../../src/bundle/inventory.ts';
import { SealiftError } from '../../src/errors.ts';
import { digestOf } from '../../src/store/digest.ts';
import { ALL } from '../../src/cli/all.ts';
import { run } from '../cli/harness.ts';
import { modelSigning } from '../support/model-signing.ts';
import { runOk, tempDir } from '../support/workspace.ts';
import { bench, failure, fakeWorld, manifestOf, NOW, TINY, type Bench, type FakeWorld } from './fakes.ts';

const maker = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const pemOf = (key: KeyObject): string => createPublicKey(key).export({ type: 'spki', format: 'pem' });

const withEntry = (more: string): ReturnType<typeof manifestOf> =>
  manifestOf((text) => text.replace('@main }', `@main, ${more} }`));

/** The model with a signature over these of its files. */
function signedWorld(over: string[], path = 'model.sig'): FakeWorld {
  const world = fakeWorld();
  const model = world.models.get(TINY)!;
  const files = over.map((name) => ({ path: name, digest: digestOf(model.files[name]!) }));
  model.files[path] = omsFile('tiny', files, signOms('tiny', files, maker.privateKey)).toString();
  return world;
}

async function withKey(name = 'maker.pub', key: KeyObject = maker.privateKey): Promise<Bench> {
  const where = await bench();
  writeFileSync(join(where.context.baseDir, name), pemOf(key));
  return where;
}

const ALL_FILES = ['LICENSE', 'config.json', 'model.safetensors', 'sub/empty.txt'];
const DEMAND = 'signature: { key: maker.pub }';

describe('the signature of a maker', () => {
  const lockIt = (world: FakeWorld, where: Bench, entry = DEMAND): Promise<Lock> =>
    resolveLock(withEntry(entry), where.context, undefined, NOW, world.sources);

  test('is checked against what is carried, and recorded', async () => {
    const lock = await lockIt(signedWorld(ALL_FILES), await withKey());
    expect(lock.models[0]!.signature).toMatchObject({ kind: 'oms', by: fingerprintOf(maker.publicKey) });
    expect(lock.models[0]!.files.map(({ path }) => path)).toContain('model.sig');
    expect(parseLock(lockBytes(lock), 'l')).toEqual(lock);
    const inventory = composeInventory(withEntry(DEMAND), lock);
    expect(Inventory.parse(inventory).models[0]!.signature).toEqual(lock.models[0]!.signature);
  });

  test('is found under another name, and without being carried', async () => {
    const entry = 'exclude: ["*.sig"], signature: { key: maker.pub, file: sub/it.oms.sig }';
    const lock = await lockIt(signedWorld(ALL_FILES, 'sub/it.oms.sig'), await withKey(), entry);
    expect(lock.models[0]!.signature?.kind).toBe('oms');
    expect(lock.models[0]!.files.map(({ path }) => path)).toEqual(ALL_FILES);
  });

  test('may cover more than is carried, and not less', async () => {
    const some = await lockIt(signedWorld(ALL_FILES), await withKey(), `include: ["*.json"], ${DEMAND}`);
    expect(some.models[0]!.files.map(({ path }) => path)).toEqual(['config.json']);
    const error = await failure(lockIt(signedWorld(['config.json']), await withKey()));
    expect([error.code, error.message, error.hint]).toEqual([
      'UPSTREAM_BAD_SIGNATURE',
      'model tiny: the signature does not cover LICENSE, model.safetensors, sub/empty.txt',
      'leave what is not signed out: add it to models.tiny.exclude',
    ]);
  });

  test('LFS files are judged by the sha256 of the hub, without being fetched', async () => {
    const world = signedWorld(ALL_FILES);
    world.models.get(TINY)!.files['model.safetensors'] = 'v'.repeat(50_000);
    const error = await failure(lockIt(world, await withKey()));
    expect(error.message).toBe('model tiny: model.safetensors is not what was signed');
    expect(world.count('open model.safetensors')).toBe(0);
  });

  test('none, one by a stranger, and one that is no signature are three things', async () => {
    expect((await failure(lockIt(fakeWorld(), await withKey()))).code).toBe('UPSTREAM_NOT_SIGNED');
    const stranger = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
    const other = await withKey('maker.pub', stranger);
    expect((await failure(lockIt(signedWorld(ALL_FILES), other))).code).toBe('UPSTREAM_UNTRUSTED');
    const junk = fakeWorld();
    junk.models.get(TINY)!.files['model.sig'] = 'junk';
    expect((await failure(lockIt(junk, await withKey()))).code).toBe('UPSTREAM_BAD_SIGNATURE');
  });

  test('a key file that is missing, private or no key at all', async () => {
    expect((await failure(lockIt(fakeWorld(), await bench()))).code).toBe('FILE_MISSING');
    const where = await bench();
    writeFileSync(
      join(where.context.baseDir, 'maker.pub'),
      maker.privateKey.export({ type: 'pkcs8', format: 'pem' }),
    );
    expect((await failure(lockIt(fakeWorld(), where))).code).toBe('KEY_INVALID');
    writeFileSync(join(where.context.baseDir, 'maker.pub'), 'none');
    expect((await failure(lockIt(fakeWorld(), where))).code).toBe('KEY_INVALID');
    const { publicKey } = generateKeyPairSync('ed25519');
    writeFileSync(
      join(where.context.baseDir, 'maker.pub'),
      publicKey.export({ type: 'spki', format: 'pem' }),
    );
    expect((await failure(lockIt(fakeWorld(), where))).message).toContain('no ECDSA key');
  });

  test('build refuses a lock that was made under another key file, or says less than was asked for', async () => {
    const [world, where] = [signedWorld(ALL_FILES), await withKey()];
    const manifest = withEntry(DEMAND);
    const lock = await lockIt(world, where);
    const build = (changed: Lock): Promise<unknown> =>
      buildBundle({
        manifest,
        lock: changed,
        context: where.context,
        out: join(tempDir('out'), 'b.tar'),
        signers: [],
        emit: () => {},
        sources: world.sources,
      });
    await build(lock);
    const edited = structuredClone(lock);
    delete edited.models[0]!.signature;
    expect((await failure(build(edited))).code).toBe('LOCK_STALE');
    const lying = structuredClone(lock);
    lying.models[0]!.signature!.by = digestOf('somebody else');
    expect((await failure(build(lying))).code).toBe('LOCK_STALE');
    writeFileSync(
      join(where.context.baseDir, 'maker.pub'),
      pemOf(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey),
    );
    expect((await failure(build(lock))).code).toBe('LOCK_STALE');
  });
});

describe('our own signature of a model', () => {
  const key = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
  const manifest = withEntry('sign: true');
  const lockIt = (world: FakeWorld, previous?: Lock, modelKey: KeyObject | undefined = key): Promise<Lock> =>
    bench().then(({ context }) => resolveLock(manifest, context, previous, NOW, world.sources, modelKey));
  const keyless = (world: FakeWorld, previous?: Lock): Promise<Lock> =>
    bench().then(({ context }) => resolveLock(manifest, context, previous, NOW, world.sources));

  test('is one of its files, and survives another lock byte for byte, with the key or without', async () => {
    const world = fakeWorld();
    const lock = await lockIt(world);
    expect(lock.models[0]!.files.map(({ path }) => path)).toEqual([
      'LICENSE',
      'config.json',
      'model.safetensors',
      'model.sig',
      'sub/empty.txt',
    ]);
    expect(lockBytes(await lockIt(world, lock)).equals(lockBytes(lock))).toBe(true);
    expect(lockBytes(await keyless(world, lock)).equals(lockBytes(lock))).toBe(true);
  });

  test('is made again when files or key change, for which the key is needed', async () => {
    const world = fakeWorld();
    const lock = await lockIt(world);
    const other = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey;
    expect((await lockIt(world, lock, other)).models[0]!.oms!.key).not.toBe(lock.models[0]!.oms!.key);
    world.models.get(TINY)!.files['config.json'] = '{"a":1}';
    const error = await failure(keyless(world, lock));
    expect([error.code, error.message]).toEqual([
      'KEY_MISSING',
      'model tiny is to be signed again, because its files changed, and no key was given',
    ]);
    expect((await lockIt(world, lock)).models[0]!.oms!.signature).not.toBe(lock.models[0]!.oms!.signature);
    expect((await failure(keyless(fakeWorld()))).message).toBe(
      'model tiny is to be signed, and no key was given',
    );
  });

  test('a model.sig of its own is not replaced', async () => {
    const world = fakeWorld();
    world.models.get(TINY)!.files['model.sig'] = 'theirs';
    const error = await failure(lockIt(world));
    expect([error.code, error.message]).toEqual([
      'MANIFEST_INVALID',
      'model tiny brings a model.sig of its own',
    ]);
  });

  test('a lock whose signature is over other files is not built from', async () => {
    const world = fakeWorld();
    const { context } = await bench();
    const lock = await resolveLock(manifest, context, undefined, NOW, world.sources, key);
    const build = (changed: Lock): Promise<unknown> =>
      buildBundle({
        manifest,
        lock: changed,
        context,
        out: join(tempDir('out'), 'b.tar'),
        signers: [],
        emit: () => {},
        sources: world.sources,
      });
    await build(lock);
    const edits: ((lock: Lock) => unknown)[] = [
      ({ models: [model] }) => (model!.files[1]!.digest = digestOf('other')),
      ({ models: [model] }) => (model!.oms!.signature = 'AAAA'),
      ({ models: [model] }) => (model!.oms!.key = 'AAAA'),
      ({ models: [model] }) => (model!.files[3]!.digest = digestOf('other')),
    ];
    for (const edit of edits) {
      const edited = structuredClone(lock);
      edit(edited);
      expect((await failure(build(edited))).code).toBe('LOCK_INVALID');
    }
    const without = structuredClone(lock);
    delete without.models[0]!.oms;
    expect((await failure(build(without))).code).toBe('LOCK_STALE');
    expect(without.manifest).toBe(manifestDigest(manifest));
  });
});

/** The model's files as the installer places them: each under its path, from the blob that the inventory names. */
async function place(bundle: string): Promise<string> {
  const dir = tempDir('placed');
  await runOk('tar', ['-xf', bundle, '-C', dir]);
  const { models } = Inventory.parse(JSON.parse(readFileSync(join(dir, 'bundle.json'), 'utf8')));
  for (const { path, digest } of models[0]!.files) {
    mkdirSync(dirname(join(dir, 'model', path)), { recursive: true });
    writeFileSync(join(dir, 'model', path), readFileSync(join(dir, 'blobs/sha256', digest.slice(7))));
  }
  return join(dir, 'model');
}

test('from the command line into the enclave: model_signing accepts the placed folder, and refuses it after a change', async () => {
  const dir = tempDir('cli-oms');
  const at = (name: string): string => join(dir, name);
  mkdirSync(at('weights/sub'), { recursive: true });
  writeFileSync(at('weights/config.json'), '{}');
  writeFileSync(at('weights/sub/model.bin'), 'weights');
  writeFileSync(at('weights/.gitattributes'), '*.bin lfs');
  const manifest = [
    'apiVersion: sealift.dev/v1',
    'kind: Bundle',
    'metadata: { name: tiny, version: 1.0.0 }',
    'platform: linux/amd64',
    'models: { tiny: { from: "file:./weights", sign: true } }',
  ].join('\n');
  writeFileSync(at('tiny.yaml'), manifest);
  writeFileSync(at('pass'), 'correct horse\n');
  const ok = async (...argv: string[]): Promise<string> => {
    const ran = await run(ALL, argv);
    if (ran.exit !== 0) throw new SealiftError('UNEXPECTED', ran.stderr);
    return ran.stdout;
  };
  const key = ['--model-key', at('model.key'), '--passphrase-file', at('pass')];
  await ok('keygen', '-o', at('model.key'), '--passphrase-file', at('pass'));
  const refused = await run(ALL, ['lock', at('tiny.yaml'), '--store', at('store')]);
  expect([refused.exit, refused.stderr]).toEqual([2, expect.stringContaining('KEY_MISSING')]);
  const said = await ok('lock', at('tiny.yaml'), '--store', at('store'), ...key);
  expect(said).toMatch(/model\.sig by key sha256:[0-9a-f]{64}/);
  await ok('lock', at('tiny.yaml'), '--store', at('store'), '--frozen');
  for (const name of ['a.tar', 'b.tar'])
    await ok('build', at('tiny.yaml'), '--store', at(`store-${name}`), '--unsigned', '-o', at(name));
  expect(readFileSync(at('a.tar')).equals(readFileSync(at('b.tar')))).toBe(true);

  const model = await place(at('a.tar'));
  const verify = async (): Promise<string> => {
    const flags = ['--public_key', at('model.pub'), '--signature', join(model, 'model.sig')];
    const { stdout, stderr } = await modelSigning('verify', 'key', model, ...flags);
    return (stdout + stderr).trim();
  };
  expect(await verify()).toBe('Verification succeeded');
  writeFileSync(join(model, 'sub/model.bin'), 'Weights');
  expect(await verify()).toMatch(/^Verification failed with error: Signature mismatch/);
});

test('--model-key without a model to sign is a mistake', async () => {
  const dir = tempDir('cli-oms');
  writeFileSync(
    join(dir, 'm.yaml'),
    'apiVersion: sealift.dev/v1\nkind: Bundle\nmetadata: { name: a, version: 1.0.0 }\nplatform: linux/amd64\n',
  );
  const ran = await run(ALL, ['lock', join(dir, 'm.yaml'), '--model-key', 'k']);
  expect([ran.exit, ran.stderr]).toEqual([
    2,
    expect.stringContaining('no model of the manifest is to be signed'),
  ]);
});
