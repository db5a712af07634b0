// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { bundleFromJSON, type Bundle } from '@sigstore/bundle';
import { certificateOf, claimedIdentity, identityText, parseTrustedRoot } from '../../src/trust/identity.ts';
import { parseTrustPolicy, type TrustPolicy } from '../../src/trust/policy.ts';
import { tempDir } from '../support/workspace.ts';
import { signedAs } from '../support/certified.ts';
import { startSigstore } from '../support/sigstore.ts';
import { codeOf, openssl, person, policyText, refusalOf, signedBy, SUMS } from './helpers.ts';

const sigstore = await startSigstore();
afterAll(() => sigstore.close());

const root = (change: (json: Record<string, unknown[]>) => void): string => {
  const json = JSON.parse(sigstore.trustedRoot) as Record<string, unknown[]>;
  change(json);
  return JSON.stringify(json);
};

describe('parseTrustedRoot', () => {
  it.each(['certificateAuthorities', 'tlogs', 'ctlogs'])('asks for %s', (list) => {
    expect(() => parseTrustedRoot(root((json) => (json[list] = [])))).toThrow('names not even');
  });

  it('does without a timestamp authority, since the log promises its time', () => {
    parseTrustedRoot(root((json) => (json['timestampAuthorities'] = [])));
  });

  it.each<[string, string]>([
    ['no JSON', 'hello'],
    ['an empty object', '{}'],
    ['a list', '[]'],
    ['null', 'null'],
    [
      'a certificate that is none',
      root(
        (json) =>
          (json['certificateAuthorities'] = [{ certChain: { certificates: [{ rawBytes: 'AAAA' }] } }]),
      ),
    ],
    [
      'an authority without certificates',
      root((json) => (json['certificateAuthorities'] = [{ certChain: { certificates: [] } }])),
    ],
    [
      'an authority without certificates beside a good one',
      root((json) => json['certificateAuthorities']!.push({ certChain: { certificates: [] } })),
    ],
    ['a log without a key', root((json) => (json['tlogs'] = [{}]))],
    ['more than it may be', ' '.repeat(300_000)],
  ])('refuses %s', (_, text) => {
    expect(() => parseTrustedRoot(text)).toThrow();
  });
});

describe('a member of a trusted root that is not known', () => {
  const withMember = (value: unknown): string =>
    JSON.stringify({ ...(JSON.parse(sigstore.trustedRoot) as object), later: value });

  it.each([[null], [''], [[]]])('may be there with a value that says nothing: %j', (value) => {
    expect(() => parseTrustedRoot(withMember(value))).not.toThrow();
  });

  it.each([['x'], [['x']], [0], [false], [{}], [{ length: 0 }]])(
    'is refused with a value that says something: %j',
    (value) => {
      expect(() => parseTrustedRoot(withMember(value))).toThrow("unknown member 'later'");
    },
  );
});

it('without a timestamp the time is that of the log, in milliseconds', async () => {
  const claim = { subject: 'https://ci.example/x', issuer: 'https://issuer.example' };
  const json = JSON.parse(await signedAs(sigstore, SUMS, claim)) as {
    verificationMaterial: { timestampVerificationData: object; tlogEntries: { integratedTime: string }[] };
  };
  json.verificationMaterial.timestampVerificationData = {};
  const { signedAt } = parseTrustedRoot(sigstore.trustedRoot)(bundleFromJSON(json), SUMS);
  expect(signedAt.getTime()).toBe(Number(json.verificationMaterial.tlogEntries[0]!.integratedTime) * 1000);
});

it('a certificate counts by any one of several authorities', async () => {
  const other = await startSigstore();
  const both = root((json) => {
    const theirs = JSON.parse(other.trustedRoot) as Record<string, unknown[]>;
    for (const list of ['certificateAuthorities', 'tlogs', 'ctlogs', 'timestampAuthorities'])
      json[list]!.unshift(...theirs[list]!);
  });
  const claim = { subject: 'https://ci.example/x', issuer: 'https://issuer.example' };
  const before = Date.now() - 2000;
  const signed = bundleFromJSON(JSON.parse(await signedAs(sigstore, SUMS, claim)));
  const { identity, signedAt } = parseTrustedRoot(both)(signed, SUMS);
  expect(identity).toEqual(claim);
  expect(signedAt.getTime()).toBeGreaterThanOrEqual(before);
  expect(signedAt.getTime()).toBeLessThanOrEqual(Date.now() + 2000);
  await other.close();
});

/** A bundle with a certificate that nobody vouches for, with these extensions. */
async function claiming(...extensions: string[]): Promise<Bundle> {
  const key = join(tempDir('identity'), 'x.key');
  writeFileSync(key, person('x').privateKey.export({ type: 'pkcs8', format: 'pem' }));
  const more = extensions.flatMap((extension) => ['-addext', extension]);
  const args = ['req', '-x509', '-new', '-key', key, '-subj', '/CN=x', '-days', '1', '-outform', 'DER'];
  const der = openssl([...args, ...more]);
  const json = JSON.parse(await signedBy(person('y'))) as { verificationMaterial: object };
  json.verificationMaterial = {
    certificate: { rawBytes: der.toString('base64') },
    timestampVerificationData: {},
  };
  // bundleFromJSON asks for a log entry beside a certificate; here only the certificate is read.
  return { ...bundleFromJSON(json), mediaType: 'application/vnd.dev.sigstore.bundle.v0.3+json' };
}

describe('what a certificate claims', () => {
  const SAN = 'subjectAltName=URI:https://ci.example/x';
  const V2 = '1.3.6.1.4.1.57264.1.8';
  const V1 = '1.3.6.1.4.1.57264.1.1';
  const hex = (text: string): string => Buffer.from(text).toString('hex');
  const issuer = async (...extensions: string[]): Promise<string> =>
    claimedIdentity(await claiming(SAN, ...extensions)).issuer;

  it.each<[string, string[]]>([
    ['in the newer extension', [`${V2}=ASN1:UTF8String:https://issuer.example`]],
    ['in the older one', [`${V1}=DER:${hex('https://issuer.example')}`]],
    [
      'in both: the newer counts',
      [`${V2}=ASN1:UTF8String:https://issuer.example`, `${V1}=DER:${hex('https://old')}`],
    ],
  ])('the issuer, %s', async (_, extensions) => {
    expect(await issuer(...extensions)).toBe('https://issuer.example');
  });

  it('an issuer of 127 characters, the longest with a length of one byte', async () => {
    const longest = `https://${'i'.repeat(119)}`;
    expect(await issuer(`${V2}=ASN1:UTF8String:${longest}`)).toBe(longest);
    await expect(issuer(`${V2}=ASN1:UTF8String:${longest}i`)).rejects.toThrow('does not name the issuer');
  });

  it.each<[string, string[]]>([
    ['none', []],
    ['another type of text', [`${V2}=ASN1:PRINTABLESTRING:https://issuer.example`]],
    ['bare text where a type is expected', [`${V2}=DER:${hex('https://issuer.example')}`]],
    ['a length that is too small', [`${V2}=DER:0c02${hex('https://issuer.example')}`]],
    ['a length that is too large', [`${V2}=DER:0c7f${hex('https://issuer.example')}`]],
    [
      'a damaged newer extension beside a good older one',
      [`${V2}=DER:0c02${hex('abc')}`, `${V1}=DER:${hex('https://old')}`],
    ],
    ['a space before it', [`${V1}=DER:${hex(' https://issuer.example')}`]],
    ['a space behind it', [`${V1}=DER:${hex('https://issuer.example ')}`]],
    ['a letter beyond ASCII', [`${V1}=DER:${hex('https://issuér.example')}`]],
    ['nothing in it', [`${V2}=ASN1:UTF8String:`]],
  ])('no issuer: %s', async (_, extensions) => {
    await expect(issuer(...extensions)).rejects.toThrow('does not name the issuer');
  });

  it.each<[string, string[]]>([
    ['no name', []],
    ['two names', ['subjectAltName=URI:https://a.example,URI:https://b.example']],
    ['a host', ['subjectAltName=DNS:ci.example']],
    ['an address and a URI', ['subjectAltName=email:a@b.example,URI:https://b.example']],
  ])('no subject: %s', async (_, extensions) => {
    const bundle = await claiming(...extensions, `${V2}=ASN1:UTF8String:https://issuer.example`);
    expect(() => claimedIdentity(bundle)).toThrow('exactly one name');
  });

  it('an address is a subject', async () => {
    const bundle = await claiming('subjectAltName=email:a@b.example', `${V2}=ASN1:UTF8String:https://i`);
    expect(claimedIdentity(bundle)).toEqual({ subject: 'a@b.example', issuer: 'https://i' });
    expect(identityText(claimedIdentity(bundle))).toBe('a@b.example (https://i)');
  });

  it('a signature with a key alone claims nothing', async () => {
    const bundle = bundleFromJSON(JSON.parse(await signedBy(person('z'))));
    expect(() => claimedIdentity(bundle)).toThrow('does not come with a certificate');
    expect(() => certificateOf(bundle)).toThrow('does not come with a certificate');
  });

  it('the first certificate of a chain is that of the signer', async () => {
    const one = await claiming(SAN, `${V2}=ASN1:UTF8String:https://issuer.example`);
    const { content } = one.verificationMaterial;
    if (content.$case !== 'certificate') throw new Error('no certificate');
    const certificates = [content.certificate, { rawBytes: Buffer.from('not looked at') }];
    const chained = {
      ...one,
      verificationMaterial: {
        ...one.verificationMaterial,
        content: { $case: 'x509CertificateChain' as const, x509CertificateChain: { certificates } },
      },
    };
    expect(certificateOf(chained as Bundle).raw).toEqual(content.certificate.rawBytes);
    const empty = {
      ...chained,
      verificationMaterial: {
        ...chained.verificationMaterial,
        content: { $case: 'x509CertificateChain' as const, x509CertificateChain: { certificates: [] } },
      },
    };
    expect(() => certificateOf(empty as Bundle)).toThrow(/no start line/);
  });
});

const alice = person('alice');
const CI =
  "  - name: ci\n    identity: { subject: 'https://ci.example/x', issuer: 'https://issuer.example' }\n";
const policyWith = (signers: string, rest = ''): TrustPolicy =>
  parseTrustPolicy(`${policyText([alice])}${signers}${rest}`, 'trust.yaml');
const ROOT = `sigstore:\n  trustedRoot: |\n    ${sigstore.trustedRoot}\n`;

describe('identities in a trust policy', () => {
  it('are signers beside keys', () => {
    const { signers, sigstore: trust } = policyWith(CI, ROOT);
    expect(signers[1]).toEqual({
      name: 'ci',
      identity: { subject: 'https://ci.example/x', issuer: 'https://issuer.example' },
    });
    expect(trust?.judge).toBeTypeOf('function');
    expect(trust?.digest).toMatch(/^sha256:[0-9a-f]{64}$/);
  });

  it('may be several, as long as they differ', () => {
    const other = CI.replace('name: ci', 'name: ci2').replace('ci.example/x', 'ci.example/y');
    expect(policyWith(CI + other, ROOT).signers.map(({ name }) => name)).toEqual(['alice', 'ci', 'ci2']);
  });

  it.each<[string, string, string, string]>([
    ['without a trusted root', CI, '', 'certificates need sigstore.trustedRoot'],
    [
      'with a trusted root that is none',
      CI,
      'sigstore: { trustedRoot: "{}" }\n',
      'expected the text of a trusted_root.json',
    ],
    ['and neither key nor identity', '  - name: nobody\n', ROOT, 'expected a publicKey or an identity'],
    [
      'with a subject that shows other than it is',
      CI.replace('ci.example', 'c\u0456.example'),
      ROOT,
      'expected printable ASCII',
    ],
    ['with an empty issuer', CI.replace('https://issuer.example', ''), ROOT, 'expected printable ASCII'],
    ['with a pattern key', CI.replace('subject:', 'subjectRegExp:'), ROOT, "unknown key 'subjectRegExp'"],
    ['twice', CI + CI.replace('name: ci', 'name: ci2'), ROOT, "the same identity as that of 'ci'"],
    [
      'under a taken name',
      CI.replace('name: ci', 'name: alice'),
      ROOT,
      "a second signer with the name 'alice'",
    ],
  ])('%s: refused', (_, signers, rest, words) => {
    const error = refusalOf(() => policyWith(signers, rest));
    expect(error.code).toBe('POLICY_INVALID');
    expect([error.message, ...error.details.flat()].join('\n')).toContain(words);
  });

  it('a channel and names have the form of names', () => {
    expect(policyWith('', 'channel: stable\nnames: [a, b]\n')).toMatchObject({
      channel: 'stable',
      names: new Set(['a', 'b']),
    });
    for (const rest of ['channel: ""\n', 'channel: [a]\n', 'names: []\n', 'names: ["A"]\n', 'names: a\n'])
      expect(codeOf(() => policyWith('', rest))).toBe('POLICY_INVALID');
  });
});
