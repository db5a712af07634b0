// SPDX-License-Identifier: Apache-2.0
/** Attacks on signatures, by someone who can write to the media, or who holds some key. THREATS.md T1 to T6. */
import { sign } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fingerprint, keyHint } from '../../src/trust/keys.ts';
import { encodeSlot } from '../../src/trust/slots.ts';
import type { RejectionReason } from '../../src/trust/verify.ts';
import { tempDir } from '../support/workspace.ts';
import {
  codeOf,
  judge,
  openssl,
  person,
  policyOf,
  rawSlot,
  refusalOf,
  signedBy,
  slotsOf,
  SUMS,
} from '../trust/helpers.ts';

const alice = person('alice');
const bob = person('bob');
const stranger = person('stranger');
const byAlice = await signedBy(alice);
const byBob = await signedBy(bob);
const byStranger = await signedBy(stranger);
const one = policyOf([alice, bob]);
const two = policyOf([alice, bob], 2);

interface Parts {
  mediaType: string;
  verificationMaterial: Record<string, unknown>;
  messageSignature: { messageDigest: { algorithm: string; digest: string }; signature: string };
  [more: string]: unknown;
}

const parts = (json: string): Parts => JSON.parse(json);

/** Alice's signature with something changed. */
function forged(change: (bundle: Parts) => void): string {
  const bundle = parts(byAlice);
  change(bundle);
  return JSON.stringify(bundle);
}

const withSignature = (signature: Uint8Array): string =>
  forged((b) => (b.messageSignature.signature = Buffer.from(signature).toString('base64')));
const withHint = (hint: string, by = byAlice): string => {
  const bundle = parts(by);
  bundle.verificationMaterial['publicKey'] = { hint };
  return JSON.stringify(bundle);
};

/** The only finding, for one slot under a policy that needs one signature; it must not be accepted. */
function findingFor(slot: string | Uint8Array): RejectionReason | undefined {
  const error = refusalOf(() => judge(slotsOf(slot), one));
  const beside = judge(slotsOf(slot, byBob), one);
  expect(error.code === 'BAD_SIGNATURE' || error.code === 'UNTRUSTED_SIGNER').toBe(true);
  expect(beside.accepted.map((a) => a.signer)).toEqual(['bob']);
  return beside.rejected[0]?.reason;
}

describe('no signature', () => {
  it('is refused as not signed', () => {
    expect(codeOf(() => judge(slotsOf(), one))).toBe('NOT_SIGNED');
  });

  it('is refused when there are no slots at all', () => {
    expect(codeOf(() => judge([], one))).toBe('NOT_SIGNED');
  });
});

describe('empty, truncated and junk slots', () => {
  const signed = encodeSlot(byAlice);
  const slots: [string, string | Uint8Array][] = [
    ['an empty file', Buffer.alloc(0)],
    ['zero bytes', Buffer.alloc(16_384)],
    ['a slot cut in its padding', signed.subarray(0, 16_000)],
    ['a slot cut in its JSON', signed.subarray(0, 200)],
    ['JSON cut and padded again', rawSlot(byAlice.slice(0, 300))],
    ['JSON that ends in padding that is no space', rawSlot(`${byAlice}\n`)],
    ['a bit flipped in the padding behind a good signature', flipped(signed, 16_000)],
    ['a bit flipped in the padding of an empty slot', flipped(encodeSlot(undefined), 9)],
    ['two signatures in one slot', rawSlot(byAlice + byBob)],
    ['an empty object', '{}'],
    ['an object that only looks like one', '{"messageSignature":null,"verificationMaterial":[]}'],
    ['numbers for text', forged((b) => Object.assign(b.messageSignature, { signature: 7 }))],
    ['no signature in it', withSignature(Buffer.alloc(0))],
    ['random bytes', rawSlot('\u0007\u001b[31m"}')],
    ['JSON nested 2,700 deep', rawSlot(`${'{"a":'.repeat(2700)}1${'}'.repeat(2700)}`)],
    ['own __proto__ members', byAlice.replace('{', '{"__proto__":{"content":{"$case":"messageSignature"}},')],
    ['an unknown member, which cosign refuses', forged((b) => (b['comment'] = 'hello'))],
    ['an unknown member that is empty', forged((b) => (b.verificationMaterial['comment'] = {}))],
    [
      'a bundle of an older version',
      forged((b) => (b.mediaType = 'application/vnd.dev.sigstore.bundle+json;version=0.2')),
    ],
    ['dirty base64', forged((b) => (b.messageSignature.signature = `!${b.messageSignature.signature}`))],
    ['base64 without padding, or of the other alphabet', urlSafe()],
    ['an empty hint', withHint('')],
    ['a DSSE envelope', JSON.stringify(dsse())],
  ];
  it.each(slots)('%s is malformed, and spoils no other signature', (_, slot) => {
    expect(findingFor(slot)).toBe('malformed');
  });

  it('no bit of the JSON of a good signature can be flipped', () => {
    for (let bit = 0; bit < byAlice.length * 8; bit++) {
      const slot = Buffer.from(signed);
      slot[bit >> 3]! ^= 1 << (bit & 7);
      expect(['BAD_SIGNATURE', 'UNTRUSTED_SIGNER'], `bit ${bit}`).toContain(
        codeOf(() => judge(slotsOf(slot), one)),
      );
    }
  });
});

describe('a stranger', () => {
  it('signs, and is unknown', () => {
    const error = refusalOf(() => judge(slotsOf(byStranger), one));
    expect(error.code).toBe('UNTRUSTED_SIGNER');
    expect(JSON.stringify(error.details)).toContain(fingerprint(stranger.publicKey));
  });

  it('signs under the hint of a trusted key, and does not fit', () => {
    expect(findingFor(withHint(keyHint(alice.publicKey), byStranger))).toBe('bad-signature');
  });

  it('signs with a certificate of their own, and is unknown', () => {
    expect(findingFor(certificateBundle())).toBe('unknown-identity');
  });

  it('fills all other slots, and changes nothing', () => {
    const noise = byStranger;
    const verdict = judge(slotsOf(noise, noise, noise, byAlice, noise, noise, byBob, noise), two);
    expect(verdict.accepted).toHaveLength(2);
    expect(verdict.rejected).toHaveLength(6);
  });

  it('does not count beside one trusted signer', () => {
    expect(codeOf(() => judge(slotsOf(byAlice, byStranger), two))).toBe('THRESHOLD_NOT_MET');
  });
});

/** One signer's signatures reach a threshold of one, and no other. */
function once(...slots: (string | Uint8Array)[]): void {
  const error = refusalOf(() => judge(slotsOf(...slots), two));
  expect(error.code).toBe('THRESHOLD_NOT_MET');
  expect(JSON.stringify(error.details)).toContain('duplicate-signer');
  expect(judge(slotsOf(...slots), one).accepted).toHaveLength(1);
}

describe('one signer counted twice', () => {
  it('by a copy of the signature in every slot', () => {
    once(byAlice, byAlice, byAlice, byAlice, byAlice, byAlice, byAlice, byAlice);
  });

  it('by a second signature of the same key', async () => {
    const again = await signedBy(alice);
    expect(again).not.toBe(byAlice);
    once(byAlice, again);
  });

  it('by a malleated signature: (r, n - s) verifies, and counts once', () => {
    const mirrored = withSignature(
      malleate(Buffer.from(parts(byAlice).messageSignature.signature, 'base64')),
    );
    expect(judge(slotsOf(mirrored), one).accepted).toHaveLength(1);
    once(byAlice, mirrored);
  });

  it('by other spacing in the JSON', () => {
    once(byAlice, JSON.stringify(JSON.parse(byAlice), null, 2));
  });

  it('by a key that the policy lists twice: such a policy is refused', () => {
    const compressed = openssl(['ec', '-pubin', '-pubout', '-conv_form', 'compressed'], alice.pem).toString();
    for (const pem of [alice.pem, compressed]) {
      expect(codeOf(() => policyOf([alice, { ...bob, pem }], 2))).toBe('POLICY_INVALID');
    }
  });

  it('by a policy object that lists a key twice and lies about its fingerprint', () => {
    const [first] = one.signers;
    if (first === undefined) throw new Error('the policy has signers');
    const twice = {
      ...two,
      signers: [first, { ...first, name: 'bob', fingerprint: `sha256:${'0'.repeat(64)}` as const }],
    };
    expect(codeOf(() => judge(slotsOf(byAlice, byAlice), twice))).toBe('THRESHOLD_NOT_MET');
  });
});

describe('a signature over something else', () => {
  it('over other sums: an old approval does not move to new content', async () => {
    expect(findingFor(await signedBy(alice, Buffer.concat([SUMS, SUMS])))).toBe('bad-signature');
  });

  it('over other sums, with the digest of these', async () => {
    const bundle = parts(await signedBy(alice, Buffer.from('other')));
    bundle.messageSignature.messageDigest = parts(byAlice).messageSignature.messageDigest;
    expect(findingFor(JSON.stringify(bundle))).toBe('bad-signature');
  });

  it('over these sums, with the digest of others', () => {
    const lying = forged(
      (b) => (b.messageSignature.messageDigest.digest = Buffer.alloc(32).toString('base64')),
    );
    expect(findingFor(lying)).toBe('bad-signature');
  });

  it('over a part of the sums', async () => {
    expect(findingFor(await signedBy(alice, SUMS.subarray(0, -1)))).toBe('bad-signature');
  });

  it('with an algorithm that the slot chooses', () => {
    const sha512 = sign('sha512', SUMS, alice.privateKey).toString('base64');
    const weak = forged((b) => {
      b.messageSignature.signature = sha512;
      b.messageSignature.messageDigest.algorithm = 'SHA2_512';
    });
    expect(findingFor(weak)).toBe('malformed');
    expect(findingFor(withSignature(Buffer.from(sha512, 'base64')))).toBe('bad-signature');
  });

  it('with r and s of zero, or trailing bytes', () => {
    const good = Buffer.from(parts(byAlice).messageSignature.signature, 'base64');
    for (const bytes of [
      Buffer.from('3006020100020100', 'hex'),
      Buffer.concat([good, Buffer.of(0)]),
      good.subarray(1),
    ]) {
      expect(findingFor(withSignature(bytes))).toBe('bad-signature');
    }
  });
});

describe('hints', () => {
  it.each(['__proto__', 'constructor', 'toString', 'alice', fingerprint(alice.publicKey), 'x'.repeat(9000)])(
    "'%s' finds no key",
    (hint) => {
      expect(findingFor(withHint(hint))).toBe('unknown-key');
    },
  );

  it('that are no sha256 are not shown as one', () => {
    const [finding] = judge(slotsOf(withHint('abcd'), byBob), one).rejected;
    expect(finding?.detail).toBe("names a key in a form that sealift does not know: 'abcd'");
  });

  it('of another trusted key do not fit', () => {
    expect(findingFor(withHint(keyHint(bob.publicKey)))).toBe('bad-signature');
  });

  it('never reach a terminal raw', () => {
    const evil = withHint('\u001b]0;owned\u0007\u202egnp.sig\u200b\r\n');
    const junk = rawSlot('{"mediaType":"\\u001b[2J","x":1}');
    const quoted = forged((b) => (b.messageSignature.messageDigest.algorithm = 'SHA\u001b[31m'));
    const error = refusalOf(() => judge(slotsOf(evil, junk, quoted), one));
    const shown = [error.message, error.hint, ...error.details.flat()].join(' ');
    expect(shown).toContain('\\u{1b}]0;owned\\u{7}\\u{202e}gnp.sig');
    expect(shown).toContain('SHA\\u{1b}[31m');
    expect(shown).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u);
    for (const [, value] of error.details) expect(value.length).toBeLessThan(400);
  });
});

describe('a key that is not trusted now', () => {
  const revoked = `revoked: { keys: ["${fingerprint(alice.publicKey)}"] }\n`;

  it('revoked', () => {
    expect(codeOf(() => judge(slotsOf(byAlice), policyOf([alice, bob], 1, revoked)))).toBe('SIGNER_REVOKED');
  });

  it('revoked, in another encoding of the same key', () => {
    const compressed = openssl(['ec', '-pubin', '-pubout', '-conv_form', 'compressed'], alice.pem).toString();
    const policy = policyOf([{ ...alice, pem: compressed }], 1, revoked);
    expect(codeOf(() => judge(slotsOf(byAlice), policy))).toBe('SIGNER_REVOKED');
  });

  it('revoked, under a policy object that lies about its fingerprint', () => {
    const policy = policyOf([alice], 1, revoked);
    const signers = policy.signers.map((s) => ({ ...s, fingerprint: fingerprint(bob.publicKey) }));
    expect(codeOf(() => judge(slotsOf(byAlice), { ...policy, signers }))).toBe('SIGNER_REVOKED');
  });

  it('revoked and taken out of the signers', () => {
    expect(codeOf(() => judge(slotsOf(byAlice), policyOf([bob], 1, revoked)))).toBe('SIGNER_REVOKED');
  });

  it('revoked does not count towards a threshold', () => {
    const policy = policyOf([alice, bob], 2, revoked);
    expect(codeOf(() => judge(slotsOf(byAlice, byBob), policy))).toBe('THRESHOLD_NOT_MET');
  });

  it('expired', () => {
    const policy = policyOf([{ ...alice, notAfter: '2026-11-23T11:59:59Z' }]);
    expect(codeOf(() => judge(slotsOf(byAlice), policy))).toBe('SIGNER_EXPIRED');
  });

  it('not yet valid', () => {
    const policy = policyOf([{ ...alice, notBefore: '2026-11-23T12:00:01Z' }]);
    const error = refusalOf(() => judge(slotsOf(byAlice), policy));
    expect(error.code).toBe('SIGNER_EXPIRED');
    expect(JSON.stringify(error.details)).toContain('not-yet-valid');
  });

  it('claimed, but with a signature that does not fit: no revocation is reported for what nobody signed', () => {
    const policy = policyOf([alice, bob], 1, revoked);
    expect(
      codeOf(() => judge(slotsOf(withSignature(sign('sha256', SUMS, stranger.privateKey))), policy)),
    ).toBe('BAD_SIGNATURE');
  });
});

function flipped(slot: Buffer, at: number): Buffer {
  const copy = Buffer.from(slot);
  copy[at] = (copy[at] ?? 0) ^ 1;
  return copy;
}

/** Order of the P-256 group (SEC 2, secp256r1). */
const N = 0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551n;

/** (r, s) → (r, n - s), in DER. */
function malleate(der: Buffer): Buffer {
  const rLength = der[3] ?? 0;
  const r = der.subarray(4, 4 + rLength);
  const s = der.subarray(6 + rLength);
  const mirrored = (N - BigInt(`0x${s.toString('hex')}`)).toString(16).padStart(64, '0');
  return sequence(integer(r), integer(Buffer.from(mirrored, 'hex')));
}

function integer(bytes: Buffer): Buffer {
  let start = 0;
  while (start < bytes.length - 1 && bytes[start] === 0) start++;
  const short = bytes.subarray(start);
  const value = (short[0] ?? 0) >= 0x80 ? Buffer.concat([Buffer.of(0), short]) : short;
  return Buffer.concat([Buffer.of(2, value.length), value]);
}

function sequence(...elements: Buffer[]): Buffer {
  const content = Buffer.concat(elements);
  return Buffer.concat([Buffer.of(0x30, content.length), content]);
}

/** Alice's good signature, with base64 that only lenient decoders take. */
function urlSafe(): string {
  return forged((b) => {
    const { signature } = b.messageSignature;
    const other = Buffer.from(signature, 'base64').toString('base64url');
    b.messageSignature.signature = other === signature ? `${other}=` : other;
  });
}

function dsse(): unknown {
  const bundle = parts(byAlice);
  const { messageSignature, ...rest } = bundle;
  const payload = SUMS.toString('base64');
  const signatures = [{ sig: messageSignature.signature }];
  return { ...rest, dsseEnvelope: { payload, payloadType: 'application/vnd.in-toto+json', signatures } };
}

/** A good signature over the sums, with a certificate in the name of alice. */
function certificateBundle(): string {
  const keyFile = join(tempDir('certificate'), 'own.key');
  writeFileSync(keyFile, stranger.privateKey.export({ type: 'pkcs8', format: 'pem' }));
  const self = [
    'req',
    '-x509',
    '-new',
    '-key',
    keyFile,
    '-subj',
    '/CN=alice',
    '-days',
    '1',
    '-outform',
    'DER',
  ];
  const rawBytes = openssl(self).toString('base64');
  const signature = sign('sha256', SUMS, stranger.privateKey).toString('base64');
  return forged((b) => {
    b.verificationMaterial = { certificate: { rawBytes } };
    b.messageSignature.signature = signature;
  });
}
