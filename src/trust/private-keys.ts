// SPDX-License-Identifier: Apache-2.0
/** Private keys: making and reading their files. Outside only: the enclave executable does not contain this file. */
import { createPrivateKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { SealiftError } from '../errors.ts';
import { COSIGN_LABELS, openCosignKey } from './cosign-key.ts';
import { fingerprint, pemLabels, requireP256, type Fingerprint } from './keys.ts';
import { encryptPkcs8, isWholeSequence } from './pkcs8.ts';

/** Longest passphrase, in UTF-8 bytes: OpenSSL's own limit, so a longer one would make a key that nobody opens. */
const MAX_PASSPHRASE_BYTES = 1024;

const PRIVATE_LABELS = new Set(['PRIVATE KEY', 'ENCRYPTED PRIVATE KEY', 'EC PRIVATE KEY']);

/**
 * A new key pair; the private half is encrypted PKCS#8 (pkcs8.ts), the public half SPKI, both PEM.
 * @throws {SealiftError} USAGE when the passphrase is empty, or longer than 1024 bytes of UTF-8
 */
export function generateKeyPair(passphrase: string): {
  privateKeyPem: string;
  publicKeyPem: string;
  fingerprint: Fingerprint;
} {
  const bytes = Buffer.byteLength(passphrase);
  if (bytes === 0) throw new SealiftError('USAGE', 'an empty passphrase would leave the key unprotected');
  if (bytes > MAX_PASSPHRASE_BYTES) {
    throw new SealiftError(
      'USAGE',
      `the passphrase is ${bytes} bytes; openssl reads at most ${MAX_PASSPHRASE_BYTES}`,
    );
  }
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return {
    privateKeyPem: encryptPkcs8(privateKey.export({ type: 'pkcs8', format: 'der' }), passphrase),
    publicKeyPem: publicKey.export({ type: 'spki', format: 'pem' }),
    fingerprint: fingerprint(publicKey),
  };
}

/** True when the file needs a passphrase, so that the caller knows whether to ask for one. */
export function isEncryptedKey(pem: string): boolean {
  const encrypted = (label: string): boolean => label === 'ENCRYPTED PRIVATE KEY' || COSIGN_LABELS.has(label);
  return pemLabels(pem).some(encrypted) || /^Proc-Type: 4,ENCRYPTED/m.test(pem);
}

/**
 * Reads a signing key: PKCS#8 PEM, encrypted or not, SEC1 (`EC PRIVATE KEY`) PEM, or cosign's encrypted form.
 * @param passphrase undefined when none was given; not used for a key that is not encrypted
 * @throws {SealiftError} KEY_INVALID, WRONG_PASSPHRASE
 */
export function loadPrivateKey(pem: string, passphrase: string | undefined, file: string): KeyObject {
  const label = privateLabel(pem, file);
  const encrypted = isEncryptedKey(pem);
  if (encrypted && passphrase === undefined) {
    throw new SealiftError('WRONG_PASSPHRASE', `${file} is encrypted, and no passphrase was given`);
  }
  const key = COSIGN_LABELS.has(label)
    ? openCosignKey(pem, passphrase!, file)
    : openPrivateKey(pem, encrypted ? passphrase : undefined, file);
  requireP256(key, file);
  return key;
}

/** The label of the first block that holds a private key. */
function privateLabel(pem: string, file: string): string {
  const labels = pemLabels(pem);
  const label = labels.find((found) => PRIVATE_LABELS.has(found) || COSIGN_LABELS.has(found));
  if (label !== undefined) return label;
  const found = labels.length === 0 ? 'no PEM block' : 'no private key';
  throw new SealiftError('KEY_INVALID', `${file} holds ${found}; expected a private key in PKCS#8 PEM`);
}

function openPrivateKey(pem: string, passphrase: string | undefined, file: string): KeyObject {
  try {
    return createPrivateKey({ key: pem, passphrase });
  } catch (cause) {
    // One wrong passphrase in 256 leaves valid padding, and OpenSSL then reports undecodable content instead of
    // a bad decrypt. So: a whole encrypted file that does not open has the wrong passphrase.
    if (passphrase !== undefined && isWholeFile(pem)) {
      throw new SealiftError('WRONG_PASSPHRASE', `the passphrase does not open ${file}`, {
        hint: 'check that passphrase and key belong together; without it the key is lost, and a new one is needed',
        cause,
      });
    }
    throw new SealiftError('KEY_INVALID', `${file} is damaged, or not a private key that can be read`, {
      cause,
    });
  }
}

function isWholeFile(pem: string): boolean {
  const body = /-----BEGIN ENCRYPTED PRIVATE KEY-----([^-]*)-----END ENCRYPTED PRIVATE KEY-----/.exec(
    pem,
  )?.[1];
  // The old SEC1 encryption has no outer structure to look at; its block is a multiple of the cipher's.
  return body === undefined
    ? pem.includes('-----END EC PRIVATE KEY-----')
    : isWholeSequence(Buffer.from(body, 'base64'));
}
