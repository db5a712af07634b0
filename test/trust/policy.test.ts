// SPDX-License-Identifier: Apache-2.0
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { fingerprint } from '../../src/trust/keys.ts';
import { checkPolicy, compareVersions, parseTrustPolicy } from '../../src/trust/policy.ts';
import { codeOf, openssl, person, policyOf, policyText, refusalOf, type Terms } from './helpers.ts';

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
  });

  it('refuses fingerprints, versions and names that would never match', () => {
    for (const rest of [
      `revoked: { keys: ["${A.toUpperCase()}"] }\n`,
      `revoked: { bundles: ["${A.slice(0, 20)}"] }\n`,
      'bundles: { demo: { minVersion: "1.4" } }\n',
      'bundles: { Demo: { minVersion: 1.4.0 } }\n',
      'bundles: { __proto__: { minVersion: 1.4.0 } }\n',
    ]) {
      expect(refused(policyText([alice], 1, rest))).not.toBe('');
    }
  });

  it('refuses another kind of document', () => {
    expect(refused(policyText([alice]).replace('TrustPolicy', 'Bundle'))).toMatch(/kind/);
    expect(refused('')).not.toBe('');
  });
});

describe('checkPolicy', () => {
  const policy = policyOf(
    [alice],
    1,
    `revoked: { bundles: ["${B}"] }\nbundles: { demo: { minVersion: 1.2.0 } }\n`,
  );
  const check = (version: string, digest = A, installed?: { version: string; digest: typeof A }): void =>
    checkPolicy({ name: 'demo', version, digest }, policy, installed);

  it('lets a first install, an upgrade and the same bundle again pass', () => {
    check('1.2.0');
    check('1.10.0', A, { version: '1.9.0', digest: B });
    check('1.2.0', A, { version: '1.2.0', digest: A });
  });

  it('refuses a revoked bundle, also when it is what is installed', () => {
    expect(codeOf(() => check('2.0.0', B))).toBe('BUNDLE_REVOKED');
    expect(codeOf(() => check('2.0.0', B, { version: '2.0.0', digest: B }))).toBe('BUNDLE_REVOKED');
  });

  it('refuses what is older than installed, or than the policy allows', () => {
    expect(codeOf(() => check('1.9.0', A, { version: '1.10.0', digest: B }))).toBe('VERSION_REFUSED');
    expect(codeOf(() => check('1.2.0-rc.1'))).toBe('VERSION_REFUSED');
    checkPolicy({ name: 'other', version: '0.1.0', digest: A }, policy, undefined);
  });

  it('refuses the same version with other content, and shows both digests', () => {
    const error = refusalOf(() => check('1.2.0', A, { version: '1.2.0', digest: B }));
    expect(error.code).toBe('VERSION_REFUSED');
    expect(JSON.stringify(error.details)).toContain(A);
    expect(JSON.stringify(error.details)).toContain(B);
  });
});

describe('compareVersions', () => {
  // The chain of https://semver.org/#spec-item-11, and numbers beyond 2^53.
  const chain = [
    '0.9.9',
    '1.0.0-0',
    '1.0.0-9',
    '1.0.0-10',
    '1.0.0-9007199254740993',
    '1.0.0-9007199254740994',
    '1.0.0-alpha',
    '1.0.0-alpha.1',
    '1.0.0-alpha.beta',
    '1.0.0-beta',
    '1.0.0-beta.2',
    '1.0.0-beta.11',
    '1.0.0-rc.1',
    '1.0.0-rc-1.x',
    '1.0.0',
    '1.0.1',
    '1.2.0',
    '1.10.0',
    '2.0.0-alpha',
    '2.0.0',
    '10.0.0',
  ];

  it('orders every pair of a known chain', () => {
    for (const [i, a] of chain.entries()) {
      for (const [j, b] of chain.entries())
        expect([a, b, Math.sign(compareVersions(a, b))]).toEqual([a, b, Math.sign(i - j)]);
    }
  });

  it('ignores build metadata and leading zeros', () => {
    expect(compareVersions('1.0.0+a-b', '1.0.0')).toBe(0);
    expect(compareVersions('1.0.0-01', '1.0.0-1')).toBe(0);
  });
});
