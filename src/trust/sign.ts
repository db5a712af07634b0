// SPDX-License-Identifier: Apache-2.0
/** Making signatures. Outside only: the enclave executable does not contain this file (THREATS.md G5). */
import { sign, type KeyObject } from 'node:crypto';
import { SealiftError } from '../errors.ts';
import { fingerprint, publicKeyOf } from './keys.ts';
import { isSignedBy, readMessageSignature, writeMessageSignature } from './message-signature.ts';

/** Whoever can sign: a key in memory, a device behind a command, a person or machine with a certificate. */
export interface Signer {
  /** Who that is, for output: the fingerprint of a key, or `identity (issuer)`. */
  readonly name: string;
  /**
   * A Sigstore bundle v0.3 with a `messageSignature` over `bytes`, as one line of JSON without padding
   * (FORMAT.md §3). The signer has verified it before it returns it.
   */
  sign(bytes: Uint8Array): Promise<string>;
}

/**
 * Signs with a private key that is in memory.
 * @throws {SealiftError} KEY_INVALID when the key is not ECDSA P-256
 */
export function keySigner(privateKey: KeyObject): Signer {
  return rawSigner(publicKeyOf(privateKey, 'the signing key'), async (bytes) =>
    sign('sha256', bytes, { key: privateKey, dsaEncoding: 'der' }),
  );
}

/**
 * Signs with whatever returns a DER ECDSA signature over the SHA-256 of the bytes. What it returned is read back
 * and verified first, by the code that the enclave runs: a wrong key label or a device that signs something else
 * shows here, not on the far side of the air gap.
 * @throws {SealiftError} KEY_INVALID when the key is not ECDSA P-256. `sign` throws BAD_SIGNATURE when what came
 *   back does not verify, and whatever `makeSignature` throws
 */
export function rawSigner(
  publicKey: KeyObject,
  makeSignature: (bytes: Uint8Array) => Promise<Uint8Array>,
): Signer {
  const key = publicKeyOf(publicKey, 'the signer');
  const name = fingerprint(key);
  return {
    name,
    sign: async (bytes) => {
      const json = writeMessageSignature(bytes, await makeSignature(bytes), key);
      if (verifies(key, bytes, json)) return json;
      throw new SealiftError(
        'BAD_SIGNATURE',
        'what the signer returned does not verify with its own public key',
        {
          details: [['public key', name]],
          hint: 'is the private key that signs the one that this public key belongs to?',
        },
      );
    },
  };
}

function verifies(key: KeyObject, bytes: Uint8Array, json: string): boolean {
  try {
    return isSignedBy(key, bytes, readMessageSignature(JSON.parse(json)));
  } catch {
    return false; // an empty signature, for one, is not even a well-formed bundle
  }
}
