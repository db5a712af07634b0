// SPDX-License-Identifier: Apache-2.0
/** The deterministic writer: the same inventory, provenance and blobs give the same bytes from `bundle.json` on (FORMAT.md §7). */
import { asSealiftError } from '../errors.ts';
import { canonicalJson } from '../json.ts';
import { digestOf, type Digest, type Expected } from '../store/digest.ts';
import type { Store } from '../store/store.ts';
import type { Destination, Stretch } from '../store/transfer.ts';
import { encodeSlot, SLOT_BYTES, SLOT_COUNT } from '../trust/slots.ts';
import { parseInventory, type Inventory } from './inventory.ts';
import { deriveLayout, type Layout } from './layout.ts';
import { MAX_IMAGE_JSON_BYTES } from './limits.ts';
import { parseImageManifest } from './oci.ts';
import { blobName, formatSums, slotName, SUMS_NAME, type DocumentName } from './sums.ts';
import { END_OF_ARCHIVE, memberBytes, padding, tarHeader } from './tar.ts';
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

/**
 * Writes an archive in any order: blobs as they come, by threads, and at the end what the plan itself holds.
 * Whoever writes a blob has verified it, so a bundle never carries what its SHA256SUMS does not say.
 */
export class BundleWriter {
  readonly #plan: BundlePlan;
  readonly #target: ByteTarget;
  readonly #blobs: ReadonlyMap<Digest, Place>;
  readonly #endAt: number;

  /** @param target is the writer's from now on */
  constructor(plan: BundlePlan, target: ByteTarget) {
    this.#plan = plan;
    this.#target = target;
    let offset = headBytes(plan);
    const blobs = new Map<Digest, Place>();
    for (const { digest, size } of plan.blobs) {
      blobs.set(digest, { name: blobName(digest), offset, size });
      offset += memberBytes(size);
    }
    this.#blobs = blobs;
    this.#endAt = offset;
  }

  /**
   * Where the content of a blob goes. Its header and padding go with it: written apart, they would make the disk write
   * the pages of small files twice.
   */
  place(digest: Digest): Destination {
    const { name, offset, size } = this.#blobs.get(digest)!;
    const to = this.#target.stretches(offset, memberBytes(size));
    return { to, before: tarHeader(name, size), after: padding(size) };
  }

  /** Where the content of a blob lies that has been written to its place; what stands around it is written again. */
  written(digest: Digest): Stretch[] {
    const { name, offset, size } = this.#blobs.get(digest)!;
    const header = tarHeader(name, size);
    this.#target.write(header, offset);
    this.#target.write(Buffer.alloc(padding(size)), offset + header.length + size);
    return this.#target.stretches(offset + header.length, size);
  }

  /** Told of bytes that have been written to a place. */
  wrote(bytes: number): void {
    this.#target.wrote(bytes);
  }

  /**
   * Writes everything else, makes the archive durable, and gives it its name. Every blob that the plan does not make
   * itself must have been written.
   * @param signatures Sigstore bundles over `plan.sums`, at most eight
   * @throws {SealiftError} DISK_FULL, IO_ERROR
   */
  async finish(signatures: readonly string[]): Promise<void> {
    try {
      this.#target.write(this.#head(signatures), 0);
      this.#generated();
      await this.#target.finish();
    } catch (error) {
      throw asSealiftError(error, `writing ${this.#target.name}`);
    }
  }

  /** Leaves nothing, or what a later run can go on with. */
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
    return Buffer.concat(members.flatMap(([name, bytes]) => member(name, bytes)));
  }

  /** The blobs that the plan makes, and the end mark. */
  #generated(): void {
    for (const [digest, bytes] of this.#plan.generated) {
      const { name, offset } = this.#blobs.get(digest)!;
      this.#target.write(Buffer.concat(member(name, bytes)), offset);
    }
    this.#target.write(END_OF_ARCHIVE, this.#endAt);
  }
}

const member = (name: string, bytes: Uint8Array): Uint8Array[] => [
  tarHeader(name, bytes.length),
  bytes,
  Buffer.alloc(padding(bytes.length)),
];

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
