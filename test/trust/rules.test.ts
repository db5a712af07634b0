// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import type { SealiftError } from '../../src/errors.ts';
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

describe('what each rule says', () => {
  const words = (
    rest: string,
    subject: { channel?: string; digest?: typeof A } = {},
    installed?: { version: string; digest: typeof A },
  ): string[] =>
    judgePolicy(
      { name: 'demo', version: '1.5.0', digest: A, ...subject },
      policyOf([alice], 1, rest),
      installed,
    ).map(({ detail, error }) => error?.message ?? detail);

  it('under a policy without rules', () => {
    expect(words('')).toEqual([
      'not among 0 revoked bundles',
      'any name is allowed',
      'no channel, any is allowed',
      '1.5.0; not compared with an installed version; the policy asks for no minimum',
    ]);
  });

  it('under one whose rules are kept', () => {
    const rest = `revoked: { bundles: ["${B}"] }\nnames: [demo]\nchannel: stable\nbundles: { demo: { minVersion: 1.5.0 } }\n`;
    expect(words(rest, { channel: 'stable' }, { version: '1.4.0', digest: B })).toEqual([
      'not among 1 revoked bundles',
      'demo is allowed',
      'channel stable',
      '1.5.0; after 1.4.0, which is installed; the policy asks for 1.5.0',
    ]);
  });

  it('under one whose rules are all broken', () => {
    const rest = `revoked: { bundles: ["${A}"] }\nnames: [other]\nchannel: stable\nbundles: { demo: { minVersion: 1.5.1 } }\n`;
    expect(words(rest, {}, { version: '9.0.0', digest: B })).toEqual([
      'demo 1.5.0 is revoked',
      'the trust policy does not let bundles named demo in',
      'demo is of no channel; this host takes stable',
      'demo 1.5.0 is older than 1.5.1, which the policy asks for',
    ]);
  });

  it('of what is installed, with the way back, and no way back from a revocation', () => {
    const refusal = (version: string, digest: typeof A): SealiftError | undefined =>
      judgePolicy({ name: 'demo', version, digest }, policyOf([alice]), { version: '1.5.0', digest: B }).find(
        ({ error }) => error,
      )?.error;
    expect(refusal('1.5.0', B)).toBeUndefined();
    expect(refusal('1.5.1', A)).toBeUndefined();
    expect(refusal('1.5.0', A)?.message).toBe('demo 1.5.0 is installed already, with other content');
    expect(refusal('1.4.9', A)?.message).toBe('demo 1.4.9 is older than 1.5.0, which is installed');
    expect(refusal('1.4.9', A)).toMatchObject({
      hint: expect.stringContaining('--allow-downgrade'),
      details: [
        ['installed', `1.5.0 ${B}`],
        ['bundle', `1.4.9 ${A}`],
      ],
    });
    for (const rest of [`revoked: { bundles: ["${A}"] }\n`, 'channel: stable\n', 'names: [other]\n'])
      expect(
        refusalOf(() =>
          checkPolicy({ name: 'demo', version: '1.0.0', digest: A }, policyOf([alice], 1, rest), undefined),
        ).hint,
      ).not.toContain('--allow-downgrade');
  });
});
