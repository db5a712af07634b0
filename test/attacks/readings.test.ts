// SPDX-License-Identifier: Apache-2.0
/**
 * One file, two readers: what sealift and what the commands of the README take out of the same bytes. Whoever holds
 * the media writes slots (A1), and whoever carries a receipt writes its signature. THREATS.md T8, T27.
 */
import { generateKeyPairSync } from 'node:crypto';
import { afterAll, describe, expect, it } from 'vitest';
import { attest, isAttestedBy } from '../../src/install/attest.ts';
import type { HostKey } from '../../src/install/host-key.ts';
import { fingerprint } from '../../src/trust/keys.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { judgeSignatures, type Verdict } from '../../src/trust/verify.ts';
import { signedAs } from '../support/certified.ts';
import { startSigstore } from '../support/sigstore.ts';
import {
  codeOf,
  NOW,
  person,
  policyOf,
  policyText,
  rawSlot,
  refusalOf,
  signedBy,
  slotsOf,
  SUMS,
} from '../trust/helpers.ts';

const alice = person('alice');
const bob = person('bob');
const byAlice = await signedBy(alice);
const byBob = await signedBy(bob);
const two = policyOf([alice, bob], 2);
const signatureIn = (json: string): string =>
  (JSON.parse(json) as { messageSignature: { signature: string } }).messageSignature.signature;

/** The member of that name as the README takes it: the last one in the text. */
const sedded = (text: string, name: string): string | undefined =>
  new RegExp(`.*"${name}" *: *"([^"]*)"`).exec(text.replaceAll(/[\n\r]/g, ''))?.[1];

describe('a slot that says two things', () => {
  const both = byBob.replace('"signature":"', `"signature":"${signatureIn(byAlice)}","s\\u0069gnature":"`);

  it('is the other signer for openssl', () => {
    expect(signatureIn(both)).toBe(signatureIn(byBob));
    expect(sedded(both, 'signature')).toBe(signatureIn(byAlice));
  });

  it.each([
    ['a member twice, once behind an escape', both],
    ['a member twice', byBob.replace('"signature":"', '"signature":"QUJD","signature":"')],
    ['a member twice, with blanks', byBob.replace('"signature":"', '"signature" \t: "QUJD","signature":"')],
    ['an object twice', byBob.replace('"messageSignature"', '"messageSignature":{},"messageSignature"')],
    ['a hint twice', byBob.replace('"hint":"', '"hint":"x","hint":"')],
    ['a name behind an escape', byBob.replace('"signature"', '"s\\u0069gnature"')],
    ['a value behind an escape', byBob.replace('"signature":"M', '"signature":"\\u004d')],
    ['an escaped slash', byBob.replaceAll('/', '\\/')],
  ])('does not count: %s', (_, text) => {
    expect(() => JSON.parse(text) as unknown).not.toThrow();
    const { accepted, rejected } = judgeSignatures(SUMS, [rawSlot(text), rawSlot(byAlice)], two, NOW);
    expect(accepted.map(({ signer }) => signer)).toEqual(['alice']);
    expect(rejected.map(({ reason }) => reason)).toEqual(['malformed']);
  });
});

describe('a signature on a receipt that says two things', () => {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const key: HostKey = { privateKey, publicKey, fingerprint: fingerprint(publicKey) };
  const statement = Buffer.from('{"installed":"demo 2.0.0"}\n');
  const good = attest(statement, key);
  const other = attest(Buffer.from('{"installed":"demo 1.0.0"}\n'), key);
  const fits = (json: string): boolean => isAttestedBy(publicKey, statement, Buffer.from(json));
  const part = (json: string, name: string): string => sedded(json, name)!;

  it('fits, as the host writes it', () => {
    expect([fits(good), fits(`${good}\n`), fits(other)]).toEqual([true, true, false]);
  });

  it.each([
    [
      'another receipt of the host before it',
      good
        .replace('"payload":', `"payload":"${part(other, 'payload')}","payl\\u006fad":`)
        .replace('"sig":', `"sig":"${part(other, 'sig')}","s\\u0069g":`),
    ],
    ['a member that nobody knows', good.replace('{', '{"x":{"sig":"QUJD"},')],
    ['base64 with a blank in it', good.replace('"payload":"', '"payload":" ')],
  ])('does not fit: %s', (_, json) => {
    expect(json).not.toBe(good);
    expect(fits(json)).toBe(false);
  });
});

const sigstore = await startSigstore();
afterAll(() => sigstore.close());
const CLAIM = { subject: 'https://ci.example/x', issuer: 'https://issuer.example' };

/** A policy that trusts an identity by this trusted root. */
function policyBy(root: string): string {
  const ci = `  - name: ci\n    identity: { subject: '${CLAIM.subject}', issuer: '${CLAIM.issuer}' }\n`;
  return policyText([alice], 1, `${ci}sigstore:\n  trustedRoot: |\n    ${root}\n`);
}

describe('a log entry that says more than its log signed', async () => {
  const byCi = await signedAs(sigstore, SUMS, CLAIM);
  const trust = parseTrustPolicy(policyBy(sigstore.trustedRoot), 'trust.yaml');
  interface Entry {
    integratedTime: string;
    logIndex: string;
    inclusionProof: { treeSize: string; rootHash: string; logIndex?: string };
  }
  const judged = (change: (entry: Entry) => void): Verdict => {
    const bundle = JSON.parse(byCi) as { verificationMaterial: { tlogEntries: Entry[] } };
    change(bundle.verificationMaterial.tlogEntries[0]!);
    return judgeSignatures(SUMS, slotsOf(JSON.stringify(bundle)), trust, NOW);
  };
  const hex = (text: string): string => `0x${BigInt(text).toString(16)}`;

  it('counts as the log signed it', () => {
    expect(judged(() => {}).accepted).toHaveLength(1);
  });

  it.each<[string, (entry: Entry) => void]>([
    ['a time in hexadecimal', (entry) => (entry.integratedTime = hex(entry.integratedTime))],
    ['a time with a fraction', (entry) => (entry.integratedTime += '.0')],
    ['a time between blanks', (entry) => (entry.integratedTime = ` ${entry.integratedTime}\n`)],
    ['an index in hexadecimal', (entry) => (entry.logIndex = hex(entry.logIndex))],
    ['a place in the tree that is no number', (entry) => (entry.inclusionProof.logIndex = '')],
    ['another size of the tree', (entry) => (entry.inclusionProof.treeSize = '999999')],
    ['another root of the tree', (entry) => (entry.inclusionProof.rootHash = `${'A'.repeat(43)}=`)],
  ])('does not count with %s', (_, change) => {
    const { accepted, rejected } = judged(change);
    expect(accepted).toEqual([]);
    expect(rejected.map(({ reason }) => reason)).toEqual(['malformed']);
  });
});

describe('a trusted root that says more than is read of it', () => {
  const parse = (root: string): unknown => parseTrustPolicy(policyBy(root), 'trust.yaml');
  const changed = (from: string | RegExp, to: string): string => {
    const text = sigstore.trustedRoot.replace(from, to);
    expect(text).not.toBe(sigstore.trustedRoot);
    return text;
  };

  it.each([
    ['the end of an authority, misspelt', /"validFor":\{/g, '"validFor":{"ends":"2020-01-01T00:00:00Z",'],
    ['a period of a log, misspelt', '"validFor"', '"valid_for"'],
    ['a member more', '{', '{"revoked":["x"],'],
    ['a list twice', '"ctlogs"', '"ctlogs":[],"ctlogs"'],
    ['a list behind escapes', '"ctlogs"', '"\\u0063tlogs"'],
  ])('is refused: %s', (_, from, to) => {
    expect(codeOf(() => parse(changed(from, to)))).toBe('POLICY_INVALID');
  });

  it('is told which', () => {
    const error = refusalOf(() =>
      parse(changed('"validFor":{', '"validFor":{"ends":"2020-01-01T00:00:00Z",')),
    );
    expect(error.message).toContain("unknown member 'ends'");
  });

  it('may have lists that are empty', () => {
    expect(() => parse(changed(/"timestampAuthorities":\[.*\]/, '"timestampAuthorities":[]'))).not.toThrow();
  });
});
