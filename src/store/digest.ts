// SPDX-License-Identifier: Apache-2.0
import { createHash, type Hash } from 'node:crypto';

/** An OCI digest, `sha256:<64 lower-case hex>` (OCI image-spec descriptor.md, digests). sha256 is the only algorithm. */
export type Digest = `sha256:${string}`;

/** What a blob has to be: the two facts that are checked together everywhere. */
export interface Expected {
  digest: Digest;
  /** Size in bytes, 0 to 2^53 - 1. */
  size: number;
}

const PATTERN = /^sha256:[0-9a-f]{64}$/;

export const isDigest = (text: unknown): text is Digest => typeof text === 'string' && PATTERN.test(text);

/** The 64 hex digits of a digest, as used in file names. */
export const hexOf = (digest: Digest): string => digest.slice('sha256:'.length);

export const fromHex = (hex: string): Digest => `sha256:${hex}`;

/** Digest of bytes that are at hand. */
export function digestOf(bytes: Uint8Array | string): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** Hashes and counts a stream of chunks. */
export class Hasher {
  readonly #hash: Hash = createHash('sha256');
  size = 0;

  update(chunk: Uint8Array): void {
    this.#hash.update(chunk);
    this.size += chunk.length;
  }

  /** Ends the hash; the hasher cannot be used afterwards. */
  digest(): Digest {
    return `sha256:${this.#hash.digest('hex')}`;
  }
}
