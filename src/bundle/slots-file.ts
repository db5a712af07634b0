// SPDX-License-Identifier: Apache-2.0
/** Signing a bundle that exists already: read what to sign, fill a free slot in place (FORMAT.md §3). */
import { open } from 'node:fs/promises';
import { asSealiftError, SealiftError } from '../errors.ts';
import { decodeSlot, encodeSlot } from '../trust/slots.ts';
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
 * @throws {SealiftError} SLOTS_FULL, IO_ERROR (a read-only medium)
 */
export async function attachSignature(path: string, json: string): Promise<number> {
  const { slots, slotExtents } = await readSignedHead(path);
  const slot = slots.findIndex((bytes) => decodeSlot(bytes).kind === 'empty');
  if (slot < 0)
    throw new SealiftError('SLOTS_FULL', `all ${slots.length} signature slots of ${path} are taken`);
  try {
    const handle = await open(path, 'r+');
    try {
      await handle.write(encodeSlot(json), 0, undefined, slotExtents[slot]!.offset);
      await handle.sync();
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw asSealiftError(error, `writing the signature into ${path}`);
  }
  return slot;
}
