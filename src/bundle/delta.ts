// SPDX-License-Identifier: Apache-2.0
/** What bundles have in common (FORMAT.md §4.7): every layer and file that one of them stands for, carried or left out. */
import { SealiftError } from '../errors.ts';
import type { Digest, Expected } from '../store/digest.ts';
import { ArchiveWalk, readHead } from './archive.ts';
import type { Inventory } from './inventory.ts';
import { MAX_IMAGE_JSON_BYTES } from './limits.ts';
import { parseImageManifest, type ImageManifest } from './oci.ts';
import { demandDigest, readInventory } from './structure.ts';
import { blobName } from './sums.ts';
import { digestOf } from '../store/digest.ts';
import { openSource, type Media } from './volumes.ts';

export interface Contents {
  /** sha256 of SHA256SUMS; undefined for what has none at hand. */
  digest: Digest | undefined;
  inventory: Inventory;
  /** By the digest of the manifest. */
  manifests: ReadonlyMap<Digest, ImageManifest>;
}

/**
 * Reads what a bundle says it stands for. Nobody has vouched for any of it.
 * @throws {SealiftError} NOT_A_BUNDLE, BUNDLE_MALFORMED, BUNDLE_INCOMPLETE, CONTENT_MISMATCH
 */
export async function readContents(path: string, media: Media = {}): Promise<Contents> {
  const source = await openSource(path, media);
  try {
    const walk = new ArchiveWalk(source);
    const { sums: head } = await readHead(source, walk);
    const { inventory, sums } = await readInventory(walk, head);
    const wanted = new Set(inventory.images.map(({ manifest }) => manifest.digest));
    const manifests = new Map<Digest, ImageManifest>();
    // Manifests come first, so little more than these is read.
    for (const digest of sums.blobs) {
      if (manifests.size === wanted.size) break;
      const extent = await walk.next(blobName(digest), Number.MAX_SAFE_INTEGER);
      if (!wanted.has(digest) || extent.size > MAX_IMAGE_JSON_BYTES) continue;
      const bytes = await walk.content(extent);
      demandDigest(digestOf(bytes), { digest, size: extent.size });
      manifests.set(digest, parseImageManifest(bytes, `manifest ${digest}`, 'BUNDLE_MALFORMED'));
    }
    return { digest: digestOf(head), inventory, manifests };
  } finally {
    await source.close();
  }
}

/** A layer or file, and what it is for. */
export interface Piece extends Expected {
  /** `image engine: layer 2/9`, `model qwen3: model-00001-of-00002.safetensors`, `config prometheus.yml` */
  purpose: string;
}

/**
 * Every layer and file of a bundle, each digest once.
 * @throws {SealiftError} BUNDLE_MALFORMED when the manifest of an image is not at hand
 */
export function piecesOf({ inventory, manifests }: Pick<Contents, 'inventory' | 'manifests'>): Piece[] {
  const layers = inventory.images.flatMap(({ name, manifest }) => {
    const parsed = manifests.get(manifest.digest);
    if (parsed === undefined)
      throw new SealiftError('BUNDLE_MALFORMED', `the manifest of image ${name} is not there`);
    const { layers: all } = parsed;
    return all.map(({ digest, size }, i) => ({
      digest,
      size,
      purpose: `image ${name}: layer ${i + 1}/${all.length}`,
    }));
  });
  const files = inventory.models.flatMap(({ name, files: all }) =>
    all.map(({ path, digest, size }) => ({ digest, size, purpose: `model ${name}: ${path}` })),
  );
  const configs = inventory.configs.map(({ name, digest, size }) => ({
    digest,
    size,
    purpose: `config ${name}`,
  }));
  return [
    ...new Map([...configs, ...files, ...layers].toReversed().map((piece) => [piece.digest, piece])).values(),
  ].toReversed();
}
