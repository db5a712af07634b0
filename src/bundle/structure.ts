// SPDX-License-Identifier: Apache-2.0
/** What is behind the slots: documents, the blobs' places, images, and that all of it follows from the inventory (FORMAT.md §5, §6, §7). */
import { SealiftError } from '../errors.ts';
import { digestOf, type Digest, type Expected } from '../store/digest.ts';
import type { ArchiveWalk, Extent } from './archive.ts';
import { parseInventory, type Descriptor, type Inventory } from './inventory.ts';
import { deriveLayout, type Layout } from './layout.ts';
import { MAX_DOCUMENT_BYTES, MAX_IMAGE_JSON_BYTES } from './limits.ts';
import { parseImageConfig, parseImageManifest, type ImageManifest } from './oci.ts';
import { checkProvenance, type SignedProvenance } from './provenance.ts';
import { blobName, DOCUMENTS, parseSums, type DocumentName, type Sums } from './sums.ts';

export interface VerifiedImage {
  name: string;
  ref: string;
  manifest: Descriptor;
  manifestBytes: Buffer;
  config: Descriptor;
  configBytes: Buffer;
  layers: Descriptor[];
  /** Digests of the uncompressed layers, from the config: what an engine reports as RootFS.Layers. */
  diffIds: Digest[];
}

/** Where everything is, once it has been found to follow from the inventory. */
export interface Structure {
  images: readonly VerifiedImage[];
  blobs: ReadonlyMap<Digest, Extent>;
  provenance: SignedProvenance;
}

interface Documents {
  sums: Sums;
  documents: ReadonlyMap<DocumentName, Buffer>;
  inventory: Inventory;
}

/**
 * The documents and what they say, from the bytes of SHA256SUMS on.
 * @throws {SealiftError} BUNDLE_MALFORMED, BUNDLE_INCOMPLETE, BUNDLE_UNSUPPORTED, CONTENT_MISMATCH
 */
export async function readInventory(walk: ArchiveWalk, head: Uint8Array): Promise<Documents> {
  const sums = parseSums(head);
  const documents = await readDocuments(walk, sums);
  return { sums, documents, inventory: parseInventory(documents.get('bundle.json')!) };
}

/**
 * Walks the rest of the archive, and holds all of it against what follows from the inventory.
 * @throws {SealiftError} BUNDLE_MALFORMED, BUNDLE_INCOMPLETE, CONTENT_MISMATCH
 */
export async function readStructure(
  walk: ArchiveWalk,
  { sums, documents, inventory }: Documents,
): Promise<Structure> {
  const provenance = checkProvenance(documents.get('provenance.json')!, documents.get('bundle.json')!);
  const blobs = await walkBlobs(walk, sums);
  await walk.end();
  const images = await readImages(inventory, blobs, walk);
  const layout = deriveLayout(inventory, new Map(images.map((i) => [i.manifest.digest, i.parsed])));
  checkLayout(layout, documents, sums, blobs);
  await checkGenerated(layout, blobs, walk);
  return { provenance, blobs, images: images.map(({ parsed: _, ...image }) => image) };
}

/**
 * The documents, each checked against SHA256SUMS.
 * @throws {SealiftError} CONTENT_MISMATCH
 */
export async function readDocuments(walk: ArchiveWalk, sums: Sums): Promise<Map<DocumentName, Buffer>> {
  const documents = new Map<DocumentName, Buffer>();
  for (const name of DOCUMENTS) {
    const bytes = await walk.content(await walk.next(name, MAX_DOCUMENT_BYTES));
    if (digestOf(bytes) !== sums.documents.get(name)) {
      throw new SealiftError('CONTENT_MISMATCH', `${name} is not what was signed`, {
        details: [
          ['signed', sums.documents.get(name)!],
          ['found', digestOf(bytes)],
        ],
      });
    }
    documents.set(name, bytes);
  }
  return documents;
}

async function walkBlobs(walk: ArchiveWalk, sums: Sums): Promise<Map<Digest, Extent>> {
  const blobs = new Map<Digest, Extent>();
  for (const digest of sums.blobs)
    blobs.set(digest, await walk.next(blobName(digest), Number.MAX_SAFE_INTEGER));
  return blobs;
}

type ReadImage = VerifiedImage & { parsed: ImageManifest };

function readImages(
  inventory: Inventory,
  blobs: ReadonlyMap<Digest, Extent>,
  walk: ArchiveWalk,
): Promise<ReadImage[]> {
  return Promise.all(inventory.images.map((image) => readImage(image, inventory.platform, blobs, walk)));
}

async function readImage(
  image: Inventory['images'][number],
  platform: string,
  blobs: ReadonlyMap<Digest, Extent>,
  walk: ArchiveWalk,
): Promise<ReadImage> {
  const read = async (blob: Expected, what: string): Promise<Buffer> => {
    const extent = blobs.get(blob.digest);
    if (!extent || extent.size !== blob.size || blob.size > MAX_IMAGE_JSON_BYTES)
      throw malformed(`${what} is missing or has another size`);
    return demandBytes(await walk.content(extent), blob);
  };
  const manifestBytes = await read(image.manifest, `the manifest of image ${image.name}`);
  const parsed = parseImageManifest(manifestBytes, `the manifest of image ${image.name}`, 'BUNDLE_MALFORMED');
  // containerd believes the descriptor's type, classic engines the manifest: they must not be able to differ (CVE-2021-41190).
  if (image.manifest.mediaType !== parsed.mediaType)
    throw malformed(
      `the manifest of image ${image.name} is ${parsed.mediaType}, its descriptor says another type`,
    );
  const configBytes = await read(parsed.config, `the config of image ${image.name}`);
  const config = parseImageConfig(configBytes, `the config of image ${image.name}`, 'BUNDLE_MALFORMED');
  if (`${config.os}/${config.architecture}` !== platform)
    throw malformed(
      `image ${image.name} is for ${config.os}/${config.architecture}, the bundle for ${platform}`,
    );
  if (config.diffIds.length !== parsed.layers.length)
    throw malformed(
      `image ${image.name} has ${parsed.layers.length} layers, but its config lists ${config.diffIds.length}`,
    );
  const { name, ref, manifest } = image;
  return {
    name,
    ref,
    manifest,
    manifestBytes,
    config: parsed.config,
    configBytes,
    layers: parsed.layers,
    diffIds: config.diffIds,
    parsed,
  };
}

/** Documents and blobs must be exactly the ones that follow from the inventory. */
function checkLayout(
  layout: Layout,
  documents: ReadonlyMap<DocumentName, Buffer>,
  sums: Sums,
  blobs: ReadonlyMap<Digest, Extent>,
): void {
  for (const [name, bytes] of layout.documents) {
    if (!documents.get(name)!.equals(bytes)) throw malformed(`${name} does not follow from bundle.json`);
  }
  const expected = [...layout.meta, ...layout.content];
  if (expected.length !== sums.blobs.length)
    throw malformed(`it lists ${sums.blobs.length} blobs, its inventory needs ${expected.length}`);
  for (const [i, { digest, size }] of expected.entries()) {
    if (sums.blobs[i] !== digest)
      throw malformed(`blob ${i + 1} of SHA256SUMS is not the one that follows from bundle.json`);
    if (blobs.get(digest)!.size !== size)
      throw malformed(`${digest} is ${blobs.get(digest)!.size} bytes, its descriptor says ${size}`);
  }
}

/** The blobs that we write ourselves are compared here, because the installer, which needs none of them, reads none. */
async function checkGenerated(
  layout: Layout,
  blobs: ReadonlyMap<Digest, Extent>,
  walk: ArchiveWalk,
): Promise<void> {
  for (const [digest, bytes] of layout.generated) {
    demandBytes(await walk.content(blobs.get(digest)!), { digest, size: bytes.length });
  }
}

function demandBytes(bytes: Buffer, expected: Expected): Buffer {
  demandDigest(digestOf(bytes), expected);
  return bytes;
}

/** @throws {SealiftError} CONTENT_MISMATCH */
export function demandDigest(found: Digest, expected: Expected): void {
  if (found !== expected.digest)
    throw mismatch([
      ['signed', expected.digest],
      ['found', found],
    ]);
}

function mismatch(details: (readonly [string, string])[]): SealiftError {
  return new SealiftError('CONTENT_MISMATCH', 'a blob of the bundle is not what was signed', {
    details,
    hint: 'do not use this copy: carry the bundle again',
  });
}

const malformed = (why: string): SealiftError =>
  new SealiftError('BUNDLE_MALFORMED', `the bundle is malformed: ${why}`, {
    hint: 'damaged, tampered with, or written by another program: do not use this copy',
  });
