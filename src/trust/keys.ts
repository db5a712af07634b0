// SPDX-License-Identifier: Apache-2.0
/**
 * Public keys: ECDSA P-256 and nothing else, the one kind that openssl, cosign, HSMs and every Sigstore library
 * agree on (P-384 and Ed25519 each fail in one of them). Both sides; private keys are in private-keys.ts.
 */
import { createHash, createPublicKey, type KeyObject } from 'node:crypto';
import { SealiftError } from '../errors.ts';

/** How a key is shown and revoked: sha256 of its DER SubjectPublicKeyInfo. */
export type Fingerprint = `sha256:${string}`;

/** Largest key file, in characters. A P-256 key takes a few hundred. */
const MAX_PEM_CHARS = 64 * 1024;

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

/** @throws {SealiftError} KEY_INVALID for anything but ECDSA P-256; `file` is named in the message */
export function requireP256(key: KeyObject, file: string): void {
  const curve = key.asymmetricKeyDetails?.namedCurve; // of a key of type `ec`, and of no other
  if (curve === 'prime256v1') return;
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
 * Reads a public key: exactly one SPKI PEM block.
 * @throws {SealiftError} KEY_INVALID, also for a private key: OpenSSL would take one and derive the public half
 */
export function loadPublicKey(pem: string, file: string): KeyObject {
  const labels = pemLabels(pem);
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

/** The labels of the PEM blocks in a file, in order, also where OpenSSL is lenient: blanks may follow on the line. */
export function pemLabels(pem: string): string[] {
  if (pem.length > MAX_PEM_CHARS) return [];
  return [...pem.matchAll(/-----BEGIN ([^\r\n]{1,64}?)-----/g)].map(([, label]) => label!);
}
