// SPDX-License-Identifier: Apache-2.0
/** Installs on a real Docker engine, of bundles without services: loading, proving, taking back, killing. */
import { spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  openSync,
  readdirSync,
  readSync,
  statSync,
  writeSync,
  closeSync,
} from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { tinyModel } from '../../fixtures/model.ts';
import { openBundle } from '../../src/bundle/open.ts';
import { imageArchive } from '../../src/install/archive.ts';
import { EngineClient } from '../../src/install/engine-client.ts';
import type { Home } from '../../src/install/home.ts';
import { readJournal } from '../../src/install/journal.ts';
import { Compose } from '../../src/install/host.ts';
import { ImageStep } from '../../src/install/steps/image.ts';
import { uninstall } from '../../src/install/uninstall.ts';
import { Store } from '../../src/store/store.ts';
import { composePath, startDocker, type DockerEngine } from '../support/docker.ts';
import { tinyImage, type TinyImage } from '../support/images.ts';
import { runOk, tempDir } from '../support/workspace.ts';
import { CHAT, installer, makeBundle, makeHome, policy, type Installer, type RigBundle } from './rig.ts';

const REF = 'registry.example.org/group/one:1';
const REF_ZSTD = 'registry.example.org/group/two:1';

let engine: DockerEngine;
let images: { one: TinyImage; two: TinyImage };
let bundle: RigBundle;
let home: Home;
let me: Installer;

beforeAll(async () => {
  engine = await startDocker({ dir: join(tempDir('engine'), 'engine') });
  images = {
    one: tinyImage({ name: 'one', payload: 'first', shared: true }),
    two: tinyImage({ name: 'two', payload: 'second '.repeat(50_000), compression: 'zstd', shared: true }),
  };
  bundle = await makeBundle({ images: rigImages() });
}, 120_000);

afterAll(async () => {
  await engine?.stop();
}, 60_000);

beforeEach(async () => {
  ({ home } = await makeHome());
  me = installer(home, engine.socket);
  await docker('image', 'prune', '--all', '--force');
});

const rigImages = (): { name: string; ref: string; layout: string }[] => [
  { name: 'one', ref: REF, layout: images.one.dir },
  { name: 'two', ref: REF_ZSTD, layout: images.two.dir },
];

const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);
const tags = async (): Promise<string[]> =>
  (await docker('images', '--format', '{{.Repository}}:{{.Tag}}')).split('\n').filter(Boolean).toSorted();
const idOf = async (ref: string): Promise<string> =>
  (await docker('image', 'inspect', '--format', '{{.Id}}', ref)).trim();

/** Everything of a bundle that an install leaves outside the engine. */
const placed = (): string[] =>
  ['models', 'configs', 'releases', 'blobs/sha256', 'partial', 'spool'].flatMap((folder) =>
    existsSync(home.path(folder)) ? readdirSync(home.path(folder)).map((name) => join(folder, name)) : [],
  );

async function expectNothingLeft(): Promise<void> {
  expect(await tags()).toEqual([]);
  expect((await docker('images', '--all', '--quiet')).trim()).toBe('');
  expect(placed()).toEqual([]);
  expect(await home.current()).toBeUndefined();
  expect(await readJournal(home)).toBeUndefined();
  expect(await home.installed()).toEqual(new Map());
}

const failure = (
  install: Promise<unknown>,
): Promise<Error & { code?: string; details?: [string, string][] }> =>
  install.then(
    () => Promise.reject(new Error('it did not fail')),
    (error: Error) => error,
  );

describe('images and files', () => {
  it('are loaded, proved and placed; a second run finds all of it done', async () => {
    const receipt = await me.install(bundle);
    expect(receipt.images.map((image) => image.id)).toEqual([
      images.one.configDigest,
      images.two.configDigest,
    ]);
    expect(await idOf(REF)).toBe(images.one.configDigest);
    expect(await idOf(REF_ZSTD)).toBe(images.two.configDigest); // a zstd layer, on an engine that cannot read zstd
    expect(receipt.steps.every((step) => step.outcome === 'done' && step.brought)).toBe(true);
    expect(await home.current()).toBe('demo-1.0.0');
    expect((await home.installed()).get('demo')).toMatchObject({
      version: '1.0.0',
      digest: receipt.bundle.digest,
    });
    const weights = home.path('models/tiny', 'c'.repeat(40), 'model-00001-of-00002.safetensors');
    expect(statSync(weights)).toMatchObject({ nlink: 2, mode: 0o100444 });

    const before = me.events.length;
    expect(await me.install(bundle)).toEqual(receipt);
    const items = me.events.slice(before).filter((e) => e.type === 'item-end');
    expect(items.map((e) => e.outcome)).toEqual(items.map(() => 'cached'));
  });

  it('say how many bytes they moved', async () => {
    const opened = await bundle.open();
    const { totalBytes } = await me.plan(opened);
    await opened.close();
    await me.install(bundle);
    const moved = me.events.reduce((sum, e) => sum + (e.type === 'item-progress' ? e.delta : 0), 0);
    expect(moved).toBe(totalBytes);
  });

  it('go when they are uninstalled, and the memory against rollbacks stays', async () => {
    const { bundle: installed } = await me.install(bundle);
    const report = await uninstall(me.input);
    expect(report).toMatchObject({ release: 'demo-1.0.0', kept: [] });
    expect(await tags()).toEqual([]);
    expect(placed()).toEqual([]);
    expect(existsSync(home.siteFile)).toBe(true);
    expect((await home.installed()).get('demo')?.digest).toBe(installed.digest);
    await expect(uninstall(me.input)).rejects.toMatchObject({ code: 'NOT_INSTALLED' });
  });

  it('that another release uses, or that were there before, stay', async () => {
    await docker('load', '--input', await archiveOf(images.one, REF));
    await me.install(bundle);
    const next = await makeBundle({ version: '1.1.0', images: rigImages().slice(0, 1) });
    await me.install(next);
    await uninstall({ ...me.input, release: 'demo-1.0.0' });
    expect(await tags()).toEqual([REF]);
    expect(existsSync(home.path('models/tiny', 'c'.repeat(40)))).toBe(true);
    await uninstall(me.input);
    expect(placed()).toEqual([]);
    expect(await tags()).toEqual([REF]); // it was not this home that brought it
  });

  it('of one commit, but other files, get a folder of their own', async () => {
    await me.install(bundle);
    const files = tinyModel();
    files.delete('README.md');
    const receipt = await me.install(
      await makeBundle({ version: '1.1.0', images: rigImages(), model: files }),
    );
    expect(receipt.models[0]!.path).toMatch(/^models\/tiny\/c{40}-[0-9a-f]{12}$/);
    expect(readdirSync(home.path('models/tiny'))).toHaveLength(2);
  });
});

/** A docker-archive of an image, for `docker load`. */
async function archiveOf(image: TinyImage, ref: string): Promise<string> {
  const file = join(tempDir('archive'), 'image.tar');
  await runOk('skopeo', [
    'copy',
    '--quiet',
    `oci:${image.dir}:${image.name}`,
    `docker-archive:${file}:${ref}`,
  ]);
  return file;
}

describe('an engine that has other images', () => {
  it('keeps a tag that stands on one of them, and both digests are named', async () => {
    const other = tinyImage({ name: 'other', payload: 'not the one' });
    await docker('load', '--input', await archiveOf(other, REF));
    const error = await failure(me.install(bundle));
    expect(error).toMatchObject({ code: 'TAG_CONFLICT' });
    expect(error.details).toEqual([
      ['engine', other.configDigest],
      ['bundle', images.one.configDigest],
    ]);
    expect(await tags()).toEqual([REF]);
    expect(await idOf(REF)).toBe(other.configDigest);
    expect(placed()).toEqual([]);
  });

  it('and takes it between plan and load, is refused again right before loading', async () => {
    const opened = await bundle.open();
    const step = await imageStep(await EngineClient.connect(engine.socket), opened);
    expect(await step.check()).toBe('needed');
    const other = tinyImage({ name: 'other', payload: 'not the one' });
    await docker('load', '--input', await archiveOf(other, REF));
    await expect(step.apply(() => {})).rejects.toMatchObject({ code: 'TAG_CONFLICT' });
    expect(await idOf(REF)).toBe(other.configDigest);
    await opened.close();
  });

  it('or returns another image than the signed one, is caught by the proof, and the image goes', async () => {
    const other = tinyImage({ name: 'other', payload: 'not the one' });
    const archive = await archiveOf(other, REF);
    const client = await EngineClient.connect(engine.socket);
    const lying = Object.create(client) as EngineClient;
    Object.defineProperty(lying, 'facts', { value: client.facts });
    lying.image = (ref) => client.image(ref);
    lying.removeImage = (ref) => client.removeImage(ref);
    lying.load = async () => {
      await docker('load', '--input', archive);
    };
    const opened = await bundle.open();
    const error = await failure((await imageStep(lying, opened)).apply(() => {}));
    expect(error).toMatchObject({ code: 'IMAGE_NOT_PROVED' });
    expect(error.details).toEqual([
      ['signed', images.one.configDigest],
      ['engine', other.configDigest],
    ]);
    expect(await tags()).toEqual([]);
    await opened.close();
  });

  it('refuses a broken archive with its own words', async () => {
    const client = await EngineClient.connect(engine.socket);
    const broken = async function* (): AsyncGenerator<Buffer> {
      yield Buffer.alloc(4096, 'x');
    };
    await expect(client.load(broken(), 'rubbish')).rejects.toMatchObject({ code: 'IMAGE_LOAD_FAILED' });
  });
});

async function imageStep(
  client: EngineClient,
  opened: Awaited<ReturnType<RigBundle['open']>>,
): Promise<ImageStep> {
  await home.prepare();
  const compose = await Compose.find({
    ...me.input,
    compose: composePath()!,
    configFolder: home.path('docker-config'),
  });
  const world = { home, store: await Store.open(home.root), engine: client, compose, emit: () => {} };
  return new ImageStep(world, opened, opened.images[0]!);
}

describe('the archive for one image', () => {
  it('ends without index and end mark when a layer is not what was signed', async () => {
    const opened = await bundle.open();
    const image = opened.images[0]!;
    const source = {
      inventory: opened.inventory,
      blob: async function* (): AsyncGenerator<Buffer> {
        yield Buffer.from('first half');
        throw Object.assign(new Error('differs'), { code: 'CONTENT_MISMATCH' });
      },
    };
    const chunks: Buffer[] = [];
    const read = async (): Promise<void> => {
      for await (const chunk of imageArchive(source, image, { unpackZstd: false, spoolFolder: home.root }))
        chunks.push(chunk);
    };
    await expect(read()).rejects.toThrow('differs');
    expect(Buffer.concat(chunks).toString('latin1')).not.toMatch(/index\.json|manifest\.json|oci-layout/);
    await opened.close();
  });
});

describe('one flipped bit', () => {
  it('anywhere in the content is refused, and nothing of the bundle is left', async () => {
    const size = statSync(bundle.path).size;
    const copy = join(tempDir('flip'), 'bundle.tar');
    const codes = new Map<string, number>();
    for (let round = 0; round < 40; round++) {
      copyFileSync(bundle.path, copy);
      // The last part holds the blobs; what comes before is judged by the opener and tested there.
      flip(copy, Math.floor(size * (0.35 + (0.65 * round) / 40)), round % 8);
      const error = await failure(
        me.install({ ...bundle, open: () => openBundle(copy, { policy, now: new Date() }) }),
      );
      codes.set(error.code ?? error.message, (codes.get(error.code ?? error.message) ?? 0) + 1);
      await expectNothingLeft();
    }
    codes.delete('BUNDLE_MALFORMED'); // a header, padding or document was hit
    expect([...codes.keys()]).toEqual(['CONTENT_MISMATCH']);
  }, 120_000);
});

function flip(file: string, at: number, bit: number): void {
  const handle = openSync(file, 'r+');
  const byte = Buffer.alloc(1);
  readSync(handle, byte, 0, 1, at);
  byte[0]! ^= 1 << bit;
  writeSync(handle, byte, 0, 1, at);
  closeSync(handle);
}

/** Runs an install in a process of its own, to be killed. */
const CHILD = `
  import { openBundle } from ${JSON.stringify(join(import.meta.dirname, '../../src/bundle/open.ts'))};
  import { parseTrustPolicy } from ${JSON.stringify(join(import.meta.dirname, '../../src/trust/policy.ts'))};
  import { Home } from ${JSON.stringify(join(import.meta.dirname, '../../src/install/home.ts'))};
  import { planInstall } from ${JSON.stringify(join(import.meta.dirname, '../../src/install/plan.ts'))};
  import { applyPlan } from ${JSON.stringify(join(import.meta.dirname, '../../src/install/apply.ts'))};
  const [path, root, socket, compose, policy] = process.argv.slice(1);
  const bundle = await openBundle(path, { policy: parseTrustPolicy(policy, 'trust.yaml'), now: new Date() });
  const input = { home: new Home(root), socket, path: process.env.PATH, compose, now: () => new Date() };
  process.stdout.write('ready\\n');
  await applyPlan(await planInstall(bundle, input), { emit: () => {} });
`;

async function killAfter(ms: number): Promise<boolean> {
  const policyText = `apiVersion: sealift.dev/v1\nkind: TrustPolicy\nversion: 1\nthreshold: 1\nsigners:\n${policy.signers
    .map(
      (s) =>
        `  - name: ${s.name}\n    publicKey: |\n${s.publicKey.export({ type: 'spki', format: 'pem' }).trim().replace(/^/gm, '      ')}\n`,
    )
    .join('')}`;
  const child = spawn(
    process.execPath,
    ['--input-type=module', '-e', CHILD, bundle.path, home.root, engine.socket, composePath()!, policyText],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  const ended = new Promise<NodeJS.Signals | null>((done) => child.once('exit', (_, signal) => done(signal)));
  await new Promise((done) => child.stdout.once('data', done));
  await Promise.race([sleep(ms), ended]);
  child.kill('SIGKILL');
  return (await ended) === 'SIGKILL';
}

describe('killed at any moment', () => {
  it('an install goes on when it is run again, and a failing one takes back what the killed one placed', async () => {
    let killed = 0;
    let failed = 0;
    for (let round = 0; round < 12; round++) {
      if (await killAfter(round * 40)) killed++;
      if (round % 2 === 0) {
        expect(await me.install(bundle)).toMatchObject({ release: 'demo-1.0.0' });
        expect(await readJournal(home)).toBeUndefined();
        await uninstall(me.input);
      } else {
        const outcome = await me.install(tampered(bundle)).catch((error: unknown) => error);
        if (outcome instanceof Error) {
          expect(outcome).toMatchObject({ code: 'CONTENT_MISMATCH' });
          failed++;
        } else {
          await uninstall(me.input); // the kill came after the last image, whose layer is the broken one
        }
      }
      expect(await tags()).toEqual([]);
      expect(placed()).toEqual([]);
    }
    expect(killed).toBeGreaterThan(3);
    expect(failed).toBeGreaterThan(0);
  }, 240_000);

  it('an install that another bundle left behind is taken back first', async () => {
    while (!(await killAfter(150)) || (await readJournal(home)) === undefined)
      await uninstall(me.input).catch(() => undefined);
    const other = await makeBundle({ name: 'other', images: [], model: tinyModel({ seed: 9 }) });
    await me.install(other);
    expect(await tags()).toEqual([]);
    expect(await home.releases()).toEqual(['other-1.0.0']);
    expect(me.events.some((e) => e.type === 'warning' && e.code === 'UNFINISHED')).toBe(true);
  }, 60_000);

  it('interrupted, it keeps what is finished and says so', async () => {
    const controller = new AbortController();
    const opened = await bundle.open();
    const { applyPlan } = await import('../../src/install/apply.ts');
    const plan = await me.plan(opened);
    const emit = (event: { type: string; kind?: string }): void => {
      if (event.type === 'item-start' && event.kind === 'image') controller.abort();
    };
    await expect(applyPlan(plan, { emit, signal: controller.signal })).rejects.toMatchObject({
      code: 'INTERRUPTED',
    });
    await opened.close();
    expect((await readJournal(home))?.entries.map((e) => e.state)).toContain('done');
    expect(existsSync(home.path('models/tiny', 'c'.repeat(40)))).toBe(true);
    await me.install(bundle);
    expect(await readJournal(home)).toBeUndefined();
  });
});

/** The same bundle with a last layer that breaks when it is read. */
const tampered = (rig: RigBundle): RigBundle => ({
  ...rig,
  open: async () => {
    const opened = await rig.open();
    const layer = opened.images[1]!.layers.at(-1)!.digest;
    const blob = opened.blob.bind(opened);
    opened.blob = async function* (expected, signal) {
      if (expected.digest === layer)
        throw new (await import('../../src/errors.ts')).SealiftError('CONTENT_MISMATCH', 'tampered');
      yield* blob(expected, signal);
    };
    return opened;
  },
});

describe('preflight', () => {
  it('finds an engine that does not run, and everything else that is wrong, in one go', async () => {
    const opened = await (
      await makeBundle({
        images: rigImages(),
        more: {
          ...CHAT,
          gateway: { image: 'one' },
          services: [{ ...CHAT.services![0]!, image: 'two', engine: 'tgi' }],
        },
      })
    ).open();
    const { planInstall } = await import('../../src/install/plan.ts');
    const error = await failure(
      planInstall(opened, {
        ...me.input,
        socket: join(home.root, 'none.sock'),
        compose: '/bin/true',
        now: () => new Date(Date.now() + 400 * 86_400_000),
      }),
    );
    expect(error).toMatchObject({ code: 'ENGINE_NOT_RUNNING', hint: expect.stringContaining('--engine') });
    expect(error.details!.map(([, text]) => text.split(':')[0])).toEqual([
      'COMPOSE_UNSUPPORTED',
      'SERVICE_UNSUPPORTED',
      'TLS_INVALID',
    ]);
    await opened.close();
  });

  it('changes nothing on a dry run', async () => {
    const opened = await bundle.open();
    const plan = await me.plan(opened);
    expect(plan.steps.map((s) => s.state)).toEqual(['needed', 'needed', 'needed', 'needed', 'needed']);
    await opened.close();
    await expectNothingLeft();
  });
});
