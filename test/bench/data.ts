// SPDX-License-Identifier: Apache-2.0
/** What is carried in a benchmark: weights that do not compress, and images with layers of the same. */
import { createCipheriv, createHash } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readSync, statSync, writeFileSync, writeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { gzipSync } from 'node:zlib';
import type { ByteSource, ModelFiles } from '../../fixtures/model.ts';

const CHUNK = 4 * 1024 * 1024;

/** Bytes that look random and are the same for the same seed: AES in counter mode over zeros. */
function* noise(size: number, seed: number): Generator<Buffer> {
  const key = createHash('sha256').update(`noise ${seed}`).digest().subarray(0, 16);
  const cipher = createCipheriv('aes-128-ctr', key, Buffer.alloc(16));
  const zeros = Buffer.alloc(CHUNK);
  for (let left = size; left > 0; left -= CHUNK)
    yield cipher.update(zeros.subarray(0, Math.min(CHUNK, left)));
}

function noiseFile(path: string, size: number, seed: number): void {
  mkdirSync(dirname(path), { recursive: true });
  const fd = openSync(path, 'w');
  for (const chunk of noise(size, seed)) writeSync(fd, chunk);
  closeSync(fd);
}

/** Weights in shards of equal size, and the small file that every model has. */
export function makeWeights(dir: string, shards: number, shardBytes: number, seed = 1): void {
  for (const [i, name] of shardNames(shards).entries())
    noiseFile(join(dir, name), shardBytes, seed * 1000 + i);
  writeFileSync(join(dir, 'config.json'), '{"model_type":"bench"}\n');
}

export function shardNames(shards: number): string[] {
  const five = (n: number): string => String(n).padStart(5, '0');
  return Array.from({ length: shards }, (_, i) => `model-${five(i + 1)}-of-${five(shards)}.safetensors`);
}

/** Another shard in the place of one. */
export function changeShard(dir: string, name: string, seed = 999_983): void {
  const path = join(dir, name);
  noiseFile(path, statSync(path).size, seed);
}

/** `count` files of 4 to 16 KiB in folders of a hundred. */
export function makeSmallFiles(dir: string, count: number): void {
  for (let i = 0; i < count; i++)
    noiseFile(join(dir, String(Math.floor(i / 100)), `${i}.bin`), 4096 + ((i * 7919) % 12_288), i);
}

/** Files of a folder for the hub of the tests: read when they are asked for. */
export function hubFiles(dir: string, names: readonly string[]): ModelFiles {
  return new Map(names.map((name) => [name, { bytes: fileSource(join(dir, name)), lfs: true }]));
}

function fileSource(path: string): ByteSource {
  const { size } = statSync(path);
  const fd = openSync(path, 'r');
  return {
    size,
    chunk(offset, length) {
      const buffer = Buffer.allocUnsafe(length);
      for (let done = 0; done < length;) done += readSync(fd, buffer, done, length - done, offset + done);
      return buffer;
    },
  };
}

interface Descriptor {
  mediaType: string;
  digest: string;
  size: number;
}

/** An image whose layers hold one file of noise each, as an OCI layout; layers are gzip, as registries have them. */
export function makeImage(dir: string, seeds: readonly number[], layerBytes: number): void {
  const blobs = join(dir, 'blobs/sha256');
  mkdirSync(blobs, { recursive: true });
  const put = (bytes: Buffer, mediaType: string): Descriptor => {
    const hex = createHash('sha256').update(bytes).digest('hex');
    writeFileSync(join(blobs, hex), bytes);
    return { mediaType, digest: `sha256:${hex}`, size: bytes.length };
  };
  const layers = seeds.map((seed) => layer(seed, layerBytes));
  const config = {
    architecture: 'amd64',
    os: 'linux',
    config: { Cmd: ['/noise'] },
    rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
  };
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const manifest = {
    schemaVersion: 2,
    mediaType,
    config: put(json(config), 'application/vnd.oci.image.config.v1+json'),
    layers: layers.map(({ packed }) => put(packed, 'application/vnd.oci.image.layer.v1.tar+gzip')),
  };
  writeFileSync(join(dir, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  const annotations = { 'org.opencontainers.image.ref.name': 'noise:1' };
  const found = { ...put(json(manifest), mediaType), annotations };
  writeFileSync(join(dir, 'index.json'), json({ schemaVersion: 2, manifests: [found] }));
}

const json = (value: unknown): Buffer => Buffer.from(JSON.stringify(value));

function layer(seed: number, size: number): { packed: Buffer; diffId: string } {
  const end = Buffer.alloc((-size & 511) + 1024);
  const tar = Buffer.concat([tarHeader(`noise-${seed}`, size), ...noise(size, seed), end]);
  const diffId = `sha256:${createHash('sha256').update(tar).digest('hex')}`;
  return { packed: gzipSync(tar, { level: 1 }), diffId };
}

/** Only what an engine needs in order to unpack it. */
function tarHeader(name: string, size: number): Buffer {
  const octal = (value: number): string => value.toString(8).padStart(11, '0');
  const block = Buffer.alloc(512);
  block.write(name, 0);
  block.write(`0000644\x000000000\x000000000\x00${octal(size)}\x00${octal(0)}\x00        0`, 100);
  block.write('ustar\x0000', 257);
  const sum = block.reduce((a, b) => a + b, 0);
  block.write(`${sum.toString(8).padStart(6, '0')}\x00 `, 148);
  return block;
}
