// SPDX-License-Identifier: Apache-2.0
/** `SHA256SUMS`, the root of trust (FORMAT.md §2): the bytes that are signed, and whose digest is the bundle's identity. */
import { SealiftError } from '../errors.ts';
import { fromHex, hexOf, type Digest } from '../store/digest.ts';

export const SUMS_NAME = 'SHA256SUMS';
export const slotName = (slot: number): string => `signatures/${slot}.sigstore.json`;

/** The documents, in archive order; blobs follow (FORMAT.md §2.2). */
export const DOCUMENTS = [
  'bundle.json',
  'provenance.json',
  'oci-layout',
  'index.json',
  'manifest.json',
] as const;
export type DocumentName = (typeof DOCUMENTS)[number];

export interface Sums {
  documents: ReadonlyMap<DocumentName, Digest>;
  /** In archive order. */
  blobs: readonly Digest[];
}

export const blobName = (digest: Digest): string => `blobs/sha256/${hexOf(digest)}`;

export function formatSums(documents: ReadonlyMap<DocumentName, Digest>, blobs: readonly Digest[]): Buffer {
  const lines = DOCUMENTS.map((name) => `${hexOf(documents.get(name)!)}  ${name}\n`);
  for (const digest of blobs) lines.push(`${hexOf(digest)}  ${blobName(digest)}\n`);
  return Buffer.from(lines.join(''), 'latin1');
}

/**
 * Reads the strict form: exactly the lines that formatSums writes, a blob's name equal to its hash, no blob twice.
 * @throws {SealiftError} BUNDLE_MALFORMED
 */
export function parseSums(bytes: Uint8Array): Sums {
  const lines = Buffer.from(bytes).toString('latin1').split('\n');
  if (lines.pop() !== '' || lines.length < DOCUMENTS.length)
    throw malformed('it does not end with a whole line');
  const documents = new Map<DocumentName, Digest>();
  const blobs = new Set<Digest>();
  for (const [i, line] of lines.entries()) {
    const match = /^([0-9a-f]{64}) {2}([\x21-\x7e]+)$/.exec(line);
    if (!match) throw malformed(`line ${i + 1} is not '<sha256>  <name>'`);
    const digest = fromHex(match[1]!);
    const document = DOCUMENTS[i];
    if (match[2] !== (document ?? blobName(digest)))
      throw malformed(`line ${i + 1} names another member than the format has there`);
    if (document) documents.set(document, digest);
    else if (blobs.has(digest)) throw malformed(`line ${i + 1} repeats a blob`);
    else blobs.add(digest);
  }
  return { documents, blobs: [...blobs] };
}

const malformed = (why: string): SealiftError =>
  new SealiftError('BUNDLE_MALFORMED', `SHA256SUMS is malformed: ${why}`);
