// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { bundleFromJSON, toMessageSignatureBundle, type Bundle } from '@sigstore/bundle';
import { DSSEBundleBuilder, FulcioSigner, RekorWitness } from '@sigstore/sign';
import { afterAll, describe, expect, it } from 'vitest';
import { certificateOf, claimedIdentity, identityText, parseTrustedRoot } from '../../src/trust/identity.ts';
import { parseTrustPolicy, type TrustPolicy } from '../../src/trust/policy.ts';
import { signedAs } from '../support/certified.ts';
import { startSigstore } from '../support/sigstore.ts';
import { tempDir } from '../support/workspace.ts';
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
  ])('refuses %s', (_, text) => {
    expect(() => parseTrustedRoot(text)).toThrow();
  });

  it('refuses more than it may be, and says what is too large', () => {
    const error = refusalOf(() => parseTrustedRoot(' '.repeat(300_000)));
    expect([error.code, error.message]).toEqual([
      'POLICY_INVALID',
      expect.stringMatching(/^the trusted root /),
    ]);
  });

  it.each<[string, unknown, boolean]>([
    ['an empty list', [], true],
    ['an empty text', '', true],
    ['null', null, true],
    ['a list', [''], false],
    ['an object', {}, false],
    ['a text', 'x', false],
    ['zero', 0, false],
  ])('lets a serialiser write out what it need not: %s under a name that nobody knows', (_, value, taken) => {
    const text = root((json) => ((json as Record<string, unknown>)['extra'] = value));
    if (taken) parseTrustedRoot(text);
    else expect(() => parseTrustedRoot(text)).toThrow("unknown member 'extra'");
  });
});

const CLAIM = { subject: 'https://ci.example/x', issuer: 'https://issuer.example' };
const bySomebody = await signedAs(sigstore, SUMS, CLAIM);

describe('a trusted root', () => {
  it('with two authorities vouches for what either of them issued', async () => {
    const other = await startSigstore();
    const { certificateAuthorities } = JSON.parse(other.trustedRoot) as Record<string, unknown[]>;
    await other.close();
    for (const add of ['push', 'unshift'] as const) {
      const trust = parseTrustedRoot(
        root((json) => json['certificateAuthorities']![add](...certificateAuthorities!)),
      );
      expect(trust(bundleFromJSON(JSON.parse(bySomebody)), SUMS).identity).toEqual(CLAIM);
    }
  });

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
});

describe('claimedIdentity', () => {
  const keyFile = join(tempDir('identity'), 'own.key');
  writeFileSync(keyFile, person('somebody').privateKey.export({ type: 'pkcs8', format: 'pem' }));

  /** A bundle whose certificate has these extensions, in the words of x509v3_config(5). */
  function certified(...extensions: string[]): Bundle {
    const own = ['req', '-x509', '-new', '-key', keyFile, '-subj', '/CN=x', '-outform', 'DER'];
    return toMessageSignatureBundle({
      digest: Buffer.alloc(32),
      signature: Buffer.alloc(1),
      certificate: openssl([...own, ...extensions.flatMap((text) => ['-addext', text])]),
    });
  }

  const URI = 'subjectAltName=URI:https://ci.example/x';
  const OLD = '1.3.6.1.4.1.57264.1.1';
  const NEW = '1.3.6.1.4.1.57264.1.8';
  const raw = (oid: string, head: string, text: string): string =>
    `${oid}=DER:${head}${Buffer.from(text, 'latin1').toString('hex')}`;
  const issuer = `${NEW}=ASN1:UTF8String:${CLAIM.issuer}`;

  it('is a URI or an address, by the word of an issuer', () => {
    expect(claimedIdentity(certified(URI, issuer))).toEqual(CLAIM);
    const address = claimedIdentity(certified('subjectAltName=email:ci@example.org', issuer));
    expect(address).toEqual({ ...CLAIM, subject: 'ci@example.org' });
    expect(identityText(address)).toBe('ci@example.org (https://issuer.example)');
  });

  it.each([
    ['no name', []],
    ['a host', ['subjectAltName=DNS:ci.example']],
    ['two addresses', ['subjectAltName=email:a@example.org,email:b@example.org']],
    ['a URI and an address', [`${URI},email:a@example.org`]],
    ['an address and a host', ['subjectAltName=email:a@example.org,DNS:ci.example']],
  ])('is none for %s', (_, names) => {
    expect(() => claimedIdentity(certified(...names, issuer))).toThrow('does not have exactly one name');
  });

  it.each([
    ['the older extension, bare text', [raw(OLD, '', 'https://old.example')], 'https://old.example'],
    [
      'the newer one, whatever the older one says',
      [raw(OLD, '', 'https://old.example'), issuer],
      CLAIM.issuer,
    ],
    ['127 characters', [raw(NEW, '0c7f', 'i'.repeat(127))], 'i'.repeat(127)],
  ])('takes the issuer from %s', (_, extensions, expected) => {
    expect(claimedIdentity(certified(URI, ...extensions)).issuer).toBe(expected);
  });

  it.each([
    ['no extension', []],
    ['nothing in the newer one, though the older one is good', [raw(OLD, '', 'i'), raw(NEW, '0c00', '')]],
    ['another type', [raw(NEW, '1603', 'abc')]],
    ['a length too small', [raw(NEW, '0c02', 'abc')]],
    ['a length too large', [raw(NEW, '0c04', 'abc')]],
    ['128 characters under a byte that is no length', [raw(NEW, '0c80', 'i'.repeat(128))]],
    ['129 characters under a byte that is no length', [raw(NEW, '0c81', 'i'.repeat(129))]],
    ['a blank before', [raw(OLD, '', ' abc')]],
    ['a line feed behind', [raw(OLD, '', 'abc\n')]],
    ['bytes that are not ASCII', [raw(OLD, '', 'ab\xe9')]],
  ])('knows no issuer by %s', (_, extensions) => {
    expect(() => claimedIdentity(certified(URI, ...extensions))).toThrow('does not name the issuer');
  });

  it('is nothing that comes with a key', async () => {
    const bundle = bundleFromJSON(JSON.parse(await signedBy(person('alice'))));
    expect(() => claimedIdentity(bundle)).toThrow('does not come with a certificate');
    expect(() => certificateOf(bundle)).toThrow('does not come with a certificate');
  });

  it('is shown on one line, whole up to 1,024 characters each', () => {
    const long = { subject: 's'.repeat(1024), issuer: 'i'.repeat(1024) };
    expect(identityText(long)).toBe(`${long.subject} (${long.issuer})`);
    expect(identityText({ subject: 'a\nb', issuer: '\u202e' })).toBe('a\\u{a}b (\\u{202e})');
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

  it('that differ in the issuer alone are two signers', () => {
    const other = CI.replace('name: ci', 'name: ci2').replace('issuer.example', 'other.example');
    expect(policyWith(CI + other, ROOT).signers.map(({ name }) => name)).toEqual(['alice', 'ci', 'ci2']);
  });

  it('that are refused are refused where they stand', () => {
    const lines = policyText([alice]).split('\n').length;
    const { message } = refusalOf(() => policyWith(CI));
    expect(message).toMatch(
      new RegExp(`^trust\\.yaml:${lines + 1}:\\d+: signers\\.1\\.identity: certificates need`),
    );
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
