// SPDX-License-Identifier: Apache-2.0
import { createPrivateKey, generateKeyPairSync } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { encryptPkcs8, isWholeSequence } from '../../src/trust/pkcs8.ts';
import { openssl } from './helpers.ts';

const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const der = privateKey.export({ type: 'pkcs8', format: 'der' });
const pem = encryptPkcs8(der, 'correct horse');
const derOf = (text: string): Buffer => Buffer.from(text.replace(/-----[^-]+-----/g, ''), 'base64');

describe('encryptPkcs8', () => {
  it('is read by Node', () => {
    const read = createPrivateKey({ key: pem, passphrase: 'correct horse' });
    expect(read.export({ type: 'pkcs8', format: 'der' })).toEqual(der);
  });

  it('is read by openssl', () => {
    const read = openssl(['pkey', '-passin', 'pass:correct horse', '-outform', 'DER'], pem);
    expect(createPrivateKey({ key: read, format: 'der', type: 'sec1' }).equals(privateKey)).toBe(true);
    expect(() => openssl(['pkey', '-passin', 'pass:wrong horse', '-noout'], pem)).toThrow();
  });

  it('uses 600,000 rounds of PBKDF2-HMAC-SHA256 and AES-256-CBC, as openssl sees it', () => {
    const dump = openssl(['asn1parse'], pem).toString();
    const rounds = /INTEGER\s*:([0-9A-F]+)/.exec(dump)?.[1] ?? '';
    expect(Number.parseInt(rounds, 16)).toBe(600_000);
    for (const name of ['PBES2', 'PBKDF2', 'hmacWithSHA256', 'aes-256-cbc'])
      expect(dump).toContain(`:${name}`);
  });

  it('never repeats salt or IV', () => {
    expect(encryptPkcs8(der, 'correct horse')).not.toBe(pem);
  });

  it('writes the long forms of DER lengths that openssl reads', () => {
    const { privateKey: large } = generateKeyPairSync('rsa', { modulusLength: 2048 });
    const text = encryptPkcs8(large.export({ type: 'pkcs8', format: 'der' }), 'x');
    expect(createPrivateKey({ key: text, passphrase: 'x' }).equals(large)).toBe(true);
  });
});

describe('isWholeSequence', () => {
  it('knows a whole file from a part of it', () => {
    const whole = derOf(pem);
    expect(isWholeSequence(whole)).toBe(true);
    for (let n = 0; n < whole.length; n++) expect(isWholeSequence(whole.subarray(0, n))).toBe(false);
    expect(isWholeSequence(Buffer.concat([whole, Buffer.of(0)]))).toBe(false);
  });

  it('refuses other tags and absurd lengths', () => {
    expect(isWholeSequence(Buffer.of(0x31, 0))).toBe(false);
    expect(isWholeSequence(Buffer.of(0x30, 0))).toBe(true);
    expect(isWholeSequence(Buffer.of(0x30, 0xff, 1, 1, 1))).toBe(false);
  });
});
