// SPDX-License-Identifier: Apache-2.0
/** What a bundle says of itself, without trust: no signature is judged and no blob is read. */
import type { Inventory } from '../bundle/inventory.ts';
import { MAX_DOCUMENT_BYTES } from '../bundle/limits.ts';
import { peekBundle } from '../bundle/peek.ts';
import type { Media } from '../bundle/volumes.ts';
import { parseJson } from '../json.ts';
import type { Digest } from '../store/digest.ts';
import { readClaim } from '../trust/claim.ts';
import { decodeSlot } from '../trust/slots.ts';

/** A slot as it looks from outside. `names` is what its writer chose to put there; anybody can write a slot. */
export type SlotClaim =
  | { slot: number; state: 'empty' }
  | { slot: number; state: 'malformed'; reason: string }
  /** The fingerprint of a key or the identity that it names. */
  | { slot: number; state: 'unverified'; names: string };

export interface Inspection {
  /** Always false: a reader of the JSON cannot take this for a verdict. */
  verified: false;
  digest: Digest;
  /** Archive size in bytes. */
  size: number;
  slots: SlotClaim[];
  inventory: Inventory;
  /** The provenance statement as it stands in the bundle. */
  provenance: unknown;
}

/**
 * Reads what a bundle claims.
 * @throws {SealiftError} NOT_A_BUNDLE, BUNDLE_MALFORMED, BUNDLE_INCOMPLETE, BUNDLE_UNSUPPORTED, CONTENT_MISMATCH
 */
export async function inspectBundle(path: string, media: Media = {}): Promise<Inspection> {
  const { digest, size, inventory, provenance, slots } = await peekBundle(path, media);
  return {
    verified: false,
    digest,
    size,
    slots: slots.map((bytes, slot) => claimOf(bytes, slot)),
    inventory,
    provenance: parseOrNull(provenance),
  };
}

function claimOf(bytes: Uint8Array, slot: number): SlotClaim {
  const content = decodeSlot(bytes);
  if (content.kind === 'empty') return { slot, state: 'empty' };
  if (content.kind === 'malformed') return { slot, state: 'malformed', reason: content.reason };
  try {
    return { slot, state: 'unverified', names: readClaim(content.json).by };
  } catch {
    return { slot, state: 'malformed', reason: 'not a Sigstore bundle v0.3 with a messageSignature' };
  }
}

function parseOrNull(bytes: Buffer): unknown {
  try {
    return parseJson(bytes, 'provenance.json', 'BUNDLE_MALFORMED', MAX_DOCUMENT_BYTES);
  } catch {
    return null;
  }
}
