// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { checkPolicy, judgePolicy } from '../../src/trust/rules.ts';
import { codeOf, person, policyOf, refusalOf } from './helpers.ts';

const alice = person('alice');
const A = `sha256:${'a'.repeat(64)}` as const;
const B = `sha256:${'b'.repeat(64)}` as const;

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

describe('a policy that is for some bundles only', () => {
  const policy = policyOf([alice], 1, 'channel: production\nnames: [demo, other]\n');
  const check = (name: string, channel?: string): void =>
    checkPolicy({ name, version: '1.0.0', digest: A, channel }, policy, undefined);

  it('takes the names and the channel that it lists', () => {
    check('demo', 'production');
    check('other', 'production');
  });

  it('refuses another channel, none at all, and one that only begins alike', () => {
    for (const channel of ['testing', undefined, 'production2', 'prod'])
      expect(codeOf(() => check('demo', channel))).toBe('NOT_FOR_THIS_HOST');
  });

  it('refuses another name, and says which are allowed', () => {
    const error = refusalOf(() => check('demo2', 'production'));
    expect(error.code).toBe('NOT_FOR_THIS_HOST');
    expect(JSON.stringify(error.details)).toContain('demo, other');
  });
});

it('judgePolicy holds every rule, also behind one that refuses', () => {
  const policy = policyOf([alice], 1, `revoked: { bundles: ["${B}"] }\nnames: [demo]\n`);
  const findings = judgePolicy({ name: 'x', version: '1.0.0', digest: B }, policy, {
    version: '2.0.0',
    digest: A,
  });
  expect(findings.map(({ rule, error }) => [rule, error?.code])).toEqual([
    ['revocation', 'BUNDLE_REVOKED'],
    ['name', 'NOT_FOR_THIS_HOST'],
    ['channel', undefined],
    ['version', 'VERSION_REFUSED'],
  ]);
});
