// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { fingerprint } from '../../src/trust/keys.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { openssl, person, policyOf, policyText, refusalOf, type Terms } from './helpers.ts';

const alice = person('alice');
const bob = person('bob');
const A = `sha256:${'a'.repeat(64)}` as const;
const B = `sha256:${'b'.repeat(64)}` as const;

/** Everything that is said about a policy that is refused. */
const refused = (text: string): string => {
  const error = refusalOf(() => parseTrustPolicy(text, 'trust.yaml'));
  expect(error.code).toBe('POLICY_INVALID');
  return [error.message, error.hint ?? '', ...error.details.map(([, value]) => value)].join('\n');
};

describe('parseTrustPolicy', () => {
  it('reads everything that a policy can say', () => {
    const signers: Terms[] = [
      { ...alice, notBefore: '2026-01-01T00:00:00Z', notAfter: '2027-01-01T01:00:00+01:00' },
      bob,
    ];
    const rest = `revoked:\n  keys: ["${A}"]\n  bundles: ["${B}"]\nbundles:\n  qwen3-coder: { minVersion: 1.4.0 }\n`;
    const text = policyText(signers, 2, rest);
    const policy = parseTrustPolicy(text, 'trust.yaml');
    expect(policy).toMatchObject({ version: 3, threshold: 2 });
    expect(
      policy.signers.map((s) => [
        s.name,
        s.fingerprint,
        s.notBefore?.toISOString(),
        s.notAfter?.toISOString(),
      ]),
    ).toEqual([
      ['alice', fingerprint(alice.publicKey), '2026-01-01T00:00:00.000Z', '2027-01-01T00:00:00.000Z'],
      ['bob', fingerprint(bob.publicKey), undefined, undefined],
    ]);
    expect([...policy.revokedKeys, ...policy.revokedBundles]).toEqual([A, B]);
    expect([...policy.minVersions]).toEqual([['qwen3-coder', '1.4.0']]);
    expect(policy.fingerprint).toBe(`sha256:${createHash('sha256').update(text).digest('hex')}`);
  });

  it('needs neither revocations nor bundles', () => {
    const policy = policyOf([alice]);
    expect([policy.revokedKeys.size, policy.revokedBundles.size, policy.minVersions.size]).toEqual([0, 0, 0]);
    const named = policyOf([alice], 1, 'revoked: {}\n');
    expect([named.revokedKeys.size, named.revokedBundles.size]).toEqual([0, 0]);
  });

  it('refuses a list where a digest must be, though it would be the same as text', () => {
    expect(refused(policyText([alice], 1, `revoked: { keys: [["${A}"]] }\n`))).toContain('expected sha256:');
  });

  it.each([
    '1.04.0',
    '1.4.00',
    '1234567890.0.0',
    '1.1234567890.0',
    '1.0.1234567890',
    '1x.0.0',
    '1.2x.0',
    '1.0.2x',
  ])('refuses %s for a lowest version: no number of a version', (version) => {
    const text = policyText([alice], 1, `bundles: { demo: { minVersion: "${version}" } }\n`);
    expect(refused(text)).toContain('expected a semantic version');
  });

  it('refuses one key under two names, in whatever encoding', () => {
    const compressed = openssl(['ec', '-pubin', '-pubout', '-conv_form', 'compressed'], alice.pem).toString();
    const text = policyText([alice, { ...bob, pem: compressed }], 2);
    expect(refused(text)).toMatch(/^trust\.yaml:\d+:\d+: .*the same key as that of 'alice'/);
  });

  it('refuses two signers of one name', () => {
    expect(refused(policyText([alice, { ...bob, name: 'alice' }]))).toMatch(
      /a second signer with the name 'alice'/,
    );
  });

  it('refuses a threshold that is zero, no whole number, or more than the signers', () => {
    for (const threshold of [0, -1, 1.5, 3, 9]) {
      expect(refused(policyText([alice, bob], threshold))).toMatch(/^trust\.yaml:4:12: threshold: /);
    }
  });

  it('refuses a policy without signers', () => {
    const text = policyText([alice]).replace(/signers:[\s\S]*/, 'signers: []\n');
    expect(refused(text)).toMatch(/signers/);
  });

  it('refuses keys of another kind, private keys and junk, and names the place', () => {
    const { privateKey } = alice;
    const bad = [
      openssl(['pkey', '-pubout'], openssl(['genpkey', '-algorithm', 'ed25519'])).toString(),
      openssl(
        ['pkey', '-pubout'],
        openssl(['ecparam', '-name', 'secp384r1', '-genkey', '-noout']),
      ).toString(),
      privateKey.export({ type: 'pkcs8', format: 'pem' }),
      'junk',
    ];
    for (const pem of bad) {
      expect(refused(policyText([{ ...alice, pem }]))).toMatch(/^trust\.yaml:7:16: signers\.0\.publicKey: /);
    }
  });

  it('refuses a misspelt key instead of trusting without the rule that it meant', () => {
    expect(refused(policyText([alice], 1, `revoked: { key: ["${A}"] }\n`))).toMatch(
      /unknown key 'key'[\s\S]*did you mean 'keys'/,
    );
    expect(refused(`${policyText([alice])}revokd: {}\n`)).toMatch(/did you mean 'revoked'/);
    expect(refused(policyText([alice]).replace('threshold', 'treshold'))).toMatch(/threshold/);
  });

  it('refuses dates without a zone, on no calendar, or the wrong way round', () => {
    for (const notAfter of [
      '2026-12-31',
      '2026-12-31T00:00:00',
      '2026-02-30T00:00:00Z',
      'tomorrow',
      '1893456000',
    ]) {
      expect(refused(policyText([{ ...alice, notAfter }]))).toMatch(/notAfter/);
    }
    const swapped = { ...alice, notBefore: '2027-01-01T00:00:00Z', notAfter: '2026-01-01T00:00:00Z' };
    expect(refused(policyText([swapped]))).toMatch(/notAfter must be later than notBefore/);
    const moment = { ...alice, notBefore: '2027-01-01T00:00:00Z', notAfter: '2027-01-01T00:00:00Z' };
    expect(refused(policyText([moment]))).toMatch(/notAfter must be later than notBefore/);
  });

  it('refuses fingerprints, versions and names that would never match', () => {
    for (const rest of [
      `revoked: { keys: ["${A.toUpperCase()}"] }\n`,
      `revoked: { bundles: ["${A.slice(0, 20)}"] }\n`,
      `revoked: { bundles: [" ${A}"] }\n`,
      `revoked: { bundles: ["${A}0"] }\n`,
      'revoked: { bundles: [7] }\n',
      'bundles: { demo: { minVersion: "1.4" } }\n',
      'bundles: { Demo: { minVersion: 1.4.0 } }\n',
      'bundles: { __proto__: { minVersion: 1.4.0 } }\n',
    ]) {
      expect(refused(policyText([alice], 1, rest))).not.toBe('');
    }
  });

  it.each([
    '1.4',
    '01.4.0',
    '1.4.0.0',
    'v1.4.0',
    '1.4.0+x',
    '1.4.0-',
    '1.4.0-a..b',
    '1.4.0-a_b',
    '1.4.0 ',
    'a.4.0',
    '1.a.0',
    '1.4.a',
    '1.4.0-a.!',
  ])('refuses %s for a lowest version', (version) => {
    expect(refused(policyText([alice], 1, `bundles: { demo: { minVersion: "${version}" } }\n`))).toMatch(
      /expected a semantic version/,
    );
  });

  it.each(['1.4.0', '0.0.1', '10.20.30-rc.1', '1.4.0-alpha-2.beta'])(
    'takes %s for a lowest version',
    (version) => {
      const policy = policyOf([alice], 1, `bundles: { demo: { minVersion: "${version}" } }\n`);
      expect(policy.minVersions.get('demo')).toBe(version);
    },
  );

  it.each(['demo!', 'demo-', 'demo.', '1demo', 'de mo', 'a'.repeat(64)])('refuses %j for a name', (name) => {
    expect(refused(policyText([alice], 1, `names: ["${name}"]\n`))).toMatch(/expected the name of a bundle/);
  });

  it.each(['Alice B', 'Zoë', '李 雷', 'a-b_c (2)'])('takes %j for the name of a signer', (name) => {
    expect(policyOf([{ ...alice, name: `"${name}"` }]).signers[0]?.name).toBe(name);
  });

  it.each([
    '',
    ' alice',
    'alice ',
    'a  b',
    'a\\tb',
    'a\\u200bb',
    'a b\\u202e',
    '\\u00a0',
    'a b\\u2028c',
    'x'.repeat(129),
  ])('refuses %j for the name of a signer', (name) => {
    expect(refused(policyText([{ ...alice, name: `"${name}"` }]))).toMatch(/signers\.0\.name/);
  });

  it('takes names that only a close look tells apart for one', () => {
    for (const name of ['ALICE', 'ａlice'])
      expect(refused(policyText([alice, { ...bob, name }]))).toMatch(/a second signer with the name 'alice'/);
  });

  it('says where a signer repeats, what a threshold may be, and what is not a public key', () => {
    expect(refused(policyText([alice, { ...bob, name: 'alice' }]))).toMatch(/signers\.1\.name: /);
    expect(refused(policyText([alice, { ...bob, pem: alice.pem }]))).toMatch(/signers\.1\.publicKey: /);
    expect(refused(policyText([alice, bob], 3))).toMatch(/expected at most 2, the number of signers/);
    expect(refused(policyText([{ ...alice, pem: 'junk' }]))).toMatch(/the value is not one public key/);
  });

  it('takes one list of revocations without the other', () => {
    expect([...policyOf([alice], 1, `revoked: { keys: ["${A}"] }\n`).revokedBundles]).toEqual([]);
    expect([...policyOf([alice], 1, `revoked: { bundles: ["${B}"] }\n`).revokedKeys]).toEqual([]);
  });

  it('has no channel and no names when it says none', () => {
    expect(Object.keys(policyOf([alice]))).not.toContain('channel');
    expect(Object.keys(policyOf([alice]))).not.toContain('names');
  });

  it('refuses another kind of document', () => {
    expect(refused(policyText([alice]).replace('TrustPolicy', 'Bundle'))).toMatch(/kind/);
    expect(refused('')).not.toBe('');
  });
});
