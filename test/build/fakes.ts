// SPDX-License-Identifier: Apache-2.0
/** Sources in memory that count what is asked of them, and a manifest that names them. */
import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Sources } from '../../src/build/context.ts';
import { parseManifest, type Manifest } from '../../src/build/manifest.ts';
import { Credentials } from '../../src/build/sources/credentials.ts';
import type { SourceContext, SourceFile } from '../../src/build/sources/source.ts';
import { SealiftError } from '../../src/errors.ts';
import type { SealiftEvent } from '../../src/events.ts';
import { digestOf, type Digest } from '../../src/store/digest.ts';
import { Store, type BlobSource } from '../../src/store/store.ts';
import { tinyImage, type Image } from '../support/images.ts';
import { tempDir } from '../support/workspace.ts';

export const NOW = new Date('2026-11-23T10:00:00.789Z');

export interface FakeModel {
  revision: string;
  license?: string;
  /** Content by path. */
  files: Record<string, string>;
  /** Paths whose sha256 the hub knows beforehand. */
  lfs: string[];
}

export class FakeWorld {
  readonly images = new Map<string, { image: Image; ref?: string | undefined; index?: Digest }>();
  readonly models = new Map<string, FakeModel>();
  /** What was resolved and opened, in order: `resolve FROM`, `open DIGEST`, `open PATH`. */
  readonly asked: string[] = [];
  /** Content that is sent in place of the listed one, by path or digest. */
  readonly lies = new Map<string, string>();
  /** Connections of these that break off after the given number of bytes, once for each entry. */
  readonly drops = new Map<string, number[]>();

  /** What cannot even be opened. */
  readonly closed = new Set<string>();

  readonly sources: Sources = {
    image: (from) => ({
      resolve: async () => {
        this.asked.push(`resolve ${from}`);
        const found = this.images.get(from);
        if (!found) throw new SealiftError('IMAGE_NOT_FOUND', `no image ${from}`);
        const { image, ref, index } = found;
        const manifest = { ...image.manifest, digest: image.manifest.digest as Digest };
        return {
          ref,
          manifest,
          manifestBytes: image.blobs.get(manifest.digest)!,
          ...(index === undefined ? {} : { index }),
          blob: ({ digest }) => this.#source(digest, image.blobs.get(digest)!),
        };
      },
    }),
    model: (from, _, locked) => ({
      resolve: async (_emit, choose = (all) => [...all]) => {
        this.asked.push(`resolve ${from}`);
        const model = this.models.get(from);
        if (!model) throw new SealiftError('MODEL_NOT_FOUND', `no model ${from}`);
        return {
          hub: 'https://huggingface.co',
          repo: from.replace(/^hf:(.*)@.*$/, '$1'),
          revision: locked?.revision ?? model.revision,
          ...(model.license === undefined ? {} : { license: model.license }),
          files: choose(
            Object.entries(model.files).map(([path, text]) => listed(path, text, model.lfs.includes(path))),
          ),
          file: (path) => this.#source(path, Buffer.from(model.files[path]!)),
        };
      },
    }),
  };

  #source(key: string, content: Buffer): BlobSource {
    return {
      open: async (offset) => {
        this.asked.push(`open ${key}`);
        if (this.closed.has(key)) throw new SealiftError('NETWORK_ERROR', `${key}: connection refused`);
        const lie = this.lies.get(key);
        const bytes = (lie === undefined ? content : Buffer.from(lie)).subarray(offset);
        return { offset, body: this.#send(key, bytes) };
      },
    };
  }

  // oxlint-disable-next-line require-await
  async *#send(key: string, bytes: Buffer): AsyncGenerator<Uint8Array> {
    const drop = this.drops.get(key)?.shift();
    yield bytes.subarray(0, drop ?? bytes.length);
    if (drop !== undefined) throw new SealiftError('NETWORK_ERROR', `${key}: connection reset`);
  }

  /** How often something was asked. */
  count(what: string): number {
    return this.asked.filter((asked) => asked === what).length;
  }
}

function listed(path: string, text: string, lfs: boolean): SourceFile {
  const size = Buffer.byteLength(text);
  if (lfs) return { path, size, digest: digestOf(text) };
  return { path, size, gitOid: createHash('sha1').update(`blob ${size}\0`).update(text).digest('hex') };
}

export const MANIFEST = `
apiVersion: sealift.dev/v1
kind: Bundle
metadata: { name: demo, version: 1.0.0 }
platform: linux/amd64
images:
  engine: { from: docker.io/vllm/vllm-openai:v0.27.1 }
  gateway: { from: docker.io/library/nginx:1.29-alpine }
models:
  tiny: { from: hf:sealift/tiny@main }
configs:
  prometheus.yml: ./prometheus.yml
services:
  chat: { engine: vllm, image: engine, model: tiny, options: { skip-tokenizer-init: true } }
gateway: { image: gateway }
`;

export const manifestOf = (change: (text: string) => string = (text) => text): Manifest =>
  parseManifest(change(MANIFEST), 'demo.yaml');

export const ENGINE = 'docker.io/vllm/vllm-openai:v0.27.1';
export const GATEWAY = 'docker.io/library/nginx:1.29-alpine';
export const TINY = 'hf:sealift/tiny@main';
export const COMMIT = 'a'.repeat(40);

const fakeImage = (name: string): Image =>
  tinyImage({ name, payload: name.repeat(2000), shared: true, architecture: 'amd64' });

/** Everything that MANIFEST names. */
export function fakeWorld(): FakeWorld {
  const world = new FakeWorld();
  world.images.set(ENGINE, { image: fakeImage('engine'), ref: ENGINE, index: `sha256:${'1'.repeat(64)}` });
  world.images.set(GATEWAY, { image: fakeImage('gateway'), ref: GATEWAY });
  world.models.set(TINY, {
    revision: COMMIT,
    license: 'apache-2.0',
    files: {
      'model.safetensors': 'w'.repeat(50_000),
      'config.json': '{}',
      LICENSE: 'free',
      'sub/empty.txt': '',
    },
    lfs: ['model.safetensors'],
  });
  return world;
}

export interface Bench {
  context: SourceContext;
  events: SealiftEvent[];
  /** Messages of the warnings, as `CODE message`. */
  warnings(): string[];
}

/** A staging box of its own: a folder with the configs, an empty store, and a record of events. */
export async function bench(store?: Store): Promise<Bench> {
  const baseDir = tempDir('manifest');
  mkdirSync(join(baseDir, 'sub'));
  writeFileSync(join(baseDir, 'prometheus.yml'), 'scrape: []\n');
  const events: SealiftEvent[] = [];
  const context: SourceContext = {
    baseDir,
    store: store ?? (await Store.open(tempDir('store'))),
    platform: 'linux/amd64',
    credentials: new Credentials({}),
    mirrors: new Map(),
    plainHttp: new Set(),
    hubUrl: 'https://huggingface.co',
    emit: (event) => void events.push(event),
  };
  const warnings = (): string[] =>
    events.flatMap((e) => (e.type === 'warning' ? [`${e.code} ${e.message}`] : []));
  return { context, events, warnings };
}

/** The SealiftError that a promise fails with. */
export async function failure(promise: Promise<unknown>): Promise<SealiftError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof SealiftError) return error;
    throw error;
  }
  throw new Error('it did not fail');
}
