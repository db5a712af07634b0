// SPDX-License-Identifier: Apache-2.0
/** Signing a bundle that exists already: read what to sign, fill a free slot in place (FORMAT.md §3). */
import { open } from 'node:fs/promises';
import { asSealiftError, SealiftError } from '../errors.ts';
import { readMessageSignature, type MessageSignature } from '../trust/message-signature.ts';
import { decodeSlot, encodeSlot, type SlotContent } from '../trust/slots.ts';
import { ArchiveWalk, readHead, type SignedHead } from './archive.ts';
import { FileSource } from './source.ts';

/**
 * SHA256SUMS and the slots of a bundle, unverified.
 * @throws {SealiftError} NOT_A_BUNDLE, BUNDLE_MALFORMED, BUNDLE_INCOMPLETE
 */
export async function readSignedHead(path: string): Promise<SignedHead> {
  const source = await FileSource.open(path);
  try {
    return await readHead(source, new ArchiveWalk(source));
  } finally {
    await source.close();
  }
}

/**
 * Puts a signature into the first free slot, in place: 16 KiB are written whatever the bundle's size, and nothing
 * that is signed changes.
 * @param json a Sigstore bundle over the bundle's SHA256SUMS
 * @returns the slot, 0 to 7
 * @throws {SealiftError} ALREADY_SIGNED (nothing is written), SLOTS_FULL, BAD_SIGNATURE, IO_ERROR (a read-only
 *   medium)
 */
export async function attachSignature(path: string, json: string): Promise<number> {
  const { slots, slotExtents } = await readSignedHead(path);
  const content = slots.map(decodeSlot);
  const filled = encodeSlot(json);
  demandNewKey(content, signatureIn(decodeSlot(filled)), path);
  const slot = content.findIndex(({ kind }) => kind === 'empty');
  if (slot < 0)
    throw new SealiftError('SLOTS_FULL', `all ${slots.length} signature slots of ${path} are taken`);
  try {
    const handle = await open(path, 'r+');
    try {
      await handle.write(filled, 0, undefined, slotExtents[slot]!.offset);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw asSealiftError(error, `writing the signature into ${path}`);
  }
  return slot;
}

/**
 * By what signatures say of themselves: the keys that could prove it are not at hand. One over other content, a
 * leftover or a forgery, keeps nobody from signing.
 */
function demandNewKey(
  slots: readonly SlotContent[],
  fresh: MessageSignature | undefined,
  path: string,
): void {
  if (fresh?.hint === undefined) return;
  const earlier = slots
    .map(signatureIn)
    .findIndex((taken) => taken !== undefined && claimsSame(taken, fresh));
  if (earlier < 0) return;
  throw new SealiftError('ALREADY_SIGNED', `slot ${earlier} of ${path} holds a signature by this key`, {
    details: [['key hint', fresh.hint]],
    hint: 'a signer counts once: sign with another key',
  });
}

const claimsSame = (a: MessageSignature, b: MessageSignature): boolean =>
  a.hint === b.hint && a.claimedDigest.equals(b.claimedDigest);

/** Undefined for a slot that is empty or holds anything else. */
function signatureIn(slot: SlotContent): MessageSignature | undefined {
  if (slot.kind !== 'bundle') return undefined;
  try {
    return readMessageSignature(slot.json);
  } catch {
    return undefined;
  }
}
