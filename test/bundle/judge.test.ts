// SPDX-License-Identifier: Apache-2.0
/** The list of evidence: each check with its outcome, in the order in which they are made, up to the one that refuses. */
import { describe, expect, it } from 'vitest';
import { CHECKS } from '../../src/bundle/judge.ts';
import { openBundle, type OpenOptions } from '../../src/bundle/open.ts';
import type { SealiftEvent } from '../../src/events.ts';
import { fingerprint } from '../../src/trust/keys.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { createPublicKey } from 'node:crypto';
import { attachSignature } from '../../src/bundle/slots-file.ts';
import { person, policyOf, sampleBundle, type Person } from '../support/sample.ts';

const [alice, bob, mallory] = [person('alice'), person('bob'), person('mallory')];
const sample = await sampleBundle({ channel: 'stable' });
const path = await sample.write([mallory, alice, bob]);
const now = new Date('2026-11-23T12:00:00Z');
const print = ({ publicPem }: Person): string => fingerprint(createPublicKey(publicPem));

type Row = [name: string, outcome: string, detail: string];

/** Opens and hashes the bundle; the checks that were reported, and the code of the refusal. */
async function evidence(
  options: Partial<OpenOptions>,
  file = path,
): Promise<{ rows: Row[]; code: string | undefined }> {
  const rows: Row[] = [];
  const emit = (event: SealiftEvent): void => {
    if (event.type === 'check') rows.push([event.name, event.outcome, event.detail]);
  };
  const read = async (): Promise<undefined> => {
    const bundle = await openBundle(file, { policy: policyOf([alice, bob]), now, emit, ...options });
    await bundle.verifyContent({ emit }).finally(() => bundle.close());
  };
  const code = await read().catch((error: { code: string }) => error.code);
  return { rows, code };
}

const SLOTS: Row[] = [
  [
    'slot 0',
    'warning',
    `not counted: unknown-key: names ${print(mallory)}, which is not a signer of the policy`,
  ],
  ['slot 1', 'ok', `alice  ${print(alice)}`],
  ['slot 2', 'ok', `bob  ${print(bob)}`],
];
const BOUNDS: Row = ['bounds', 'ok', `SHA256SUMS of ${sample.plan.sums.length} bytes, 8 signature slots`];
const CONTENT = sample.plan.blobs.reduce((sum, { size }) => sum + size, 0);

describe('the evidence', () => {
  it('of a bundle that is accepted is every check, and the slots', async () => {
    const { rows, code } = await evidence({});
    expect(code).toBeUndefined();
    expect(rows).toEqual([
      BOUNDS,
      ...SLOTS,
      ['signatures', 'ok', '2 of 1 needed, by policy version 1'],
      ['documents', 'ok', '5 documents, each as SHA256SUMS lists it'],
      ['revocation', 'ok', 'not among 0 revoked bundles'],
      ['name', 'ok', 'any name is allowed'],
      ['channel', 'ok', 'channel stable, any is allowed'],
      ['version', 'ok', expect.stringMatching(/^1\.2\.3; /)],
      ['structure', 'ok', `${sample.plan.blobs.length} blobs, ${sample.plan.size} bytes, canonical`],
      ['content', 'ok', `${sample.plan.blobs.length} blobs, ${CONTENT} bytes, every byte as signed`],
    ]);
    expect(rows.map(([name]) => name).filter((name) => !name.startsWith('slot'))).toEqual(CHECKS);
  });

  it('of one with too few signatures ends there', async () => {
    const { rows, code } = await evidence({ policy: policyOf([alice, person('carol')], 2) });
    expect(code).toBe('THRESHOLD_NOT_MET');
    expect(rows.map(([name, outcome]) => [name, outcome])).toEqual([
      ['bounds', 'ok'],
      ['slot 0', 'warning'],
      ['slot 1', 'ok'],
      ['slot 2', 'warning'],
      ['signatures', 'failed'],
    ]);
    expect(rows.at(-1)?.[2]).toBe('the bundle has 1 signature that counts, and the trust policy asks for 2');
  });

  it('of one that the policy refuses has every rule, and the first that refuses is the error', async () => {
    const more = `revoked: { bundles: ["${sample.plan.digest}"] }\nnames: [other]\nchannel: stable\n`;
    const installed = (name: string): { version: string; digest: `sha256:${string}` } => ({
      version: name === 'sample' ? '2.0.0' : '0.0.1',
      digest: sample.plan.digest,
    });
    const { rows, code } = await evidence({ policy: policyOf([alice], 1, more), installed });
    expect(code).toBe('BUNDLE_REVOKED');
    expect(rows.slice(-4)).toEqual([
      ['revocation', 'failed', 'sample 1.2.3 is revoked'],
      ['name', 'failed', 'the trust policy does not let bundles named sample in'],
      ['channel', 'ok', 'channel stable'],
      ['version', 'failed', 'sample 1.2.3 is older than 2.0.0, which is installed'],
    ]);
  });

  it('of something that is no bundle ends with the bounds', async () => {
    const { rows, code } = await evidence({}, import.meta.filename);
    expect(code).toBe('NOT_A_BUNDLE');
    expect(rows.map(([name, outcome]) => [name, outcome])).toEqual([['bounds', 'failed']]);
  });

  it('of a slot that is filled later lists it in the order of the slots', async () => {
    const file = await sample.write([alice]);
    await attachSignature(file, await keySigner(mallory.key).sign(sample.plan.sums));
    await attachSignature(file, await keySigner(bob.key).sign(sample.plan.sums));
    const { rows } = await evidence({}, file);
    expect(
      rows.filter(([name]) => name.startsWith('slot')).map(([name, outcome]) => [name, outcome]),
    ).toEqual([
      ['slot 0', 'ok'],
      ['slot 1', 'warning'],
      ['slot 2', 'ok'],
    ]);
  });
});

it('the verified bundle says by which policy and at what time it was judged', async () => {
  const policy = policyOf([alice]);
  const bundle = await openBundle(path, { policy, now });
  await bundle.close();
  expect([bundle.policy, bundle.judgedAt, bundle.digest]).toEqual([policy, now, sample.plan.digest]);
  expect(bundle.verdict.accepted.map(({ signer }) => signer)).toEqual(['alice']);
});
