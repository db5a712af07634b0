// SPDX-License-Identifier: Apache-2.0
import { createPrivateKey, generateKeyPairSync, scryptSync, type KeyObject } from 'node:crypto';
import { xsalsa20poly1305 } from '@noble/ciphers/salsa.js';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SealiftError } from '../../src/errors.ts';
import { fingerprint, loadPublicKey } from '../../src/trust/keys.ts';
import { isEncryptedKey, loadPrivateKey } from '../../src/trust/private-keys.ts';
import { cosignKeys } from './cosign-vector.ts';
import { codeOf, person, refusalOf } from './helpers.ts';

const alice = person('alice');
const load = (pem: string, passphrase?: string): KeyObject => loadPrivateKey(pem, passphrase, 'cosign.key');

const armour = (json: string, label = 'SIGSTORE'): string => {
  const lines =
    Buffer.from(json)
      .toString('base64')
      .match(/.{1,64}/g) ?? [];
  return `-----BEGIN ENCRYPTED ${label} PRIVATE KEY-----\n${lines.join('\n')}\n-----END ENCRYPTED ${label} PRIVATE KEY-----\n`;
};

interface Box {
  kdf: { name: unknown; params: { N: unknown; r: unknown; p: unknown }; salt: unknown };
  cipher: { name: unknown; nonce: unknown };
  ciphertext: unknown;
}

/** What cosign writes, with a cheap derivation. */
function boxOf(content: Buffer, passphrase = 'right'): Box {
  const salt = Buffer.alloc(32, 7);
  const nonce = Buffer.alloc(24, 9);
  const key = scryptSync(passphrase, salt, 32, { N: 2, r: 8, p: 1 });
  return {
    kdf: { name: 'scrypt', params: { N: 2, r: 8, p: 1 }, salt: salt.toString('base64') },
    cipher: { name: 'nacl/secretbox', nonce: nonce.toString('base64') },
    ciphertext: Buffer.from(xsalsa20poly1305(key, nonce).encrypt(content)).toString('base64'),
  };
}

const der = (key: KeyObject): Buffer => key.export({ type: 'pkcs8', format: 'der' });
const good = boxOf(der(alice.privateKey));
const changed = (change: (box: Box) => void): string => {
  const box = structuredClone(good);
  change(box);
  return armour(JSON.stringify(box));
};

describe("cosign's encrypted key", () => {
  it.each(['3.1.1', '2.5.0'] as const)('is read as cosign %s wrote it', (version) => {
    const { privateKey, publicKey } = cosignKeys[version];
    expect(isEncryptedKey(privateKey)).toBe(true);
    const key = load(privateKey, cosignKeys.passphrase);
    expect(fingerprint(key)).toBe(fingerprint(loadPublicKey(publicKey, 'cosign.pub')));
  });

  it('is read under its old label, with CRLF, with an empty passphrase', () => {
    const json = JSON.stringify(good);
    for (const pem of [
      armour(json),
      armour(json, 'COSIGN'),
      armour(json).replaceAll('\n', '\r\n'),
      alice.pem + armour(json), // both halves in one file
    ]) {
      expect(isEncryptedKey(pem)).toBe(true);
      expect(load(pem, 'right').equals(alice.privateKey)).toBe(true);
    }
    expect(load(armour(JSON.stringify(boxOf(der(alice.privateKey), ''))), '').equals(alice.privateKey)).toBe(
      true,
    );
  });

  it('says WRONG_PASSPHRASE for a wrong one and for none', () => {
    const pem = armour(JSON.stringify(good));
    for (const passphrase of ['wrong', '', undefined])
      expect(codeOf(() => load(pem, passphrase))).toBe('WRONG_PASSPHRASE');
    expect(refusalOf(() => load(pem, 'wrong')).message).toBe('the passphrase does not open cosign.key');
  });

  it('says KEY_INVALID for a damaged file, whatever the passphrase', () => {
    const junk = [
      armour(''),
      armour('{'),
      armour('[]'),
      armour('null'),
      armour('x'.repeat(40_000)),
      armour('['.repeat(5000)),
      armour(JSON.stringify(good)).slice(0, 200),
      armour(JSON.stringify(good)).replace('END ENCRYPTED', 'END'),
      changed((box) => (box.kdf.name = 'argon2')),
      changed((box) => (box.kdf.salt = '')),
      changed((box) => (box.kdf.salt = '%%%%')),
      changed((box) => (box.cipher.name = 'aes')),
      changed((box) => (box.cipher.nonce = Buffer.alloc(12).toString('base64'))),
      changed((box) => (box.ciphertext = Buffer.alloc(16).toString('base64'))),
      changed((box) => (box.ciphertext = 7)),
      armour(JSON.stringify(boxOf(Buffer.from('not PKCS#8')))),
      armour(JSON.stringify(boxOf(der(alice.privateKey).subarray(0, 60)))),
    ];
    for (const pem of junk) expect(codeOf(() => load(pem, 'right'))).toBe('KEY_INVALID');
  });

  it.each([
    { N: 2 ** 30, r: 8, p: 1 },
    { N: 2 ** 19, r: 8, p: 1 },
    { N: 65_536, r: 2 ** 20, p: 1 },
    { N: 65_536, r: 8, p: 1e6 },
    { N: 65_536, r: 8, p: 5 },
    { N: 65_535, r: 8, p: 1 },
    { N: 65_536, r: 1, p: 1 },
    { N: Number.MAX_SAFE_INTEGER, r: 1, p: 1 },
  ])('does not begin a derivation of $N, $r, $p', (params) => {
    const started = performance.now();
    expect(
      codeOf(() =>
        load(
          changed((box) => (box.kdf.params = params)),
          'right',
        ),
      ),
    ).toBe('KEY_INVALID');
    expect(performance.now() - started).toBeLessThan(100);
  });

  it.each([0, -2, 1.5, '65536', null, 1e300])('refuses %s as a parameter', (value) => {
    for (const name of ['N', 'r', 'p'] as const)
      expect(
        codeOf(() =>
          load(
            changed((box) => (box.kdf.params[name] = value)),
            'right',
          ),
        ),
      ).toBe('KEY_INVALID');
  });

  it('does the most expensive derivation that is allowed', () => {
    const pem = changed((box) => (box.kdf.params = { N: 2 ** 18, r: 8, p: 1 }));
    expect(codeOf(() => load(pem, 'right'))).toBe('WRONG_PASSPHRASE');
  });

  it('refuses every other kind of key', () => {
    const others = [generateKeyPairSync('ec', { namedCurve: 'P-384' }), generateKeyPairSync('ed25519')];
    for (const { privateKey } of others) {
      const error = refusalOf(() => load(armour(JSON.stringify(boxOf(der(privateKey)))), 'right'));
      expect(error.code).toBe('KEY_INVALID');
      expect(error.message).toMatch(/where ECDSA P-256 is expected/);
    }
    expect(createPrivateKey({ key: der(alice.privateKey), format: 'der', type: 'pkcs8' })).toBeDefined();
  });

  it('with any damage throws nothing but a typed error', () => {
    const text = JSON.stringify(good);
    const params = fc.record({ N: fc.anything(), r: fc.anything(), p: fc.anything() });
    const pem = fc.oneof(
      fc
        .tuple(fc.nat(text.length - 1), fc.string({ maxLength: 3 }))
        .map(([at, piece]) => armour(text.slice(0, at) + piece + text.slice(at + 1))),
      params.map((value) => changed((box) => (box.kdf.params = value))),
      fc.json().map((json) => armour(json)),
      fc
        .string()
        .map(
          (inner) =>
            `-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n${inner}\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n`,
        ),
    );
    fc.assert(
      fc.property(pem, (damaged) => {
        try {
          return load(damaged, 'right').asymmetricKeyType === 'ec';
        } catch (thrown) {
          return thrown instanceof SealiftError && ['KEY_INVALID', 'WRONG_PASSPHRASE'].includes(thrown.code);
        }
      }),
      { numRuns: 3000 },
    );
  }, 60_000);
});
