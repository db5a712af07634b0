// SPDX-License-Identifier: Apache-2.0
/** The deterministic writer: the same inventory, provenance and blobs give the same bytes from `bundle.json` on (FORMAT.md §7). */
import { asSealiftError } from '../errors.ts';
import { canonicalJson } from '../json.ts';
import { digestOf, type Digest, type Expected } from '../store/digest.ts';
import type { Store } from '../store/store.ts';
import type { Stretch } from '../store/transfer.ts';
import { encodeSlot, SLOT_BYTES, SLOT_COUNT } from '../trust/slots.ts';
import { parseInventory, type Inventory } from './inventory.ts';
import { deriveLayout, type Layout } from './layout.ts';
import { MAX_IMAGE_JSON_BYTES } from './limits.ts';
import { parseImageManifest } from './oci.ts';
import { blobName, formatSums, slotName, SUMS_NAME, type DocumentName } from './sums.ts';
import { BLOCK_BYTES, END_OF_ARCHIVE, memberBytes, padding, tarHeader } from './tar.ts';
import { FileTarget, type ByteTarget } from './target.ts';

/** Where a plan gets the manifests of images from; a Store is one. */
export interface BlobReader {
  /** A small blob, checked against its digest. */
  readBytes(expected: Expected, maxBytes: number): Promise<Buffer>;
}

export interface BundlePlan {
  /** The content of SHA256SUMS: what signers sign. */
  sums: Buffer;
  /** The bundle's identity: the sha256 of `sums`. */
  digest: Digest;
  /** Size of the whole archive, in bytes. */
  size: number;
  documents: readonly (readonly [DocumentName, Buffer])[];
  generated: ReadonlyMap<Digest, Buffer>;
  blobs: readonly Expected[];
}

/** Everything that follows from an inventory, with the manifests that a store has. */
export async function layoutOf(inventory: Inventory, blobs: BlobReader): Promise<Layout> {
  const manifests = new Map(
    await Promise.all(
      inventory.images.map(async ({ name, manifest }) => {
        const bytes = await blobs.readBytes(manifest, MAX_IMAGE_JSON_BYTES);
        return [
          manifest.digest,
          parseImageManifest(bytes, `the manifest of image ${name}`, 'SOURCE_INVALID'),
        ] as const;
      }),
    ),
  );
  return deriveLayout(inventory, manifests);
}

/**
 * Everything about the bundle but its content: names, sizes, order, and so the bytes to sign. Writes nothing.
 * @param blobs must hold the manifest of every image
 */
export async function planBundle(
  inventory: Inventory,
  provenance: Uint8Array,
  blobs: BlobReader,
): Promise<BundlePlan> {
  const bundleJson = canonicalJson(inventory);
  parseInventory(bundleJson); // what a reader would refuse is never written
  const layout = await layoutOf(inventory, blobs);
  const documents: [DocumentName, Buffer][] = [
    ['bundle.json', bundleJson],
    ['provenance.json', Buffer.from(provenance)],
    ...layout.documents,
  ];
  const ordered = [...layout.meta, ...layout.content];
  const sums = formatSums(
    new Map(documents.map(([name, bytes]) => [name, digestOf(bytes)])),
    ordered.map((blob) => blob.digest),
  );
  const sizes = [
    sums.length,
    ...Array<number>(SLOT_COUNT).fill(SLOT_BYTES),
    ...documents.map(([, b]) => b.length),
    ...ordered.map((b) => b.size),
  ];
  const size = sizes.reduce((total, bytes) => total + memberBytes(bytes), END_OF_ARCHIVE.length);
  return { sums, digest: digestOf(sums), size, documents, generated: layout.generated, blobs: ordered };
}

/** Where the members of an archive lie. */
interface Place {
  name: string;
  /** Of the header. */
  offset: number;
  /** Bytes of content. */
  size: number;
}

/** Pieces between the blobs are gathered to this many bytes: a model of 20,000 files has 20,000 headers. */
const GATHER_BYTES = 1024 * 1024;

/**
 * Writes an archive in any order: blobs as they come, by threads, and at the end everything that lies between them.
 * Whoever writes a blob has verified it, so a bundle never carries what its SHA256SUMS does not say.
 */
export class BundleWriter {
  readonly #plan: BundlePlan;
  readonly #target: ByteTarget;
  readonly #blobs: ReadonlyMap<Digest, Place>;
  readonly #blobsAt: number;

  /** @param target is the writer's from now on */
  constructor(plan: BundlePlan, target: ByteTarget) {
    this.#plan = plan;
    this.#target = target;
    let offset = headBytes(plan);
    this.#blobsAt = offset;
    const blobs = new Map<Digest, Place>();
    for (const { digest, size } of plan.blobs) {
      blobs.set(digest, { name: blobName(digest), offset, size });
      offset += memberBytes(size);
    }
    this.#blobs = blobs;
  }

  /** Where the content of a blob goes. */
  place(digest: Digest): Stretch[] {
    const { offset, size } = this.#blobs.get(digest)!;
    return this.#target.stretches(offset + BLOCK_BYTES, size);
  }

  /** Told of bytes that have been written to a place. */
  wrote(bytes: number): void {
    this.#target.wrote(bytes);
  }

  /**
   * Writes what lies between the blobs, makes the archive durable, and gives it its name. Every blob that the plan does
   * not make itself must have been written.
   * @param signatures Sigstore bundles over `plan.sums`, at most eight
   * @throws {SealiftError} DISK_FULL, IO_ERROR
   */
  async finish(signatures: readonly string[]): Promise<void> {
    try {
      this.#target.write(this.#head(signatures), 0);
      this.#frames();
      await this.#target.finish();
    } catch (error) {
      throw asSealiftError(error, `writing ${this.#target.name}`);
    }
  }

  /** Leaves nothing. */
  async discard(): Promise<void> {
    await this.#target.discard();
  }

  #head(signatures: readonly string[]): Buffer {
    const { sums, documents } = this.#plan;
    const slots = Array.from(
      { length: SLOT_COUNT },
      (_, slot) => [slotName(slot), encodeSlot(signatures[slot])] as const,
    );
    const members = [[SUMS_NAME, sums], ...slots, ...documents] as const;
    return Buffer.concat(
      members.flatMap(([name, bytes]) => [
        tarHeader(name, bytes.length),
        bytes,
        Buffer.alloc(padding(bytes.length)),
      ]),
    );
  }

  /** Headers, the blobs that the plan makes, padding, the end mark; what adjoins is written together. */
  #frames(): void {
    let at = this.#blobsAt;
    let pieces: Buffer[] = [];
    let size = 0;
    const add = (piece: Buffer): void => {
      pieces.push(piece);
      size += piece.length;
    };
    const flush = (next: number): void => {
      if (size > 0) this.#target.write(Buffer.concat(pieces), at);
      pieces = [];
      size = 0;
      at = next;
    };
    for (const [digest, place] of this.#blobs) {
      add(tarHeader(place.name, place.size));
      const own = this.#plan.generated.get(digest);
      const content = place.offset + BLOCK_BYTES;
      if (own === undefined) flush(content + place.size);
      else add(own);
      add(Buffer.alloc(padding(place.size)));
      if (size >= GATHER_BYTES) flush(at + size);
    }
    add(END_OF_ARCHIVE);
    flush(at);
  }
}

/** Bytes before the first blob: SHA256SUMS, the slots, the documents. */
export const headBytes = ({ sums, documents }: BundlePlan): number =>
  [sums.length, ...Array<number>(SLOT_COUNT).fill(SLOT_BYTES), ...documents.map(([, bytes]) => bytes.length)]
    .map(memberBytes)
    .reduce((sum, bytes) => sum + bytes, 0);

/**
 * Writes a bundle whose blobs are all in one store.
 * @throws {SealiftError} STORE_DAMAGED, DISK_FULL, IO_ERROR
 */
export async function writeBundle(
  path: string,
  plan: BundlePlan,
  signatures: readonly string[],
  store: Store,
): Promise<void> {
  const writer = new BundleWriter(plan, await FileTarget.create(path));
  try {
    const blobs = plan.blobs.filter(({ digest }) => !plan.generated.has(digest));
    for (const blob of blobs) await store.copy(blob, writer.place(blob.digest));
    await writer.finish(signatures);
  } catch (error) {
    await writer.discard();
    throw error;
  }
}
