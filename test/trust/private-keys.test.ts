// SPDX-License-Identifier: Apache-2.0
import { createHash, createPrivateKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { fingerprint, keyHint, loadPublicKey } from '../../src/trust/keys.ts';
import { generateKeyPair, isEncryptedKey, loadPrivateKey } from '../../src/trust/private-keys.ts';
import { codeOf, openssl, person, refusalOf } from './helpers.ts';

const alice = person('alice');
const plain = alice.privateKey.export({ type: 'pkcs8', format: 'pem' });
const sec1 = alice.privateKey.export({ type: 'sec1', format: 'pem' });
// Node's own export: 2048 rounds, which makes a loop over passphrases bearable.
const encrypted = alice.privateKey.export({
  type: 'pkcs8',
  format: 'pem',
  cipher: 'aes-256-cbc',
  passphrase: 'right',
});

const sameAs = (key: KeyObject): boolean => key.equals(alice.privateKey);
const load = (pem: string, passphrase?: string): KeyObject => loadPrivateKey(pem, passphrase, 'release.key');

describe('generateKeyPair', () => {
  it('makes a pair that fits, with the fingerprint that openssl computes', () => {
    const pair = generateKeyPair('pässwörd ☂');
    const key = loadPrivateKey(pair.privateKeyPem, 'pässwörd ☂', 'release.key');
    expect(fingerprint(key)).toBe(pair.fingerprint);
    expect(openssl(['pkey', '-passin', 'pass:pässwörd ☂', '-pubout'], pair.privateKeyPem).toString()).toBe(
      pair.publicKeyPem,
    );
    const spki = openssl(['pkey', '-pubin', '-outform', 'DER'], pair.publicKeyPem);
    expect(pair.fingerprint).toBe(`sha256:${createHash('sha256').update(spki).digest('hex')}`);
    expect(keyHint(key)).toBe(createHash('sha256').update(spki).digest('base64'));
  });

  it('takes the longest passphrase that OpenSSL reads, and no longer one', () => {
    const longest = 'é'.repeat(512);
    expect(loadPrivateKey(generateKeyPair(longest).privateKeyPem, longest, 'k').asymmetricKeyType).toBe('ec');
    expect(codeOf(() => generateKeyPair(`${longest}x`))).toBe('USAGE');
  });

  it('refuses an empty passphrase', () => {
    expect(codeOf(() => generateKeyPair(''))).toBe('USAGE');
  });
});

describe('loadPrivateKey', () => {
  it('reads PKCS#8 and SEC1, plain and encrypted', () => {
    const sec1Encrypted = openssl(['ec', '-aes256', '-passout', 'pass:right'], sec1).toString();
    const scrypt = openssl(['pkcs8', '-topk8', '-scrypt', '-passout', 'pass:right'], plain).toString();
    for (const pem of [plain, sec1, plain.replaceAll('\n', '\r\n')]) expect(sameAs(load(pem))).toBe(true);
    for (const pem of [encrypted, sec1Encrypted, scrypt]) {
      expect(isEncryptedKey(pem)).toBe(true);
      expect(sameAs(load(pem, 'right'))).toBe(true);
    }
    expect(isEncryptedKey(plain)).toBe(false);
    expect(sameAs(load(plain, 'not needed'))).toBe(true);
  });

  it('reads what `openssl ecparam -genkey` writes, parameters first', () => {
    const pem = openssl(['ecparam', '-name', 'prime256v1', '-genkey']).toString();
    expect(pem).toMatch(/BEGIN EC PARAMETERS/);
    expect(load(pem).asymmetricKeyType).toBe('ec');
  });

  it('says WRONG_PASSPHRASE for a wrong one, an empty one and none', () => {
    const sec1Encrypted = openssl(['ec', '-aes256', '-passout', 'pass:right'], sec1).toString();
    for (const pem of [encrypted, sec1Encrypted]) {
      for (const passphrase of ['wrong', '', undefined, 'x'.repeat(2000)]) {
        expect(codeOf(() => load(pem, passphrase))).toBe('WRONG_PASSPHRASE');
      }
    }
    expect(refusalOf(() => load(encrypted)).message).toMatch(/release\.key is encrypted/);
    expect(refusalOf(() => load(encrypted, 'wrong')).hint).toContain('passphrase');
    const spoilt = sec1.replace(/\nM.../, '\nMMMM'); // not encrypted: no passphrase could be the right one
    expect(codeOf(() => load(spoilt))).toBe('KEY_INVALID');
  });

  it('says so too when the wrong passphrase happens to leave valid padding (1 in 256)', () => {
    const lucky = Array.from({ length: 20_000 }, (_, i) => `wrong ${i}`).find((passphrase) => {
      try {
        createPrivateKey({ key: encrypted, passphrase });
      } catch (thrown) {
        return !String(thrown).includes('bad decrypt');
      }
      return false;
    });
    expect(lucky).toBeDefined();
    expect(codeOf(() => load(encrypted, lucky))).toBe('WRONG_PASSPHRASE');
  });

  it('says KEY_INVALID for a damaged or cut file, whatever the passphrase', () => {
    const lines = encrypted.split('\n');
    const cut = [...lines.slice(0, 3), ...lines.slice(-2)].join('\n');
    const junk = '-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n';
    for (const pem of [cut, junk, encrypted.slice(0, 100), plain.slice(0, 90), '', 'not a key', alice.pem]) {
      expect(codeOf(() => load(pem, 'right'))).toBe('KEY_INVALID');
    }
  });

  it('says which of a private key, a PEM block and damage is missing or there', () => {
    expect(refusalOf(() => load('hello')).message).toMatch(/no PEM block/);
    expect(refusalOf(() => load(alice.pem)).message).toMatch(/no private key/);
    const damaged = refusalOf(() => load(plain.replace(/\n.{20}/, '\n')));
    expect(damaged).toMatchObject({ code: 'KEY_INVALID', cause: expect.any(Error) as unknown });
    expect(refusalOf(() => load(encrypted, 'wrong'))).toMatchObject({ cause: expect.any(Error) as unknown });
  });

  it('takes a key for encrypted where one block is, and by the header of a SEC1 file alone', () => {
    expect(isEncryptedKey(alice.pem + encrypted)).toBe(true);
    expect(isEncryptedKey(sec1.replace('\n', '\nProc-Type: 4,ENCRYPTED\n'))).toBe(true);
    expect(isEncryptedKey(`about: Proc-Type: 4,ENCRYPTED\n${sec1}`)).toBe(false);
  });

  it('does not mind a certificate or a public key before the private one', () => {
    expect(sameAs(load(alice.pem + plain))).toBe(true);
  });

  it('refuses every other kind of key, and says what it found', () => {
    const others = [
      generateKeyPairSync('ec', { namedCurve: 'P-384' }),
      generateKeyPairSync('ec', { namedCurve: 'secp256k1' }),
      generateKeyPairSync('ed25519'),
      generateKeyPairSync('rsa', { modulusLength: 2048 }),
    ];
    const found = others.map(({ privateKey, publicKey }) => {
      const error = refusalOf(() => load(privateKey.export({ type: 'pkcs8', format: 'pem' })));
      const pem = publicKey.export({ type: 'spki', format: 'pem' });
      expect(codeOf(() => loadPublicKey(pem, 'release.pub'))).toBe('KEY_INVALID');
      expect(error.code).toBe('KEY_INVALID');
      return /of type (.*), where/.exec(error.message)?.[1];
    });
    expect(found).toEqual(['ec secp384r1', 'ec secp256k1', 'ed25519', 'rsa']);
  });
});
