// SPDX-License-Identifier: Apache-2.0
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  fileAndFolder,
  isImageRef,
  isSafePath,
  Line,
  ModelFile,
  Name,
  parseInventory,
  purposeOf,
  quickModelFile,
  Version,
  type Inventory,
} from '../../src/bundle/inventory.ts';
import { canonicalJson } from '../../src/json.ts';
import { digestOf } from '../../src/store/digest.ts';
import { sampleBundle } from '../support/sample.ts';

const { inventory: good } = await sampleBundle();
const changed = (change: (copy: Inventory) => unknown): Buffer => {
  const copy = structuredClone(good);
  change(copy);
  return canonicalJson(copy);
};
const refusal = (why: RegExp, code = 'BUNDLE_MALFORMED'): unknown =>
  expect.objectContaining({ code, message: expect.stringMatching(why), hint: expect.stringMatching(/./) });

describe('names', () => {
  it.each(['a', 'a1', 'qwen3-coder', 'a.b', 'a--b', `a${'b'.repeat(62)}`])('%s is one', (name) => {
    expect(Name.safeParse(name).success).toBe(true);
  });
  it.each([
    '',
    '1a',
    '-a',
    '.a',
    'a-',
    'a.',
    'A',
    'aB',
    'a_b',
    'a b',
    'ä',
    'a\n',
    '\na',
    `a${'b'.repeat(63)}`,
  ])('%j is none', (name) => expect(Name.safeParse(name).success).toBe(false));
});

describe('versions', () => {
  it.each([
    '0.0.0',
    '1.2.3',
    '10.20.30',
    '999999999.0.0',
    '1.0.0-rc.1',
    '1.0.0--',
    '1.0.0-0',
    `1.0.0-${'a'.repeat(58)}`,
  ])('%s is one', (version) => expect(Version.safeParse(version).success).toBe(true));
  it.each([
    '',
    '1',
    '1.2',
    '1.2.3.4',
    'v1.2.3',
    '01.2.3',
    '1.02.3',
    '1.2.03',
    '1.2.3-',
    '1.2.3-a..b',
    '1.2.3-a.',
    '1.2.3-ü',
    '1.2.3+build',
    '1000000000.0.0',
    '0.1000000000.0',
    '0.0.1000000000',
    ' 1.2.3',
    '1.2.3\n',
    `1.0.0-${'a'.repeat(59)}`,
  ])('%j is none', (version) => expect(Version.safeParse(version).success).toBe(false));
});

describe('paths', () => {
  it.each([
    'a',
    'a/b.c',
    'näive (草稿) #1.txt',
    '...',
    '..a',
    'a..',
    '.hidden',
    'x'.repeat(255),
    '草'.repeat(85),
  ])('%s is safe', (path) => expect(isSafePath(path)).toBe(true));
  it('of 1,024 bytes are safe, and not of one more', () => {
    const parts = (...lengths: number[]): string => lengths.map((n) => 'x'.repeat(n)).join('/');
    expect(isSafePath(parts(255, 255, 255, 254, 1))).toBe(true);
    expect(isSafePath(parts(255, 255, 255, 255, 1))).toBe(false);
    expect(isSafePath(Array.from({ length: 350 }, () => '草').join('/'))).toBe(false);
  });
  it.each([
    '',
    '/a',
    'a/',
    'a//b',
    '.',
    '..',
    'a/../b',
    'a/./b',
    '../a',
    'a/..',
    'a\\b',
    'a\u0000b',
    'a\nb',
    'a\u001bb',
    'a\u007fb',
    'a\u200bb',
    'a\u202eb',
    'a\u2028b',
    'a\u2029b',
    'a\ud800b',
    'x'.repeat(256),
    '草'.repeat(86),
  ])('%j is not', (path) => expect(isSafePath(path)).toBe(false));

  it('cannot be a file and a folder', () => {
    expect(fileAndFolder(['a', 'a.b', 'b/c', 'b/d'])).toBeUndefined();
    expect(fileAndFolder(['a', 'a/b'])).toBe('a');
    expect(fileAndFolder(['a/b/c/d', 'a/b'])).toBe('a/b');
    expect(fileAndFolder(['a/b', 'c', 'a/b/c'])).toBe('a/b');
    expect(fileAndFolder([])).toBeUndefined();
  });
});

describe('lines', () => {
  it('are printable, and bounded', () => {
    expect(Line.safeParse('a'.repeat(2048)).success).toBe(true);
    expect(Line.safeParse('').success).toBe(true);
    for (const text of ['a'.repeat(2049), 'a\nb', '\u001b', '\u202e', '\u2028', '\u2029', '\ud800'])
      expect(Line.safeParse(text).success, JSON.stringify(text)).toBe(false);
  });
});

describe('references', () => {
  it.each([
    'docker.io/library/nginx:1.29',
    'docker.io/a/b/c:x',
    'localhost/x:1',
    'localhost:5000/x:1',
    'registry:5000/group/name:tag',
    'registry.example/a/b_c/d__e/f-g/h.i:T_a.g-1',
    '10.0.0.1:65535/x:_',
    'xn--a.example/x:1',
    `registry.example/${'a'.repeat(200)}:${'t'.repeat(128)}`,
  ])('%s is one', (ref) => expect(isImageRef(ref)).toBe(true));
  it.each([
    '',
    'nginx:1.29',
    'library/nginx:1.29',
    'registry/x:1',
    'docker.io/nginx:1',
    'index.docker.io/library/nginx:1',
    'registry.example/x',
    'registry.example/x:',
    'registry.example/x:-a',
    'registry.example/x:.a',
    `registry.example/x:${'t'.repeat(129)}`,
    `registry.example/${'a'.repeat(380)}:1`,
    'registry.example/X:1',
    'registry.example/a//b:1',
    'registry.example/a..b:1',
    'registry.example/a___b:1',
    'registry.example/-a:1',
    'registry.example/a-:1',
    'registry.example/_a:1',
    'registry.example/../b:1',
    'registry.example/x:1@sha256:abc',
    'registry.example:65536/x:1',
    'registry.example:/x:1',
    'registry.example:123456/x:1',
    'Registry.example/x:1',
    'registry..example/x:1',
    '-registry.example/x:1',
    ' registry.example/x:1',
    'registry.example/x:1\n',
    'http://registry.example/x:1',
    'user@registry.example/x:1',
  ])('%j is none', (ref) => expect(isImageRef(ref)).toBe(false));
  it('are bounded as a whole', () => {
    const path = `registry.example/${'a'.repeat(384 - 'registry.example/'.length - 2)}`;
    expect(isImageRef(`${path}:1`)).toBe(true);
    expect(isImageRef(`${path}a:1`)).toBe(false);
  });
});

describe('bundle.json', () => {
  it('is read as it was written', () => {
    expect(parseInventory(canonicalJson(good))).toEqual(good);
  });

  it('of another format is not called damaged', () => {
    expect(() =>
      parseInventory(changed((i) => Object.assign(i, { apiVersion: 'sealift.dev/v9', more: 1 }))),
    ).toThrow(refusal(/format/, 'BUNDLE_UNSUPPORTED'));
    for (const text of ['null', '[]', '"x"', '{}', '{"apiVersion": 2}'])
      expect(() => parseInventory(Buffer.from(`${text}\n`))).toThrow(refusal(/bundle\.json/));
  });

  it('that is not JSON says so', () => {
    expect(() => parseInventory(Buffer.from('{'))).toThrow(
      expect.objectContaining({ code: 'BUNDLE_MALFORMED', message: 'bundle.json is not valid JSON' }),
    );
  });

  const image = good.images[0]!;
  const file = good.models[0]!.files[0]!;
  it.each<[string, (i: Inventory) => unknown, RegExp]>([
    ['images out of order', (i) => i.images.reverse(), /images of bundle\.json are not sorted/],
    [
      'an image twice',
      (i) => i.images.splice(1, 0, { ...image, ref: 'docker.io/a/b:1' }),
      /images .* not sorted and unique/,
    ],
    ['models out of order', (i) => i.models.push({ ...i.models[0]!, name: 'a' }), /models .* not sorted/],
    ['configs out of order', (i) => i.configs.push({ ...i.configs[0]!, name: 'a' }), /configs .* not sorted/],
    [
      'services out of order',
      (i) => i.services.push({ ...i.services[0]!, name: 'a' }),
      /services .* not sorted/,
    ],
    ['files out of order', (i) => i.models[0]!.files.reverse(), /files of model tiny .* not sorted/],
    ['a file twice', (i) => i.models[0]!.files.splice(0, 0, file), /files of model tiny .* not sorted/],
    [
      'a file that is a folder',
      (i) => i.models[0]!.files.splice(1, 0, { ...file, path: 'LICENSE/x' }),
      /LICENSE is a file and a folder/,
    ],
    [
      'a config that is a folder',
      (i) => i.configs.push({ ...i.configs[0]!, name: 'prometheus.yml/x' }),
      /prometheus\.yml is a file and a folder/,
    ],
    ['one reference for two images', (i) => (i.images[1]!.ref = image.ref), /two images have one reference/],
    ['a service without its image', (i) => (i.services[0]!.image = 'tiny'), /service chat names what/],
    ['a service without its model', (i) => (i.services[0]!.model = 'engine'), /service chat names what/],
    ['a gateway without its image', (i) => (i.gateway = { image: 'tiny' }), /gateway names an image/],
    [
      'an exporter without its image',
      (i) => (i.monitoring = { prometheus: 'engine', nodeExporter: 'tiny' }),
      /monitoring names an image/,
    ],
    [
      'a monitor that is not known',
      (i) => (i.monitoring = { prometheus: 'engine', exporter: 'engine' } as never),
      /monitoring/,
    ],
    ['a model of no files', (i) => (i.models[0]!.files = []), /models\.0\.files/],
    ['an option with dashes', (i) => (i.services[0]!.options = { '--x': 1 }), /services\.0\.options/],
    [
      'an option that starts with a digit',
      (i) => (i.services[0]!.options = { '1x': 1 }),
      /services\.0\.options/,
    ],
    ['an option with capitals', (i) => (i.services[0]!.options = { aB: 1 }), /services\.0\.options/],
    [
      'an option value with an escape',
      (i) => (i.services[0]!.options = { a: 'x\u001b' }),
      /services\.0\.options/,
    ],
    ['an option value with DEL', (i) => (i.services[0]!.options = { a: '\u007f' }), /services\.0\.options/],
    [
      'an option value without end',
      (i) => (i.services[0]!.options = { a: 'x'.repeat(65_537) }),
      /services\.0\.options/,
    ],
    ['GPUs in halves', (i) => (i.services[0]!.gpus = 0.5), /services\.0\.gpus/],
    ['fewer GPUs than none', (i) => (i.services[0]!.gpus = -1), /services\.0\.gpus/],
    ['65 GPUs', (i) => (i.services[0]!.gpus = 65), /services\.0\.gpus/],
    ['a size below zero', (i) => (i.configs[0]!.size = -1), /configs\.0\.size/],
    ['a size in halves', (i) => (i.configs[0]!.size = 0.5), /configs\.0\.size/],
    ['a date with a zone', (i) => (i.created = '2026-11-23T10:00:00+01:00'), /created/],
    ['a date with fractions', (i) => (i.created = '2026-11-23T10:00:00.5Z'), /created/],
    ['another kind', (i) => Object.assign(i, { kind: 'Lock' }), /kind/],
    ['another platform', (i) => Object.assign(i, { platform: 'windows/amd64' }), /platform/],
    ['a key that is not known', (i) => Object.assign(i.images[0]!, { extra: 1 }), /images\.0/],
    [
      'a key that is not known in a service',
      (i) => Object.assign(i.services[0]!, { extra: 1 }),
      /services\.0/,
    ],
    ['a key that is not known in the gateway', (i) => Object.assign(i.gateway!, { extra: 1 }), /gateway/],
    [
      'a key that is not known in a file',
      (i) => Object.assign(i.models[0]!.files[0]!, { extra: 1 }),
      /models\.0\.files\.0/,
    ],
    ['a key that is not known in a model', (i) => Object.assign(i.models[0]!, { extra: 1 }), /models\.0/],
    ['a key that is not known in a config', (i) => Object.assign(i.configs[0]!, { extra: 1 }), /configs\.0/],
    [
      'a key that is not known in a descriptor',
      (i) => Object.assign(i.images[0]!.manifest, { extra: 1 }),
      /images\.0\.manifest/,
    ],
    [
      'a digest that is none',
      (i) => Object.assign(i.configs[0]!, { digest: 'sha256:x' }),
      /configs\.0\.digest/,
    ],
  ])('with %s is refused', (_, change, why) => {
    expect(() => parseInventory(changed(change))).toThrow(refusal(why));
  });

  it.each<[string, (i: Inventory) => unknown]>([
    ['what may be left out', (i) => (delete i.gateway, delete i.models[0]!.license)],
    [
      'what may be there',
      (i) => Object.assign(i.models[0]!, { hub: 'https://hub.example', repo: 'a/b', license: 'MIT' }),
    ],
    ['an index', (i) => (i.images[0]!.index = digestOf('index'))],
    [
      'no content at all',
      (i) => Object.assign(i, { images: [], models: [], configs: [], services: [], gateway: undefined }),
    ],
    [
      'options of every kind',
      (i) => (i.services[0]!.options = { a: 'x\n\ty', 'b-1': 1.5, c: true, d: 'x'.repeat(65_536), e: '' }),
    ],
    ['64 GPUs', (i) => (i.services[0]!.gpus = 64)],
    ['the largest size', (i) => (i.configs[0]!.size = Number.MAX_SAFE_INTEGER)],
  ])('with %s is read', (_, change) => {
    const bytes = changed(change);
    expect(canonicalJson(parseInventory(bytes)).equals(bytes)).toBe(true);
  });

  it('that leaves out what has a default is not canonical', () => {
    const text = canonicalJson(good)
      .toString()
      .replace(/ +"gpus": 0,\n/, '');
    expect(() => parseInventory(Buffer.from(text))).toThrow(refusal(/not in canonical form/));
  });
});

it('reads a file of a model quickly only as the schema does', () => {
  const digest = digestOf('x');
  const strange = fc.oneof(
    fc.anything(),
    fc.constantFrom('', '..', '/a', 'a/../b', 'a\u202eb', 'a//b', 'a\n'),
  );
  const file = fc.record(
    {
      path: fc.oneof(fc.string(), strange, fc.constant('a/b.json')),
      digest: fc.oneof(
        fc.constant(digest),
        strange,
        fc.constantFrom(digest.toUpperCase(), `${digest}0`, digest.slice(7)),
      ),
      size: fc.oneof(fc.double(), fc.maxSafeNat(), strange, fc.constantFrom(-0, -1, 0.5, 2 ** 53)),
      more: fc.constantFrom(1, undefined),
    },
    { requiredKeys: [] },
  );
  let quick = 0;
  fc.assert(
    fc.property(fc.oneof(file, fc.anything()), (value) => {
      const read = quickModelFile(value);
      if (read === undefined) return; // then the schema is asked
      quick++;
      expect(ModelFile.parse(value)).toStrictEqual(read);
    }),
    { seed: 20261125, numRuns: 20_000 },
  );
  expect(quick).toBeGreaterThan(20);
  expect(quickModelFile(JSON.parse(`{"__proto__": {}, "path": "a", "digest": "${digest}"}`))).toBeUndefined();
});

it('has monitoring with and without each of its exporters, as before there were any', () => {
  const { prometheus, grafana } = { prometheus: 'engine', grafana: 'gateway' };
  for (const monitoring of [
    undefined,
    { prometheus },
    { prometheus, grafana },
    { prometheus, nodeExporter: 'engine' },
    { prometheus, grafana, nodeExporter: 'engine', dcgmExporter: 'gateway' },
  ])
    expect(parseInventory(canonicalJson({ ...good, monitoring })).monitoring).toEqual(monitoring);
});

it('says what a blob is for', () => {
  const model = good.models[0]!.files[1]!;
  expect(purposeOf(model.digest, good)).toBe(`model tiny: ${model.path}`);
  expect(purposeOf(good.configs[0]!.digest, good)).toBe('config prometheus.yml');
  expect(purposeOf(good.images[1]!.manifest.digest, good)).toBe('manifest of image gateway');
  expect(purposeOf(digestOf('a layer'), good)).toBe('image layer or config');
});
