// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { generateKeyPairSync, sign } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fingerprint, keyHint } from '../../src/trust/keys.ts';
import { keySigner, rawSigner, type Signer } from '../../src/trust/sign.ts';
import { encodeSlot } from '../../src/trust/slots.ts';
import { tempDir } from '../support/workspace.ts';
import { person, refusalOf, signedBy, SUMS } from './helpers.ts';

const alice = person('alice');
const bob = person('bob');

describe('a signer', () => {
  it('writes the form that cosign writes, on one line', async () => {
    const json = await signedBy(alice);
    expect(json).not.toMatch(/\n/);
    expect(JSON.parse(json)).toEqual({
      mediaType: 'application/vnd.dev.sigstore.bundle.v0.3+json',
      verificationMaterial: { publicKey: { hint: keyHint(alice.publicKey) }, timestampVerificationData: {} },
      messageSignature: {
        messageDigest: { algorithm: 'SHA2_256', digest: expect.stringMatching(/^[\w+/]{43}=$/) as unknown },
        signature: expect.stringMatching(/^ME[\w+/]+=*$/) as unknown,
      },
    });
  });

  it('is checked with tr, sed, base64 and openssl, out of a padded slot', async () => {
    const dir = tempDir('openssl');
    writeFileSync(join(dir, 'SHA256SUMS'), SUMS);
    writeFileSync(join(dir, 'release.pub'), alice.pem);
    writeFileSync(join(dir, '0.sigstore.json'), encodeSlot(await signedBy(alice)));
    const audit = [
      `tr -d '\\n\\r' < 0.sigstore.json | sed -n 's/.*"signature" *: *"\\([^"]*\\)".*/\\1/p' | base64 -d > sig`,
      'openssl dgst -sha256 -verify release.pub -signature sig SHA256SUMS',
    ].join(' && ');
    const run = (): string => execFileSync('sh', ['-c', audit], { cwd: dir, stdio: 'pipe' }).toString();
    expect(run()).toBe('Verified OK\n');
    writeFileSync(join(dir, 'SHA256SUMS'), Buffer.concat([SUMS, SUMS]));
    expect(run).toThrow(/Verification failure|Command failed/);
  });

  const returning = (signature: Uint8Array): Signer => rawSigner(alice.publicKey, async () => signature);
  const dishonest: [string, Uint8Array][] = [
    ["another key's signature", sign('sha256', SUMS, bob.privateKey)],
    ['a signature over other bytes', sign('sha256', Buffer.from('other'), alice.privateKey)],
    ['a signature with another hash', sign('sha512', SUMS, alice.privateKey)],
    [
      'raw r and s instead of DER',
      sign('sha256', SUMS, { key: alice.privateKey, dsaEncoding: 'ieee-p1363' }),
    ],
    [
      'a signature with a byte too many',
      Buffer.concat([sign('sha256', SUMS, alice.privateKey), Buffer.of(0)]),
    ],
    ['nothing', Buffer.alloc(0)],
    ['text', Buffer.from('PKCS11 error: token not present')],
  ];
  it.each(dishonest)('emits nothing when the signer returns %s', async (_, signature) => {
    await expect(returning(signature).sign(SUMS)).rejects.toMatchObject({ code: 'BAD_SIGNATURE' });
  });

  it('says with which public key it does not verify, and what to ask', async () => {
    const error = await returning(Buffer.alloc(0))
      .sign(SUMS)
      .catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({
      details: [['public key', fingerprint(alice.publicKey)]],
      hint: expect.stringContaining('is the private key that signs the one') as unknown,
    });
  });

  it('is named by the fingerprint of its key', () => {
    expect(keySigner(alice.privateKey).name).toBe(fingerprint(alice.publicKey));
    expect(rawSigner(alice.publicKey, async () => SUMS).name).toBe(fingerprint(alice.publicKey));
  });

  it('lets an error of the signer through', async () => {
    const broken = rawSigner(alice.publicKey, () => Promise.reject(new Error('token removed')));
    await expect(broken.sign(SUMS)).rejects.toThrow('token removed');
  });

  it('signs with ECDSA P-256 only', () => {
    const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-384' });
    expect(refusalOf(() => keySigner(privateKey)).message).toMatch(
      /^the signing key holds a key of type ec secp384r1/,
    );
    const device = async (bytes: Uint8Array): Promise<Uint8Array> => sign('sha256', bytes, privateKey);
    expect(refusalOf(() => rawSigner(publicKey, device)).message).toMatch(/^the signer holds a key of type/);
  });
});
