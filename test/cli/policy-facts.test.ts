// SPDX-License-Identifier: Apache-2.0
/** What a person is shown of a policy before agreeing to it. */
import { expect, it } from 'vitest';
import { differenceOf, signerState } from '../../src/cli/policy-facts.ts';
import type { TrustPolicy } from '../../src/trust/policy.ts';
import { NOW, person, policyOf } from '../trust/helpers.ts';

const base = policyOf([person('alice')]);
const trusting = (subject: string): TrustPolicy => ({
  ...base,
  signers: [{ name: 'ci', identity: { subject, issuer: 'https://issuer.example' } }],
});

it('an identity that differs at its far end is a change, and each is shown whole', () => {
  const long = `https://ci.example/${'group/'.repeat(100)}build.yml@refs/heads/`;
  const changes = differenceOf(trusting(`${long}main`), trusting(`${long}evil`));
  expect(changes.map(({ change, value }) => [change, /heads\/(\w+)/.exec(value)?.[1]])).toEqual([
    ['removed', 'main'],
    ['added', 'evil'],
  ]);
});

it('a signer whose key is revoked still counts when an identity is left, and only then', () => {
  const [signer] = base.signers;
  const policy = { ...base, revokedKeys: new Set([signer!.fingerprint!]) };
  const identity = { subject: 'https://ci.example/x', issuer: 'https://issuer.example' };
  expect(signerState(signer!, policy, NOW)).toBe('revoked');
  expect(signerState({ ...signer!, identity }, policy, NOW)).toBe('valid');
});
