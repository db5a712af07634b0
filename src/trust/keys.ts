// SPDX-License-Identifier: Apache-2.0
/**
 * Keys: ECDSA P-256 and nothing else, the one kind that openssl, cosign, HSMs and every Sigstore library agree
 * on (P-384 and Ed25519 each fail in one of them).
 */
import {
  createHash,
  createPrivateKey,
  createPublicKey,
  generateKeyPairSync,
  type KeyObject,
} from 'node:crypto';
import { SealiftError } from '../errors.ts';
import { encryptPkcs8, isWholeSequence } from './pkcs8.ts';

/** How a key is shown and revoked: sha256 of its DER SubjectPublicKeyInfo. */
export type Fingerprint = `sha256:${string}`;

/** Longest passphrase, in UTF-8 bytes: OpenSSL's own limit, so a longer one would make a key that nobody opens. */
const MAX_PASSPHRASE_BYTES = 1024;

/** Largest key file, in characters. A P-256 key takes a few hundred. */
const MAX_PEM_CHARS = 64 * 1024;

const COSIGN_LABELS = new Set(['ENCRYPTED SIGSTORE PRIVATE KEY', 'ENCRYPTED COSIGN PRIVATE KEY']);
const PRIVATE_LABELS = new Set(['PRIVATE KEY', 'ENCRYPTED PRIVATE KEY', 'EC PRIVATE KEY']);

/** `sha256:` and the hex sha256 of the key's DER SPKI. Of a private key, that of its public half. */
export function fingerprint(key: KeyObject): Fingerprint {
  return `sha256:${createHash('sha256').update(spki(key)).digest('hex')}`;
}

/** What a Sigstore bundle names the key by: base64 of the same sha256, as cosign writes it (FORMAT.md §3). */
export function keyHint(key: KeyObject): string {
  return createHash('sha256').update(spki(key)).digest('base64');
}

const spki = (key: KeyObject): Buffer => publicKeyOf(key, 'the key').export({ type: 'spki', format: 'der' });

/**
 * The public half of a key, in one encoding. SPKI allows a compressed point and spelt-out curve parameters, so
 * one key has several DER forms and would have several fingerprints: it could be trusted twice, and revoked
 * under one form but not the other. Only the coordinates are kept.
 * @throws {SealiftError} KEY_INVALID for anything but ECDSA P-256; `file` is named in the message
 */
export function publicKeyOf(key: KeyObject, file: string): KeyObject {
  requireP256(key, file);
  const coordinates = key.export({ format: 'jwk' });
  delete coordinates.d;
  return createPublicKey({ key: coordinates, format: 'jwk' });
}

function requireP256(key: KeyObject, file: string): void {
  const curve = key.asymmetricKeyDetails?.namedCurve;
  if (key.asymmetricKeyType === 'ec' && curve === 'prime256v1') return;
  const found = [key.asymmetricKeyType ?? 'symmetric', curve].filter((word) => word !== undefined).join(' ');
  throw new SealiftError(
    'KEY_INVALID',
    `${file} holds a key of type ${found}, where ECDSA P-256 is expected`,
    {
      hint: '`sealift keygen` makes such a key',
    },
  );
}

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
  return labelsOf(pem).includes('ENCRYPTED PRIVATE KEY') || /^Proc-Type: 4,ENCRYPTED/m.test(pem);
}

/**
 * Reads a signing key: PKCS#8 PEM, encrypted or not, or SEC1 (`EC PRIVATE KEY`) PEM.
 * @param passphrase undefined when none was given; not used for a key that is not encrypted
 * @throws {SealiftError} KEY_INVALID, WRONG_PASSPHRASE
 */
export function loadPrivateKey(pem: string, passphrase: string | undefined, file: string): KeyObject {
  requirePrivateLabel(pem, file);
  const encrypted = isEncryptedKey(pem);
  if (encrypted && passphrase === undefined) {
    throw new SealiftError('WRONG_PASSPHRASE', `${file} is encrypted, and no passphrase was given`);
  }
  const key = openPrivateKey(pem, encrypted ? passphrase : undefined, file);
  requireP256(key, file);
  return key;
}

function requirePrivateLabel(pem: string, file: string): void {
  const labels = labelsOf(pem);
  if (labels.some((label) => COSIGN_LABELS.has(label))) {
    throw new SealiftError(
      'KEY_INVALID',
      `${file} is in cosign's own encrypted format, which sealift does not read`,
      {
        hint:
          'sign SHA256SUMS with `cosign sign-blob` and attach the result; or share one key the other way round: ' +
          '`sealift keygen`, then `openssl pkey -in release.key -out plain.key` and `cosign import-key-pair --key plain.key`',
      },
    );
  }
  if (labels.some((label) => PRIVATE_LABELS.has(label))) return;
  const found = labels.length === 0 ? 'no PEM block' : 'no private key';
  throw new SealiftError('KEY_INVALID', `${file} holds ${found}; expected a private key in PKCS#8 PEM`);
}

function openPrivateKey(pem: string, passphrase: string | undefined, file: string): KeyObject {
  try {
    return createPrivateKey(passphrase === undefined ? pem : { key: pem, passphrase });
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

/**
 * Reads a public key: exactly one SPKI PEM block.
 * @throws {SealiftError} KEY_INVALID, also for a private key: OpenSSL would take one and derive the public half
 */
export function loadPublicKey(pem: string, file: string): KeyObject {
  const labels = labelsOf(pem);
  if (labels.some((label) => label.endsWith('PRIVATE KEY'))) {
    throw new SealiftError('KEY_INVALID', `${file} is a private key, where a public key is expected`, {
      hint: '`openssl pkey -in release.key -pubout` prints the public half; keep the private half off this host',
    });
  }
  if (labels.length !== 1 || labels[0] !== 'PUBLIC KEY') {
    throw new SealiftError('KEY_INVALID', `${file} is not one public key in PEM form (BEGIN PUBLIC KEY)`);
  }
  return publicKeyOf(parsePublicKey(pem, file), file);
}

function parsePublicKey(pem: string, file: string): KeyObject {
  try {
    return createPublicKey(pem);
  } catch (cause) {
    throw new SealiftError('KEY_INVALID', `${file} is damaged, or not a public key that can be read`, {
      cause,
    });
  }
}

/** The labels of the PEM blocks in a file, in order. */
function labelsOf(pem: string): string[] {
  if (pem.length > MAX_PEM_CHARS) return [];
  return [...pem.matchAll(/^-----BEGIN ([A-Z0-9 ]{1,64})-----\r?$/gm)].map((match) => match[1] ?? '');
}
