// SPDX-License-Identifier: Apache-2.0
/**
 * Encrypted PKCS#8 (RFC 5958 EncryptedPrivateKeyInfo) with PBES2 (RFC 8018): PBKDF2-HMAC-SHA256 and
 * AES-256-CBC. Written here because Node's own export and `openssl genpkey -aes-256-cbc` both fix PBKDF2 at
 * 2048 rounds, which a stolen key file does not withstand. Reading needs nothing of ours: Node and openssl do.
 */
import { createCipheriv, pbkdf2Sync, randomBytes } from 'node:crypto';

/** PBKDF2-HMAC-SHA256 rounds: OWASP's figure; about 0.1 s to open a key. */
export const PBKDF2_ITERATIONS = 600_000;

const SALT_BYTES = 16;
const IV_BYTES = 16;
const KEY_BYTES = 32;

// Object identifiers, each a whole DER element.
const PBES2 = Buffer.from('06092a864886f70d01050d', 'hex'); // 1.2.840.113549.1.5.13
const PBKDF2 = Buffer.from('06092a864886f70d01050c', 'hex'); // 1.2.840.113549.1.5.12
const HMAC_SHA256 = Buffer.from('06082a864886f70d0209', 'hex'); // 1.2.840.113549.2.9
const AES_256_CBC = Buffer.from('060960864801650304012a', 'hex'); // 2.16.840.1.101.3.4.1.42
const NULL = Buffer.from('0500', 'hex');

/** PEM of `pkcs8` (DER PrivateKeyInfo) under a passphrase (its UTF-8 bytes, as openssl takes it). */
export function encryptPkcs8(pkcs8: Uint8Array, passphrase: string): string {
  const salt = randomBytes(SALT_BYTES);
  const iv = randomBytes(IV_BYTES);
  const key = pbkdf2Sync(passphrase, salt, PBKDF2_ITERATIONS, KEY_BYTES, 'sha256');
  const cipher = createCipheriv('aes-256-cbc', key, iv);
  const ciphertext = Buffer.concat([cipher.update(pkcs8), cipher.final()]);
  const kdf = sequence(
    PBKDF2,
    sequence(octets(salt), integer(PBKDF2_ITERATIONS), sequence(HMAC_SHA256, NULL)),
  );
  const scheme = sequence(AES_256_CBC, octets(iv));
  const info = sequence(sequence(PBES2, sequence(kdf, scheme)), octets(ciphertext));
  return pem('ENCRYPTED PRIVATE KEY', info);
}

const sequence = (...parts: Buffer[]): Buffer => element(0x30, Buffer.concat(parts));
const octets = (bytes: Buffer): Buffer => element(0x04, bytes);

/** INTEGER, big-endian, in three bytes: for values from 2^15 to 2^23 - 1 (the top bit is the sign), as ours is. */
function integer(value: number): Buffer {
  const bytes = Buffer.alloc(3);
  bytes.writeUIntBE(value, 0, 3);
  return element(0x02, bytes);
}

/** Tag, length (short form below 128, else the long form), content. */
function element(tag: number, content: Buffer): Buffer {
  const n = content.length;
  const length = n < 0x80 ? [n] : n < 0x100 ? [0x81, n] : [0x82, n >> 8, n & 0xff];
  return Buffer.concat([Buffer.from([tag, ...length]), content]);
}

function pem(label: string, der: Buffer): string {
  const lines = der.toString('base64').replace(/.{64}(?=.)/g, '$&\n');
  return `-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`;
}

/** True when `der` is one SEQUENCE that ends where the bytes end: the file is whole, whatever is inside. */
export function isWholeSequence(der: Uint8Array): boolean {
  const [tag, first = 0] = der;
  // 0x80 would be BER's "until an end mark", and no file of ours has more than four bytes of length.
  if (tag !== 0x30 || first === 0x80 || first > 0x84) return false;
  const extra = first < 0x80 ? 0 : first & 0x7f;
  const length = der.subarray(2, 2 + extra).reduce((sum, byte) => sum * 256 + byte, 0);
  return der.length === 2 + extra + (extra === 0 ? first : length);
}
