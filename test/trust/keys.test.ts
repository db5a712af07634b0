// SPDX-License-Identifier: Apache-2.0
import { createSecretKey, type KeyObject } from 'node:crypto';
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
      expect(error.hint).toMatch(/openssl pkey .*-pubout.* prints the public half/);
    }
    for (const pem of [alice.pem + plain, plain + alice.pem])
      expect(refusalOf(() => read(pem)).message).toMatch(/is a private key/);
  });

  it('says what a key is that is not the right one, and what makes one', () => {
    const secret = refusalOf(() => requireP256(createSecretKey(Buffer.alloc(32)), 'some.key'));
    expect(secret.message).toBe('some.key holds a key of type symmetric, where ECDSA P-256 is expected');
    expect(secret.hint).toMatch(/sealift keygen/);
    expect(refusalOf(() => fingerprint(createSecretKey(Buffer.alloc(32)))).message).toMatch(/^the key holds/);
  });

  it('keeps the cause of damage', () => {
    const junk = '-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n';
    expect(refusalOf(() => read(junk)).cause).toBeInstanceOf(Error);
  });

  it('looks for PEM blocks in files of up to 65,536 characters', () => {
    const at = (size: number): string => alice.pem.padEnd(size, '\n');
    expect(pemLabels(at(65_536))).toEqual(['PUBLIC KEY']);
    expect(pemLabels(at(65_537))).toEqual([]);
    expect(fingerprint(read(at(65_536)))).toBe(fingerprint(alice.publicKey));
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
  });
});
