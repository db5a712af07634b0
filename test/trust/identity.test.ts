// SPDX-License-Identifier: Apache-2.0
import { afterAll, describe, expect, it } from 'vitest';
import { parseTrustedRoot } from '../../src/trust/identity.ts';
import { parseTrustPolicy, type TrustPolicy } from '../../src/trust/policy.ts';
import { startSigstore } from '../support/sigstore.ts';
import { codeOf, person, policyText, refusalOf } from './helpers.ts';

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
    ['a log without a key', root((json) => (json['tlogs'] = [{}]))],
    ['more than it may be', ' '.repeat(300_000)],
  ])('refuses %s', (_, text) => {
    expect(() => parseTrustedRoot(text)).toThrow();
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

  it('a channel and names have the form of names', () => {
    expect(policyWith('', 'channel: stable\nnames: [a, b]\n')).toMatchObject({
      channel: 'stable',
      names: new Set(['a', 'b']),
    });
    for (const rest of ['channel: ""\n', 'channel: [a]\n', 'names: []\n', 'names: ["A"]\n', 'names: a\n'])
      expect(codeOf(() => policyWith('', rest))).toBe('POLICY_INVALID');
  });
});
