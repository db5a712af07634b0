// SPDX-License-Identifier: Apache-2.0
/** What a refusal says: the error for each finding is held by verify.test.ts and the attacks. */
import { describe, expect, it } from 'vitest';
import { acceptedText, refusal, signerText } from '../../src/trust/refusal.ts';
import type { AcceptedSignature, RejectionReason } from '../../src/trust/verify.ts';
import { fingerprint } from '../../src/trust/keys.ts';
import { person, policyOf } from './helpers.ts';

const alice = person('alice');
const bob = person('bob');
const policy = policyOf([alice, bob], 2);
const print = fingerprint(alice.publicKey);
const identity = { subject: 'https://ci.example/x', issuer: 'https://issuer.example' };
const signedAt = new Date('2026-11-23T12:00:00.5Z');
const byAlice: AcceptedSignature = { slot: 2, signer: 'alice', fingerprint: print };

const said = (accepted: AcceptedSignature[], ...reasons: RejectionReason[]): string => {
  const rejected = reasons.map((reason, i) => ({ slot: i + 3, reason, detail: 'why' }));
  return refusal({ accepted, rejected, threshold: 2, policyVersion: 3 }, policy, 'it').message;
};

describe('a refusal', () => {
  it.each<[string, RejectionReason[]]>([
    ['it is not signed: there is no signature', []],
    ['it is signed with a key that the trust policy has revoked', ['malformed', 'revoked']],
    ['it is signed, but outside the time in which the signer is trusted', ['unknown-key', 'expired']],
    ['it is signed, but outside the time in which the signer is trusted', ['not-yet-valid']],
    ['it is signed, but by nobody whom the trust policy names', ['bad-signature', 'unknown-identity']],
    ['it has a signature, but it does not fit: damaged, or made over other content', ['malformed']],
  ])('%s', (message, reasons) => {
    expect(said([], ...reasons)).toBe(message);
  });

  it('counts one and several', () => {
    expect(said([byAlice])).toBe('it has 1 signature that counts, and the trust policy asks for 2');
    expect(said([byAlice, byAlice])).toBe('it has 2 signatures that count, and the trust policy asks for 2');
  });

  it('lists the slots in their order, what is needed and who is trusted', () => {
    const rejected = [{ slot: 0, reason: 'malformed' as const, detail: 'why' }];
    const verdict = { accepted: [byAlice], rejected, threshold: 2, policyVersion: 3 };
    expect(refusal(verdict, policy, 'it').details).toEqual([
      ['slot 0', 'malformed: why'],
      ['slot 2', `accepted: alice  ${print}`],
      ['needed', '2 of the 2 signers of policy version 3'],
      ['trusted', `alice  ${print}`],
      ['trusted', `bob  ${fingerprint(bob.publicKey)}`],
    ]);
  });
});

describe('one line for people', () => {
  it('is a signature by a key, or by an identity at a time', () => {
    expect(acceptedText(byAlice)).toBe(`alice  ${print}`);
    expect(acceptedText({ ...byAlice, signer: 'c\u202ei', identity, signedAt })).toBe(
      'c\\u{202e}i  https://ci.example/x (https://issuer.example), 2026-11-23T12:00:00.500Z',
    );
  });

  it('is a signer by all that is known of it', () => {
    expect(signerText({ name: 'ci', identity })).toBe('ci  https://ci.example/x (https://issuer.example)');
    expect(signerText({ name: 'ci', fingerprint: print, identity })).toBe(
      `ci  ${print}  https://ci.example/x (https://issuer.example)`,
    );
  });
});
