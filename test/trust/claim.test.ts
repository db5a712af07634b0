// SPDX-License-Identifier: Apache-2.0
import { createHash, generateKeyPairSync } from 'node:crypto';
import { afterAll, describe, expect, it } from 'vitest';
import { fitsItsCertificate, readClaim } from '../../src/trust/claim.ts';
import { fingerprint } from '../../src/trust/keys.ts';
import { signedAs } from '../support/certified.ts';
import { startSigstore } from '../support/sigstore.ts';
import { person, signedBy, SUMS } from './helpers.ts';

const sigstore = await startSigstore();
afterAll(() => sigstore.close());

const alice = person('alice');
const claim = { subject: 'https://ci.example/x', issuer: 'https://issuer.example' };
const digest = `sha256:${createHash('sha256').update(SUMS).digest('hex')}`;
const byKey = JSON.parse(await signedBy(alice)) as { verificationMaterial: { publicKey: { hint: string } } };
const byIdentity = JSON.parse(await signedAs(sigstore, SUMS, claim)) as {
  messageSignature: { signature: string };
};

describe('readClaim', () => {
  it('names a key by its fingerprint', () => {
    expect(readClaim(byKey)).toEqual({ by: fingerprint(alice.publicKey), digest });
  });

  it('shows a hint that is no fingerprint as it is', () => {
    const odd = structuredClone(byKey);
    odd.verificationMaterial.publicKey.hint = 'my key';
    expect(readClaim(odd)).toEqual({ by: 'my key', digest });
  });

  it('names the holder of a certificate, and who vouches for the name', () => {
    const by = 'https://ci.example/x (https://issuer.example)';
    expect(readClaim(byIdentity)).toEqual({ by, identity: claim, digest });
  });
});

describe('fitsItsCertificate', () => {
  it('asks the key of the certificate', async () => {
    expect(fitsItsCertificate(byIdentity, SUMS)).toBe(true);
    expect(fitsItsCertificate(byIdentity, Buffer.from('other'))).toBe(false);
    const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const other = JSON.parse(
      await signedAs(sigstore, SUMS, { ...claim, key: privateKey }),
    ) as typeof byIdentity;
    const { signature } = other.messageSignature;
    const mixed = { ...byIdentity, messageSignature: { ...byIdentity.messageSignature, signature } };
    expect(fitsItsCertificate(mixed, SUMS)).toBe(false);
  });

  it('has nothing to say of a signature by a key', () => {
    expect(fitsItsCertificate(byKey, Buffer.from('other'))).toBe(true);
  });
});
