// SPDX-License-Identifier: Apache-2.0
/** Signing a bundle that exists already: read what to sign, fill a free slot in place (FORMAT.md §3). */
import { open } from 'node:fs/promises';
import { asSealiftError, SealiftError } from '../errors.ts';
import { digestOf, type Digest } from '../store/digest.ts';
import { readClaim, type Claim } from '../trust/claim.ts';
import { decodeSlot, encodeSlot, type SlotContent } from '../trust/slots.ts';
import { ArchiveWalk, readHead, type SignedHead } from './archive.ts';
import { changeInPlace } from './beside.ts';
import type { Inventory } from './inventory.ts';
import { FileSource } from './source.ts';
import { readInventory } from './structure.ts';
import { baseOf } from './volumes.ts';

/** What a signer of a bundle signs, and gets to see of it. Nobody has vouched for any of it. */
export interface SignableBundle {
  sums: Buffer;
  digest: Digest;
  /** Undefined for a first volume that ends before the documents do. */
  inventory: Inventory | undefined;
  slots: readonly SlotContent[];
}

/** The first volume of a split bundle, by its name. */
const isFirstVolume = (path: string): boolean => baseOf(path) !== undefined && path.endsWith('.001');

/**
 * Reads the head of a bundle and its documents, which are demanded to be those that SHA256SUMS lists: nobody
 * should sign under another name than the one that is shown. Of a first volume the head alone is demanded.
 * @throws {SealiftError} NOT_A_BUNDLE, BUNDLE_MALFORMED, BUNDLE_INCOMPLETE, CONTENT_MISMATCH
 */
export async function readSignable(path: string): Promise<SignableBundle> {
  const source = await FileSource.open(path);
  try {
    const walk = new ArchiveWalk(source);
    const { sums, slots } = await readHead(source, walk);
    const inventory = await inventoryIn(walk, sums, isFirstVolume(path));
    return { sums, digest: digestOf(sums), inventory, slots: slots.map(decodeSlot) };
  } finally {
    await source.close();
  }
}

async function inventoryIn(walk: ArchiveWalk, sums: Buffer, mayEnd: boolean): Promise<Inventory | undefined> {
  try {
    return (await readInventory(walk, sums)).inventory;
  } catch (error) {
    if (mayEnd && error instanceof SealiftError && error.code === 'BUNDLE_INCOMPLETE') return undefined;
    throw error;
  }
}

/** @throws {SealiftError} SLOTS_FULL */
export function freeSlot(slots: readonly SlotContent[], path: string): number {
  const slot = slots.findIndex(({ kind }) => kind === 'empty');
  if (slot >= 0) return slot;
  throw new SealiftError('SLOTS_FULL', `all ${slots.length} signature slots of ${path} are taken`);
}

/**
 * By what signatures say of themselves: what could prove it is not at hand. One over other content, a leftover or
 * a forgery, keeps nobody from signing.
 * @throws {SealiftError} ALREADY_SIGNED
 */
export function demandNewSigner(slots: readonly SlotContent[], { by, digest }: Claim, path: string): void {
  const earlier = slots.map(claimIn).findIndex((claim) => claim?.by === by && claim.digest === digest);
  if (earlier < 0) return;
  throw new SealiftError('ALREADY_SIGNED', `slot ${earlier} of ${path} holds a signature by this signer`, {
    details: [['signer', by]],
    hint: 'a signer counts once: sign with another key or identity',
  });
}

/**
 * Puts a signature into the first free slot, in place: 16 KiB are written whatever the bundle's size, and nothing
 * that is signed changes.
 * @param json a Sigstore bundle over the bundle's SHA256SUMS
 * @param expected digest of the bundle for which the signature was made
 * @returns the slot, 0 to 7
 * @throws {SealiftError} ALREADY_SIGNED and CONTENT_MISMATCH (nothing is written), SLOTS_FULL, BAD_SIGNATURE,
 *   IO_ERROR (a read-only medium)
 */
export async function attachSignature(path: string, json: string, expected?: Digest): Promise<number> {
  const head = await readSignedHead(path);
  const digest = digestOf(head.sums);
  if (expected !== undefined && digest !== expected) {
    throw new SealiftError('CONTENT_MISMATCH', `${path} became another bundle while it was being signed`, {
      details: [
        ['signed', expected],
        ['now', digest],
      ],
    });
  }
  const slots = head.slots.map(decodeSlot);
  const filled = encodeSlot(json);
  const claim = claimIn(decodeSlot(filled));
  if (claim !== undefined) demandNewSigner(slots, claim, path);
  const slot = freeSlot(slots, path);
  const { offset } = head.slotExtents[slot]!;
  await changeInPlace(path, offset, head.slots[slot]!, filled);
  return slot;
}

async function readSignedHead(path: string): Promise<SignedHead> {
  const source = await FileSource.open(path);
  try {
    return await readHead(source, new ArchiveWalk(source));
  } finally {
    await source.close();
  }
}

/**
 * Before somebody is asked for a PIN: that the bundle can be written at all.
 * @throws {SealiftError} IO_ERROR
 */
export async function demandWritable(path: string): Promise<void> {
  try {
    await (await open(path, 'r+')).close();
  } catch (error) {
    throw asSealiftError(error, `opening ${path} to write a signature into it`);
  }
}

/** Undefined for a slot that is empty or holds anything else. */
function claimIn(slot: SlotContent): Claim | undefined {
  if (slot.kind !== 'bundle') return undefined;
  try {
    return readClaim(slot.json);
  } catch {
    return undefined;
  }
}
