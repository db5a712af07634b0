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
    for (const member of ['channel', 'names', 'sigstore']) expect(policy).not.toHaveProperty(member);
  });

  it('may revoke keys only, bundles only, or name them and revoke none', () => {
    const revoked = (rest: string): string[][] => {
      const { revokedKeys, revokedBundles } = policyOf([alice], 1, `revoked: ${rest}\n`);
      return [[...revokedKeys], [...revokedBundles]];
    };
    expect(revoked(`{ keys: ["${A}"] }`)).toEqual([[A], []]);
    expect(revoked(`{ bundles: ["${B}"] }`)).toEqual([[], [B]]);
    expect(revoked('{}')).toEqual([[], []]);
  });

  it('refuses one key under two names, in whatever encoding', () => {
    const compressed = openssl(['ec', '-pubin', '-pubout', '-conv_form', 'compressed'], alice.pem).toString();
    const text = policyText([alice, { ...bob, pem: compressed }], 2);
    expect(refused(text)).toMatch(
      /^trust\.yaml:\d+:\d+: signers\.1\.publicKey: the same key as that of 'alice'/,
    );
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
    expect(refused(policyText([alice, bob], 3))).toContain('expected at most 2, the number of signers');
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
      expect(refused(policyText([{ ...alice, pem }]))).toMatch(
        /^trust\.yaml:7:16: signers\.0\.publicKey: the value (is|holds) /,
      );
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
    const never = { ...swapped, notAfter: '2027-01-01T01:00:00+01:00' };
    expect(refused(policyText([never]))).toMatch(/notAfter must be later than notBefore/);
  });

  it('refuses fingerprints, versions and names that would never match', () => {
    for (const rest of [
      `revoked: { keys: ["${A.toUpperCase()}"] }\n`,
      `revoked: { bundles: ["${A.slice(0, 20)}"] }\n`,
      `revoked: { keys: ["${A}0"] }\n`,
      `revoked: { keys: ["x${A}"] }\n`,
      `revoked: { keys: [["${A}"]] }\n`,
      'bundles: { Demo: { minVersion: 1.4.0 } }\n',
      'bundles: { __proto__: { minVersion: 1.4.0 } }\n',
    ]) {
      expect(refused(policyText([alice], 1, rest))).not.toBe('');
    }
  });

  const lowest = (version: string): string =>
    `bundles: { demo: { minVersion: ${JSON.stringify(version)} } }\n`;
  const VERSIONS = ['0.0.0', '10.20.30', '999999999.0.0', '1.0.0-rc.1', '1.0.0-rc-1.alpha.12', '1.0.0--'];
  it.each(VERSIONS)('takes %s for the lowest version', (version) => {
    expect([...policyOf([alice], 1, lowest(version)).minVersions]).toEqual([['demo', version]]);
  });

  it.each([
    '',
    '1',
    '1.4',
    '1.4.0.0',
    '1.4.x',
    '01.0.0',
    '1.04.0',
    '1.0.04',
    '1234567890.0.0',
    '1.1234567890.0',
    '1.0.1234567890',
    'v1.0.0',
    ' 1.0.0',
    '1.0.0 ',
    '1.0.0\n',
    '1.0.0+build',
    '1.0.0-',
    '1.0.0-a..b',
    '1.0.0-a.',
    '1.0.0-.a',
    '1.0.0-ä',
    '1.0.0-a.ä',
    '1a.0.0',
    '1.2a.0',
    '1.0.2a',
  ])('refuses %j for the lowest version', (version) => {
    expect(refused(policyText([alice], 1, lowest(version)))).toContain('expected a semantic version');
  });

  it.each(['a', 'a-b.c2', 'x'.repeat(63)])('takes %s for a channel', (channel) => {
    expect(policyOf([alice], 1, `channel: ${channel}\n`).channel).toBe(channel);
  });

  it.each(['', 'A', 'aB', 'a_b', 'a b', 'a ', ' a', 'a-', 'a.', '1a', '-a', 'ä', 'x'.repeat(64)])(
    'refuses %j for a channel',
    (channel) => {
      const text = policyText([alice], 1, `channel: ${JSON.stringify(channel)}\n`);
      expect(refused(text)).toContain('expected the name of a channel');
    },
  );

  it('refuses another kind of document', () => {
    expect(refused(policyText([alice]).replace('TrustPolicy', 'Bundle'))).toMatch(/kind/);
    expect(refused('')).not.toBe('');
  });
});
