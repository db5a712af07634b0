// SPDX-License-Identifier: Apache-2.0
/** Making signatures. Outside only: the enclave executable does not contain this file (THREATS.md G5). */
import { sign, type KeyObject } from 'node:crypto';
import { SealiftError } from '../errors.ts';
import { fingerprint, publicKeyOf } from './keys.ts';
import { isSignedBy, readMessageSignature, writeMessageSignature } from './message-signature.ts';

/** Anything that can sign: a key in memory, and whatever else returns a DER signature. */
export interface Signer {
  readonly publicKey: KeyObject;
  /** DER ECDSA signature over the SHA-256 of `bytes`. */
  sign(bytes: Uint8Array): Promise<Uint8Array>;
}

/**
 * Signs with a private key that is in memory.
 * @throws {SealiftError} KEY_INVALID when the key is not ECDSA P-256
 */
export function keySigner(privateKey: KeyObject): Signer {
  return {
    publicKey: publicKeyOf(privateKey, 'the signing key'),
    sign: async (bytes) => sign('sha256', bytes, { key: privateKey, dsaEncoding: 'der' }),
  };
}

/**
 * Signs the bytes of `SHA256SUMS`; the result is one line of JSON without padding (FORMAT.md §3). What the
 * signer returned is read back and verified first, by the code that the enclave runs: a wrong key label or a
 * device that signs something else shows here, not on the far side of the air gap.
 * @throws {SealiftError} BAD_SIGNATURE when it does not verify, KEY_INVALID; and whatever the signer throws
 */
export async function signSums(sums: Uint8Array, signer: Signer): Promise<string> {
  const key = publicKeyOf(signer.publicKey, 'the signer');
  const json = writeMessageSignature(sums, await signer.sign(sums), key);
  if (!verifies(key, sums, json)) {
    throw new SealiftError(
      'BAD_SIGNATURE',
      'what the signer returned does not verify with its own public key',
      {
        details: [['public key', fingerprint(key)]],
        hint: 'is the private key that signs the one that this public key belongs to?',
      },
    );
  }
  return json;
}

function verifies(key: KeyObject, sums: Uint8Array, json: string): boolean {
  try {
    return isSignedBy(key, sums, readMessageSignature(JSON.parse(json)));
  } catch {
    return false; // an empty signature, for one, is not even a well-formed bundle
  }
}
