// SPDX-License-Identifier: Apache-2.0
/** Installs on a real Docker engine, of bundles without services: loading, proving, taking back. */
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  statSync,
  writeSync,
  closeSync,
} from 'node:fs';
import { join } from 'node:path';
import { buffer } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { tinyModel } from '../../fixtures/model.ts';
import { openBundle, type VerifiedBundle } from '../../src/bundle/open.ts';
import { SealiftError, type ErrorCode } from '../../src/errors.ts';
import { imageArchive } from '../../src/install/archive.ts';
import { EngineClient } from '../../src/install/engine-client.ts';
import { Compose } from '../../src/install/host.ts';
import { ImageStep } from '../../src/install/steps/image.ts';
import { uninstall } from '../../src/install/uninstall.ts';
import { Store } from '../../src/store/store.ts';
import { composePath } from '../support/docker.ts';
import { tinyImage, type TinyImage } from '../support/images.ts';
import { startLyingEngine } from '../support/lying-engine.ts';
import { runOk, tempDir } from '../support/workspace.ts';
import {
  bundle,
  docker,
  engine,
  expectNothingLeft,
  failure,
  home,
  idOf,
  images,
  me,
  placed,
  REF,
  REF_ZSTD,
  rigImages,
  tags,
  tampered,
  useEngine,
} from './image-rig.ts';
import { CHAT, installer, makeBundle, policy, type RigBundle } from './rig.ts';

useEngine();

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

  it('keep their receipt until all else is gone, so that an uninstall that broke off can be run again', async () => {
    await me.install(bundle);
    const busy = home.path('releases/demo-1.0.0/busy');
    mkdirSync(busy);
    await runOk('mount', ['-t', 'tmpfs', 'tmpfs', busy]);
    await failure(uninstall(me.input)).finally(() => runOk('umount', [busy]));
    expect(existsSync(home.receiptFile('demo-1.0.0'))).toBe(true);
    await uninstall({ ...me.input, release: 'demo-1.0.0' });
    expect(placed()).toEqual([]);
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

  it('that lost a file are repaired where they are, also when the install then fails', async () => {
    await me.install(bundle);
    const folder = home.path('models/tiny', 'c'.repeat(40));
    const before = readdirSync(folder).toSorted();
    rmSync(join(folder, 'README.md'));
    await docker('rmi', REF_ZSTD);
    await failure(me.install(tampered(bundle)));
    expect(readdirSync(folder).toSorted()).toEqual(before);
    rmSync(join(folder, 'README.md'));
    const receipt = await me.install(bundle);
    expect(receipt.models[0]!.path).toBe(`models/tiny/${'c'.repeat(40)}`);
    expect(readdirSync(home.path('models/tiny'))).toEqual(['c'.repeat(40)]);
    expect(readdirSync(folder).toSorted()).toEqual(before);
    await uninstall(me.input);
    expect(placed()).toEqual([]);
  });

  it('need no Compose when nothing is served, neither to come nor to go', async () => {
    const without = installer(home, engine.socket, { compose: '/bin/false', path: '/nowhere' });
    expect((await without.install(bundle)).compose).toBeUndefined();
    await uninstall(without.input);
    expect(await tags()).toEqual([]);
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
  const store = await Store.open(home.root);
  const world = { home, store, engine: client, compose: () => Promise.resolve(compose), emit: () => {} };
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

describe('while the engine unpacks images', () => {
  /** A bundle whose model and whose first image each wait until the other one has been begun. */
  async function entwined(): Promise<VerifiedBundle> {
    const opened = await bundle.open();
    const [model, image] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const copy = opened.copy.bind(opened);
    opened.copy = async (...args) => {
      model.resolve();
      await image.promise;
      await copy(...args);
    };
    const blob = opened.blob.bind(opened);
    opened.blob = async function* (expected, signal) {
      image.resolve();
      await model.promise;
      yield* blob(expected, signal);
    };
    return opened;
  }

  it('files are placed, and the receipt has the steps in their order', async () => {
    const receipt = await me.install({ ...bundle, open: entwined });
    const opened = await bundle.open();
    expect(receipt.steps.map(({ id }) => id)).toEqual((await me.plan(opened)).steps.map(({ id }) => id));
    await opened.close();
  });

  it('none are when a medium may have to be asked for: one thing after the other, in their order', async () => {
    const before = me.events.length;
    const receipt = await me.install({
      ...bundle,
      open: async () => Object.assign(await bundle.open(), { isAtHand: () => Promise.resolve(false) }),
    });
    const items = me.events.slice(before).filter((e) => e.type === 'item-start' || e.type === 'item-end');
    const ids = receipt.steps.map(({ id }) => id);
    expect(items.map(({ type, id }) => `${type} ${id}`)).toEqual(
      ids.flatMap((id) => [`item-start ${id}`, `item-end ${id}`]),
    );
  });

  /** Fails when the medium is read for a file, and an image is at some point. */
  async function failingFile(when: Promise<unknown>, code: ErrorCode): Promise<RigBundle> {
    const opened = await bundle.open();
    opened.copy = async () => {
      await when;
      throw new SealiftError(code, 'tampered');
    };
    return { ...bundle, open: () => Promise.resolve(opened) };
  }

  it('a file that is not what was signed takes an image back that is on its way', async () => {
    const begun = Promise.withResolvers<void>();
    const rig = await failingFile(begun.promise, 'CONTENT_MISMATCH');
    const opened = await rig.open();
    opened.blob = async function* (_, signal) {
      begun.resolve();
      yield await sleep(60_000, Buffer.alloc(1), { signal });
    };
    expect(await failure(me.install(rig))).toMatchObject({ code: 'CONTENT_MISMATCH' });
    await expectNothingLeft();
    const ends = me.events
      .filter((e) => e.type === 'item-end')
      .map(({ id, outcome }) => [id.slice(0, 5), outcome]);
    expect(ends).toEqual([
      ['model', 'failed'],
      ['image', 'stopped'],
    ]);
  });

  it('and one that the engine has received whole, however long that takes to unpack it', async () => {
    const liar = await startLyingEngine(engine.socket);
    try {
      const received = Promise.withResolvers<void>();
      liar.lies.load = async (call) => {
        const archive = await buffer(call.archive);
        received.resolve();
        await sleep(11_000); // longer than a tag is waited for whose engine does not answer
        call.answer(await call.send(archive));
      };
      const rig = await failingFile(received.promise, 'CONTENT_MISMATCH');
      const error = await failure(installer(home, liar.socket).install(rig));
      expect(error).toMatchObject({ code: 'CONTENT_MISMATCH' });
      expect(liar.loads).toBe(1);
      await expectNothingLeft();
    } finally {
      await liar.stop();
    }
  }, 60_000);

  it('a disk that is full at the same moment does not hide content that is not what was signed', async () => {
    const failed = Promise.withResolvers<void>();
    const rig = await failingFile(
      failed.promise.then(() => sleep(100)),
      'CONTENT_MISMATCH',
    );
    const opened = await rig.open();
    // oxlint-disable-next-line require-yield
    opened.blob = async function* () {
      await Promise.resolve();
      failed.resolve();
      throw new SealiftError('DISK_FULL', 'full');
    };
    expect(await failure(me.install(rig))).toMatchObject({ code: 'CONTENT_MISMATCH' });
    await expectNothingLeft();
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

  it('says that there is no site.yaml together with everything else', async () => {
    rmSync(home.siteFile);
    const served = await (
      await makeBundle({
        images: rigImages(),
        more: { ...CHAT, gateway: { image: 'one' }, services: [{ ...CHAT.services![0]!, image: 'two' }] },
      })
    ).open();
    const error = await failure(installer(home, join(home.root, 'none.sock')).plan(served));
    expect(error).toMatchObject({ code: 'SITE_MISSING' });
    expect(JSON.stringify(error.details)).toContain('ENGINE_NOT_RUNNING');
    await served.close();
  });

  it('refuses a bundle whose release is another one, because name and version run together', async () => {
    await me.install(await makeBundle({ name: 'demo', version: '1.0.0-2.0.0', images: [] }));
    const twin = await makeBundle({ name: 'demo-1.0.0', version: '2.0.0', images: [] });
    const error = await failure(me.install(twin));
    expect(error).toMatchObject({
      code: 'RELEASE_CONFLICT',
      hint: expect.stringContaining('uninstall') as string,
    });
    expect(await home.current()).toBe('demo-1.0.0-2.0.0');
  });

  it('sweeps the containers that a killed proof left, which hold their image', async () => {
    await me.install(bundle);
    const label = 'dev.sealift.probe=true';
    await docker('create', '--label', label, REF, 'true');
    await uninstall(me.input);
    expect(await docker('ps', '--all', '--quiet', '--filter', `label=${label}`)).toBe('');
    expect(await tags()).toEqual([]);
  });

  it('changes nothing on a dry run', async () => {
    const opened = await bundle.open();
    const plan = await me.plan(opened);
    expect(plan.steps.map((s) => s.state)).toEqual(['needed', 'needed', 'needed', 'needed', 'needed']);
    await opened.close();
    await expectNothingLeft();
  });
});
