// SPDX-License-Identifier: Apache-2.0
/**
 * The opener: from a path to a VerifiedBundle. judge.ts makes every check but the last; the content of blobs is hashed
 * here, in the one pass in which it is used.
 */
import { writeSync } from 'node:fs';
import { basename } from 'node:path';
import { SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import { Hasher, type Digest, type Expected } from '../store/digest.ts';
import {
  transfer,
  transferAll,
  TransferError,
  type Stretch,
  type TransferOptions,
} from '../store/transfer.ts';
import type { TrustPolicy } from '../trust/policy.ts';
import { checkPolicy, type Release } from '../trust/rules.ts';
import type { Verdict } from '../trust/verify.ts';
import type { Extent } from './archive.ts';
import { purposeOf, type Inventory } from './inventory.ts';
import { judgeBundle, subjectOf, type Judged, type OpenOptions } from './judge.ts';
import type { SignedProvenance } from './provenance.ts';
import type { StoredSource } from './source.ts';
import { demandDigest, type VerifiedImage } from './structure.ts';
import { Turns } from './turns.ts';
import { openSource } from './volumes.ts';

export type { OpenOptions } from './judge.ts';
export type { VerifiedImage } from './structure.ts';

/** Reading in pieces of this many bytes hashes at the machine's rate (DESIGN §8). */
const CHUNK_BYTES = 1024 * 1024;

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
  /** SHA256SUMS, and the signature slots with their padding. */
  readonly signed: Judged['signed'];
  /** The policy that allowed it, and the time at which it was judged. */
  readonly policy: TrustPolicy;
  readonly judgedAt: Date;
  readonly provenance: SignedProvenance;
  readonly images: readonly VerifiedImage[];
  readonly #opened: Judged;

  readonly #source: StoredSource;
  readonly #turns = new Turns();

  constructor(key: typeof opener, opened: Judged, source: StoredSource) {
    if (key !== opener) throw new TypeError('only openBundle makes a VerifiedBundle');
    this.#source = source;
    this.path = source.name;
    this.digest = opened.digest;
    this.size = source.size;
    this.inventory = opened.inventory;
    this.verdict = opened.verdict;
    this.signed = opened.signed;
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
      await this.#source.readInto(chunk, extent.offset + done);
      hasher.update(chunk);
      // The last piece is handed out only after the digest matched: a receiver that counts bytes is safe too.
      if (hasher.size === extent.size) demandDigest(hasher.digest(), expected);
      yield chunk;
    }
    if (extent.size === 0) demandDigest(hasher.digest(), expected);
  }

  /**
   * Copies a blob, hashed on its way by a thread. What was written may be relied on only when this has returned.
   * @param to where in open files, as many bytes as the blob has
   * @throws {SealiftError} CONTENT_MISMATCH; what reading the medium throws; {TransferError} when writing fails
   */
  async copy(expected: Expected, to: readonly Stretch[], options: TransferOptions = {}): Promise<void> {
    const { offset, size } = this.#extent(expected);
    const copied = await this.#turns.together(async () => {
      const from = await this.#source.stretches(offset, size);
      if (from === undefined) return false;
      const found = await transfer({ from, to }, options).catch((error: unknown) => {
        throw error instanceof TransferError && error.side === 'read'
          ? this.#source.failed(error, from)
          : error;
      });
      demandDigest(found, expected);
      return true;
    });
    if (!copied) await this.#turns.alone(() => this.#copyHere(expected, to, options));
  }

  /** The same without a thread, for a medium that may have to be asked for in the middle. */
  async #copyHere(
    expected: Expected,
    to: readonly Stretch[],
    { onBytes, signal }: TransferOptions,
  ): Promise<void> {
    const [only, ...more] = to;
    if (only === undefined || more.length > 0) throw new TypeError('one stretch is expected');
    let at = only.offset;
    for await (const chunk of this.blob(expected, signal, true)) {
      for (let done = 0; done < chunk.length;)
        done += writeSync(only.fd, chunk, done, chunk.length - done, at + done);
      at += chunk.length;
      onBytes?.(chunk.length);
    }
  }

  /**
   * Whether all of it can be read without asking anybody for a medium.
   * @throws {SealiftError} BUNDLE_INCOMPLETE, IO_ERROR
   */
  async isAtHand(): Promise<boolean> {
    return (await this.#source.stretches(0, this.size)) !== undefined;
  }

  /**
   * Judges the version once more, against what the host has installed by now.
   * @throws {SealiftError} BUNDLE_REVOKED, NOT_FOR_THIS_HOST, VERSION_REFUSED
   */
  recheckPolicy(installed: Release | undefined): void {
    checkPolicy(subjectOf(this.inventory, this.digest), this.policy, installed);
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
    emit({ type: 'stage', name: 'hash', totalBytes: total });
    emit({ type: 'item-start', ...item, bytes: total });
    const onBytes = (delta: number): void => emit({ type: 'item-progress', id: item.id, delta });
    const blobs = [...this.#opened.blobs].map(([digest, extent]) => ({ digest, ...extent }));
    const differ = await this.#findDifferent(blobs, { onBytes, signal: options.signal });
    const bad = blobs.map(({ digest }) => digest).filter((digest) => differ.has(digest));
    emit({ type: 'item-end', id: item.id, outcome: bad.length > 0 ? 'failed' : 'done' });
    const error = bad.length > 0 ? contentMismatch(bad, this.inventory) : undefined;
    const detail = error?.message ?? `${this.#opened.blobs.size} blobs, ${total} bytes, every byte as signed`;
    emit({ type: 'check', name: 'content', outcome: error ? 'failed' : 'ok', detail });
    if (error) throw error;
    return { blobs: this.#opened.blobs.size, bytes: total };
  }

  async close(): Promise<void> {
    await this.#source.close();
  }

  /** Blobs that are not what was signed; by all threads, if the medium has everything. */
  async #findDifferent(
    blobs: readonly (Expected & Extent)[],
    options: TransferOptions,
  ): Promise<ReadonlySet<Digest>> {
    // The largest first, so that no thread is left alone with one at the end.
    const ordered = blobs.toSorted((a, b) => b.size - a.size);
    const stretches = await Promise.all(
      ordered.map(({ offset, size }) => this.#source.stretches(offset, size)),
    );
    const here = stretches.filter((from) => from !== undefined);
    if (here.length < blobs.length) return this.#findDifferentOneByOne(blobs, options);
    const results = await transferAll(
      here.map((from) => ({ from })),
      options,
    );
    const differ = new Set<Digest>();
    for (const [i, result] of results.entries()) {
      if (result instanceof TransferError) throw this.#source.failed(result, here[i]!);
      const { digest } = ordered[i]!;
      if (result !== digest) differ.add(digest);
    }
    return differ;
  }

  /** In the order in which they lie: media come one after another. */
  async #findDifferentOneByOne(
    blobs: readonly Expected[],
    { onBytes, signal }: TransferOptions,
  ): Promise<ReadonlySet<Digest>> {
    const differ = new Set<Digest>();
    for (const blob of blobs) {
      try {
        for await (const chunk of this.blob(blob, signal, true)) onBytes?.(chunk.length);
      } catch (error) {
        if (!(error instanceof SealiftError) || error.code !== 'CONTENT_MISMATCH') throw error;
        differ.add(blob.digest);
      }
    }
    return differ;
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
 *   NOT_FOR_THIS_HOST, VERSION_REFUSED; CONTENT_MISMATCH
 */
export async function openBundle(path: string, options: OpenOptions): Promise<VerifiedBundle> {
  const source = await openSource(path, options.media);
  try {
    return new VerifiedBundle(opener, await judgeBundle(source, options), source);
  } catch (error) {
    await source.close();
    throw error;
  }
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
