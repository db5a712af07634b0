// SPDX-License-Identifier: Apache-2.0
/** Damaged bundles into the whole reader: `openBundle`, and then every byte. */
import { readFileSync } from 'node:fs';
import type { ErrorCode } from '../../src/errors.ts';
import { SLOT_BYTES, SLOT_COUNT } from '../../src/trust/slots.ts';
import { member, pack, reheaded, split, type Member } from '../support/members.ts';
import { MemorySource, openMemory } from '../support/memory.ts';
import type { Random } from '../support/random.ts';
import { person, policyOf, sampleBundle } from '../support/sample.ts';
import { sha256, signatureParts, slotOf } from '../support/signature.ts';
import { campaign } from './campaign.ts';
import { damageBytes, damageJson } from './mutate.ts';

const hexOf = (bytes: Buffer): string => sha256(bytes).toString('hex');

const alice = person('alice');
const policy = policyOf([alice]);
const now = new Date('2026-11-23T12:00:00Z');

const samples = [await sampleBundle(), await sampleBundle({ version: '1.2.4', models: [], services: [] })];
const archives = await Promise.all(samples.map(async (s) => readFileSync(await s.write([alice]))));
const members = archives.map(split);

const CODES: readonly ErrorCode[] = [
  'NOT_A_BUNDLE',
  'BUNDLE_MALFORMED',
  'BUNDLE_INCOMPLETE',
  'BUNDLE_UNSUPPORTED',
  'CONTENT_MISMATCH',
  'NOT_SIGNED',
  'BAD_SIGNATURE',
  'UNTRUSTED_SIGNER',
];

/** The archive with nothing in its slots, when it has them where a bundle has them. */
function withoutSlots(bytes: Buffer): string {
  const copy = Buffer.from(bytes);
  const sums = Number.parseInt(copy.toString('latin1', 124, 135), 8);
  const first = 512 + sums + (-sums & 511);
  for (let slot = 0; slot < SLOT_COUNT; slot++)
    copy.fill(0, first + 512 + slot * (512 + SLOT_BYTES), first + (slot + 1) * (512 + SLOT_BYTES));
  return hexOf(copy);
}

const signed = new Set(archives.map(withoutSlots));

async function read(bytes: Buffer): Promise<void> {
  const bundle = await openMemory(new MemorySource(bytes), { policy, now });
  await bundle.verifyContent();
  if (!signed.has(withoutSlots(bytes))) throw new Error('accepted, and it is not what was signed');
}

campaign('archive, bytes', {
  make: (random) => damageBytes(random, random.pick(archives), archives),
  read,
  codes: CODES,
});

campaign('archive, members and headers', {
  make(random) {
    const list = [...random.pick(members)];
    for (let edits = random.few(3); edits > 0; edits--) editMembers(random, list);
    return pack(list);
  },
  read,
  codes: CODES,
});

function editMembers(random: Random, list: Member[]): void {
  const at = random.int(list.length);
  const one = list[at];
  if (one === undefined) return;
  const other = random.pick(random.pick(members));
  switch (random.int(7)) {
    case 0:
      return void list.splice(at, 1);
    case 1:
      return void list.splice(random.int(list.length), 0, one);
    case 2:
      return void list.splice(random.int(list.length), 0, ...list.splice(at, 1));
    case 3:
      return void (list[at] = other);
    case 4:
      return void (list[at] = member(one.name, damageBytes(random, one.content, [other.content])));
    case 5:
      return void (list[at] = member(other.name, one.content));
    default:
      return void (list[at] = { ...one, header: reheaded(one.header, (h) => editHeader(random, h)) });
  }
}

/** Offset and length of the fields of a ustar header. */
const FIELDS: readonly (readonly [number, number])[] = [
  [0, 100],
  [100, 8],
  [108, 8],
  [116, 8],
  [124, 12],
  [136, 12],
  [156, 1],
  [157, 100],
  [257, 8],
  [265, 32],
  [345, 155],
  [500, 12],
];

function editHeader(random: Random, header: Buffer): void {
  const [at, length] = random.pick(FIELDS);
  const field = header.subarray(at, at + length);
  switch (random.int(5)) {
    case 0:
      return void field.fill(random.int(256));
    case 1:
      return void random.bytes(length).copy(field);
    case 2:
      return void field.write(
        random
          .int(8 ** 6)
          .toString(8)
          .padStart(length - 1, random.pick(['0', ' '])),
      );
    case 3:
      field.fill(0);
      field[0] = random.pick([0x80, 0xff]);
      return void random.bytes(random.few(Math.max(1, length - 1))).copy(field, 1);
    default:
      return void damageBytes(random, field).copy(field);
  }
}

/**
 * The signer is in it, or was shown something else: SHA256SUMS says what the documents are, and the signature over
 * that is good. What is accepted here must hold together by a reading that is not ours.
 */
campaign('archive, documents under a good signature', {
  share: 0.5,
  make(random) {
    const list = [...random.pick(members)];
    const at = 9 + random.int(list.length - 9);
    const { name, content } = list[at]!;
    list[at] = member(name, damageDocument(random, content));
    return resigned(list);
  },
  async read(bytes) {
    const bundle = await openMemory(new MemorySource(bytes), { policy, now });
    await bundle.verifyContent();
    demandWhole(split(bytes));
  },
  codes: CODES,
});

function damageDocument(random: Random, content: Buffer): Buffer {
  return content[0] === 0x7b || content[0] === 0x5b
    ? damageJson(random, JSON.parse(content.toString()))
    : damageBytes(random, content);
}

/** Blobs renamed to their hashes, the provenance about this inventory, SHA256SUMS over all of it, and signed. */
function resigned(list: readonly Member[]): Buffer {
  const inventory = list[9]!.content;
  const bound = list.map((one, i) => {
    if (one.name.startsWith('blobs/')) return member(`blobs/sha256/${hexOf(one.content)}`, one.content);
    // Its subject is the one digest in it, unless it is the document that was damaged.
    const text = one.content
      .toString()
      .replace(/"sha256": "[0-9a-f]{64}"/, `"sha256": "${hexOf(inventory)}"`);
    return i === 10 ? member(one.name, text) : one;
  });
  const rest = bound.slice(9);
  const sums = Buffer.from(rest.map((m) => `${hexOf(m.content)}  ${m.name}\n`).join(''));
  const slot = slotOf(JSON.stringify(signatureParts(sums, alice.key)));
  return pack([member('SHA256SUMS', sums), member(bound[1]!.name, slot), ...bound.slice(2)]);
}

/** SHA256SUMS is true, and no document names a blob that is not there. */
function demandWhole(list: readonly Member[]): void {
  const lines = list.slice(9).map(({ name, content }) => `${hexOf(content)}  ${name}\n`);
  if (list[0]!.content.toString() !== lines.join('')) throw new Error('accepted, and SHA256SUMS is not true');
  const names = new Set(list.map(({ name }) => name));
  const texts = list
    .filter(({ name }) => /^(index|manifest)\.json$/.test(name))
    .map(({ content }) => content.toString());
  for (const [, digest] of texts.join('').matchAll(/sha256[:/]([0-9a-f]{64})/g))
    if (!names.has(`blobs/sha256/${digest}`)) throw new Error(`accepted, and ${digest} is not there`);
}
