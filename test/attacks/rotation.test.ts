// SPDX-License-Identifier: Apache-2.0
/** Attacks on the decision who may follow: TUF's rule for root metadata, over bytes. THREATS.md T25. */
import { describe, expect, it } from 'vitest';
import { SealiftError } from '../../src/errors.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import {
  judgeRotation,
  MAX_POLICY_SIGNATURES,
  policyText as policyBytesText,
  type Rotation,
} from '../../src/trust/rotate.ts';
import { NOW, person, policyText, refusalOf, type Terms } from '../trust/helpers.ts';
import { alice, bob, carol, dave, OLD, OTHERS, rotate, text, type Attempt } from '../trust/rotation.ts';

type Asked = Omit<Attempt, 'old'> & { old?: string };

const taken = ({ old = OLD, ...attempt }: Asked): Promise<Rotation> => rotate({ old, ...attempt });

const refused = (attempt: Asked): Promise<SealiftError> =>
  taken(attempt).then(
    () => Promise.reject(new Error('it was accepted')),
    (error: unknown) => (error instanceof SealiftError ? error : Promise.reject(error as Error)),
  );

describe('a new policy', () => {
  it('is taken when two of the old and two of the new have signed it', async () => {
    const { policy, byOld, byNew } = await taken({ next: OTHERS, by: [alice, bob] });
    expect(policy.version).toBe(2);
    for (const verdict of [byOld, byNew])
      expect(verdict.accepted.map(({ signer }) => signer)).toEqual(['alice', 'bob']);
  });

  it('may name all new people, when both sides sign', async () => {
    const [eve, frank] = [person('eve'), person('frank')];
    const { byOld, byNew } = await taken({ next: text([eve, frank]), by: [carol, bob, eve, frank] });
    expect(byOld.accepted.map(({ signer }) => signer)).toEqual(['carol', 'bob']);
    expect(byNew.accepted.map(({ signer }) => signer)).toEqual(['eve', 'frank']);
  });

  it.each([
    ['skipped a number', 3, /has version 3, and the one after that of this host is 2$/],
    ['an older number', 1, /has version 1, and this host is at version 2 already$/, 2],
    ['other content under the same number', 1, /has version 1, as the policy of this host, with other/],
    ['a number that skips all of them', Number.MAX_SAFE_INTEGER, /is 2$/],
  ])('with %s is refused, whoever signed', async (_, version, message, before = 1) => {
    const error = await refused({
      old: policyText([alice, bob, carol], 2, '', before),
      next: text([alice, bob, dave], version),
      by: [alice, bob, carol, dave],
    });
    expect(error).toMatchObject({ code: 'POLICY_REFUSED', exitCode: 14 });
    expect(error.message).toMatch(message);
  });

  it('signed only by the old keys is refused', async () => {
    const error = await refused({ next: text([alice, dave, person('eve')]), by: [bob, carol] });
    expect(error.code).toBe('UNTRUSTED_SIGNER');
    expect(error.message).toMatch(/^by the new policy \(version 2\), new\.yaml is signed, but by nobody/);
  });

  it('signed only by the new keys is refused', async () => {
    const error = await refused({ next: text([dave, person('eve')], 2, 1), by: [dave] });
    expect(error.code).toBe('UNTRUSTED_SIGNER');
    expect(error.message).toMatch(/^by the old policy \(version 1\), new\.yaml is signed, but by nobody/);
  });

  it.each([
    ['old', text([alice, dave]), [alice, dave]],
    ['new', text([alice, dave]), [alice, bob]],
  ] as const)('needs the whole threshold of the %s policy', async (which, next, by) => {
    const error = await refused({ next, by });
    expect(error.code).toBe('THRESHOLD_NOT_MET');
    expect(error.message).toMatch(
      new RegExp(`^by the ${which} policy \\(.*\\), new\\.yaml has 1 signature that counts`),
    );
    expect(error.details.map(([label]) => label)).toContain('alice.json');
  });

  it('counts one signer in both lists once in each of them', async () => {
    const error = await refused({ next: text([alice, bob]), by: [alice, alice] });
    expect(error).toMatchObject({ code: 'THRESHOLD_NOT_MET' });
    expect(error.message).toContain('by the old policy');
    const once = await taken({ old: policyText([alice], 1, '', 1), next: text([alice], 2, 1), by: [alice] });
    expect([once.byOld.accepted.length, once.byNew.accepted.length]).toEqual([1, 1]);
  });

  it('with signatures over another policy of the same people is refused', async () => {
    const error = await refused({ next: OTHERS, by: [alice, bob], over: `${OTHERS}# harmless\n` });
    expect(error).toMatchObject({ code: 'BAD_SIGNATURE' });
  });

  it('gets no vote of a key that the old policy has revoked, or that has expired by it', async () => {
    const revoked = policyText([alice, bob, carol], 2, `revoked: { keys: ['${printOf(bob)}'] }\n`, 1);
    expect(await refused({ old: revoked, next: OTHERS, by: [alice, bob] })).toMatchObject({
      code: 'THRESHOLD_NOT_MET',
    });
    const expired = policyText([alice, { ...bob, notAfter: '2026-11-01T00:00:00Z' }, carol], 2, '', 1);
    expect(await refused({ old: expired, next: OTHERS, by: [alice, bob] })).toMatchObject({
      code: 'THRESHOLD_NOT_MET',
    });
    await taken({ old: expired, next: OTHERS, by: [alice, carol, bob] }); // bob is in time by the new one
  });

  it('that revokes its own signers, or whose signers are not in time yet, locks nobody out', async () => {
    const revoked = text([alice, bob, dave], 2, 2, `revoked: { keys: ['${printOf(bob)}'] }\n`);
    const error = await refused({ next: revoked, by: [alice, bob] });
    expect(error.message).toContain('by the new policy');
    const later = text([alice, { ...bob, notBefore: '2027-01-01T00:00:00Z' }]);
    expect((await refused({ next: later, by: [alice, bob] })).message).toContain('by the new policy');
  });

  it('that is not text in one reading is refused', () => {
    const error = refusalOf(() =>
      judgeRotation({
        old: parseTrustPolicy(OLD, 'trust.yaml'),
        bytes: Buffer.concat([Buffer.from(`${OTHERS}# `), Buffer.from([0xff])]),
        file: 'new.yaml',
        signatures: [],
        now: NOW,
      }),
    );
    expect([error.code, error.cause]).toEqual(['POLICY_INVALID', expect.any(Error)]);
  });

  it('is another text with a byte order mark before it', () => {
    const marked = Buffer.from(`\uFEFF${OTHERS}`);
    expect(policyBytesText(marked, 'new.yaml')).toBe(`\uFEFF${OTHERS}`);
  });
});

const printOf = (who: Terms): string => parseTrustPolicy(policyText([who]), 'p').signers[0]!.fingerprint!;

it('junk for a signature is named by its file, and two thresholds of signatures fit', () => {
  const error = refusalOf(() =>
    judgeRotation({
      old: parseTrustPolicy(OLD, 'trust.yaml'),
      bytes: Buffer.from(OTHERS),
      file: 'new.yaml',
      signatures: [{ name: 'alice.json', json: 'not JSON' }],
      now: NOW,
    }),
  );
  expect([error.code, error.message]).toEqual(['BAD_SIGNATURE', expect.stringContaining('alice.json')]);
  expect(error.hint).toContain('sealift sign --detached');
  expect(MAX_POLICY_SIGNATURES).toBe(16);
});

it('a refusal names the files, also more than ten of them', async () => {
  const many = await refused({ next: OTHERS, by: Array<Terms>(12).fill(alice) });
  const named = many.details.map(([label]) => label).slice(0, 13);
  expect(named).toEqual([...Array<string>(12).fill('alice.json'), 'needed']);
});

it('a refusal names the files, and both numbers with their digests', async () => {
  const missing = await refused({ next: OTHERS, by: [alice] });
  expect(missing.details.map(([label]) => label)).toEqual([
    'alice.json',
    'needed',
    'trusted',
    'trusted',
    'trusted',
  ]);
  expect(missing.hint).toContain('new.yaml');
  const skipped = await refused({ next: text([alice, bob], 3), by: [alice, bob] });
  expect(skipped.details).toEqual([
    ['here', expect.stringMatching(/^version 1 sha256:[0-9a-f]{64}$/)],
    ['new', expect.stringMatching(/^version 3 sha256:[0-9a-f]{64}$/)],
  ]);
  expect(skipped.hint).toContain('adopt version 2 first');
});
