// SPDX-License-Identifier: Apache-2.0
/**
 * The opener: from a path to a VerifiedBundle, in the order that DESIGN §4 and FORMAT.md §7.3 demand: bounds,
 * signatures and threshold, policy, structure; and then every byte, in the one pass in which it is used. With
 * too few good signatures nothing behind the slots is read.
 */
import { basename } from 'node:path';
import { SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import { digestOf, Hasher, type Digest, type Expected } from '../store/digest.ts';
import { checkPolicy, type TrustPolicy } from '../trust/policy.ts';
import { verifySignatures, type Verdict } from '../trust/verify.ts';
import { ArchiveWalk, readHead, type Extent } from './archive.ts';
import { parseInventory, purposeOf, type Descriptor, type Inventory } from './inventory.ts';
import { deriveLayout, type Layout } from './layout.ts';
import { MAX_DOCUMENT_BYTES, MAX_IMAGE_JSON_BYTES } from './limits.ts';
import { parseImageConfig, parseImageManifest, type ImageManifest } from './oci.ts';
import { checkProvenance, type SignedProvenance } from './provenance.ts';
import { FileSource, type ByteSource } from './source.ts';
import { blobName, DOCUMENTS, parseSums, type DocumentName, type Sums } from './sums.ts';

/** Reading in pieces of this many bytes hashes at the machine's rate (DESIGN §8). */
const CHUNK_BYTES = 1024 * 1024;

export interface OpenOptions {
  policy: TrustPolicy;
  /** The time at which validity is judged. */
  now: Date;
  /** What this host has installed under a bundle's name, for the refusal of rollbacks. */
  installed?: (name: string) => { version: string; digest: Digest } | undefined;
  emit?: Emit;
}

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

interface Opened {
  policy: TrustPolicy;
  judgedAt: Date;
  provenance: SignedProvenance;
  source: ByteSource;
  digest: Digest;
  inventory: Inventory;
  verdict: Verdict;
  images: readonly VerifiedImage[];
  blobs: ReadonlyMap<Digest, Extent>;
}

/** Held by this module alone, so that only the opener makes a VerifiedBundle. */
const opener = Symbol('opener');

/**
 * A bundle whose signatures, policy and structure have been accepted. Its blobs are verified as they are read:
 * `blob()` throws before it ends when the bytes are not the signed ones.
 */
export class VerifiedBundle {
  readonly path: string;
  /** The bundle's identity: sha256 of SHA256SUMS. */
  readonly digest: Digest;
  /** Size of the archive in bytes. */
  readonly size: number;
  readonly inventory: Inventory;
  readonly verdict: Verdict;
  /** The policy that allowed it, and the time at which it was judged. */
  readonly policy: TrustPolicy;
  readonly judgedAt: Date;
  readonly provenance: SignedProvenance;
  readonly images: readonly VerifiedImage[];
  readonly #opened: Opened;

  constructor(key: typeof opener, opened: Opened) {
    if (key !== opener) throw new TypeError('only openBundle makes a VerifiedBundle');
    this.path = opened.source.name;
    this.digest = opened.digest;
    this.size = opened.source.size;
    this.inventory = opened.inventory;
    this.verdict = opened.verdict;
    this.policy = opened.policy;
    this.judgedAt = opened.judgedAt;
    this.provenance = opened.provenance;
    this.images = opened.images;
    this.#opened = opened;
  }

  /**
   * Content of a blob, hashed as it passes. Nothing received may be relied on before the iteration has ended
   * without an error. Each buffer is the receiver's own, unless `reuse` is asked for: then a chunk is valid until
   * the next one is asked for.
   * @throws {SealiftError} CONTENT_MISMATCH
   */
  async *blob(expected: Expected, signal?: AbortSignal, reuse = false): AsyncGenerator<Buffer> {
    const extent = this.#extent(expected);
    const hasher = new Hasher();
    const shared = reuse ? Buffer.allocUnsafe(Math.min(CHUNK_BYTES, extent.size)) : undefined;
    for (let done = 0; done < extent.size; done = hasher.size) {
      signal?.throwIfAborted();
      const want = Math.min(CHUNK_BYTES, extent.size - done);
      const chunk = shared?.subarray(0, want) ?? Buffer.allocUnsafe(want);
      await this.#opened.source.readInto(chunk, extent.offset + done);
      hasher.update(chunk);
      // The last piece is handed out only after the digest matched: a receiver that counts bytes is safe too.
      if (hasher.size === extent.size) demandDigest(hasher.digest(), expected);
      yield chunk;
    }
    if (extent.size === 0) demandDigest(hasher.digest(), expected);
  }

  /**
   * Judges the version once more, against what the host has installed by now.
   * @throws {SealiftError} BUNDLE_REVOKED, VERSION_REFUSED
   */
  recheckPolicy(installed: { version: string; digest: Digest } | undefined): void {
    const { name, version } = this.inventory;
    checkPolicy({ name, version, digest: this.digest }, this.policy, installed);
  }

  /**
   * Hashes every blob.
   * @throws {SealiftError} CONTENT_MISMATCH, naming every blob that differs
   */
  async verifyContent(
    options: { emit?: Emit; signal?: AbortSignal } = {},
  ): Promise<{ blobs: number; bytes: number }> {
    const emit = options.emit ?? silent;
    const total = [...this.#opened.blobs.values()].reduce((sum, { size }) => sum + size, 0);
    const item = { id: this.path, kind: 'bundle', label: `every byte of ${basename(this.path)}` } as const;
    const bad: Digest[] = [];
    emit({ type: 'stage', name: 'hash', totalBytes: total });
    emit({ type: 'item-start', ...item, bytes: total });
    for (const [digest, { size }] of this.#opened.blobs) {
      const onBytes = (delta: number): void => emit({ type: 'item-progress', id: item.id, delta });
      if (!(await this.#matches({ digest, size }, onBytes, options.signal))) bad.push(digest);
    }
    emit({ type: 'item-end', id: item.id, outcome: bad.length > 0 ? 'failed' : 'done' });
    if (bad.length > 0) throw contentMismatch(bad, this.inventory);
    return { blobs: this.#opened.blobs.size, bytes: total };
  }

  async close(): Promise<void> {
    await this.#opened.source.close();
  }

  async #matches(
    expected: Expected,
    onBytes: (delta: number) => void,
    signal: AbortSignal | undefined,
  ): Promise<boolean> {
    try {
      for await (const chunk of this.blob(expected, signal, true)) onBytes(chunk.length);
      return true;
    } catch (error) {
      if (error instanceof SealiftError && error.code === 'CONTENT_MISMATCH') return false;
      throw error;
    }
  }

  #extent({ digest, size }: Expected): Extent {
    const extent = this.#opened.blobs.get(digest);
    if (!extent || extent.size !== size)
      throw new TypeError(`${digest} with ${size} bytes is not a blob of this bundle`);
    return extent;
  }
}

/**
 * Opens a bundle and judges everything but the content of its blobs.
 * @throws {SealiftError} NOT_A_BUNDLE, BUNDLE_MALFORMED, BUNDLE_INCOMPLETE, BUNDLE_UNSUPPORTED; NOT_SIGNED,
 *   BAD_SIGNATURE, UNTRUSTED_SIGNER, THRESHOLD_NOT_MET, SIGNER_REVOKED, SIGNER_EXPIRED; BUNDLE_REVOKED,
 *   VERSION_REFUSED; CONTENT_MISMATCH
 */
export async function openBundle(path: string, options: OpenOptions): Promise<VerifiedBundle> {
  const source = await FileSource.open(path);
  try {
    return new VerifiedBundle(opener, await judge(source, options));
  } catch (error) {
    await source.close();
    throw error;
  }
}

async function judge(source: ByteSource, options: OpenOptions): Promise<Opened> {
  const emit = options.emit ?? silent;
  const ok = (name: string, detail: string): void => emit({ type: 'check', name, outcome: 'ok', detail });
  const walk = new ArchiveWalk(source);
  const head = await readHead(source, walk);
  const digest = digestOf(head.sums);
  const verdict = verifySignatures(head.sums, head.slots, options.policy, options.now);
  ok(
    'signatures',
    `${verdict.accepted.length} of ${verdict.threshold} needed, by ${verdict.accepted.map((s) => s.signer).join(', ')}`,
  );
  const sums = parseSums(head.sums);
  const documents = await readDocuments(walk, sums);
  const inventory = parseInventory(documents.get('bundle.json')!);
  checkPolicy(
    { name: inventory.name, version: inventory.version, digest },
    options.policy,
    options.installed?.(inventory.name),
  );
  ok('policy', `policy ${options.policy.version} allows ${inventory.name} ${inventory.version}`);
  const provenance = checkProvenance(documents.get('provenance.json')!, documents.get('bundle.json')!);
  const blobs = await walkBlobs(walk, sums);
  await walk.end();
  const images = await readImages(inventory, blobs, walk);
  const layout = deriveLayout(inventory, new Map(images.map((i) => [i.manifest.digest, i.parsed])));
  checkLayout(layout, documents, sums, blobs);
  await checkGenerated(layout, blobs, walk);
  ok('structure', `${sums.blobs.length} blobs, ${source.size} bytes, canonical`);
  return {
    policy: options.policy,
    judgedAt: options.now,
    provenance,
    source,
    digest,
    inventory,
    verdict,
    images: images.map(({ parsed: _, ...image }) => image),
    blobs,
  };
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

function demandDigest(found: Digest, expected: Expected): void {
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

function contentMismatch(bad: readonly Digest[], inventory: Inventory): SealiftError {
  const named = bad.map((digest) => ['differs', `${digest} (${purposeOf(digest, inventory)})`] as const);
  return new SealiftError(
    'CONTENT_MISMATCH',
    `${bad.length === 1 ? 'one blob' : `${bad.length} blobs`} of the bundle ${bad.length === 1 ? 'is' : 'are'} not what was signed`,
    {
      details: named,
      hint: 'do not use this copy: carry the bundle again',
    },
  );
}

const malformed = (why: string): SealiftError =>
  new SealiftError('BUNDLE_MALFORMED', `the bundle is malformed: ${why}`, {
    hint: 'damaged, tampered with, or written by another program: do not use this copy',
  });
