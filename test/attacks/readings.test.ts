// SPDX-License-Identifier: Apache-2.0
/**
 * One file, two readers: what sealift and what the commands of the README take out of the same bytes. Whoever holds
 * the media writes slots (A1), and whoever carries a receipt writes its signature. THREATS.md T8, T27.
 */
import { generateKeyPairSync } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { attest, isAttestedBy } from '../../src/install/attest.ts';
import type { HostKey } from '../../src/install/host-key.ts';
import { fingerprint } from '../../src/trust/keys.ts';
import { judgeSignatures } from '../../src/trust/verify.ts';
import { NOW, person, policyOf, rawSlot, signedBy, SUMS } from '../trust/helpers.ts';

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
