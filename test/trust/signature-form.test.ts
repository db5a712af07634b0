// SPDX-License-Identifier: Apache-2.0
/** Each rule of the form of a signature by the words that refuse it: beside message-signature.test.ts. */
import { afterAll, describe, expect, it } from 'vitest';
import { readMessageSignature } from '../../src/trust/message-signature.ts';
import { signedAs } from '../support/certified.ts';
import { startSigstore } from '../support/sigstore.ts';
import { person, signedBy, SUMS } from './helpers.ts';

const sigstore = await startSigstore();
afterAll(() => sigstore.close());

type Members = Record<string, unknown>;
interface Entry extends Members {
  inclusionProof: Members & { checkpoint: { envelope: string } };
}
interface Parts extends Members {
  messageSignature: Members;
  verificationMaterial: Members & {
    tlogEntries: Entry[];
    timestampVerificationData: Members & { rfc3161Timestamps: Members[] };
  };
}

const byKey = await signedBy(person('alice'));
const certified = await signedAs(sigstore, SUMS, {
  subject: 'https://ci.example/x',
  issuer: 'https://i.example',
});

function read(
  json: string,
  change: (parts: Parts) => void = () => {},
): ReturnType<typeof readMessageSignature> {
  const parts = JSON.parse(json) as Parts;
  change(parts);
  return readMessageSignature(parts);
}

const NOT_STANDARD = 'unknown members or values that are not in their standard form';

describe('members that may be left out', () => {
  it.each<[string, string, (parts: Parts) => void]>([
    ['timestamps', certified, (p) => delete (p.verificationMaterial as Members)['timestampVerificationData']],
    [
      'the list of timestamps',
      certified,
      (p) => delete (p.verificationMaterial.timestampVerificationData as Members)['rfc3161Timestamps'],
    ],
    [
      'no timestamp',
      certified,
      (p) => (p.verificationMaterial.timestampVerificationData.rfc3161Timestamps = []),
    ],
    ['log entries', certified, (p) => delete (p.verificationMaterial as Members)['tlogEntries']],
  ])('%s', (_, json, change) => {
    expect(read(json, change).claimedDigest).toEqual(read(json).claimedDigest);
  });

  it.each<[string, (material: Members) => void]>([
    ['null for log entries', (m) => (m['tlogEntries'] = null)],
    ['a text for log entries', (m) => (m['tlogEntries'] = '')],
    ['a number for log entries', (m) => (m['tlogEntries'] = 0)],
    ['false for timestamps', (m) => (m['timestampVerificationData'] = false)],
  ])('but not %s', (_, change) => {
    expect(() => read(byKey, (p) => change(p.verificationMaterial))).toThrow(NOT_STANDARD);
  });
});

describe('members that nobody knows', () => {
  it.each<[string, (parts: Parts) => Members | undefined]>([
    ['the bundle', (p) => p],
    ['its signature', (p) => p.messageSignature],
    ['its material', (p) => p.verificationMaterial],
    ['a log entry', (p) => p.verificationMaterial.tlogEntries[0]],
    ['a proof of inclusion', (p) => p.verificationMaterial.tlogEntries[0]?.inclusionProof],
    ['its timestamps', (p) => p.verificationMaterial.timestampVerificationData],
    ['a timestamp', (p) => p.verificationMaterial.timestampVerificationData.rfc3161Timestamps[0]],
  ])('are refused in %s', (_, place) => {
    for (const value of ['x', '', null, [], {}])
      expect(() => read(certified, (p) => Object.assign(place(p)!, { more: value }))).toThrow(NOT_STANDARD);
  });
});

describe('a log entry', () => {
  it('has numbers of up to nineteen digits', () => {
    for (const number of ['7', '10', '9'.repeat(19)])
      read(certified, (p) => (p.verificationMaterial.tlogEntries[0]!['logIndex'] = number));
    read(certified, (p) => delete (p.verificationMaterial.tlogEntries[0] as Members)['logIndex']); // zero
  });

  it.each<[string, (entry: Entry) => [Members, string]]>([
    ['its index', (entry) => [entry, 'logIndex']],
    ['its time', (entry) => [entry, 'integratedTime']],
    ['its place in the tree', (entry) => [entry.inclusionProof, 'logIndex']],
    ['the size of the tree', (entry) => [entry.inclusionProof, 'treeSize']],
  ])('is refused when %s is not a decimal number, in one spelling', (_, find) => {
    for (const number of ['', '-1', '+1', '01', '00', ' 1', '1 ', '1\n', '1.0', '1e3', '0x1', '9'.repeat(20)])
      expect(() =>
        read(certified, (p) => {
          const [where, name] = find(p.verificationMaterial.tlogEntries[0]!);
          where[name] = number;
        }),
      ).toThrow('a number of its log entry is not decimal');
  });

  it.each<[string, (proof: Entry['inclusionProof']) => void]>([
    ['the size of another tree', (proof) => (proof['treeSize'] = '999')],
    ['the root of another tree', (proof) => (proof['rootHash'] = Buffer.alloc(32).toString('base64'))],
    ['the checkpoint of nothing', (proof) => (proof.checkpoint.envelope = 'x')],
  ])('is refused with %s', (_, change) => {
    expect(() =>
      read(certified, (p) => change(p.verificationMaterial.tlogEntries[0]!.inclusionProof)),
    ).toThrow('its proof of inclusion is not about its checkpoint');
  });

  it.each<[string, (entry: Members) => void]>([
    ['proof of inclusion', (entry) => delete entry['inclusionProof']],
    ['checkpoint', (entry) => delete (entry['inclusionProof'] as Members)['checkpoint']],
  ])('is refused without its %s', (_, change) => {
    expect(() => read(certified, (p) => change(p.verificationMaterial.tlogEntries[0]!))).toThrow(
      'invalid bundle',
    );
  });
});

describe('what is signed', () => {
  it('has a digest of SHA2_256', () => {
    const digest = { algorithm: 'SHA2_512', digest: 'AAAA' };
    expect(() => read(byKey, (p) => (p.messageSignature['messageDigest'] = digest))).toThrow(
      'its digest is not SHA2_256',
    );
  });
});
