// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { Credentials } from '../../../src/build/sources/credentials.ts';
import { imageSource } from '../../../src/build/sources/index.ts';
import type { ResolvedImage, SourceContext } from '../../../src/build/sources/source.ts';
import type { Descriptor } from '../../../src/bundle/inventory.ts';
import { parseImageManifest } from '../../../src/bundle/oci.ts';
import { silent } from '../../../src/events.ts';
import { digestOf, type Digest } from '../../../src/store/digest.ts';
import { pushLayout, tinyImage, type TinyImage } from '../../support/images.ts';
import {
  identityToken,
  registryUser,
  startRegistry,
  startTokenRegistry,
  type Registry,
  type TokenRegistry,
} from '../../support/registry.ts';
import { tempDir } from '../../support/workspace.ts';
import { failure, fetchBlob, retries, serve, testContext, type TestServer } from './support.ts';

const login = `${registryUser.username}:${registryUser.password}`;

function credentialsFor(
  host: string,
  entry: object = { auth: Buffer.from(login).toString('base64') },
): Credentials {
  const configFile = join(tempDir('docker'), 'config.json');
  writeFileSync(configFile, JSON.stringify({ auths: { [host]: entry } }));
  return new Credentials({ configFile });
}

/** An image whose layer is large enough to be cut in the middle. */
const sample = (payload = 'x'.repeat(300_000)): TinyImage =>
  tinyImage({ name: 'sample', payload, compression: 'none', architecture: 'amd64' });

const resolve = (from: string, context: SourceContext, manifest?: Descriptor): Promise<ResolvedImage> =>
  imageSource(from, context, manifest && { manifest }).resolve(context.emit);

const layersOf = (image: ResolvedImage): Descriptor[] =>
  parseImageManifest(image.manifestBytes, 'test', 'SOURCE_INVALID').layers;

async function fetchLayers(image: ResolvedImage, context: SourceContext): Promise<Buffer[]> {
  const layers: Buffer[] = [];
  for (const layer of layersOf(image)) layers.push(await fetchBlob(context, layer, image.blob(layer)));
  return layers;
}

describe("Debian's registry behind tokens, with redirects", () => {
  let registry: TokenRegistry;
  const image = sample();
  beforeAll(async () => {
    registry = await startTokenRegistry({ dir: tempDir('registry') });
    await pushLayout(`${image.dir}:sample`, `${registry.host}/team/app:1`, login);
  });
  afterAll(() => registry.stop());

  const loggedIn = (): ReturnType<typeof testContext> =>
    testContext({ credentials: credentialsFor(registry.host) });

  it('gives the image; the host behind the redirect never sees the token', async () => {
    const context = await loggedIn();
    registry.redirected.length = 0;
    const resolved = await resolve(`${registry.host}/team/app:1`, context);
    expect(resolved.ref).toBe(`${registry.host}/team/app:1`);
    expect(resolved.manifest).toEqual(image.manifest);
    expect(resolved).not.toHaveProperty('index');
    expect(await fetchLayers(resolved, context)).toEqual([image.layers[0]!.bytes]);
    expect(registry.redirected.length).toBeGreaterThan(0);
    expect(registry.redirected.every(({ authorization }) => authorization === undefined)).toBe(true);
  });

  it('wants somebody: without credentials and with wrong ones it says how to log in', async () => {
    const from = `${registry.host}/team/app:1`;
    const error = await failure(resolve(from, await testContext()), 'UNAUTHORIZED');
    expect(error.hint).toBe(`run: docker login ${registry.host}`);
    const wrong = credentialsFor(registry.host, { username: 'carrier', password: 'wrong-secret' });
    const refused = await failure(resolve(from, await testContext({ credentials: wrong })), 'UNAUTHORIZED');
    expect(refused.message).not.toContain('wrong-secret');
  });

  it('takes an identity token', async () => {
    const credentials = credentialsFor(registry.host, { identitytoken: identityToken });
    const resolved = await resolve(`${registry.host}/team/app:1`, await testContext({ credentials }));
    expect(resolved.manifest.digest).toBe(image.manifest.digest);
  });

  it('asks a credential helper', async () => {
    const configFile = join(tempDir('docker'), 'config.json');
    writeFileSync(configFile, JSON.stringify({ credHelpers: { [registry.host]: 'vault' } }));
    const stdout = JSON.stringify({ Username: registryUser.username, Secret: registryUser.password });
    const credentials = new Credentials({ configFile, runHelper: async () => ({ exitCode: 0, stdout }) });
    await resolve(`${registry.host}/team/app:1`, await testContext({ credentials }));
  });

  it('lets tokens expire in the middle, more than once', async () => {
    const context = await loggedIn();
    const resolved = await resolve(`${registry.host}/team/app:1`, context);
    const [layer] = layersOf(resolved);
    const source = resolved.blob(layer!);
    for (let i = 0; i < 3; i++) {
      registry.revokeTokens();
      const { body } = await source.open(i);
      await body[Symbol.asyncIterator]().return?.();
    }
    registry.faults[layer!.digest] = { cut: { after: 100_000, times: 2 } };
    registry.revokeTokens();
    expect(await fetchBlob(context, layer!, source)).toEqual(image.layers[0]!.bytes);
  });

  it('cuts connections: the rest is asked for, not the whole', async () => {
    const context = await loggedIn();
    const resolved = await resolve(`${registry.host}/team/app:1`, context);
    const [layer] = layersOf(resolved);
    registry.faults[layer!.digest] = { cut: { after: 100_000, times: 2 } };
    registry.served.clear();
    await fetchLayers(resolved, context);
    expect(registry.served.get(layer!.digest)).toMatchObject({
      bytes: layer!.size,
      ranges: ['bytes=100000-', 'bytes=200000-'],
    });
  });

  it('ignores ranges: the download starts over', async () => {
    const context = await loggedIn();
    const resolved = await resolve(`${registry.host}/team/app:1`, context);
    const [layer] = layersOf(resolved);
    registry.faults[layer!.digest] = { cut: { after: 100_000, times: 1 }, ignoreRange: true };
    await fetchLayers(resolved, context);
  });

  it('flips a bit in a layer: refused, and nothing is kept', async () => {
    const context = await loggedIn();
    const resolved = await resolve(`${registry.host}/team/app:1`, context);
    const [layer] = layersOf(resolved);
    registry.faults[layer!.digest] = { flip: { at: 1000 } };
    await failure(fetchLayers(resolved, context), 'SOURCE_CHANGED');
    expect(await context.store.has(layer!)).toBe(false);
    registry.faults = {};
  });

  it('limits its rate, and breaks at the token endpoint', async () => {
    const context = await loggedIn();
    registry.faults = {
      token: { refuse: { status: 503, times: 1 } },
      'team/app/manifests/1': { refuse: { status: 429, times: 1, retryAfter: 1 } },
    };
    registry.revokeTokens();
    await resolve(`${registry.host}/team/app:1`, context);
    expect(retries(context)).toHaveLength(2);
  });

  it('flips a bit in a manifest: refused by tag and by digest', async () => {
    const { digest } = image.manifest;
    const flip = { flip: { at: image.blobs.get(digest)!.indexOf('sha256:') + 10 } };
    registry.faults = { 'team/app/manifests/1': flip, [`team/app/manifests/${digest}`]: flip };
    await failure(resolve(`${registry.host}/team/app:1`, await loggedIn()), 'SOURCE_INVALID');
    await failure(resolve(`${registry.host}/team/app@${digest}`, await loggedIn()), 'SOURCE_CHANGED');
    await failure(
      resolve(`${registry.host}/team/app:1`, await loggedIn(), image.manifest as Descriptor),
      'SOURCE_CHANGED',
    );
    registry.faults = {};
  });

  it('has no such tag, repository or digest', async () => {
    for (const name of ['team/app:2', 'team/other:1', `team/app@${digestOf('none')}`]) {
      const error = await failure(resolve(`${registry.host}/${name}`, await loggedIn()), 'IMAGE_NOT_FOUND');
      expect(error.message).toContain(name);
    }
  });
});

describe("Debian's registry with basic authentication", () => {
  let registry: Registry;
  const image = sample('small');
  beforeAll(async () => {
    registry = await startRegistry({ dir: tempDir('registry'), auth: 'basic' });
    await pushLayout(`${image.dir}:sample`, `${registry.host}/vllm/vllm-openai:1`, login);
  });
  afterAll(() => registry.stop());

  it('gives the image to who is known, and tells the others', async () => {
    const context = await testContext({ credentials: credentialsFor(registry.host) });
    const resolved = await resolve(`${registry.host}/vllm/vllm-openai:1`, context);
    expect(await fetchLayers(resolved, context)).toEqual([image.layers[0]!.bytes]);
    await failure(resolve(`${registry.host}/vllm/vllm-openai:1`, await testContext()), 'UNAUTHORIZED');
    const wrong = credentialsFor(registry.host, { username: 'a', password: 'b' });
    await failure(
      resolve(`${registry.host}/vllm/vllm-openai:1`, await testContext({ credentials: wrong })),
      'UNAUTHORIZED',
    );
  });

  it("stands in for Docker Hub as a mirror, with the mirror's own credentials and the hub's names", async () => {
    const mirrors = new Map([['docker.io', registry.url]]);
    const context = await testContext({ mirrors, credentials: credentialsFor(registry.host) });
    expect((await resolve('vllm/vllm-openai:1', context)).ref).toBe('docker.io/vllm/vllm-openai:1');
    const hubOnly = await testContext({
      mirrors,
      credentials: credentialsFor('https://index.docker.io/v1/'),
    });
    const error = await failure(resolve('vllm/vllm-openai:1', hubOnly), 'UNAUTHORIZED');
    expect(error.hint).toContain(registry.host);
  });
});

// --- registries that misbehave ---------------------------------------------------------------------------

type Reply = { status?: number; headers?: Record<string, string>; body?: Buffer | string };

/** A registry made of fixed replies by path below /v2/r/. */
function replying(replies: Record<string, Reply>): Promise<TestServer> {
  return serve((request, response) => {
    const {
      status = 200,
      headers = {},
      body = '',
    } = replies[(request.url ?? '').replace('/v2/r/', '')] ?? { status: 404 };
    response.writeHead(status, headers).end(body);
  });
}

const IMAGE_TYPE = 'application/vnd.oci.image.manifest.v1+json';
const INDEX_TYPE = 'application/vnd.oci.image.index.v1+json';

function repliesOf(image: TinyImage): Record<string, Reply> {
  const entries = [...image.blobs].flatMap(([digest, body]): [string, Reply][] => [
    [`blobs/${digest}`, { body }],
    [`manifests/${digest}`, { body, headers: { 'content-type': IMAGE_TYPE } }],
  ]);
  return Object.fromEntries(entries);
}

const entry = (image: TinyImage, platform: object | undefined, more: object = {}): object => ({
  ...image.manifest,
  platform,
  ...more,
});

function indexOf(...manifests: object[]): Buffer {
  return Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: INDEX_TYPE, manifests }));
}

describe('an index', () => {
  const image = sample('amd64 image');
  const arm = tinyImage({ name: 'arm', payload: 'arm64 image', architecture: 'arm64' });
  const attestation = {
    ...image.manifest,
    digest: digestOf('attestation'),
    platform: { os: 'unknown', architecture: 'unknown' },
  };
  const served = (index: Buffer): Promise<TestServer> =>
    replying({ ...repliesOf(image), ...repliesOf(arm), 'manifests/t': { body: index } });

  it("gives the platform's manifest and keeps its own digest", async () => {
    const index = indexOf(
      attestation,
      entry(arm, { os: 'linux', architecture: 'arm64', variant: 'v8' }),
      entry(image, { os: 'linux', architecture: 'amd64' }),
    );
    const { host } = await served(index);
    const resolved = await resolve(`${host}/r:t`, await testContext());
    expect([resolved.manifest, resolved.index]).toEqual([image.manifest, digestOf(index)]);
    const other = await resolve(`${host}/r:t`, await testContext({ platform: 'linux/arm64' }));
    expect(other.manifest.digest).toBe(arm.manifest.digest);
  });

  it('prefers the entry without a variant', async () => {
    const variant = {
      ...image.manifest,
      digest: digestOf('v3'),
      platform: { os: 'linux', architecture: 'amd64', variant: 'v3' },
    };
    const { host } = await served(indexOf(variant, entry(image, { os: 'linux', architecture: 'amd64' })));
    expect((await resolve(`${host}/r:t`, await testContext())).manifest.digest).toBe(image.manifest.digest);
  });

  it('without the platform says what there is', async () => {
    const { host } = await served(
      indexOf(attestation, entry(arm, { os: 'linux', architecture: 'arm64', variant: 'v8' })),
    );
    const error = await failure(resolve(`${host}/r:t`, await testContext()), 'PLATFORM_NOT_FOUND');
    expect(error.hint).toBe('it exists for: linux/arm64/v8');
  });

  it('that lies about the platform of an image is caught, and so is an image without an index', async () => {
    const { host } = await served(indexOf(entry(arm, { os: 'linux', architecture: 'amd64' })));
    await failure(resolve(`${host}/r:t`, await testContext()), 'PLATFORM_NOT_FOUND');
    const error = await failure(
      resolve(`${host}/r@${arm.manifest.digest}`, await testContext()),
      'PLATFORM_NOT_FOUND',
    );
    expect(error.hint).toContain('linux/arm64');
  });

  it('with a wrong size for a manifest is caught', async () => {
    const { host } = await served(
      indexOf(entry(image, { os: 'linux', architecture: 'amd64' }, { size: image.manifest.size + 1 })),
    );
    await failure(resolve(`${host}/r:t`, await testContext()), 'SOURCE_CHANGED');
  });
});

describe('a manifest', () => {
  const image = sample('an image');
  const bytes = image.blobs.get(image.manifest.digest)!;
  const json = JSON.parse(bytes.toString()) as object;
  const resolving = async (reply: Reply, replies: Record<string, Reply> = {}): Promise<ResolvedImage> => {
    const { host } = await replying({ ...repliesOf(image), ...replies, 'manifests/t': reply });
    return resolve(`${host}/r:t`, await testContext());
  };

  it('without a media type inside is what its Content-Type says', async () => {
    const { mediaType: _, ...bare } = json as { mediaType: string };
    const body = Buffer.from(JSON.stringify(bare));
    const resolved = await resolving({ body, headers: { 'content-type': `${IMAGE_TYPE}; charset=utf-8` } });
    expect(resolved.manifest).toEqual({ mediaType: IMAGE_TYPE, digest: digestOf(body), size: body.length });
  });

  it.each<[string, Reply]>([
    ['in schema 1', { body: '{"schemaVersion":1,"name":"r","fsLayers":[]}' }],
    [
      'of signed schema 1',
      {
        body: '{"schemaVersion":1}',
        headers: { 'content-type': 'application/vnd.docker.distribution.manifest.v1+prettyjws' },
      },
    ],
    ['that is index and image at once', { body: JSON.stringify({ ...json, manifests: [] }) }],
    ['of an unknown type', { body: JSON.stringify({ ...json, mediaType: 'application/vnd.example' }) }],
    ['that is no JSON', { body: '<html>login</html>', headers: { 'content-type': 'text/html' } }],
    ['that is null', { body: 'null' }],
    ['over 4 MiB', { body: Buffer.alloc(4 * 1024 * 1024 + 1, ' ') }],
    [
      'that the registry itself calls otherwise',
      { body: bytes, headers: { 'docker-content-digest': digestOf('other') } },
    ],
    [
      'with a nested index',
      {
        body: indexOf({
          ...image.manifest,
          mediaType: INDEX_TYPE,
          platform: { os: 'linux', architecture: 'amd64' },
        }),
      },
    ],
  ])('%s is refused', async (_, reply) => {
    await failure(resolving(reply), 'SOURCE_INVALID');
  });

  it('with another config behind it is refused', async () => {
    await failure(
      resolving({ body: bytes }, { [`blobs/${image.configDigest}`]: { body: '{}' } }),
      'SOURCE_CHANGED',
    );
  });

  it('forbidden is UNAUTHORIZED', async () => {
    await failure(resolving({ status: 403 }), 'UNAUTHORIZED');
  });
});

describe('a lock', () => {
  const image = sample('locked');

  it('is followed, not the tag', async () => {
    const { host, seen } = await replying({ ...repliesOf(image), 'manifests/t': { body: 'moved on' } });
    const resolved = await resolve(`${host}/r:t`, await testContext(), image.manifest as Descriptor);
    expect(resolved.manifestBytes).toEqual(image.blobs.get(image.manifest.digest));
    expect(seen.map(({ url }) => url)).toEqual([`/v2/r/manifests/${image.manifest.digest}`]);
  });

  it('whose manifest the store has needs no registry', async () => {
    const context = await testContext();
    await context.store.addBytes(image.blobs.get(image.manifest.digest)!);
    const resolved = await resolve('127.0.0.1:1/r:t', context, image.manifest as Descriptor);
    expect(resolved.manifest.digest).toBe(image.manifest.digest);
  });
});

describe('a challenge', () => {
  const challenged = (header: (self: TestServer) => string): Promise<TestServer> => {
    const made: Promise<TestServer> = serve(async (_, response) =>
      response.writeHead(401, { 'www-authenticate': header(await made) }).end(),
    );
    return made;
  };
  const knows = (host: string): Promise<SourceContext> => testContext({ credentials: credentialsFor(host) });

  it('with a realm that is not on loopback must be https', async () => {
    const { host } = await challenged(() => 'Bearer realm="http://auth.example/token"');
    const error = await failure(resolve(`${host}/r:t`, await knows(host)), 'SOURCE_INVALID');
    expect(error.message).toContain('not https');
  });

  it.each([
    'https://169.254.169.254/latest',
    'https://localhost/token',
    'http://auth.example/token',
    'nonsense',
  ])('of a registry elsewhere must not send us to %s', async (realm) => {
    const proxy = await serve((_, response) =>
      response.writeHead(401, { 'www-authenticate': `Bearer realm="${realm}"` }).end(),
    );
    const context = await testContext({
      plainHttp: new Set(['registry.example']),
      mirrors: new Map([['registry.example', 'http://registry.example']]),
      network: { proxyEnv: { HTTP_PROXY: proxy.url }, attempts: 1, backoffMs: 1 },
      credentials: credentialsFor('registry.example'),
    });
    const error = await failure(resolve('registry.example/r:t', context), 'SOURCE_INVALID');
    expect(error.message).toContain('registry.example sends us for a token to');
    expect(proxy.seen).toHaveLength(1);
  });

  it('of the host that a redirect leads to is not answered with our password', async () => {
    const thief = await challenged((self) => `Bearer realm="${self.url}/token"`);
    const { host } = await serve((_, response) => response.writeHead(307, { location: thief.url }).end());
    await failure(resolve(`${host}/r:t`, await knows(host)), 'UNAUTHORIZED');
    expect(thief.seen.map(({ url }) => url)).toEqual(['/']);
    expect(thief.seen[0]?.headers).not.toHaveProperty('authorization');
  });

  it('that never ends is given up', async () => {
    const made: Promise<TestServer> = serve(async ({ url }, response, n) =>
      url?.startsWith('/token')
        ? response.end(JSON.stringify({ token: `token-${n}` }))
        : response.writeHead(401, { 'www-authenticate': `Bearer realm="${(await made).url}/token"` }).end(),
    );
    const { host, seen } = await made;
    await failure(resolve(`${host}/r:t`, await knows(host)), 'UNAUTHORIZED');
    expect(seen).toHaveLength(7);
  });

  it('for another scope, in a 403, is answered with that scope', async () => {
    const image = sample('scoped');
    const made: Promise<TestServer> = serve(async ({ url = '', headers }, response) => {
      const { url: own } = await made;
      if (url.startsWith('/token'))
        return response.end(
          JSON.stringify({ access_token: new URL(url, own).searchParams.getAll('scope').join('+') }),
        );
      const needs = url.includes('/blobs/') ? 'special' : 'general';
      const challenge = `Bearer realm="${own}/token",service="s, with a comma",scope="${needs}",error="insufficient_scope"`;
      if (headers.authorization !== `Bearer ${needs}`)
        return response.writeHead(403, { 'www-authenticate': challenge }).end();
      return response.end(image.blobs.get(/sha256:\w+/.exec(url)?.[0] ?? ''));
    });
    const { host, seen } = await made;
    const context = await testContext();
    const resolved = await resolve(`${host}/r@${image.manifest.digest}`, context);
    await fetchLayers(resolved, context);
    expect(seen.map(({ url }) => url)).toContain('/token?service=s%2C+with+a+comma&scope=general');
  });
});

it('a mirror may live under a path, and must be an address', async () => {
  const image = sample('mirrored');
  const { url, seen } = await serve((request, response) => {
    response.end(image.blobs.get(/sha256:\w+/.exec(request.url ?? '')?.[0] ?? ''));
  });
  const mirrored = (base: string): Promise<ResolvedImage> =>
    testContext({ mirrors: new Map([['ghcr.io', base]]) }).then((context) =>
      resolve(`ghcr.io/a/b@${image.manifest.digest}`, context),
    );
  await mirrored(`${url}/cache/ghcr/`);
  expect(seen[0]?.url).toBe(`/cache/ghcr/v2/a/b/manifests/${image.manifest.digest}`);
  const error = await failure(mirrored('user:secret@mirror'), 'USAGE');
  expect(error.message).not.toContain('secret');
});

it('a blob that is gone says so', async () => {
  const image = sample('gone');
  const replies = repliesOf(image);
  const { host } = await replying({ ...replies, [`blobs/${image.layers[0]!.digest}`]: { status: 404 } });
  const context = await testContext();
  const resolved = await resolve(`${host}/r@${image.manifest.digest as Digest}`, context);
  await failure(fetchLayers(resolved, context), 'IMAGE_NOT_FOUND');
});

it('a registry that is not there is NETWORK_ERROR', async () => {
  const context = await testContext();
  await failure(imageSource('127.0.0.1:1/r:t', context).resolve(silent), 'NETWORK_ERROR');
});
