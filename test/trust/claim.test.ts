// SPDX-License-Identifier: Apache-2.0
import { afterAll, describe, expect, it } from 'vitest';
import { fitsItsCertificate, readClaim } from '../../src/trust/claim.ts';
import { fingerprint } from '../../src/trust/keys.ts';
import { digestOf } from '../../src/store/digest.ts';
import { signedAs } from '../support/certified.ts';
import { startSigstore } from '../support/sigstore.ts';
import { person, signedBy, SUMS } from './helpers.ts';

const sigstore = await startSigstore();
afterAll(() => sigstore.close());

const alice = person('alice');
const IDENTITY = { subject: 'https://ci.example/x', issuer: 'https://issuer.example' };
const byKey = JSON.parse(await signedBy(alice)) as { verificationMaterial: object };
const certified = JSON.parse(await signedAs(sigstore, SUMS, IDENTITY)) as { messageSignature: object };
const withHint = (hint: string): unknown => ({ ...byKey, verificationMaterial: { publicKey: { hint } } });

describe('what a signature says of itself', () => {
  it('is a key by its fingerprint, and what it is over', () => {
    expect(readClaim(byKey)).toEqual({ by: fingerprint(alice.publicKey), digest: digestOf(SUMS) });
  });

  it('is a hint as it stands, when that is no fingerprint', () => {
    expect(readClaim(withHint('release-2026'))).toEqual({ by: 'release-2026', digest: digestOf(SUMS) });
  });

  it('is an identity by the word of its issuer', () => {
    expect(readClaim(certified)).toEqual({
      by: 'https://ci.example/x (https://issuer.example)',
      identity: IDENTITY,
      digest: digestOf(SUMS),
    });
  });
});

describe('the certificate of a signature', () => {
  const other = Buffer.from('other');

  it('fits what its key has signed, and nothing else', async () => {
    const another = JSON.parse(await signedAs(sigstore, SUMS, IDENTITY)) as { messageSignature: object };
    expect(fitsItsCertificate(certified, SUMS)).toBe(true);
    expect(fitsItsCertificate(certified, other)).toBe(false);
    expect(fitsItsCertificate({ ...certified, messageSignature: another.messageSignature }, SUMS)).toBe(
      false,
    );
  });

  it('is not asked for where there is a key', () => {
    expect(fitsItsCertificate(byKey, SUMS)).toBe(true);
    expect(fitsItsCertificate(byKey, other)).toBe(true);
  });
});
