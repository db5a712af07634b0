// SPDX-License-Identifier: Apache-2.0
/**
 * Private keys as `cosign generate-key-pair` writes them: a PEM block of JSON that names a key derivation (scrypt),
 * a cipher (NaCl's secretbox) and its text, which is PKCS#8 DER. The form is that of
 * github.com/secure-systems-lab/go-securesystemslib/encrypted. Outside only, as all that reads private keys.
 */
import { createPrivateKey, scryptSync, type KeyObject } from 'node:crypto';
import { xsalsa20poly1305 } from '@noble/ciphers/salsa.js';
import * as z from 'zod';
import { SealiftError } from '../errors.ts';
import { parseJson } from '../json.ts';

/** cosign wrote `COSIGN` until its version 2, and reads both. */
export const COSIGN_LABELS: ReadonlySet<string> = new Set([
  'ENCRYPTED SIGSTORE PRIVATE KEY',
  'ENCRYPTED COSIGN PRIVATE KEY',
]);

/** Longest JSON, in bytes. A P-256 key takes about 450. */
const MAX_JSON_BYTES = 16 * 1024;

/**
 * What the derivation may cost, in bytes of memory (128 · N · r) and in passes. cosign asks for 64 MiB and one
 * pass (N = 65536, r = 8, p = 1), which takes 0.2 s; the file itself could ask for hours and all memory.
 */
const MAX_SCRYPT_BYTES = 256 * 1024 * 1024;
const MAX_SCRYPT_PASSES = 4;

const KEY_BYTES = 32;
const NONCE_BYTES = 24;
const TAG_BYTES = 16;

const bytes = (min: number, max: number): z.ZodType<Buffer> =>
  z
    .base64()
    .transform((text) => Buffer.from(text, 'base64'))
    .refine((value) => value.length >= min && value.length <= max);

const CosignKey = z.object({
  kdf: z.object({
    name: z.literal('scrypt'),
    params: z.object({ N: z.int().min(2), r: z.int().min(1), p: z.int().min(1) }),
    salt: bytes(8, 256),
  }),
  cipher: z.object({ name: z.literal('nacl/secretbox'), nonce: bytes(NONCE_BYTES, NONCE_BYTES) }),
  ciphertext: bytes(TAG_BYTES + 1, MAX_JSON_BYTES),
});
type CosignKey = z.infer<typeof CosignKey>;

/**
 * Opens cosign's encrypted private key, of whatever kind it is.
 * @param pem the file's content, with a block of one of COSIGN_LABELS
 * @param file its name, for messages
 * @throws {SealiftError} WRONG_PASSPHRASE when the cipher's seal does not open, which an authentic file does only
 *   for the wrong passphrase; KEY_INVALID when the file is damaged or asks for too much
 */
export function openCosignKey(pem: string, passphrase: string, file: string): KeyObject {
  const box = readBox(pem, file);
  const key = deriveKey(box, passphrase, file);
  const der = unseal(box, key, file);
  try {
    return createPrivateKey({ key: der, format: 'der', type: 'pkcs8' });
  } catch (cause) {
    throw damaged(file, cause);
  } finally {
    key.fill(0);
    der.fill(0);
  }
}

function readBox(pem: string, file: string): CosignKey {
  const body = /^-----BEGIN (ENCRYPTED (?:SIGSTORE|COSIGN) PRIVATE KEY)-----([^-]*)-----END \1-----/m.exec(
    pem,
  )?.[2];
  if (body === undefined) throw damaged(file);
  const json = parseJson(Buffer.from(body, 'base64'), file, 'KEY_INVALID', MAX_JSON_BYTES);
  const parsed = CosignKey.safeParse(json);
  if (parsed.success) return parsed.data;
  throw damaged(file, parsed.error);
}

function deriveKey({ kdf: { params, salt } }: CosignKey, passphrase: string, file: string): Buffer {
  const { N, r, p } = params;
  const memory = 128 * N * r;
  const isScrypt = Number.isInteger(Math.log2(N)) && N < 2 ** (16 * r); // RFC 7914 §6
  if (memory > MAX_SCRYPT_BYTES || p > MAX_SCRYPT_PASSES || !isScrypt) {
    throw new SealiftError(
      'KEY_INVALID',
      `${file} asks for a derivation that is not done: scrypt N=${N} r=${r} p=${p}`,
      {
        hint: 'cosign itself writes N=65536 r=8 p=1',
      },
    );
  }
  // OpenSSL counts some blocks more than the formula.
  return scryptSync(passphrase, salt, KEY_BYTES, { N, r, p, maxmem: 2 * MAX_SCRYPT_BYTES });
}

function unseal({ cipher, ciphertext }: CosignKey, key: Uint8Array, file: string): Uint8Array {
  try {
    return xsalsa20poly1305(key, cipher.nonce).decrypt(ciphertext);
  } catch (cause) {
    throw new SealiftError('WRONG_PASSPHRASE', `the passphrase does not open ${file}`, {
      hint: 'it is the one that cosign asked for; without it the key is lost, and a new one is needed',
      cause,
    });
  }
}

const damaged = (file: string, cause?: unknown): SealiftError =>
  new SealiftError('KEY_INVALID', `${file} is damaged: not an encrypted key as cosign writes it`, { cause });
