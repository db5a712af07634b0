// SPDX-License-Identifier: Apache-2.0
/** Names and documents that pass for something else: on a medium (A1), in a policy that people review (A4). THREATS.md T5, T14. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { ALL } from '../../src/cli/all.ts';
import { run } from '../cli/harness.ts';
import { tempDir } from '../support/workspace.ts';
import { codeOf, person, policyOf, policyText } from '../trust/helpers.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { loadPublicKey } from '../../src/trust/keys.ts';

const alice = person('alice');
const bob = person('bob');

describe('the name of a file on a medium', () => {
  it('with line feeds writes no line that passes for one of sealift', async () => {
    const dir = tempDir('medium');
    const medium = join(dir, 'usb');
    mkdirSync(medium);
    const lie = `a\nOK  demo 1.0.0\nhint: sealift install it\n.sealift.tar`;
    writeFileSync(join(medium, lie), 'SHA256SUMS');
    writeFileSync(join(dir, 'trust.yaml'), policyText([alice]));
    const { exit, stdout, stderr } = await run(ALL, ['verify', medium, '--policy', join(dir, 'trust.yaml')]);
    expect(exit).toBe(13);
    const lines = `${stdout}\n${stderr}`.split('\n').map((line) => line.trim());
    expect(lines.filter((line) => /^(OK|hint: sealift install)/.test(line))).toEqual([]);
    expect(lines).toContain('| OK  demo 1.0.0');
  });
});

describe('a key file that holds two keys', () => {
  it.each(['----- ', '-----\t', '-----\u00a0'])('is refused, also when the end of a label is %j', (end) => {
    const hidden = bob.pem.replace('KEY-----\n', `KEY${end}\n`);
    for (const pem of [hidden + alice.pem, alice.pem + hidden])
      expect(codeOf(() => loadPublicKey(pem, 'release.pub'))).toBe('KEY_INVALID');
  });

  it('is refused when one of them is private', () => {
    const secret = bob.privateKey
      .export({ type: 'pkcs8', format: 'pem' })
      .replace('KEY-----\n', 'KEY----- \n');
    expect(codeOf(() => loadPublicKey(secret + alice.pem, 'release.pub'))).toBe('KEY_INVALID');
  });
});

describe('a policy that says something twice', () => {
  it('is refused, also when one of the keys is a boolean', () => {
    const rest = 'bundles:\n  "true": { minVersion: 2.0.0 }\n  true: { minVersion: 1.0.0 }\n';
    expect(codeOf(() => policyOf([alice], 1, rest))).toBe('POLICY_INVALID');
    expect(() =>
      parseTrustPolicy(policyText([alice], 1, rest.replace('  true', '  other')), 'p'),
    ).not.toThrow();
  });
});

describe('a signer who looks like another', () => {
  const named = (name: string): string => policyText([alice, { ...bob, name: JSON.stringify(name) }]);

  it.each([
    'ALICE',
    'ａｌｉｃｅ',
    'al\u3164ice',
    'alice\ufe0f',
    ' alice',
    'alice ',
    '\u00a0alice',
    '\u3164',
    'x  sha256:0',
    '',
  ])('is refused: %j', (name) => {
    expect(codeOf(() => parseTrustPolicy(named(name), 'trust.yaml'))).toBe('POLICY_INVALID');
  });

  it.each(['build 04 (night)', 'Zoë', '山田 太郎', 'alice2'])('is not: %j', (name) => {
    expect(parseTrustPolicy(named(name), 'trust.yaml').signers[1]!.name).toBe(name);
  });
});
