// SPDX-License-Identifier: Apache-2.0
import { createPrivateKey, generateKeyPairSync } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { encryptPkcs8, isWholeSequence } from '../../src/trust/pkcs8.ts';
import { openssl } from './helpers.ts';

const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const der = privateKey.export({ type: 'pkcs8', format: 'der' });
const pem = encryptPkcs8(der, 'correct horse');
const derOf = (text: string): Buffer => Buffer.from(text.replace(/-----[^-]+-----/g, ''), 'base64');

/** Lengths that are written longer than they must be, anywhere in a DER element. */
function longLengths(bytes: Buffer): string[] {
  const found: string[] = [];
  for (let at = 0; at < bytes.length;) {
    const first = bytes[at + 1]!;
    const extra = first < 0x80 ? 0 : first & 0x7f;
    const length = extra === 0 ? first : bytes.readUIntBE(at + 2, extra);
    if (extra > 0 && (length < 0x80 || bytes[at + 2] === 0)) found.push(`${length} in ${extra} bytes`);
    const content = bytes.subarray(at + 2 + extra, at + 2 + extra + length);
    if (bytes[at] === 0x30) found.push(...longLengths(content));
    at += 2 + extra + length;
  }
  return found;
}

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

  it('is PEM with lines of 64 characters (RFC 7468 §2)', () => {
    const lines = pem.split('\n');
    expect(lines.at(-1)).toBe('');
    const body = lines.slice(1, -2);
    expect(body.slice(0, -1).every((line) => line.length === 64)).toBe(true);
    expect(body.at(-1)?.length).toBeLessThanOrEqual(64);
  });

  it('is DER, each length in its shortest form (X.690 §10.1), with NULL for the parameters of the HMAC', () => {
    // 127, 128, 255 and 256 bytes of ciphertext and more: both sides of every change of form.
    for (const size of [95, 100, 111, 112, 127, 128, 223, 239, 240, 255, 256, 1000]) {
      const bytes = derOf(encryptPkcs8(Buffer.alloc(size), 'x'));
      expect(longLengths(bytes), `${size}`).toEqual([]);
      expect(bytes.includes(Buffer.from('06082a864886f70d02090500', 'hex'))).toBe(true);
    }
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
    expect(isWholeSequence(Buffer.of(0x30, 0x85, 0, 0, 0, 0, 0))).toBe(false);
    expect(isWholeSequence(Buffer.of(0x30, 0x84, 0, 0, 0, 1, 7))).toBe(true);
    expect(isWholeSequence(Buffer.of())).toBe(false);
    expect(isWholeSequence(Buffer.of(0x30))).toBe(false);
  });

  it('reads lengths of every form', () => {
    for (const size of [0, 1, 127, 128, 129, 255, 256, 257, 70_000]) {
      const head = size < 128 ? [0x30, size] : [0x30, 0x83, size >> 16, (size >> 8) & 255, size & 255];
      const whole = Buffer.concat([Buffer.from(head), Buffer.alloc(size)]);
      expect(isWholeSequence(whole)).toBe(true);
      expect(isWholeSequence(whole.subarray(0, -1))).toBe(false);
      expect(isWholeSequence(Buffer.concat([whole, Buffer.of(0)]))).toBe(false);
    }
    // Indefinite length (0x80) is BER: no file of ours has it.
    expect(isWholeSequence(Buffer.concat([Buffer.of(0x30, 0x80), Buffer.alloc(0x80)]))).toBe(false);
  });
});
