// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { MANIFEST_TYPES, parseImageConfig, parseImageManifest } from '../../src/bundle/oci.ts';
import { digestOf } from '../../src/store/digest.ts';

const layer = (n: number): Record<string, unknown> => ({
  mediaType: 'application/vnd.oci.image.layer.v1.tar+gzip',
  digest: digestOf(`layer ${n}`),
  size: n,
});
const manifest = {
  schemaVersion: 2,
  mediaType: MANIFEST_TYPES[0],
  config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: digestOf('config'), size: 7 },
  layers: [layer(0), layer(1)] as unknown[],
};
const config = {
  architecture: 'amd64',
  os: 'linux',
  rootfs: { type: 'layers', diff_ids: [digestOf('a'), digestOf('b')] as unknown[] },
};
const bytes = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));
const readManifest = (value: unknown): unknown =>
  parseImageManifest(bytes(value), 'the manifest', 'SOURCE_INVALID');
const readConfig = (value: unknown): unknown =>
  parseImageConfig(bytes(value), 'the config', 'SOURCE_INVALID');
const refusal = (why: RegExp): Error =>
  expect.objectContaining({ code: 'SOURCE_INVALID', message: expect.stringMatching(why) }) as Error;

describe('an image manifest', () => {
  it.each(MANIFEST_TYPES)('of the type %s is read', (mediaType) => {
    expect(readManifest({ ...manifest, mediaType })).toEqual({ ...manifest, mediaType });
  });

  it('without a type is an OCI manifest', () => {
    const { mediaType, ...rest } = manifest;
    expect(readManifest(rest)).toEqual({ ...rest, mediaType });
  });

  it('keeps of its descriptors what is needed, and nothing else', () => {
    const more = { annotations: { a: 'b' }, platform: {}, urls: [] };
    const read = readManifest({
      ...manifest,
      extra: 1,
      config: { ...manifest.config, ...more },
      layers: [{ ...layer(0), ...more }],
    });
    expect(read).toEqual({ ...manifest, layers: [layer(0)] });
  });

  it('has 512 layers at most, and may have none', () => {
    const layers = Array.from({ length: 513 }, (_, i) => layer(i));
    expect(readManifest({ ...manifest, layers: layers.slice(1) })).toMatchObject({ layers: layers.slice(1) });
    expect(readManifest({ ...manifest, layers: [] })).toMatchObject({ layers: [] });
    expect(() => readManifest({ ...manifest, layers })).toThrow(refusal(/not an image manifest/));
  });

  it.each<[string, unknown, RegExp]>([
    ['null', null, /the manifest is not an image manifest/],
    ['of another schema version', { ...manifest, schemaVersion: 1 }, /not an image manifest/],
    ['that is an index as well', { ...manifest, manifests: [] }, /not an image manifest/],
    [
      'that calls itself an index',
      { ...manifest, mediaType: 'application/vnd.oci.image.index.v1+json' },
      /unsupported media type application\/vnd\.oci\.image\.index/,
    ],
    ['whose type is a number', { ...manifest, mediaType: 2 }, /not an image manifest/],
    ['without a config', { ...manifest, config: undefined }, /not an image manifest/],
    ['without layers', { ...manifest, layers: undefined }, /not an image manifest/],
    [
      'with a size that is none',
      { ...manifest, layers: [{ ...layer(0), size: -1 }] },
      /not an image manifest/,
    ],
    [
      'with a digest of another kind',
      { ...manifest, layers: [{ ...layer(0), digest: `sha512:${'0'.repeat(128)}` }] },
      /not an image manifest/,
    ],
    [
      'with a media type that steers a terminal',
      { ...manifest, layers: [{ ...layer(0), mediaType: '\u001b[2J' }] },
      /not an image manifest/,
    ],
    [
      'with a layer from elsewhere',
      { ...manifest, layers: [layer(0), { ...layer(1), urls: ['https://x.example'] }] },
      new RegExp(`not distributed .*${digestOf('layer 1')}`),
    ],
    [
      'with a foreign layer',
      {
        ...manifest,
        layers: [{ ...layer(1), mediaType: 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip' }],
      },
      /not distributed/,
    ],
    [
      'with a nondistributable layer',
      {
        ...manifest,
        layers: [{ ...layer(1), mediaType: 'application/vnd.oci.image.layer.nondistributable.v1.tar' }],
      },
      /not distributed/,
    ],
    [
      'with a config from elsewhere',
      { ...manifest, config: { ...manifest.config, urls: ['https://x.example'] } },
      /not distributed/,
    ],
  ])('%s is refused', (_, value, why) => {
    expect(() => readManifest(value)).toThrow(refusal(why));
  });

  it('is bounded', () => {
    const long = Buffer.concat([bytes(manifest), Buffer.alloc(4 * 1024 * 1024, ' ')]);
    expect(() => parseImageManifest(long, 'the manifest', 'SOURCE_INVALID')).toThrow(
      refusal(/more than the 4194304/),
    );
  });
});

describe('an image config', () => {
  it('is read', () => {
    expect(readConfig({ ...config, config: { Env: [] }, history: [] })).toEqual({
      architecture: 'amd64',
      os: 'linux',
      diffIds: config.rootfs.diff_ids,
    });
  });

  it.each<[string, unknown]>([
    ['a list', []],
    ['without an architecture', { ...config, architecture: undefined }],
    ['without an operating system', { ...config, os: 1 }],
    ['without a root', { ...config, rootfs: undefined }],
    ['with a root of another type', { ...config, rootfs: { ...config.rootfs, type: 'tar' } }],
    ['with a layer that is no digest', { ...config, rootfs: { type: 'layers', diff_ids: ['sha256:x'] } }],
    ['with 513 layers', { ...config, rootfs: { type: 'layers', diff_ids: Array(513).fill(digestOf('a')) } }],
  ])('%s is refused', (_, value) => {
    expect(() => readConfig(value)).toThrow(refusal(/^the config is not an image config/));
  });

  it('is bounded', () => {
    const long = Buffer.concat([bytes(config), Buffer.alloc(4 * 1024 * 1024, ' ')]);
    expect(() => parseImageConfig(long, 'the config', 'SOURCE_INVALID')).toThrow(
      refusal(/more than the 4194304/),
    );
  });
});
