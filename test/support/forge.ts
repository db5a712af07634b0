// SPDX-License-Identifier: Apache-2.0
/** Forgeries by somebody who can sign: whatever the members are, SHA256SUMS says the same, and the signature is good. */
import type { KeyObject } from 'node:crypto';
import type { Inventory } from '../../src/bundle/inventory.ts';
import { blobName, slotName } from '../../src/bundle/sums.ts';
import { planBundle, type BlobReader } from '../../src/bundle/write.ts';
import { canonicalJson } from '../../src/json.ts';
import type { Expected } from '../../src/store/digest.ts';
import { member, pack, type Member } from './members.ts';
import { provenanceOf, type Sample } from './sample.ts';
import { sha256, signatureParts, slotOf } from './signature.ts';

/** Number of the first member behind the slots, bundle.json. */
const FIRST = 9;

export const hexOf = (bytes: Uint8Array | string): string => sha256(bytes).toString('hex');
export const blob = (content: Buffer | string): Member => member(`blobs/sha256/${hexOf(content)}`, content);
export const digestName = (digest: string): string => `blobs/sha256/${digest.slice('sha256:'.length)}`;

/** The members with SHA256SUMS over what they are now, signed in the first slot. */
export function resigned(members: readonly Member[], key: KeyObject): Buffer {
  const rest = members.slice(FIRST);
  const sums = Buffer.from(rest.map((m) => `${hexOf(m.content)}  ${m.name}\n`).join(''));
  return signedAs(members.with(0, member('SHA256SUMS', sums)), key);
}

/** The members as they are, with a signature over their SHA256SUMS in the first slot. */
function signedAs(members: readonly Member[], key: KeyObject): Buffer {
  const slot = slotOf(JSON.stringify(signatureParts(members[0]!.content, key)));
  return pack(members.with(1, member(members[1]!.name, slot)));
}

/** Puts an inventory into the members, and a provenance that speaks of it. */
export function withInventory(members: Member[], inventory: Inventory | Buffer): Member[] {
  const bytes = Buffer.isBuffer(inventory) ? inventory : canonicalJson(inventory);
  return members
    .with(FIRST, member('bundle.json', bytes))
    .with(FIRST + 1, member('provenance.json', provenanceOf(bytes)));
}

/**
 * A bundle whose every document follows from a changed inventory, as a writer without our checks would make it.
 * @param contents of blobs that the sample's store does not have, or has otherwise
 */
export async function consistent(
  { store, inventory }: Sample,
  change: (inventory: Inventory) => void,
  contents: ReadonlyMap<string, Buffer>,
  key: KeyObject,
): Promise<Buffer> {
  const changed = structuredClone(inventory);
  change(changed);
  const read = (expected: Expected): Promise<Buffer> =>
    Promise.resolve(contents.get(expected.digest) ?? store.readBytes(expected, expected.size));
  const reader: BlobReader = { readBytes: read };
  const plan = await planBundle(changed, provenanceOf(canonicalJson(changed)), reader);
  const blobs = await Promise.all(
    plan.blobs.map(async (b) => member(blobName(b.digest), plan.generated.get(b.digest) ?? (await read(b)))),
  );
  const slots = Array.from({ length: FIRST - 1 }, (_, i) => member(slotName(i), slotOf('')));
  const documents = plan.documents.map(([name, bytes]) => member(name, bytes));
  return signedAs([member('SHA256SUMS', plan.sums), ...slots, ...documents, ...blobs], key);
}
