// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import type { Inventory } from '../../src/bundle/inventory.ts';
import { deriveLayout, type Layout } from '../../src/bundle/layout.ts';
import type { ImageManifest } from '../../src/bundle/oci.ts';
import { digestOf, type Digest } from '../../src/store/digest.ts';

const blob = (text: string, size = text.length): { digest: Digest; size: number } => ({
  digest: digestOf(text),
  size,
});
const LAYER = 'application/vnd.oci.image.layer.v1.tar';
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG = 'application/vnd.oci.image.config.v1+json';
const WEIGHT = 'application/vnd.cncf.model';

const manifest: ImageManifest = {
  schemaVersion: 2,
  mediaType: MANIFEST,
  config: { mediaType: CONFIG, ...blob('config') },
  layers: [
    { mediaType: LAYER, ...blob('layer 1') },
    { mediaType: LAYER, ...blob('layer 2') },
  ],
};
const inventory: Inventory = {
  apiVersion: 'sealift.dev/v1',
  kind: 'Inventory',
  name: 'demo',
  version: '1.2.3',
  platform: 'linux/arm64',
  created: '2026-11-23T10:00:00Z',
  images: [
    {
      name: 'engine',
      ref: 'r.example/engine:1',
      from: 'x',
      manifest: { mediaType: MANIFEST, ...blob('manifest') },
    },
  ],
  models: [
    {
      name: 'tiny',
      from: 'x',
      revision: 'abc',
      license: 'MIT',
      files: [
        { path: 'a/model.safetensors', ...blob('weights') },
        { path: 'config.json', ...blob('{"a":1}') },
      ],
    },
  ],
  configs: [{ name: 'etc/prometheus.yml', ...blob('scrape') }],
  services: [],
};
const layoutOf = (change: Partial<Inventory> = {}, image: Partial<ImageManifest> = {}): Layout =>
  deriveLayout({ ...inventory, ...change }, new Map([[digestOf('manifest'), { ...manifest, ...image }]]));
const json = (bytes: Buffer | undefined): unknown => JSON.parse(bytes!.toString());
const index = (layout: Layout): Record<string, unknown>[] =>
  (json(layout.documents.get('index.json')) as { manifests: Record<string, unknown>[] }).manifests;
const generated = (layout: Layout, entry: Record<string, unknown>): unknown =>
  json(layout.generated.get(entry['digest'] as Digest));

describe('the layout', () => {
  const layout = layoutOf();
  const [image, model, configs] = index(layout);

  it('has three documents', () => {
    expect([...layout.documents.keys()]).toEqual(['oci-layout', 'index.json', 'manifest.json']);
    expect(json(layout.documents.get('oci-layout'))).toEqual({ imageLayoutVersion: '1.0.0' });
    expect(json(layout.documents.get('index.json'))).toMatchObject({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.index.v1+json',
    });
  });

  it('names an image by its full reference, for the platform', () => {
    expect(image).toEqual({
      mediaType: MANIFEST,
      ...blob('manifest'),
      platform: { os: 'linux', architecture: 'arm64' },
      annotations: {
        'io.containerd.image.name': 'r.example/engine:1',
        'org.opencontainers.image.ref.name': 'r.example/engine:1',
      },
    });
    const path = (text: string): string => `blobs/sha256/${digestOf(text).slice(7)}`;
    expect(json(layout.documents.get('manifest.json'))).toEqual([
      {
        Config: path('config'),
        RepoTags: ['r.example/engine:1'],
        Layers: [path('layer 1'), path('layer 2')],
      },
    ]);
  });

  it('has a model as an artifact of one raw layer for each file', () => {
    expect(model).toMatchObject({
      mediaType: MANIFEST,
      artifactType: `${WEIGHT}.manifest.v1+json`,
      annotations: { 'org.opencontainers.image.ref.name': 'models/tiny:1.2.3' },
    });
    const artifact = generated(layout, model!) as { config: Record<string, unknown> };
    const named = (path: string): object => ({
      annotations: { 'org.cncf.model.filepath': path, 'org.opencontainers.image.title': path },
    });
    expect(artifact).toMatchObject({
      schemaVersion: 2,
      mediaType: MANIFEST,
      artifactType: `${WEIGHT}.manifest.v1+json`,
      config: { mediaType: `${WEIGHT}.config.v1+json` },
      layers: [
        { mediaType: `${WEIGHT}.weight.v1.raw`, ...blob('weights'), ...named('a/model.safetensors') },
        { mediaType: `${WEIGHT}.weight.config.v1.raw`, ...blob('{"a":1}'), ...named('config.json') },
      ],
    });
    expect(generated(layout, artifact.config)).toEqual({
      descriptor: { name: 'tiny', revision: 'abc', licenses: ['MIT'] },
      config: {},
      modelfs: { type: 'layers', diffIds: [digestOf('weights'), digestOf('{"a":1}')] },
    });
  });

  it('has configs as one artifact, and none when there are none', () => {
    expect(configs).toMatchObject({
      mediaType: MANIFEST,
      artifactType: 'application/vnd.sealift.configs.v1',
      annotations: { 'org.opencontainers.image.ref.name': 'configs:1.2.3' },
    });
    expect(generated(layout, configs!)).toMatchObject({
      config: { mediaType: 'application/vnd.oci.empty.v1+json', ...blob('{}') },
      layers: [
        {
          mediaType: 'application/octet-stream',
          ...blob('scrape'),
          annotations: { 'org.opencontainers.image.title': 'etc/prometheus.yml' },
        },
      ],
    });
    expect(index(layoutOf({ configs: [] }))).toHaveLength(2);
  });

  it('leaves out a licence that is not known', () => {
    const { license: _, ...bare } = inventory.models[0]!;
    const bareLayout = layoutOf({ models: [bare] });
    const artifact = generated(bareLayout, index(bareLayout)[1]!) as { config: Record<string, unknown> };
    expect(generated(bareLayout, artifact.config)).toMatchObject({
      descriptor: { name: 'tiny', revision: 'abc' },
    });
    expect(generated(bareLayout, artifact.config)).not.toHaveProperty('descriptor.licenses');
  });

  it('has manifests and configs first, then all else, each by digest and each once', () => {
    const digests = (blobs: readonly { digest: Digest }[]): Digest[] => blobs.map(({ digest }) => digest);
    expect(digests(layout.meta)).toEqual(digests(layout.meta).toSorted());
    expect(digests(layout.content)).toEqual(
      ['layer 1', 'layer 2', 'weights', '{"a":1}', 'scrape'].map((t) => digestOf(t)).toSorted(),
    );
    // Two of the image, manifest and config of the model, manifest and config of the configs.
    expect(layout.meta).toHaveLength(6);
    expect([...layout.generated.keys()].toSorted()).toEqual(
      digests(layout.meta).filter((d) => d !== digestOf('manifest') && d !== digestOf('config')),
    );
  });

  it('carries what two things need once', () => {
    const same = layoutOf({
      configs: [
        { name: 'x', ...blob('layer 1') },
        { name: 'y', ...blob('config') },
      ],
    });
    const all = [...same.meta, ...same.content].map(({ digest }) => digest);
    expect(new Set(all).size).toBe(all.length);
    expect(same.meta.map(({ digest }) => digest)).toContain(digestOf('config'));
    expect(same.content.map(({ digest }) => digest)).not.toContain(digestOf('config'));
  });

  it.each<[string, Partial<Inventory>, Partial<ImageManifest>]>([
    ['a config and a layer', { configs: [{ name: 'x', ...blob('layer 1', 99) }] }, {}],
    ['a config and a manifest', { configs: [{ name: 'x', ...blob('manifest', 99) }] }, {}],
    ['two layers', {}, { layers: [manifest.layers[0]!, { ...manifest.layers[0]!, size: 99 }] }],
  ])('refuses one digest with two sizes, of %s', (_, change, changed) => {
    expect(() => layoutOf(change, changed)).toThrow(
      expect.objectContaining({ code: 'BUNDLE_MALFORMED', message: expect.stringContaining('99 bytes') }),
    );
  });

  it.each([
    ['weight', ['x.safetensors', 'X.GGUF', 'a/b.bin', 'm.pt', 'm.pth', 'm.ckpt', 'm.onnx', 'm.npz']],
    ['code', ['modeling.py', 'a/B.PY']],
    [
      'doc',
      ['LICENSE', 'licence.xyz', 'NOTICE', 'README', 'Copying', 'docs/guide.md', 'a.txt', 'a.pdf', 'a.rst'],
    ],
    [
      'weight.config',
      [
        'config.json',
        'tokenizer.model',
        'a.safetensors.index.json',
        'safetensors',
        'x.pyc',
        'md',
        'mylicense.json',
        'a.md/b',
      ],
    ],
  ])('calls by its name what is %s', (kind, paths) => {
    for (const path of paths) {
      const one = layoutOf({ models: [{ ...inventory.models[0]!, files: [{ path, ...blob('f') }] }] });
      const artifact = generated(one, index(one)[1]!) as { layers: { mediaType: string }[] };
      expect(artifact.layers[0]!.mediaType, path).toBe(`${WEIGHT}.${kind}.v1.raw`);
    }
  });
});
