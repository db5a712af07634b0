// SPDX-License-Identifier: Apache-2.0
/**
 * One image as an archive that every engine loads, made while it is sent (DESIGN §7). Order is what makes it
 * safe: first the blobs, each hashed as it leaves the bundle, and only then the documents that make an image
 * out of them and the end mark. When a blob is wrong the stream breaks off before anything names an image.
 */
import { createReadStream } from 'node:fs';
import { open, rm } from 'node:fs/promises';
import { join } from 'node:path';
import zlib from 'node:zlib'; // whole: a named import of a newer function would fail before main can say why
import { Readable } from 'node:stream';
import { deriveLayout } from '../bundle/layout.ts';
import type { Inventory } from '../bundle/inventory.ts';
import { parseImageManifest } from '../bundle/oci.ts';
import type { VerifiedImage } from '../bundle/open.ts';
import { blobName } from '../bundle/sums.ts';
import { END_OF_ARCHIVE, padding, tarHeader } from '../bundle/tar.ts';
import { SealiftError } from '../errors.ts';
import { canonicalJson } from '../json.ts';
import type { Digest, Expected } from '../store/digest.ts';
import { receive } from '../store/store.ts';
import { heldBody, type HeldLayer } from './base.ts';

/** The part of a VerifiedBundle that an archive is made from. */
export interface ArchiveSource {
  inventory: Inventory;
  blob(expected: Expected, signal?: AbortSignal): AsyncIterable<Buffer>;
}

export interface ArchiveOptions {
  /** Unpack zstd layers on the way, for engines that cannot read them (Docker before 23). */
  unpackZstd: boolean;
  /** Folder for the one layer at a time that is unpacked; a tar header needs its size beforehand. */
  spoolFolder: string;
  /** Layers that the bundle leaves out, by their digest, as the engine has given them back. */
  held?: ReadonlyMap<Digest, HeldLayer>;
  onBytes?: (delta: number) => void;
  signal?: AbortSignal;
}

const isZstd = (mediaType: string): boolean => /[.+]zstd$/.test(mediaType);

/** Bytes that travel from the bundle for an image. */
export const imageBytes = (image: VerifiedImage): number =>
  [image.config, ...image.layers].reduce((sum, blob) => sum + blob.size, image.manifest.size);

/**
 * @throws {SealiftError} CONTENT_MISMATCH before the documents are sent; DISK_FULL while a layer is unpacked
 */
export async function* imageArchive(
  source: ArchiveSource,
  image: VerifiedImage,
  options: ArchiveOptions,
): AsyncGenerator<Buffer> {
  const layers = image.layers.map((layer, i) => {
    const held = options.held?.get(layer.digest);
    if (held !== undefined) return heldLayer(layer, image.diffIds[i]!, held);
    return options.unpackZstd ? plainLayer(layer, image.diffIds[i]!) : asIs(layer);
  });
  yield* bytesMember(blobName(image.config.digest), image.configBytes, options);
  yield* bytesMember(blobName(image.manifest.digest), image.manifestBytes, options);
  const sent = new Set([blobName(image.config.digest), blobName(image.manifest.digest)]);
  for (const layer of layers) {
    if (sent.has(layer.name)) continue;
    sent.add(layer.name);
    if (layer.held !== undefined) yield* heldMember(layer.name, layer.held);
    else yield* layer.unpack ? unpackedMember(source, layer, options) : blobMember(source, layer, options);
  }
  const asSigned = layers.every((layer) => !layer.unpack);
  for (const [name, bytes] of asSigned ? layoutDocuments(source, image) : dockerDocuments(image, layers))
    yield* member(name, bytes);
  yield END_OF_ARCHIVE;
}

interface ArchiveLayer {
  blob: Expected;
  name: string;
  /** Whether it is sent unpacked. */
  unpack: boolean;
  diffId: Digest;
  held?: HeldLayer;
}

const asIs = (blob: Expected): ArchiveLayer => ({
  blob,
  name: blobName(blob.digest),
  unpack: false,
  diffId: blob.digest,
});

/** One that comes back packed has the digest that was signed; an unpacked one goes by its diff ID. */
const heldLayer = (blob: Expected, diffId: Digest, held: HeldLayer): ArchiveLayer => ({
  blob,
  name: blobName(held.unpacked ? diffId : blob.digest),
  unpack: held.unpacked,
  diffId,
  held,
});

async function* heldMember(name: string, held: HeldLayer): AsyncGenerator<Buffer> {
  yield tarHeader(name, held.size);
  yield* heldBody(held);
  yield Buffer.alloc(padding(held.size));
}

function plainLayer(blob: Expected & { mediaType: string }, diffId: Digest): ArchiveLayer {
  return isZstd(blob.mediaType) ? { blob, name: blobName(diffId), unpack: true, diffId } : asIs(blob);
}

/** The documents of a bundle with this image alone; the same function wrote the bundle's own. */
function layoutDocuments(source: ArchiveSource, image: VerifiedImage): Iterable<[string, Buffer]> {
  const only = source.inventory.images.filter(({ name }) => name === image.name);
  const manifest = parseImageManifest(
    image.manifestBytes,
    `the manifest of image ${image.name}`,
    'BUNDLE_MALFORMED',
  );
  // What a delta leaves out is part of the image: the archive for the engine is whole.
  const { base: _, ...whole } = source.inventory;
  const inventory = { ...whole, images: only, models: [], configs: [] };
  return deriveLayout(inventory, new Map([[image.manifest.digest, manifest]])).documents;
}

/** With unpacked layers the OCI manifest fits no more, so only the older form is sent: engines that need this read only that. */
function dockerDocuments(image: VerifiedImage, layers: readonly ArchiveLayer[]): Iterable<[string, Buffer]> {
  const entry = {
    Config: blobName(image.config.digest),
    RepoTags: [image.ref],
    Layers: layers.map(({ name }) => name),
  };
  return [['manifest.json', canonicalJson([entry])]];
}

function* member(name: string, bytes: Buffer): Generator<Buffer> {
  yield tarHeader(name, bytes.length);
  yield bytes;
  yield Buffer.alloc(padding(bytes.length));
}

function* bytesMember(name: string, bytes: Buffer, options: ArchiveOptions): Generator<Buffer> {
  yield* member(name, bytes);
  options.onBytes?.(bytes.length);
}

async function* blobMember(
  source: ArchiveSource,
  { blob, name }: ArchiveLayer,
  options: ArchiveOptions,
): AsyncGenerator<Buffer> {
  yield tarHeader(name, blob.size);
  yield* counted(source.blob(blob, options.signal), options);
  yield Buffer.alloc(padding(blob.size));
}

async function* unpackedMember(
  source: ArchiveSource,
  layer: ArchiveLayer,
  options: ArchiveOptions,
): AsyncGenerator<Buffer> {
  const file = join(options.spoolFolder, `layer-${process.pid}`);
  try {
    const size = await unpack(counted(source.blob(layer.blob, options.signal), options), file, layer);
    yield tarHeader(layer.name, size);
    for await (const chunk of createReadStream(file, { highWaterMark: 1024 * 1024 })) yield chunk as Buffer;
    yield Buffer.alloc(padding(size));
  } finally {
    await rm(file, { force: true });
  }
}

/**
 * @returns bytes of the unpacked layer
 * @throws {SealiftError} CONTENT_MISMATCH when it is not what the image's config names
 */
async function unpack(body: AsyncIterable<Buffer>, file: string, layer: ArchiveLayer): Promise<number> {
  const handle = await open(file, 'w', 0o600);
  let found: Expected;
  try {
    const packed = Readable.from(body);
    const plain = zlib.createZstdDecompress();
    packed.once('error', (error) => plain.destroy(error));
    found = await receive(packed.pipe(plain), handle);
  } catch (cause) {
    if (!/^(ZSTD|Z)_/.test((cause as { code?: string }).code ?? '')) throw cause; // Z_BUF_ERROR: it ends too early
    throw new SealiftError(
      'CONTENT_MISMATCH',
      `layer ${layer.blob.digest} is not zstd, as its media type says`,
      { cause },
    );
  } finally {
    await handle.close();
  }
  if (found.digest === layer.diffId) return found.size;
  throw new SealiftError(
    'CONTENT_MISMATCH',
    `layer ${layer.blob.digest} does not unpack to what the image names`,
    {
      details: [
        ['named', layer.diffId],
        ['unpacked', found.digest],
      ],
    },
  );
}

async function* counted(body: AsyncIterable<Buffer>, options: ArchiveOptions): AsyncGenerator<Buffer> {
  for await (const chunk of body) {
    yield chunk;
    options.onBytes?.(chunk.length);
  }
}
