// SPDX-License-Identifier: Apache-2.0
/** Damaged slots before the judge: what counts is a signature by the trusted key over these very bytes. */
import { createHash, createPublicKey, verify } from 'node:crypto';
import { SLOT_BYTES } from '../../src/trust/slots.ts';
import { verifySignatures } from '../../src/trust/verify.ts';
import { person, policyOf } from '../support/sample.ts';
import { signatureParts, slotOf } from '../support/signature.ts';
import { campaign } from './campaign.ts';
import { damageBytes, damageJson, WORDS } from './mutate.ts';

const alice = person('alice');
const bob = person('bob');
const policy = policyOf([alice]);
const now = new Date('2026-11-23T12:00:00Z');
const SUMS = Buffer.from(`${'0'.repeat(64)}  bundle.json\n`);

const good = signatureParts(SUMS, alice.key);
const others = [signatureParts(SUMS, bob.key), signatureParts(Buffer.from('other'), alice.key)];
const texts = [good, ...others].map((parts) => Buffer.from(JSON.stringify(parts)));

/** Judged as it stands, and once more by what node:crypto alone says of what is in it. */
function read(slot: Buffer): void {
  const empty = Buffer.alloc(SLOT_BYTES, 0x20);
  const { accepted } = verifySignatures(SUMS, [slot, ...Array<Buffer>(7).fill(empty)], policy, now);
  const { messageSignature } = JSON.parse(slot.toString()) as {
    messageSignature: { signature: string; messageDigest: { digest: string } };
  };
  const digest = createHash('sha256').update(SUMS).digest('base64');
  const signature = Buffer.from(messageSignature.signature, 'base64');
  if (accepted.length !== 1 || messageSignature.messageDigest.digest !== digest)
    throw new Error('accepted, and it speaks of something else');
  if (!verify('sha256', SUMS, createPublicKey(alice.publicPem), signature))
    throw new Error('accepted, and alice has not signed it');
}

const codes = ['NOT_SIGNED', 'BAD_SIGNATURE', 'UNTRUSTED_SIGNER'] as const;

campaign('slot, bytes', {
  make: (random) => damageBytes(random, slotOf(random.pick(texts).toString()), texts),
  read,
  codes,
});

campaign('slot, its JSON', {
  make(random) {
    const json = random.chance(0.8)
      ? damageJson(random, random.chance(0.8) ? good : random.pick(others))
      : damageBytes(random, texts[0]!, texts, ['==', '\\u0041', ' ', '{"a":1}', ...WORDS]);
    return slotOf(json.toString().trim());
  },
  read,
  codes,
});
