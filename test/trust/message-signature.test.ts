// SPDX-License-Identifier: Apache-2.0
import { afterAll, describe, expect, it } from 'vitest';
import { readMessageSignature } from '../../src/trust/message-signature.ts';
import { signedAs } from '../support/certified.ts';
import { startSigstore } from '../support/sigstore.ts';
import { person, signedBy, SUMS } from './helpers.ts';

const sigstore = await startSigstore();
afterAll(() => sigstore.close());

interface Json {
  mediaType: string;
  verificationMaterial: Record<string, unknown>;
  messageSignature?: object;
  dsseEnvelope?: object;
}

const byKey = JSON.parse(await signedBy(person('alice'))) as Json;
const claim = { subject: 'https://ci.example/x', issuer: 'https://issuer.example' };
const byIdentity = JSON.parse(await signedAs(sigstore, SUMS, claim)) as Json;

const withMaterial = (json: Json, material: Record<string, unknown>): Json => ({
  ...json,
  verificationMaterial: { ...json.verificationMaterial, ...material },
});

describe('what some writers leave out', () => {
  it.each([
    [{ tlogEntries: [] }],
    [{ timestampVerificationData: {} }],
    [{ timestampVerificationData: { rfc3161Timestamps: [] } }],
    [{ tlogEntries: [], timestampVerificationData: { rfc3161Timestamps: [] } }],
  ])('may be there, empty: %j', (material) => {
    expect(readMessageSignature(withMaterial(byKey, material)).hint).toBeDefined();
  });

  it('may be left out', () => {
    const { timestampVerificationData: _, ...rest } = byKey.verificationMaterial;
    expect(readMessageSignature({ ...byKey, verificationMaterial: rest }).hint).toBeDefined();
  });

  it.each([
    [{ tlogEntries: [{ extra: 1 }] }],
    [{ timestampVerificationData: { extra: 1 } }],
    [{ timestampVerificationData: { rfc3161Timestamps: [{ signedTimestamp: 'AAAA', extra: 1 }] } }],
    [{ timestampVerificationData: { rfc3161Timestamps: [{ signedTimestamp: 'AA==' }], extra: [] } }],
    [{ timestampVerificationData: null }],
    [{ timestampVerificationData: '' }],
    [{ tlogEntries: '' }],
    [{ extra: {} }],
    [{ extra: [] }],
  ])('may not hold anything else: %j', (material) => {
    expect(() => readMessageSignature(withMaterial(byKey, material))).toThrow();
  });
});

describe('a log entry', () => {
  const entry = (byIdentity.verificationMaterial['tlogEntries'] as Record<string, unknown>[])[0]!;
  const withEntry = (change: object): Json =>
    withMaterial(byIdentity, { tlogEntries: [{ ...entry, ...change }] });

  it('with numbers in their one form is read', () => {
    expect(readMessageSignature(byIdentity).hint).toBeUndefined();
    expect(() => readMessageSignature(withEntry({}))).not.toThrow();
  });

  it.each([['0x6a'], ['01'], [' 1'], ['1 '], ['-1'], ['1e3'], ['9'.repeat(20)]])(
    'with the index %j is refused',
    (logIndex) => {
      expect(() => readMessageSignature(withEntry({ logIndex }))).toThrow();
      const inclusionProof = { ...(entry['inclusionProof'] as object), logIndex };
      expect(() => readMessageSignature(withEntry({ inclusionProof }))).toThrow();
    },
  );
});

it('an envelope is no signature over a message', () => {
  const { messageSignature: _, ...rest } = byKey;
  const envelope = { payload: 'AAAA', payloadType: 'x', signatures: [{ sig: 'AAAA' }] };
  expect(() => readMessageSignature({ ...rest, dsseEnvelope: envelope })).toThrow(
    'it is not a messageSignature',
  );
});
