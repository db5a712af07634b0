// SPDX-License-Identifier: Apache-2.0
/** The deterministic writer: the same inventory, provenance and blobs give the same bytes from `bundle.json` on (FORMAT.md §7). */
import { open, rename, rm, type FileHandle } from 'node:fs/promises';
import { basename, dirname } from 'node:path';
import { asSealiftError, type SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import { canonicalJson } from '../json.ts';
import { digestOf, Hasher, type Digest, type Expected } from '../store/digest.ts';
import { fsyncDir } from '../store/files.ts';
import { writeFully } from '../store/store.ts';
import { encodeSlot, SLOT_BYTES, SLOT_COUNT } from '../trust/slots.ts';
import { parseInventory, type Inventory } from './inventory.ts';
import { deriveLayout } from './layout.ts';
import { MAX_IMAGE_JSON_BYTES } from './limits.ts';
import { parseImageManifest } from './oci.ts';
import { blobName, formatSums, slotName, SUMS_NAME, type DocumentName } from './sums.ts';
import { END_OF_ARCHIVE, memberBytes, padding, tarHeader } from './tar.ts';

/** Where the writer gets blobs from; a Store is one. */
export interface BlobReader {
  /** @param reuse chunks may share one buffer: each is valid until the next is asked for */
  stream(digest: Digest, reuse?: boolean): AsyncIterable<Uint8Array>;
  /** A small blob, checked against its digest. */
  readBytes(expected: Expected, maxBytes: number): Promise<Buffer>;
  /** The error for a blob that does not hash to its name. */
  rotten(digest: Digest): SealiftError;
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

export interface WriteOptions {
  emit?: Emit;
  signal?: AbortSignal;
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
  parseInventory(canonicalJson(inventory)); // what a reader would refuse is never written
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
  const layout = deriveLayout(inventory, manifests);
  const documents: [DocumentName, Buffer][] = [
    ['bundle.json', canonicalJson(inventory)],
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

/**
 * Writes the archive to a temporary name beside `path`, fsyncs it and renames it. Every blob is hashed once more
 * on its way from the store, so a bundle never carries what its SHA256SUMS does not say.
 * @param signatures Sigstore bundles over `plan.sums`, at most eight
 * @throws {SealiftError} STORE_DAMAGED, DISK_FULL, IO_ERROR, INTERRUPTED
 */
export async function writeBundle(
  path: string,
  plan: BundlePlan,
  signatures: readonly string[],
  blobs: BlobReader,
  options: WriteOptions = {},
): Promise<void> {
  const temp = `${path}.partial`;
  try {
    const handle = await open(temp, 'w', 0o644);
    try {
      await new Writer(handle, path, options).archive(plan, signatures, blobs);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temp, path);
    await fsyncDir(dirname(path));
  } catch (error) {
    await rm(temp, { force: true });
    throw asSealiftError(error, `writing ${path}`);
  }
}

/** Small writes are gathered to this many bytes: a model of 20,000 files is 60,000 of them. */
const GATHER_BYTES = 1024 * 1024;

class Writer {
  readonly #handle: FileHandle;
  readonly #emit: Emit;
  readonly #signal: AbortSignal | undefined;
  /** The archive is one item of progress: a model of 20,000 files must not be 20,000 lines of a log. */
  readonly #item: string;
  readonly #gathered = Buffer.allocUnsafe(GATHER_BYTES);
  #used = 0;

  constructor(handle: FileHandle, path: string, options: WriteOptions) {
    this.#handle = handle;
    this.#item = path;
    this.#emit = options.emit ?? silent;
    this.#signal = options.signal;
  }

  async archive(plan: BundlePlan, signatures: readonly string[], blobs: BlobReader): Promise<void> {
    this.#emit({
      type: 'item-start',
      id: this.#item,
      kind: 'bundle',
      label: basename(this.#item),
      bytes: plan.size,
    });
    await this.#member(SUMS_NAME, plan.sums);
    for (let slot = 0; slot < SLOT_COUNT; slot++)
      await this.#member(slotName(slot), encodeSlot(signatures[slot]));
    for (const [name, bytes] of plan.documents) await this.#member(name, bytes);
    for (const blob of plan.blobs) {
      const own = plan.generated.get(blob.digest);
      if (own) await this.#member(blobName(blob.digest), own);
      else await this.#blob(blob, blobs);
    }
    await this.#write(END_OF_ARCHIVE);
    await this.#flush();
    this.#emit({ type: 'item-end', id: this.#item, outcome: 'done' });
  }

  async #member(name: string, bytes: Uint8Array): Promise<void> {
    await this.#write(tarHeader(name, bytes.length));
    await this.#write(bytes);
    await this.#write(Buffer.alloc(padding(bytes.length)));
  }

  async #blob(blob: Expected, blobs: BlobReader): Promise<void> {
    await this.#write(tarHeader(blobName(blob.digest), blob.size));
    const hasher = new Hasher();
    for await (const chunk of blobs.stream(blob.digest, true)) {
      this.#signal?.throwIfAborted();
      hasher.update(chunk);
      await this.#write(chunk);
    }
    if (hasher.size !== blob.size || hasher.digest() !== blob.digest) {
      throw blobs.rotten(blob.digest);
    }
    await this.#write(Buffer.alloc(padding(blob.size)));
  }

  async #write(bytes: Uint8Array): Promise<void> {
    this.#emit({ type: 'item-progress', id: this.#item, delta: bytes.length });
    if (this.#used + bytes.length > GATHER_BYTES) await this.#flush();
    if (bytes.length >= GATHER_BYTES) return writeFully(this.#handle, bytes);
    this.#gathered.set(bytes, this.#used);
    this.#used += bytes.length;
  }

  async #flush(): Promise<void> {
    await writeFully(this.#handle, this.#gathered.subarray(0, this.#used));
    this.#used = 0;
  }
}
