// SPDX-License-Identifier: Apache-2.0
import { createSecretKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { fingerprint, loadPublicKey, pemLabels, requireP256 } from '../../src/trust/keys.ts';
import { tempDir } from '../support/workspace.ts';
import { codeOf, openssl, person, refusalOf } from './helpers.ts';

const alice = person('alice');
const plain = alice.privateKey.export({ type: 'pkcs8', format: 'pem' });
const sec1 = alice.privateKey.export({ type: 'sec1', format: 'pem' });
const encrypted = alice.privateKey.export({
  type: 'pkcs8',
  format: 'pem',
  cipher: 'aes-256-cbc',
  passphrase: 'right',
});

const read = (pem: string): KeyObject => loadPublicKey(pem, 'release.pub');

describe('loadPublicKey', () => {
  it('gives one key one fingerprint, however its SPKI is encoded', () => {
    const forms = [
      ['-conv_form', 'uncompressed'],
      ['-conv_form', 'compressed'],
      ['-conv_form', 'hybrid'],
      ['-param_enc', 'explicit'],
    ].map((form) => openssl(['ec', '-pubin', '-pubout', ...form], alice.pem).toString());
    expect(new Set(forms).size).toBe(4);
    expect(new Set(forms.map((pem) => fingerprint(read(pem))))).toEqual(
      new Set([fingerprint(alice.privateKey)]),
    );
  });

  it('refuses a private key, out of which OpenSSL would take the public half', () => {
    for (const pem of [plain, sec1, encrypted]) {
      const error = refusalOf(() => read(pem));
      expect(error.code).toBe('KEY_INVALID');
      expect(error.message).toMatch(/is a private key/);
      expect(error.hint).toContain('-pubout');
    }
    expect(refusalOf(() => read(alice.pem + plain)).message).toMatch(/is a private key/);
  });

  it('refuses certificates, two keys, junk and nothing', () => {
    const keyFile = join(tempDir('keys'), 'release.key');
    writeFileSync(keyFile, plain);
    const certificate = openssl([
      'req',
      '-x509',
      '-new',
      '-key',
      keyFile,
      '-subj',
      '/CN=x',
      '-days',
      '1',
    ]).toString();
    expect(certificate).toMatch(/BEGIN CERTIFICATE/);
    const junk = '-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n';
    for (const pem of [certificate, alice.pem + alice.pem, junk, '', 'x'.repeat(100_000)]) {
      expect(codeOf(() => read(pem))).toBe('KEY_INVALID');
    }
    expect(refusalOf(() => read(junk)).cause).toBeInstanceOf(Error);
  });

  it('looks for keys in the first 64 KiB of a file, and in no larger one', () => {
    const filled = (size: number): string => alice.pem.padStart(size, '\n');
    expect(fingerprint(read(filled(65_536)))).toBe(fingerprint(alice.publicKey));
    expect(codeOf(() => read(filled(65_537)))).toBe('KEY_INVALID');
    expect(pemLabels(filled(65_537))).toEqual([]);
  });
});

describe('a key of another kind', () => {
  it.each<[string, KeyObject]>([
    ['ed25519', generateKeyPairSync('ed25519').publicKey],
    ['ec secp384r1', generateKeyPairSync('ec', { namedCurve: 'P-384' }).publicKey],
    ['symmetric', createSecretKey(Buffer.alloc(32))],
  ])('is refused by its type: %s', (type, key) => {
    const error = refusalOf(() => requireP256(key, 'release.pub'));
    expect([error.code, error.message]).toEqual([
      'KEY_INVALID',
      `release.pub holds a key of type ${type}, where ECDSA P-256 is expected`,
    ]);
    expect(error.hint).toContain('sealift keygen');
  });

  it('has no fingerprint', () => {
    const { publicKey } = generateKeyPairSync('ed25519');
    expect(refusalOf(() => fingerprint(publicKey)).message).toMatch(/^the key holds a key of type ed25519/);
  });
});
