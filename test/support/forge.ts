// SPDX-License-Identifier: Apache-2.0
/** Forgeries by somebody who can sign: whatever the members are, SHA256SUMS says the same, and the signature is good. */
import type { KeyObject } from 'node:crypto';
import type { Inventory } from '../../src/bundle/inventory.ts';
import { canonicalJson } from '../../src/json.ts';
import { member, pack, type Member } from './members.ts';
import { provenanceOf } from './sample.ts';
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
  const slot = slotOf(JSON.stringify(signatureParts(sums, key)));
  return pack([member('SHA256SUMS', sums), member(members[1]!.name, slot), ...members.slice(2)]);
}

/** Puts an inventory into the members, and a provenance that speaks of it. */
export function withInventory(members: Member[], inventory: Inventory | Buffer): Member[] {
  const bytes = Buffer.isBuffer(inventory) ? inventory : canonicalJson(inventory);
  return members
    .with(FIRST, member('bundle.json', bytes))
    .with(FIRST + 1, member('provenance.json', provenanceOf(bytes)));
}
