// SPDX-License-Identifier: Apache-2.0
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SealiftError } from '../../src/errors.ts';
import { fingerprint } from '../../src/trust/keys.ts';
import { printable } from '../../src/text.ts';
import { verifySignatures } from '../../src/trust/verify.ts';
import { codeOf, judge, person, policyOf, refusalOf, signedBy, slotsOf, SUMS } from './helpers.ts';
import { cosignVector } from './cosign-vector.ts';

const alice = person('alice');
const bob = person('bob');
const carol = person('carol');
const mallory = person('mallory');
const byAlice = await signedBy(alice);
const byBob = await signedBy(bob);
const byMallory = await signedBy(mallory);
const byAliceOnOther = await signedBy(alice, Buffer.from('other sums\n'));

describe('verifySignatures', () => {
  it('accepts a trusted signer, in any slot', () => {
    const policy = policyOf([alice, bob]);
    const verdict = judge(slotsOf(undefined, undefined, byAlice), policy);
    expect(verdict).toEqual({
      accepted: [{ slot: 2, signer: 'alice', fingerprint: fingerprint(alice.publicKey) }],
      rejected: [],
      threshold: 1,
      policyVersion: 3,
    });
  });

  it('accepts two of three, and reports a stranger beside them', () => {
    const verdict = judge(slotsOf(byMallory, byBob, byAlice), policyOf([alice, bob, carol], 2));
    expect(verdict.accepted.map((a) => a.signer)).toEqual(['bob', 'alice']);
    expect(verdict.rejected.map((r) => [r.slot, r.reason])).toEqual([[0, 'unknown-key']]);
  });

  it('accepts what cosign 3.1.1 signed', () => {
    const { sums, bundle, publicKey } = cosignVector;
    const policy = policyOf([{ ...alice, pem: publicKey }]);
    const now = new Date();
    expect(verifySignatures(Buffer.from(sums), slotsOf(bundle), policy, now).accepted).toHaveLength(1);
    expect(codeOf(() => verifySignatures(SUMS, slotsOf(bundle), policy, now))).toBe('BAD_SIGNATURE');
  });

  it('holds validity windows at both ends, to the millisecond', () => {
    const policy = policyOf([
      { ...alice, notBefore: '2026-01-01T00:00:00Z', notAfter: '2026-06-30T00:00:00Z' },
    ]);
    const at = (time: string) => () => judge(slotsOf(byAlice), policy, new Date(time));
    expect(codeOf(at('2025-12-31T23:59:59.999Z'))).toBe('SIGNER_EXPIRED');
    expect(at('2026-01-01T00:00:00Z')().accepted).toHaveLength(1);
    expect(at('2026-06-30T00:00:00Z')().accepted).toHaveLength(1);
    expect(codeOf(at('2026-06-30T00:00:00.001Z'))).toBe('SIGNER_EXPIRED');
  });

  it('holds neither end of a window without a valid clock', () => {
    for (const window of [{ notBefore: '2026-01-01T00:00:00Z' }, { notAfter: '2027-01-01T00:00:00Z' }]) {
      const policy = policyOf([{ ...alice, ...window }]);
      expect(judge(slotsOf(byAlice), policy).accepted).toHaveLength(1);
      expect(codeOf(() => judge(slotsOf(byAlice), policy, new Date(Number.NaN)))).toBe('SIGNER_EXPIRED');
    }
  });
});

describe('the refusal', () => {
  const revoked = `revoked: { keys: ["${fingerprint(bob.publicKey)}"] }\n`;
  const late = { ...carol, notAfter: '2026-01-01T00:00:00Z' };
  const policy = policyOf([alice, bob, late], 2, revoked);

  const code = (...contents: string[]): string => codeOf(() => judge(slotsOf(...contents), policy));

  it('names the strongest reason when nothing was accepted', async () => {
    const byCarol = await signedBy(carol);
    expect(code()).toBe('NOT_SIGNED');
    expect(code('{}')).toBe('BAD_SIGNATURE');
    expect(code(byAliceOnOther, '{}')).toBe('BAD_SIGNATURE');
    expect(code(byAliceOnOther, byMallory)).toBe('UNTRUSTED_SIGNER');
    expect(code(byMallory, byCarol)).toBe('SIGNER_EXPIRED');
    expect(code(byMallory, byCarol, byBob)).toBe('SIGNER_REVOKED');
    expect(code(byMallory, byCarol, byBob, byAlice)).toBe('THRESHOLD_NOT_MET');
  });

  it('lists the finding for each slot, what is needed and who is trusted', () => {
    const error = refusalOf(() => judge(slotsOf(byMallory, undefined, byAlice, byBob), policy));
    const details = new Map(error.details.filter(([label]) => label !== 'trusted'));
    expect([...details.keys()]).toEqual(['slot 0', 'slot 2', 'slot 3', 'needed']);
    expect(details.get('slot 0')).toContain(`unknown-key: names ${fingerprint(mallory.publicKey)}`);
    expect(details.get('slot 2')).toBe(`accepted: alice  ${fingerprint(alice.publicKey)}`);
    expect(details.get('slot 3')).toContain('revoked: bob');
    expect(details.get('needed')).toBe('2 of the 3 signers of policy version 3');
    const trusted = error.details.filter(([label]) => label === 'trusted').map(([, value]) => value);
    expect(trusted).toEqual(policy.signers.map((s) => `${s.name}  ${s.fingerprint}`));
  });

  it('refuses under a policy object that asks for nothing', () => {
    for (const threshold of [0, -1, Number.NaN]) {
      const lax = { ...policyOf([alice]), threshold };
      expect(codeOf(() => judge(slotsOf(), lax))).toBe('NOT_SIGNED');
      expect(codeOf(() => judge([], lax))).toBe('NOT_SIGNED');
      expect(codeOf(() => judge(slotsOf(byMallory), lax))).toBe('UNTRUSTED_SIGNER');
    }
  });
});

describe('printable', () => {
  it('leaves text alone and escapes what could command or deceive a terminal', () => {
    expect(printable('Łódź 船 "x"')).toBe('Łódź 船 "x"');
    expect(printable('a\u001b[2Jb\r\n\u202ec\u200b\u2028\u0085\ud800')).toBe(
      'a\\u{1b}[2Jb\\u{d}\\u{a}\\u{202e}c\\u{200b}\\u{2028}\\u{85}\\u{d800}',
    );
  });

  it('cuts long text', () => {
    expect(printable('é'.repeat(5000), 160)).toBe(`${'é'.repeat(160)}…`);
  });
});

describe('any damage to a slot', () => {
  const policy = policyOf([alice, bob], 1);

  it('ends in a typed refusal or in a verdict for the same key, never in a crash', () => {
    const edit = fc.record({
      at: fc.nat(byAlice.length),
      length: fc.nat(3),
      text: fc.string({ unit: 'binary', maxLength: 4 }),
    });
    fc.assert(
      fc.property(fc.array(edit, { minLength: 1, maxLength: 4 }), (edits) => {
        let text = byAlice;
        for (const { at, length, text: put } of edits)
          text = text.slice(0, at) + put + text.slice(at + length);
        const slot = Buffer.alloc(16_384, ' ');
        slot.write(text);
        try {
          expect(judge(slotsOf(slot), policy).accepted.map((a) => a.signer)).toEqual(['alice']);
        } catch (thrown) {
          if (!(thrown instanceof SealiftError)) throw thrown;
          expect(['BAD_SIGNATURE', 'UNTRUSTED_SIGNER', 'NOT_SIGNED']).toContain(thrown.code);
        }
      }),
      { numRuns: 500 },
    );
  });

  it('does not take away a threshold that other slots meet', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 16_500 }), fc.jsonValue(), (junk, value) => {
        const json = Buffer.from(JSON.stringify(value).padEnd(16_384));
        const verdict = judge(slotsOf(junk, byAlice, json), policy);
        expect(verdict.accepted.map((a) => a.slot)).toEqual([1]);
        expect(verdict.rejected.every((r) => r.reason === 'malformed')).toBe(true);
      }),
    );
  });
});
