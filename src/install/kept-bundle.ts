// SPDX-License-Identifier: Apache-2.0
/**
 * What stays of a bundle when its medium is gone: `bundles/<digest>/` with SHA256SUMS, the signatures over it and
 * bundle.json. So everything that was placed can be held against what was signed, years later, by `sealift audit` and by
 * anybody with openssl or cosign.
 */
import { mkdir, readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { subjectOf } from '../bundle/judge.ts';
import { parseInventory, type Inventory } from '../bundle/inventory.ts';
import { parseSums, slotName, SUMS_NAME } from '../bundle/sums.ts';
import { SealiftError } from '../errors.ts';
import { canonicalJson } from '../json.ts';
import { digestOf, hexOf, type Digest } from '../store/digest.ts';
import { fsyncDir, writeFileDurably } from '../store/files.ts';
import type { TrustPolicy } from '../trust/policy.ts';
import { checkPolicy } from '../trust/rules.ts';
import { SLOT_BYTES, SLOT_COUNT } from '../trust/slots.ts';
import { demandThreshold, judgeSignatures } from '../trust/verify.ts';
import type { VerifiedBundle } from '../bundle/open.ts';
import { absent, type Home } from './home.ts';
import { readReceipt, readReceipts, type Receipt } from './receipt.ts';

const INVENTORY_NAME = 'bundle.json';

/** A release of this host with what was signed of it. */
export interface Installed {
  receipt: Receipt;
  inventory: Inventory;
  /** SHA256SUMS, and the signature slots, padded as in the bundle. */
  sums: Buffer;
  slots: Buffer[];
}

/** Keeps what was signed. For the holder of the home's lock. */
export async function keepBundle(home: Home, bundle: VerifiedBundle): Promise<void> {
  const folder = home.bundleFolder(bundle.digest);
  await mkdir(join(folder, 'signatures'), { recursive: true, mode: 0o755 });
  for (const [slot, bytes] of bundle.signed.slots.entries()) {
    const text = bytes.toString('latin1').trimEnd();
    if (text === '') await rm(join(folder, slotName(slot)), { force: true });
    else await writeFileDurably(join(folder, slotName(slot)), Buffer.from(text, 'latin1'));
  }
  await writeFileDurably(join(folder, INVENTORY_NAME), canonicalJson(bundle.inventory));
  await writeFileDurably(join(folder, SUMS_NAME), bundle.signed.sums);
  await fsyncDir(home.path('bundles'));
}

/** Whether what was signed is here, as far as its digests say. */
export const isKept = (home: Home, digest: Digest): Promise<boolean> =>
  readKept(home, digest).then(
    () => true,
    () => false,
  );

/**
 * The release that is current, or another, as it was signed.
 * @throws {SealiftError} NOT_INSTALLED; IO_ERROR when the receipt or what was kept of the bundle is damaged or gone
 */
export async function readInstalled(home: Home, release?: string): Promise<Installed> {
  const wanted = release ?? (await home.current());
  const receipt = wanted === undefined ? undefined : await readReceipt(home, wanted);
  if (receipt !== undefined) return { receipt, ...(await readKept(home, receipt.bundle.digest)) };
  const there = await home.releases();
  throw new SealiftError(
    'NOT_INSTALLED',
    `${release ?? 'nothing'} is ${release === undefined ? '' : 'not '}installed in ${home.root}`,
    {
      hint: there.length === 0 ? 'sealift install BUNDLE' : `releases here: ${there.join(', ')}`,
    },
  );
}

/**
 * Demands that the policy of today accepts what a release was made of, which may have revoked somebody since.
 * Not held against a newer version: the release was installed already.
 * @throws {SealiftError} UNTRUSTED_SIGNER, SIGNER_REVOKED, BUNDLE_REVOKED, VERSION_REFUSED and the like
 */
export function demandAccepted(installed: Installed, policy: TrustPolicy, at: Date): void {
  const { receipt, inventory, sums, slots } = installed;
  demandThreshold(judgeSignatures(sums, slots, policy, at), policy);
  checkPolicy(subjectOf(inventory, receipt.bundle.digest), policy, undefined);
}

async function readKept(home: Home, digest: Digest): Promise<Omit<Installed, 'receipt'>> {
  const folder = home.bundleFolder(digest);
  const sums = await readFile(join(folder, SUMS_NAME)).catch(absent);
  const inventory = await readFile(join(folder, INVENTORY_NAME)).catch(absent);
  if (sums === undefined || inventory === undefined) throw damaged(folder, 'is not complete');
  const signed =
    digestOf(sums) === digest && parseSums(sums).documents.get(INVENTORY_NAME) === digestOf(inventory);
  if (!signed) throw damaged(folder, 'is not what was installed');
  return { sums, inventory: parseInventory(inventory), slots: await readSlots(folder) };
}

/** Slots without their padding are readable to every other tool; the padding is put back here. */
async function readSlots(folder: string): Promise<Buffer[]> {
  const slots: Buffer[] = [];
  for (let slot = 0; slot < SLOT_COUNT; slot++) {
    const text = (await readFile(join(folder, slotName(slot))).catch(absent)) ?? Buffer.alloc(0);
    slots.push(Buffer.concat([text, Buffer.alloc(Math.max(0, SLOT_BYTES - text.length), ' ')]));
  }
  return slots;
}

const damaged = (folder: string, how: string): SealiftError =>
  new SealiftError('IO_ERROR', `what was kept of the bundle in ${folder} ${how}`, {
    hint: 'the same install, run again from its medium, writes it anew',
  });

/** Drops what was kept of bundles of which there is no receipt any more. */
export async function sweepBundles(home: Home): Promise<void> {
  const used = new Set((await readReceipts(home)).map(({ bundle }) => hexOf(bundle.digest)));
  for (const name of (await readdir(home.path('bundles')).catch(absent)) ?? [])
    if (!used.has(name)) await rm(home.path('bundles', name), { recursive: true, force: true });
}
