// SPDX-License-Identifier: Apache-2.0
/**
 * Public keys of others. Unlike our own (trust/keys.ts: ECDSA P-256 only), makers of images and models choose
 * theirs: cosign signs with any ECDSA, RSA or Ed25519 key, model_signing with ECDSA on three curves.
 */
import { createHash, createPublicKey, verify, type KeyObject } from 'node:crypto';
import { SealiftError } from '../../errors.ts';
import { fromHex, type Digest } from '../../store/digest.ts';

/** Largest key file, in bytes. An RSA key of 16,384 bits takes under 3,000. */
const MAX_KEY_BYTES = 16 * 1024;
/** Smallest and largest RSA modulus, in bits: what is still sound, and what is still verified in no time. */
const RSA_BITS = [2048, 16_384] as const;
const CURVES = ['prime256v1', 'secp384r1', 'secp521r1'];

export interface UpstreamKey {
  key: KeyObject;
  /** sha256 of the DER SPKI. */
  fingerprint: Digest;
}

/**
 * Reads one public key, SPKI PEM.
 * @throws {SealiftError} KEY_INVALID, also for a private key
 */
export function readUpstreamKey(bytes: Uint8Array, file: string): UpstreamKey {
  const pem = bytes.length > MAX_KEY_BYTES ? '' : Buffer.from(bytes).toString('latin1');
  const labels = [...pem.matchAll(/^-----BEGIN ([A-Z0-9 ]{1,64})-----\r?$/gm)].map(([, label]) => label);
  if (labels.length !== 1 || labels[0] !== 'PUBLIC KEY') {
    throw new SealiftError('KEY_INVALID', `${file} is not one public key in PEM form (BEGIN PUBLIC KEY)`, {
      hint: '`cosign public-key --key FILE` or `openssl pkey -in FILE -pubout` prints one',
    });
  }
  let key;
  try {
    key = createPublicKey(pem);
  } catch (cause) {
    throw new SealiftError('KEY_INVALID', `${file} is damaged, or not a public key that can be read`, {
      cause,
    });
  }
  if (!isSupported(key)) {
    throw new SealiftError('KEY_INVALID', `${file} holds a key of a kind that is not supported`, {
      hint: 'ECDSA on P-256, P-384 or P-521, RSA of 2048 bits or more, or Ed25519 will do',
    });
  }
  return { key, fingerprint: fingerprintOf(key) };
}

function isSupported({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): boolean {
  if (asymmetricKeyType === 'ec') return CURVES.includes(asymmetricKeyDetails?.namedCurve ?? '');
  const bits = asymmetricKeyDetails?.modulusLength ?? 0;
  if (asymmetricKeyType === 'rsa') return bits >= RSA_BITS[0] && bits <= RSA_BITS[1];
  return asymmetricKeyType === 'ed25519';
}

/** sha256 of the DER SPKI; through JWK, so that one key has one fingerprint whatever encoding its file has. */
export function fingerprintOf(key: KeyObject): Digest {
  const plain = createPublicKey({ key: key.export({ format: 'jwk' }), format: 'jwk' });
  return fromHex(sha256Hex(plain.export({ type: 'spki', format: 'der' })));
}

/** What writers of Sigstore bundles name a key by: cosign base64 of sha256(DER), model_signing hex of sha256(PEM). */
export function hintsOf(key: KeyObject): string[] {
  const der = createHash('sha256')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest('base64');
  return [der, omsHintOf(key)];
}

/** The hint that model_signing writes, and demands. */
export const omsHintOf = (key: KeyObject): string => sha256Hex(key.export({ type: 'spki', format: 'pem' }));

/** Hash that goes with a curve in OMS (spec v1.0, "Algorithm registry"), and in bundles of cosign 3. */
const CURVE_HASH: Readonly<Record<string, string>> = {
  prime256v1: 'sha256',
  secp384r1: 'sha384',
  secp521r1: 'sha512',
};

export const omsHashOf = (key: KeyObject): string | undefined =>
  CURVE_HASH[key.asymmetricKeyDetails?.namedCurve ?? ''];

/** cosign 2, and cosign 3 with any other key than ECDSA, hash with SHA-256. */
export const cosignHashesOf = (key: KeyObject): string[] => [
  ...new Set(['sha256', omsHashOf(key) ?? 'sha256']),
];

/** False also for signatures that are not even well-formed. @param hash ignored for Ed25519, which has its own */
export function isSignedBy(key: KeyObject, bytes: Uint8Array, signature: Uint8Array, hash: string): boolean {
  try {
    const algorithm = key.asymmetricKeyType === 'ed25519' ? null : hash;
    return verify(algorithm, bytes, { key, dsaEncoding: 'der' }, signature);
  } catch {
    return false;
  }
}

const sha256Hex = (data: string | Uint8Array): string => createHash('sha256').update(data).digest('hex');
