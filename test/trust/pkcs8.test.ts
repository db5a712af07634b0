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
    expect(dump).toMatch(/:hmacWithSHA256\n.* NULL /); // the parameters that RFC 8018 asks for, not only allows
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

/** Contents of the elements, through all sequences; each length must be in the shortest form (X.690 §10.1). */
function elements(bytes: Buffer): { tag: number; size: number }[] {
  if (bytes.length === 0) return [];
  const [tag, first] = [bytes[0]!, bytes[1]!];
  const extra = first < 0x80 ? 0 : first - 0x80;
  const size = extra === 0 ? first : bytes.readUIntBE(2, extra);
  expect(extra).toBe(size < 0x80 ? 0 : size < 0x100 ? 1 : 2);
  const content = bytes.subarray(2 + extra, 2 + extra + size);
  expect(content.length).toBe(size);
  return [
    { tag, size },
    ...(tag === 0x30 ? elements(content) : []),
    ...elements(bytes.subarray(2 + extra + size)),
  ];
}

describe('the file', () => {
  // A block of the cipher more: contents of 16, 128, 240, 256 and 1,008 bytes.
  it.each([
    [1, 16],
    [112, 128],
    [224, 240],
    [240, 256],
    [1000, 1008],
  ])('with a key of %i bytes is DER', (size, encrypted) => {
    const found = elements(derOf(encryptPkcs8(Buffer.alloc(size), 'x')));
    expect(found.at(-1)).toEqual({ tag: 0x04, size: encrypted });
    expect(found.map(({ tag }) => tag)).toContain(0x05);
  });

  it.each([1, 112, 1000])('with a key of %i bytes is PEM in lines of 64 characters', (size) => {
    const lines = encryptPkcs8(Buffer.alloc(size), 'x').split('\n');
    expect(lines.at(0)).toBe('-----BEGIN ENCRYPTED PRIVATE KEY-----');
    expect(lines.slice(-2)).toEqual(['-----END ENCRYPTED PRIVATE KEY-----', '']);
    const body = lines.slice(1, -2);
    for (const line of body.slice(0, -1)) expect(line).toMatch(/^[\w+/]{64}$/);
    expect(body.at(-1)).toMatch(/^[\w+/=]{1,64}$/);
  });
});

describe('isWholeSequence', () => {
  it('knows a whole file from a part of it', () => {
    for (const whole of [derOf(pem), derOf(encryptPkcs8(Buffer.alloc(1000), 'x'))]) {
      expect(isWholeSequence(whole)).toBe(true);
      for (let n = 0; n < whole.length; n++) expect(isWholeSequence(whole.subarray(0, n))).toBe(false);
      expect(isWholeSequence(Buffer.concat([whole, Buffer.of(0)]))).toBe(false);
    }
  });

  it('knows both forms of a length', () => {
    const short = Buffer.concat([Buffer.of(0x30, 127), Buffer.alloc(127)]);
    const long = Buffer.concat([Buffer.of(0x30, 0x81, 128), Buffer.alloc(128)]);
    for (const whole of [Buffer.of(0x30, 1, 0), short, long]) {
      expect(isWholeSequence(whole)).toBe(true);
      expect(isWholeSequence(whole.subarray(0, -1))).toBe(false);
    }
    // 0x80 says that the end is marked, which DER does not have.
    expect(isWholeSequence(Buffer.concat([Buffer.of(0x30, 0x80), Buffer.alloc(128)]))).toBe(false);
  });

  it('refuses other tags and absurd lengths', () => {
    expect(isWholeSequence(Buffer.of(0x31, 0))).toBe(false);
    expect(isWholeSequence(Buffer.of(0x30, 0))).toBe(true);
    expect(isWholeSequence(Buffer.of(0x30, 0xff, 1, 1, 1))).toBe(false);
  });
});
