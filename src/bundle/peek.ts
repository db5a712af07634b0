// SPDX-License-Identifier: Apache-2.0
import { digestOf, type Digest } from '../store/digest.ts';
import { ArchiveWalk, readHead } from './archive.ts';
import type { Inventory } from './inventory.ts';
import { readInventory } from './structure.ts';
import { openSource, type Media } from './volumes.ts';

/** What a bundle says of itself. Nobody has vouched for any of it. */
export interface UnverifiedBundle {
  digest: Digest;
  /** Archive size in bytes. */
  size: number;
  inventory: Inventory;
  provenance: Buffer;
  slots: readonly Buffer[];
}

/**
 * Reads the documents of a bundle without asking who signed it; for `inspect` and for tools at the staging box.
 * The installer cannot use the result: it takes a VerifiedBundle only.
 * @throws {SealiftError} NOT_A_BUNDLE, BUNDLE_MALFORMED, BUNDLE_INCOMPLETE, CONTENT_MISMATCH
 */
export async function peekBundle(path: string, media: Media = {}): Promise<UnverifiedBundle> {
  const source = await openSource(path, media);
  try {
    const walk = new ArchiveWalk(source);
    const { sums, slots } = await readHead(source, walk);
    const { documents, inventory } = await readInventory(walk, sums);
    return {
      digest: digestOf(sums),
      size: source.size,
      inventory,
      provenance: documents.get('provenance.json')!,
      slots,
    };
  } finally {
    await source.close();
  }
}
