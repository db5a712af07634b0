// SPDX-License-Identifier: Apache-2.0
/**
 * Signature slots (FORMAT.md §3): eight members of fixed size, so that a signature is put in place without
 * moving a byte of what follows. A slot is one JSON object and then spaces, or only spaces.
 */
import { SealiftError } from '../errors.ts';
import { parseJsonOneWay } from '../json.ts';

/** Number of slots in a bundle, and so the largest threshold that can ever be met. */
export const SLOT_COUNT = 8;

/** Size of a slot in bytes. A key signature takes about 500, one with a certificate and log proof up to 12,000. */
export const SLOT_BYTES = 16_384;

const SPACE = 0x20;
const OPEN_BRACE = 0x7b;
const CLOSE_BRACE = 0x7d;

export type SlotContent =
  { kind: 'empty' } | { kind: 'bundle'; json: unknown } | { kind: 'malformed'; reason: string };

/**
 * The bytes of a slot: the JSON (white space around it dropped), padded with spaces; only spaces for undefined.
 * @throws {SealiftError} BAD_SIGNATURE when it is not a JSON object, or too large for a slot
 */
export function encodeSlot(json: string | undefined): Buffer {
  const slot = Buffer.alloc(SLOT_BYTES, SPACE);
  if (json === undefined) return slot;
  const text = Buffer.from(json.trim());
  if (text.length > SLOT_BYTES) {
    throw new SealiftError(
      'BAD_SIGNATURE',
      `the signature is ${text.length} bytes; a slot holds ${SLOT_BYTES}`,
    );
  }
  text.copy(slot);
  const written = decodeSlot(slot);
  if (written.kind === 'bundle') return slot;
  const why = written.kind === 'malformed' ? `: ${written.reason}` : '';
  throw new SealiftError(
    'BAD_SIGNATURE',
    `the signature is not a JSON object, as a Sigstore bundle is${why}`,
  );
}

/** What a slot holds. Never throws: a slot can be anything, and is judged on its own (FORMAT.md §3). */
export function decodeSlot(slot: Uint8Array): SlotContent {
  if (slot.length !== SLOT_BYTES)
    return malformed(`the slot has ${slot.length} bytes instead of ${SLOT_BYTES}`);
  const end = slot.findLastIndex((byte) => byte !== SPACE) + 1;
  if (end === 0) return { kind: 'empty' };
  if (slot[0] !== OPEN_BRACE || slot[end - 1] !== CLOSE_BRACE) {
    return malformed('the slot holds something that is neither a JSON object nor padding');
  }
  try {
    const json = parseJsonOneWay(slot.subarray(0, end), 'the slot', 'BAD_SIGNATURE', SLOT_BYTES);
    return { kind: 'bundle', json };
  } catch (thrown) {
    return malformed(thrown instanceof SealiftError ? thrown.message : 'the slot does not hold valid JSON');
  }
}

const malformed = (reason: string): SlotContent => ({ kind: 'malformed', reason });
