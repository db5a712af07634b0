// SPDX-License-Identifier: Apache-2.0
/**
 * The JSON of one signature: a Sigstore bundle v0.3 with a `messageSignature`, and a public-key hint or a certificate
 * with its log entries (FORMAT.md §3), the form that cosign writes and reads. Only the form; verify.ts judges what it
 * says.
 */
import { createHash, verify, type KeyObject } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import {
  assertBundleLatest,
  BUNDLE_V03_MEDIA_TYPE,
  bundleFromJSON,
  bundleToJSON,
  toMessageSignatureBundle,
  type Bundle,
  type TLogEntryWithInclusionProof,
} from '@sigstore/bundle';
import { HashAlgorithm } from '@sigstore/protobuf-specs';
import { keyHint } from './keys.ts';

export interface MessageSignature {
  /**
   * Names the key; chosen by whoever wrote it, so good for finding a key and for nothing else. Undefined when
   * the signature comes with a certificate instead.
   */
  hint: string | undefined;
  /** What the writer says was signed. Only the signature proves it. */
  claimedDigest: Buffer;
  /** DER ECDSA. Malleable: (r, n - s) verifies too, so these bytes never identify a signature. */
  signature: Buffer;
  /** All of it, for identity.ts: certificate, log entries, timestamps. */
  bundle: Bundle;
}

/** One line of JSON for a signature over `sums` by `key`. */
export function writeMessageSignature(sums: Uint8Array, signature: Uint8Array, key: KeyObject): string {
  const bundle = toMessageSignatureBundle({
    digest: createHash('sha256').update(sums).digest(),
    signature: Buffer.from(signature),
    keyHint: keyHint(key),
  });
  return JSON.stringify(bundleToJSON(bundle));
}

/**
 * Takes a parsed bundle apart.
 * @throws {Error} of any kind when the form is not exactly that of FORMAT.md §3; the text may quote the input
 */
export function readMessageSignature(json: unknown): MessageSignature {
  const bundle = bundleFromJSON(json);
  if (bundle.mediaType !== BUNDLE_V03_MEDIA_TYPE)
    throw new Error(`media type is not ${BUNDLE_V03_MEDIA_TYPE}`);
  // The parser drops unknown members and takes url-safe or dirty base64; cosign refuses the first, `base64 -d` the second.
  if (!isDeepStrictEqual(withoutEmpty(json), withoutEmpty(bundleToJSON(bundle)))) {
    throw new Error('it has unknown members or values that are not in their standard form');
  }
  assertBundleLatest(bundle); // so says the type: of a log entry with its proof
  bundle.verificationMaterial.tlogEntries.forEach(demandLogForm);
  const { content, verificationMaterial } = bundle;
  if (content.$case !== 'messageSignature') throw new Error('it is not a messageSignature');
  const { messageDigest, signature } = content.messageSignature;
  if (messageDigest.algorithm !== HashAlgorithm.SHA2_256) throw new Error('its digest is not SHA2_256');
  const material = verificationMaterial.content;
  const hint = material.$case === 'publicKey' ? material.publicKey.hint : undefined;
  return { hint, claimedDigest: messageDigest.digest, signature, bundle };
}

/** int64 in JSON: decimal, not negative, in one spelling. */
const INT64 = /^(0|[1-9]\d{0,18})$/;

/**
 * The library takes whatever Number() and BigInt() take for a number (`0x6a`, blanks), and does not look at what a proof
 * says beside the checkpoint; cosign refuses both.
 */
function demandLogForm({
  logIndex,
  integratedTime,
  inclusionProof: proof,
}: TLogEntryWithInclusionProof): void {
  const numbers = [logIndex, integratedTime, proof.logIndex, proof.treeSize];
  if (!numbers.every((text) => INT64.test(text))) throw new Error('a number of its log entry is not decimal');
  const [, size, hash] = proof.checkpoint.envelope.split('\n');
  if (size !== proof.treeSize || hash !== proof.rootHash.toString('base64'))
    throw new Error('its proof of inclusion is not about its checkpoint');
}

/**
 * True when `signature` is by `key` over `signed`, with SHA-256. This is node:crypto and not @sigstore/verify's
 * Verifier: for a bare key that library comes down to this one call, but takes the hash algorithm from the
 * bundle under test, ignores the claimed digest, and turns every exception into "false". It is asked about
 * certificates and logs, where it does real work (identity.ts), and even then this has to be true as well.
 */
export function isSignedBy(
  key: KeyObject,
  signed: Uint8Array,
  { claimedDigest, signature }: Pick<MessageSignature, 'claimedDigest' | 'signature'>,
): boolean {
  if (!createHash('sha256').update(signed).digest().equals(claimedDigest)) return false;
  return verify('sha256', signed, { key, dsaEncoding: 'der' }, signature);
}

/** Lists and objects that some writers leave out when they are empty. No other name may stand there, not even empty. */
const OPTIONAL: ReadonlySet<string> = new Set([
  'timestampVerificationData',
  'rfc3161Timestamps',
  'tlogEntries',
]);

/** Optional members that are empty left out: writers differ on `tlogEntries: []`. */
function withoutEmpty(value: unknown): unknown {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return value;
  const entries = Object.entries(value).map(([key, inner]) => [key, withoutEmpty(inner)] as const);
  return Object.fromEntries(entries.filter(([key, inner]) => !(OPTIONAL.has(key) && isEmpty(inner))));
}

const isEmpty = (value: unknown): boolean =>
  typeof value === 'object' && value !== null && Object.keys(value).length === 0;
