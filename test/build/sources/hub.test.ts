// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseHubLocation } from '../../../src/build/sources/hub.ts';
import { modelSource } from '../../../src/build/sources/index.ts';
import type { ResolvedModel, SourceContext, SourceFile } from '../../../src/build/sources/source.ts';
import { digestOf } from '../../../src/store/digest.ts';
import { slices, tinyModel } from '../../../fixtures/model.ts';
import { startHub, type HubFixture } from '../../support/hub.ts';
import { failure, fetchBlob, readAll, serve, testContext, type TestServer } from './support.ts';

const resolve = (from: string, context: SourceContext, revision?: string): Promise<ResolvedModel> =>
  modelSource(from, context, revision === undefined ? undefined : { revision }).resolve(context.emit);

const read = async (model: ResolvedModel, path: string): Promise<Buffer> =>
  readAll((await model.file(path).open(0)).body);

describe('the fixture hub', () => {
  const files = tinyModel();
  let hub: HubFixture;
  beforeAll(async () => {
    hub = await startHub({
      models: [
        { name: 'org/model', files },
        { name: 'org/closed', files, gated: true },
      ],
    });
  });
  afterAll(() => hub.stop());
  const context = (changes: Partial<SourceContext> = {}): ReturnType<typeof testContext> =>
    testContext({ hubUrl: hub.url, ...changes });

  it('lists a revision: all pages, with what each file can be checked by', async () => {
    const model = await resolve('hf:org/model', await context());
    expect(model).toMatchObject({
      hub: hub.url,
      repo: 'org/model',
      revision: hub.head('org/model'),
      license: 'apache-2.0',
    });
    expect(model.files.map(({ path }) => path)).toEqual(
      [...files.keys()].toSorted((a, b) => (a < b ? -1 : 1)),
    );
    for (const file of model.files) {
      const bytes = Buffer.concat([...slices(files.get(file.path)!.bytes)]);
      const git = createHash('sha1').update(`blob ${bytes.length}\0`).update(bytes).digest('hex');
      const check = files.get(file.path)!.lfs ? { digest: digestOf(bytes) } : { gitOid: git };
      expect(file).toEqual({ path: file.path, size: bytes.length, ...check });
    }
  });

  it('gives every file, odd names and empty ones included; the token stays with the hub', async () => {
    const all = await context({ hubToken: hub.token });
    const model = await resolve('hf:org/model@main', all);
    hub.log.length = 0;
    for (const { path, size } of model.files) {
      const bytes = Buffer.concat([...slices(files.get(path)!.bytes)]);
      expect(await fetchBlob(all, { digest: digestOf(bytes), size }, model.file(path))).toEqual(bytes);
    }
    expect(
      model.files.some(({ path }) => /[ #]/.test(path)) && model.files.some(({ size }) => size === 0),
    ).toBe(true);
    expect(hub.log.filter(({ server }) => server === 'cdn').some(({ authorized }) => authorized)).toBe(false);
    expect(hub.log.filter(({ server }) => server === 'hub').every(({ authorized }) => authorized)).toBe(true);
    const empty = encodeURIComponent(model.files.find(({ size }) => size === 0)!.path);
    expect(hub.log.some(({ path }) => path.includes(empty))).toBe(false);
  });

  it('cuts a weight: the rest is asked for', async () => {
    const all = await context();
    const model = await resolve('hf:org/model', all);
    const weight = model.files.find(
      ({ path, digest }) => digest !== undefined && path.endsWith('.safetensors'),
    )!;
    hub.faults = {
      [weight.path]: { cut: { after: 1000, times: 1 } },
      [`resolve:${weight.path}`]: { refuse: { status: 429, times: 1, retryAfter: 0 } },
    };
    hub.served.clear();
    await fetchBlob(all, { digest: weight.digest!, size: weight.size }, model.file(weight.path));
    expect(hub.served.get(weight.path)).toMatchObject({ bytes: weight.size, ranges: ['bytes=1000-'] });
    hub.faults = {};
  });

  it('flips a bit of a weight: refused', async () => {
    const all = await context();
    const model = await resolve('hf:org/model', all);
    const weight = model.files.find(({ digest }) => digest !== undefined)!;
    hub.faults = { [weight.path]: { flip: { at: 100 } } };
    await failure(
      fetchBlob(all, { digest: weight.digest!, size: weight.size }, model.file(weight.path)),
      'SOURCE_CHANGED',
    );
    hub.faults = {};
  });

  it('has trouble with its API: asked again', async () => {
    const all = await context();
    hub.faults = { api: { refuse: { status: 503, times: 2 } } };
    await resolve('hf:org/model', all);
    hub.faults = {};
    expect(all.events.filter(({ type }) => type === 'retry')).toHaveLength(2);
  });

  it('does not have a model, or says so', async () => {
    const error = await failure(resolve('hf:org/missing', await context()), 'MODEL_NOT_FOUND');
    expect(error.hint).toContain('a private model needs a token');
  });

  it('guards a model: without a token, with a wrong one, with the right one', async () => {
    const anonymous = await failure(resolve('hf:org/closed', await context()), 'MODEL_GATED');
    expect(anonymous.hint).toContain(`${hub.url}/org/closed with the account of the token; give a token`);
    const wrong = await failure(
      resolve('hf:org/closed', await context({ hubToken: 'hf_wrong' })),
      'MODEL_GATED',
    );
    expect(JSON.stringify([wrong.message, wrong.hint, wrong.details])).not.toContain('hf_wrong');
    const model = await resolve('hf:org/closed', await context({ hubToken: hub.token }));
    expect(model.files).toHaveLength(files.size);
  });

  it('lost a revision; a locked one is asked for, not the branch', async () => {
    await failure(resolve('hf:org/model@v9', await context()), 'REVISION_NOT_FOUND');
    const before = hub.head('org/model');
    await hub.commit('org/model', tinyModel({ seed: 2 }));
    const locked = await resolve('hf:org/model@main', await context(), before);
    expect(locked.revision).toBe(before);
    expect(await read(locked, 'config.json')).toEqual(files.get('config.json')!.bytes);
    expect((await resolve('hf:org/model@main', await context())).revision).not.toBe(before);
    hub.forget('org/model', before);
    await failure(resolve('hf:org/model', await context(), before), 'REVISION_NOT_FOUND');
    await failure(read(locked, 'config.json'), 'REVISION_NOT_FOUND');
  });

  it('at another address gets no token that belongs to the configured one', async () => {
    const elsewhere = await context({ hubUrl: 'http://127.0.0.1:1', hubToken: hub.token });
    hub.log.length = 0;
    await resolve(`hf+${hub.url}/org/model`, elsewhere);
    expect(hub.log.length).toBeGreaterThan(0);
    expect(hub.log.some(({ authorized }) => authorized)).toBe(false);
    await failure(resolve(`hf+${hub.url}/org/closed`, elsewhere), 'MODEL_GATED');
  });
});

// --- hubs that misbehave ---------------------------------------------------------------------------------

const SHA = '0123456789abcdef0123456789abcdef01234567';

interface Misbehaviour {
  info?: object;
  tree?: unknown;
  link?: (self: TestServer) => string;
}

function hubOf({ info = {}, tree = [], link }: Misbehaviour): Promise<TestServer> {
  const made: Promise<TestServer> = serve(async ({ url = '' }, response, n) => {
    const isTree = url.includes('/tree/');
    const next = isTree && link && n < 5 ? { link: `<${link(await made)}>; rel="next"` } : {};
    response.writeHead(200, { 'content-type': 'application/json', ...next });
    response.end(
      JSON.stringify(
        isTree
          ? tree
          : { _id: '1', id: 'org/model', sha: SHA, lastModified: '2026-01-01T00:00:00.000Z', ...info },
      ),
    );
  });
  return made;
}

const file = (path: string, more: object = {}): object => ({
  type: 'file',
  path,
  size: 3,
  oid: SHA,
  ...more,
});

async function listed(misbehaviour: Misbehaviour): Promise<SourceFile[]> {
  const { url } = await hubOf(misbehaviour);
  return (await resolve('hf:org/model', await testContext({ hubUrl: url }))).files;
}

describe('a hub', () => {
  it.each([
    '../evil',
    'a/../../evil',
    '/etc/passwd',
    'a\\b',
    'a//b',
    'a/./b',
    '',
    'a\nb',
    'b\u202Etxt',
    'x'.repeat(300),
  ])('with a file called %j is refused', async (path) => {
    await failure(listed({ tree: [file('ok'), file(path)] }), 'UNSAFE_NAME');
  });

  it.each([
    ['a size below nothing', file('a', { size: -1 })],
    ['half a byte', file('a', { size: 0.5 })],
    ['no checksum', file('a', { oid: undefined })],
    ['an odd checksum', file('a', { oid: 'zz' })],
    ['an odd LFS checksum', file('a', { lfs: { oid: 'ABC', size: 3, pointerSize: 1 } })],
    ['an unknown kind', { ...file('a'), type: 'symlink' }],
    ['no name', { ...file('a'), path: undefined }],
  ])('that describes a file with %s is refused', async (_, entry) => {
    await failure(listed({ tree: [entry] }), 'SOURCE_INVALID');
  });

  it('that lists a file twice, or no list at all, is refused', async () => {
    await failure(listed({ tree: [file('a'), file('a')] }), 'SOURCE_INVALID');
    await failure(listed({ tree: { a: 1 } }), 'SOURCE_INVALID');
  });

  it.each([undefined, 'main', '../../x', SHA.toUpperCase()])(
    'that answers with the commit %j is refused',
    async (sha) => {
      await failure(listed({ info: { sha } }), 'SOURCE_INVALID');
    },
  );

  it.each([undefined, 7, '../x', 'a/b/c'])('that calls the model %j is refused', async (id) => {
    await failure(listed({ info: { id } }), 'SOURCE_INVALID');
  });

  it('that answers with another commit than the locked one is refused', async () => {
    const { url } = await hubOf({});
    await failure(
      resolve('hf:org/model', await testContext({ hubUrl: url }), 'f'.repeat(40)),
      'SOURCE_CHANGED',
    );
  });

  it('that renamed a model is followed, with a warning', async () => {
    const { url } = await hubOf({ info: { id: 'new/name' } });
    const context = await testContext({ hubUrl: url });
    expect((await resolve('hf:org/model', context)).repo).toBe('new/name');
    expect(context.events).toMatchObject([
      { type: 'warning', message: 'org/model is called new/name on the hub now' },
    ]);
  });

  it('whose pages lead elsewhere gets no token there', async () => {
    const other = await serve((_, response) =>
      response.writeHead(200, { 'content-type': 'application/json' }).end('[]'),
    );
    const { url } = await hubOf({ tree: [file('a')], link: () => `${other.url}/next` });
    await resolve('hf:org/model', await testContext({ hubUrl: url, hubToken: 'hf_secret' }));
    expect(other.seen.map(({ headers }) => headers['authorization'])).toEqual([undefined]);
  });

  it.each([
    [401, 'UNAUTHORIZED'],
    [403, 'UNAUTHORIZED'],
    [404, 'MODEL_NOT_FOUND'],
    [400, 'SOURCE_INVALID'],
  ] as const)('that answers %i without a code of its own is %s', async (status, code) => {
    const { url } = await serve((_, response) => response.writeHead(status).end('no'));
    await failure(resolve('hf:org/model', await testContext({ hubUrl: url })), code);
  });

  it('states licences in several ways', async () => {
    const of = async (cardData: object): Promise<string | undefined> => {
      const { url } = await hubOf({ info: { cardData } });
      return (await resolve('hf:org/model', await testContext({ hubUrl: url }))).license;
    };
    expect(await of({ license: 'mit' })).toBe('mit');
    expect(await of({ license: ['mit', 'apache-2.0'] })).toBe('mit, apache-2.0');
    expect(await of({ license: 'other', license_name: 'llama4' })).toBe('llama4');
    expect(await of({ license: 'a\nb' })).toBeUndefined();
    expect(await of({})).toBeUndefined();
  });
});

describe('a location', () => {
  const hub = 'https://hub.example';
  it.each([
    ['hf:org/name', hub, 'org/name', 'main'],
    ['hf:gpt2@v1', hub, 'gpt2', 'v1'],
    ['hf:org/name@refs/pr/1', hub, 'org/name', 'refs/pr/1'],
    ['hf+https://other.example:8443/org/name@abc', 'https://other.example:8443', 'org/name', 'abc'],
    ['hf+https://other.example/a/hub/org/name', 'https://other.example/a/hub', 'org/name', 'main'],
  ])('%s', (from, where, repo, revision) => {
    expect(parseHubLocation(from, `${hub}/`)).toEqual({ hub: where, repo, revision });
  });

  it.each([
    'hf:',
    'hf:a/b/c',
    'hf:../x',
    'hf:org/..',
    'hf:org/name@',
    'hf:org/name@a..b',
    'hf:org/name@-x',
    'hf:org/na me',
    'hf+https://u:p@h/org/name',
    'hf+https://h/',
    'hf+https://h/org/name?x=1',
  ])('is not %s', async (from) => {
    await failure(() => parseHubLocation(from, hub), 'MANIFEST_INVALID');
  });

  it('without a scheme is explained', async () => {
    const error = await failure(async () => modelSource('org/name', await testContext()), 'MANIFEST_INVALID');
    expect(error.hint).toContain('hf:organisation/name');
  });
});

describe('the hub that was locked', () => {
  it('is asked, without the token of the default hub; a --hub beside it is a contradiction', async () => {
    const other = await serve((_, response) => response.writeHead(401).end());
    const locked = { revision: SHA, hub: other.url };
    const context = await testContext({ hubUrl: 'http://127.0.0.1:1', hubToken: 'hf_secret' });
    const error = await failure(
      modelSource('hf:org/model', context, locked).resolve(context.emit),
      'UNAUTHORIZED',
    );
    expect(other.seen.map(({ headers }) => headers['authorization'])).toEqual([undefined]);
    expect(error.hint).toContain(`say so with --hub ${other.url}`);
    const given = { ...context, hubGiven: true };
    const refused = await failure(() => modelSource('hf:org/model', given, locked), 'USAGE');
    expect(refused.hint).toContain(`--hub ${other.url}`);
    modelSource('hf:org/model', { ...given, hubUrl: `${other.url}/` }, locked);
    modelSource(`hf+${other.url}/org/model`, given, locked);
    await failure(
      () => modelSource('hf:org/model', context, { ...locked, hub: 'http://a:b@c' }),
      'LOCK_INVALID',
    );
  });

  it('gives hints for what happened to the token', async () => {
    const cdn = await serve((_, response) => response.writeHead(403).end());
    const { url } = await serve(({ url: path = '' }, response) =>
      path === '/api/models/org/closed/revision/main' || path.includes('closed')
        ? response.writeHead(401).end()
        : response.writeHead(302, { location: `${cdn.url}/x` }).end(),
    );
    const hint = async (repo: string, hubToken?: string): Promise<string | undefined> =>
      (await failure(resolve(`hf:org/${repo}`, await testContext({ hubUrl: url, hubToken })), 'UNAUTHORIZED'))
        .hint;
    expect(await hint('closed')).toContain('give a token');
    expect(await hint('closed', 'hf_x')).toContain('the token is wrong');
    expect(await hint('moved', 'hf_x')).toContain(`sends us to ${cdn.host}, which never gets the token`);
  });

  it('is not blamed for what is wrong on our side', async () => {
    const { url } = await hubOf({});
    const context = await testContext({ hubUrl: url, hubToken: 'two\nlines' });
    const error: unknown = await resolve('hf:org/model', context).catch((thrown) => thrown);
    expect(String(error)).not.toContain('makes no sense');
  });
});
