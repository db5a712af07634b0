// SPDX-License-Identifier: Apache-2.0
/** What a trusted root vouches for, and what of a certificate it does not: beside identity.test.ts. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bundleFromJSON, toMessageSignatureBundle } from '@sigstore/bundle';
import { DSSEBundleBuilder, FulcioSigner, RekorWitness } from '@sigstore/sign';
import { afterAll, describe, expect, it } from 'vitest';
import { claimedIdentity, identityText, parseTrustedRoot } from '../../src/trust/identity.ts';
import { parseTrustPolicy, type TrustPolicy } from '../../src/trust/policy.ts';
import { signedAs } from '../support/certified.ts';
import { startSigstore } from '../support/sigstore.ts';
import { tempDir } from '../support/workspace.ts';
import { openssl, person, policyText, refusalOf, SUMS } from './helpers.ts';

const sigstore = await startSigstore();
afterAll(() => sigstore.close());

const CLAIM = { subject: 'https://ci.example/x', issuer: 'https://issuer.example' };
const bySomebody = await signedAs(sigstore, SUMS, CLAIM);

describe('a trusted root', () => {
  it('judges a signature that holds what was signed (DSSE)', async () => {
    const identityProvider = { getToken: async () => sigstore.token(CLAIM.subject, CLAIM.issuer) };
    const builder = new DSSEBundleBuilder({
      signer: new FulcioSigner({ fulcioBaseURL: sigstore.url, identityProvider }),
      witnesses: [new RekorWitness({ rekorBaseURL: sigstore.url, entryType: 'intoto' })],
    });
    const bundle = await builder.create({ data: Buffer.from('{}'), type: 'application/vnd.in-toto+json' });
    expect(parseTrustedRoot(sigstore.trustedRoot)(bundle).identity).toEqual(CLAIM);
  });

  it('judges the first certificate of a chain, which is how cosign 2 writes the one', () => {
    const bundle = JSON.parse(bySomebody) as {
      mediaType: string;
      verificationMaterial: Record<string, unknown>;
    };
    bundle.mediaType = 'application/vnd.dev.sigstore.bundle+json;version=0.2';
    const { certificate, ...others } = bundle.verificationMaterial;
    bundle.verificationMaterial = { ...others, x509CertificateChain: { certificates: [certificate] } };
    expect(parseTrustedRoot(sigstore.trustedRoot)(bundleFromJSON(bundle), SUMS).identity).toEqual(CLAIM);
  });

  it('is refused when it is larger than it may be, and said to be', () => {
    const error = refusalOf(() => parseTrustedRoot(' '.repeat(300_000)));
    expect([error.code, error.message]).toEqual([
      'POLICY_INVALID',
      expect.stringMatching(/^the trusted root /),
    ]);
  });
});

describe('an issuer', () => {
  const keyFile = join(tempDir('issuer'), 'own.key');
  writeFileSync(keyFile, person('somebody').privateKey.export({ type: 'pkcs8', format: 'pem' }));

  it.each([
    ['127 characters', '0c7f', 127],
    ['128 characters under a byte that is no length', '0c80', 128],
    ['129 characters under a byte that is no length', '0c81', 129],
    ['another type', '167f', 127],
  ])('of %s', (what, head, count) => {
    const value = `${head}${Buffer.from('i'.repeat(count)).toString('hex')}`;
    const own = ['req', '-x509', '-new', '-key', keyFile, '-subj', '/CN=x', '-outform', 'DER'];
    const name = ['-addext', 'subjectAltName=URI:https://ci.example/x'];
    const certificate = openssl([...own, ...name, '-addext', `1.3.6.1.4.1.57264.1.8=DER:${value}`]);
    const parts = { digest: Buffer.alloc(32), signature: Buffer.alloc(1), certificate };
    const claim = (): unknown => claimedIdentity(toMessageSignatureBundle(parts));
    if (what === '127 characters') expect(claim()).toMatchObject({ issuer: 'i'.repeat(127) });
    else expect(claim).toThrow('does not name the issuer');
  });
});

it('an identity is shown on one line, whole up to 1,024 characters each', () => {
  const long = { subject: 's'.repeat(1024), issuer: 'i'.repeat(1024) };
  expect(identityText(long)).toBe(`${long.subject} (${long.issuer})`);
  expect(identityText({ subject: 'a\nb', issuer: '\u202e' })).toBe('a\\u{a}b (\\u{202e})');
});

describe('identities in a policy', () => {
  const alice = person('alice');
  const entry = (name: string, issuer: string): string =>
    `  - name: ${name}\n    identity: { subject: '${CLAIM.subject}', issuer: '${issuer}' }\n`;
  const policyWith = (signers: string, rest: string): TrustPolicy =>
    parseTrustPolicy(`${policyText([alice])}${signers}${rest}`, 'trust.yaml');

  it('that differ in the issuer alone are two signers', () => {
    const two = entry('ci', 'https://a.example') + entry('ci2', 'https://b.example');
    const { signers } = policyWith(two, `sigstore:\n  trustedRoot: |\n    ${sigstore.trustedRoot}\n`);
    expect(signers.map(({ name }) => name)).toEqual(['alice', 'ci', 'ci2']);
  });

  it('are refused where they stand', () => {
    const lines = policyText([alice]).split('\n').length;
    const { message } = refusalOf(() => policyWith(entry('ci', 'https://a.example'), ''));
    const place = new RegExp(`^trust\\.yaml:${lines + 1}:\\d+: signers\\.1\\.identity: certificates need`);
    expect(message).toMatch(place);
  });
});
