// SPDX-License-Identifier: Apache-2.0
/**
 * What a signature says of itself: who made it, over what. Nothing here proves any of it; it is for saying things,
 * and for not signing twice. Outside only: the enclave asks verify.ts.
 */
import { X509Certificate } from 'node:crypto';
import { bundleFromJSON } from '@sigstore/bundle';
import { toSignedEntity } from '@sigstore/verify';
import { isSignedBy, readMessageSignature } from './message-signature.ts';
import type { Signer } from './sign.ts';

/** Where Fulcio puts the issuer of the identity (fulcio, docs/oid-info.md): as an ASN.1 string, and once as bare text. */
const ISSUER_OID = '1.3.6.1.4.1.57264.1.8';
const OLD_ISSUER_OID = '1.3.6.1.4.1.57264.1.1';

export interface Claim {
  /** As `Signer.name`: the fingerprint of a key, or `identity (issuer)`. */
  by: Signer['name'];
  /** Of a certificate. */
  identity?: Identity;
  /** Of what is said to have been signed. */
  digest: `sha256:${string}`;
}

export interface Identity {
  subject: string;
  issuer: string;
}

export const nameOf = ({ subject, issuer }: Identity): string => `${subject} (${issuer})`;

/**
 * Takes a parsed Sigstore bundle apart.
 * @throws {Error} of any kind when it is not one of FORMAT.md §3; the text may quote the input
 */
export function readClaim(json: unknown): Claim {
  const digest = `sha256:${readMessageSignature(json).claimedDigest.toString('hex')}` as const;
  const bundle = bundleFromJSON(json);
  const { key } = toSignedEntity(bundle);
  if (key.$case === 'public-key') {
    return { by: `sha256:${Buffer.from(key.hint, 'base64').toString('hex')}`, digest };
  }
  const { certificate } = key;
  const issuer =
    certificate.extension(ISSUER_OID)?.valueObj.subs[0]?.value ??
    certificate.extension(OLD_ISSUER_OID)?.value;
  const identity = {
    subject: certificate.subjectAltName ?? 'nobody',
    issuer: issuer === undefined ? 'no issuer' : Buffer.from(issuer).toString(),
  };
  return { by: nameOf(identity), identity, digest };
}

/** Whether a signature was made by the key in its own certificate; true for one without a certificate. */
export function fitsItsCertificate(json: unknown, message: Uint8Array): boolean {
  const { content } = bundleFromJSON(json).verificationMaterial;
  if (content.$case !== 'certificate') return true;
  const { publicKey } = new X509Certificate(content.certificate.rawBytes);
  return isSignedBy(publicKey, message, readMessageSignature(json));
}
