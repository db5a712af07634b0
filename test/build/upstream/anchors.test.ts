// SPDX-License-Identifier: Apache-2.0
/** What a lock says of signatures against what the manifest asks for today. */
import { generateKeyPairSync } from 'node:crypto';
import { expect, test } from 'vitest';
import type { Lock } from '../../../src/build/lock.ts';
import { checkAnchors, type Anchors } from '../../../src/build/upstream/anchors.ts';
import { fingerprintOf } from '../../../src/build/upstream/keys.ts';
import type { UpstreamSignature, UpstreamSigner } from '../../../src/bundle/inventory.ts';
import { digestOf } from '../../../src/store/digest.ts';
import { codeOf } from '../../trust/helpers.ts';

const anchor = digestOf('the file that says whom to trust');
const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const fingerprint = fingerprintOf(publicKey);
const trust = (): never => {
  throw new Error('nothing is verified again');
};
const NOBODY: Anchors = { images: new Map(), models: new Map() };
const ASKED = {
  key: { anchor, key: { key: publicKey, fingerprint } },
  identity: { anchor, identity: { subject: 'maker', issuer: 'https://issuer.example', trust } },
  authorities: { anchor, authorities: { roots: [], others: [] } },
};
const image = (asked: Anchors['images'] extends ReadonlyMap<string, infer T> ? T : never): Anchors => ({
  ...NOBODY,
  images: new Map([['it', asked]]),
});
const underRoot: Anchors = {
  ...NOBODY,
  models: new Map([['it', { ...ASKED.authorities, file: 'model.sig' }]]),
};

const KEY: UpstreamSigner = fingerprint;
const IDENTITY = { identity: 'maker', issuer: 'https://issuer.example' };
const CERTIFICATE = { subject: 'CN=maker', certificate: digestOf('leaf'), root: digestOf('root') };

function lockOf(kind: 'images' | 'models', by?: UpstreamSigner, file = anchor): Lock {
  const signature: Partial<UpstreamSignature> = { anchor: file, ...(by && { by }) };
  return { images: [], models: [], [kind]: [{ name: 'it', ...(by && { signature }) }] } as unknown as Lock;
}

test.each([
  ['nobody', NOBODY, lockOf('images')],
  ['a key', image(ASKED.key), lockOf('images', KEY)],
  ['an identity', image(ASKED.identity), lockOf('images', IDENTITY)],
  ['a root', underRoot, lockOf('models', CERTIFICATE)],
])('a lock under the demand for %s is taken', (_, anchors, lock) => {
  expect(() => checkAnchors(lock, anchors)).not.toThrow();
});

test.each([
  ['a signature that nobody asks for', NOBODY, lockOf('images', KEY)],
  ['none where a key is asked for', image(ASKED.key), lockOf('images')],
  ['another file that names the key', image(ASKED.key), lockOf('images', KEY, digestOf('other'))],
  ['another key', image(ASKED.key), lockOf('images', digestOf('another'))],
  ['an identity for a key', image(ASKED.key), lockOf('images', IDENTITY)],
  ['a key for an identity', image(ASKED.identity), lockOf('images', KEY)],
  ['another identity', image(ASKED.identity), lockOf('images', { ...IDENTITY, identity: 'maker2' })],
  ['another issuer', image(ASKED.identity), lockOf('images', { ...IDENTITY, issuer: 'https://issuer' })],
  ['a certificate for an identity', image(ASKED.identity), lockOf('images', CERTIFICATE)],
  ['a key for a root', underRoot, lockOf('models', KEY)],
  ['an identity for a root', underRoot, lockOf('models', IDENTITY)],
])('a lock that says %s is refused', (_, anchors, lock) => {
  expect(codeOf(() => checkAnchors(lock, anchors))).toBe('LOCK_STALE');
});
