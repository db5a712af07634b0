// SPDX-License-Identifier: Apache-2.0
import { createServer } from 'node:http';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { imageSource } from '../../../src/build/sources/index.ts';
import type { ResolvedImage } from '../../../src/build/sources/source.ts';
import type { Descriptor } from '../../../src/bundle/inventory.ts';
import { parseImageManifest } from '../../../src/bundle/oci.ts';
import { digestOf } from '../../../src/store/digest.ts';
import { startDocker } from '../../support/docker.ts';
import { tinyImage } from '../../support/images.ts';
import { runOk, tempDir } from '../../support/workspace.ts';
import { failure, fetchBlob, onEnd, testContext, type TestContext } from './support.ts';
import { tarOf, type Member } from './tar.ts';

// --- an engine that exports what a test wants ----------------------------------------------------------------

const layerA = tarOf([['etc/a', { bytes: Buffer.from('a'.repeat(50_000)) }]]);
const layerB = tarOf([['etc/b', { bytes: Buffer.from('b') }]]);

const configOf = (layers: Buffer[], architecture = 'amd64'): Buffer =>
  Buffer.from(
    JSON.stringify({
      architecture,
      os: 'linux',
      config: { Cmd: ['/x'] },
      rootfs: { type: 'layers', diff_ids: layers.map(digestOf) },
    }),
  );

const hex = (bytes: Buffer): string => digestOf(bytes).slice(7);
const file = (bytes: Buffer | string): Member => ({ bytes: Buffer.from(bytes) });
const index = (Config: string, Layers: string[]): Member =>
  file(JSON.stringify([{ Config, RepoTags: ['team/app:1'], Layers }]));

/** `docker save` of Docker 20.10: a folder a layer, one that occurs twice as a link. */
function classic(config = configOf([layerA, layerB, layerA])): [string, Member][] {
  const [one, two, three] = ['1', '2', '3'].map((digit) => digit.repeat(64));
  return [
    [`${one}/`, { folder: true }],
    [`${one}/VERSION`, file('1.0')],
    [`${one}/json`, file('{}')],
    [`${one}/layer.tar`, file(layerA)],
    [`${two}/layer.tar`, file(layerB)],
    [`${three}/layer.tar`, { link: `../${one}/layer.tar` }],
    [`${hex(config)}.json`, file(config)],
    [
      'manifest.json',
      index(`${hex(config)}.json`, [`${one}/layer.tar`, `${two}/layer.tar`, `${three}/layer.tar`]),
    ],
    ['repositories', file('{}')],
  ];
}

/** The same image from Docker 25 and later; the containerd store leaves layers as they were pulled. */
function modern(pack: (layer: Buffer) => Buffer = (layer) => layer): [string, Member][] {
  const config = configOf([layerA, layerB, layerA]);
  const blob = (bytes: Buffer): string => `blobs/sha256/${hex(bytes)}`;
  const layers = [layerA, layerB].map(pack);
  return [
    ['blobs/', { folder: true }],
    [blob(Buffer.from('a manifest')), file('a manifest')],
    ...[...layers, config].map((bytes): [string, Member] => [blob(bytes), file(bytes)]),
    ['index.json', file('{}')],
    ['manifest.json', index(blob(config), [layers[0]!, layers[1]!, layers[0]!].map(blob))],
    ['oci-layout', file('{}')],
  ];
}

interface Export {
  members?: [string, Member][];
  architecture?: string;
  cut?: number;
}

async function engine({ members = classic(), architecture = 'amd64', cut }: Export = {}): Promise<{
  docker: string;
  asked: string[];
}> {
  const docker = join(tempDir('engine'), 's');
  const asked: string[] = [];
  const server = createServer((request, response) => {
    const url = request.url ?? '';
    asked.push(url);
    if (!url.startsWith('/images/team/app:1/'))
      return response.writeHead(404).end('{"message":"No such image"}');
    if (url.endsWith('/json'))
      return response.end(JSON.stringify({ Os: 'linux', Architecture: architecture, Size: 1 }));
    const tar = tarOf(members);
    if (cut === undefined) return response.end(tar);
    return response.write(tar.subarray(0, cut), () => response.destroy());
  });
  await new Promise<void>((resolve) => server.listen(docker, resolve));
  onEnd(() => {
    server.closeAllConnections();
    server.close();
  });
  return { docker, asked };
}

const resolve = (
  context: TestContext,
  manifest?: Descriptor,
  from = 'docker-daemon:team/app:1',
): Promise<ResolvedImage> => imageSource(from, context, manifest && { manifest }).resolve(context.emit);

async function resolveFrom(made: Export): Promise<{ resolved: ResolvedImage; context: TestContext }> {
  const context = await testContext({ docker: (await engine(made)).docker });
  return { resolved: await resolve(context), context };
}

const rejects = async (members: [string, Member][]): Promise<void> => {
  const { docker } = await engine({ members });
  await failure(resolve(await testContext({ docker })), 'SOURCE_INVALID');
};

describe('an export', () => {
  it('of Docker 20.10 becomes an OCI image with plain layers', async () => {
    const { resolved, context } = await resolveFrom({});
    const config = configOf([layerA, layerB, layerA]);
    expect(resolved.ref).toBe('docker.io/team/app:1');
    const manifest = parseImageManifest(resolved.manifestBytes, 'test', 'SOURCE_INVALID');
    expect(manifest).toEqual({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: {
        mediaType: 'application/vnd.oci.image.config.v1+json',
        digest: digestOf(config),
        size: config.length,
      },
      layers: [layerA, layerB, layerA].map((layer) => ({
        mediaType: 'application/vnd.oci.image.layer.v1.tar',
        digest: digestOf(layer),
        size: layer.length,
      })),
    });
    expect(resolved.manifest).toMatchObject({
      digest: digestOf(resolved.manifestBytes),
      size: resolved.manifestBytes.length,
    });
    const layer = manifest.layers[1]!;
    expect(await fetchBlob(context, layer, resolved.blob(layer))).toEqual(layerB);
  });

  it.each<[string, (layer: Buffer) => Buffer]>([
    ['plain', (layer) => layer],
    ['gzip', (layer) => gzipSync(layer)],
    ['zstd', (layer) => zstdCompressSync(layer)],
  ])(
    'of Docker 25 and later with %s layers is the same image, and leaves nothing else in the store',
    async (_, pack) => {
      const before = await resolveFrom({});
      const { resolved, context } = await resolveFrom({ members: modern(pack) });
      expect(resolved.manifest).toEqual(before.resolved.manifest);
      for (const other of [Buffer.from('a manifest'), gzipSync(layerA), zstdCompressSync(layerA)]) {
        expect(await context.store.has({ digest: digestOf(other), size: other.length })).toBe(false);
      }
    },
  );

  it('is not made again for a locked image that the store has; another image is refused', async () => {
    const { resolved, context } = await resolveFrom({});
    await context.store.addBytes(resolved.manifestBytes);
    const offline = { ...context, docker: '/nowhere' } as TestContext;
    expect((await resolve(offline, resolved.manifest)).manifestBytes).toEqual(resolved.manifestBytes);
    const { docker } = await engine({ members: classic(configOf([layerB, layerB, layerB])) });
    await failure(resolve(await testContext({ docker }), resolved.manifest), 'SOURCE_INVALID');
    const config = configOf([layerB]);
    const members: [string, Member][] = [
      [`${hex(layerB)}.tar`, file(layerB)],
      [`${hex(config)}.json`, file(config)],
      ['manifest.json', index(`${hex(config)}.json`, [`${hex(layerB)}.tar`])],
    ];
    const moved = await testContext({ docker: (await engine({ members })).docker });
    await failure(resolve(moved, resolved.manifest), 'SOURCE_CHANGED');
  });

  it('with a layer that is not what the config says is refused', async () => {
    await rejects(classic(configOf([layerA, layerA, layerA])));
    await rejects(classic(configOf([layerA, layerB])));
  });

  it('with content under a wrong name is refused', async () => {
    await rejects(
      modern().map(([path, member]) => (path.endsWith(hex(layerB)) ? [path, file(layerA)] : [path, member])),
    );
  });

  it('with a layer that cannot be unpacked is refused', async () => {
    await rejects(
      modern((layer) => Buffer.concat([gzipSync(layer).subarray(0, 40), Buffer.from('nonsense')])),
    );
  });

  it('without what it speaks of, or without an index, or with two images, is refused', async () => {
    await rejects(classic().filter(([path]) => !path.startsWith('2222')));
    await rejects(classic().filter(([path]) => path !== 'manifest.json'));
    await rejects([['manifest.json', file('[{"Config":"a","Layers":[]},{"Config":"b","Layers":[]}]')]]);
    await rejects([['manifest.json', index('../../../etc/passwd', [])]]);
  });

  it('that breaks off is refused', async () => {
    const { docker } = await engine({ cut: 30_000 });
    const error = await failure(resolve(await testContext({ docker })), 'NETWORK_ERROR');
    expect(error.message).toContain('docker-daemon:team/app:1');
  });

  it('for another platform is not asked for', async () => {
    const { docker, asked } = await engine({ architecture: 'arm64' });
    const error = await failure(resolve(await testContext({ docker })), 'PLATFORM_NOT_FOUND');
    expect(error.hint).toContain('linux/arm64');
    expect(asked).toHaveLength(1);
  });
});

it('an image that the engine lacks is IMAGE_NOT_FOUND', async () => {
  const { docker } = await engine();
  await failure(
    resolve(await testContext({ docker }), undefined, 'docker-daemon:team/other:1'),
    'IMAGE_NOT_FOUND',
  );
});

it('without a tag the latest is asked for, not all of them', async () => {
  const { docker, asked } = await engine();
  const work = resolve(await testContext({ docker }), undefined, 'docker-daemon:localhost/app');
  await failure(work, 'IMAGE_NOT_FOUND');
  expect(asked).toEqual(['/images/localhost/app:latest/json']);
});

it('an engine that does not run, or is not named, is ENGINE_NOT_RUNNING', async () => {
  const error = await failure(
    resolve(await testContext({ docker: '/nowhere/docker.sock' })),
    'ENGINE_NOT_RUNNING',
  );
  expect(error.message).toContain('/nowhere/docker.sock');
  await failure(resolve(await testContext()), 'ENGINE_NOT_RUNNING');
});

describe('a real engine', () => {
  it('gives an image whose config and layers are those that were loaded', async () => {
    const made = tinyImage({ name: 'team/app:1', payload: 'x'.repeat(100_000), shared: true });
    const docker = await startDocker({ dir: tempDir('dockerd') });
    onEnd(() => docker.stop());
    const archive = join(tempDir('archive'), 'x.tar');
    await runOk('skopeo', [
      'copy',
      '--quiet',
      `oci:${made.dir}:team/app:1`,
      `docker-archive:${archive}:team/app:1`,
    ]);
    await runOk('docker', ['load', '-q', '-i', archive], { env: docker.composeEnv });
    const context = await testContext({
      docker: docker.socket,
      platform: `linux/${process.arch === 'x64' ? 'amd64' : process.arch}`,
    });
    const resolved = await resolve(context);
    const { config, layers } = parseImageManifest(resolved.manifestBytes, 'test', 'SOURCE_INVALID');
    expect(config.digest).toBe(made.configDigest);
    expect(layers.map(({ digest }) => digest)).toEqual(made.layers.map(({ diffId }) => diffId));
    expect((await resolve(context)).manifest).toEqual(resolved.manifest);
  });
});
