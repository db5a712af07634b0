// SPDX-License-Identifier: Apache-2.0
/**
 * What a signature says of itself: who made it, over what. Nothing here proves any of it; it is for saying things,
 * and for not signing twice. What counts is for verify.ts.
 */
import { claimedIdentity, certificateOf, identityText, type Identity } from './identity.ts';
import { isSignedBy, readMessageSignature } from './message-signature.ts';
import { hintAsFingerprint } from './verify.ts';

export interface Claim {
  /** The fingerprint of a key, or `identity (issuer)`. */
  by: string;
  /** Of a certificate. */
  identity?: Identity;
  /** Of what is said to have been signed. */
  digest: `sha256:${string}`;
}

/**
 * Takes a parsed Sigstore bundle apart.
 * @throws {Error} of any kind when it is not one of FORMAT.md §3; the text may quote the input
 */
export function readClaim(json: unknown): Claim {
  const { hint, claimedDigest, bundle } = readMessageSignature(json);
  const digest = `sha256:${claimedDigest.toString('hex')}` as const;
  if (hint !== undefined) return { by: hintAsFingerprint(hint) ?? hint, digest };
  const identity = claimedIdentity(bundle);
  return { by: identityText(identity), identity, digest };
}

/** Whether a signature was made by the key in its own certificate; true for one without a certificate. */
export function fitsItsCertificate(json: unknown, message: Uint8Array): boolean {
  const signature = readMessageSignature(json);
  if (signature.hint !== undefined) return true;
  return isSignedBy(certificateOf(signature.bundle).publicKey, message, signature);
}
