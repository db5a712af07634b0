// SPDX-License-Identifier: Apache-2.0
/**
 * The verdict over signatures: bytes in, verdict out, no I/O. What is counted are different signers of the policy
 * with different keys; never hints, slots, certificates or signature bytes (THREATS.md T3, T4).
 */
import { printable } from '../text.ts';
import { certificateOf, identityText, StrangersCertificate, type Identity } from './identity.ts';
import { fingerprint, keyHint, publicKeyOf, type Fingerprint } from './keys.ts';
import { isSignedBy, readMessageSignature, type MessageSignature } from './message-signature.ts';
import type { TrustedSigner, TrustPolicy } from './policy.ts';
import { refusal } from './refusal.ts';
import { decodeSlot } from './slots.ts';

/** Longest piece of a slot that is shown, in code points. */
const MAX_SHOWN = 160;

export interface AcceptedSignature {
  /** Number of the slot, from 0. */
  slot: number;
  /** Name that the policy gives the signer. */
  signer: string;
  /** Of the key that made the signature; for an identity that of its certificate, which is used once. */
  fingerprint: Fingerprint;
  /** Whom the certificate names, for a signature by an identity. */
  identity?: Identity;
  /** The latest moment that a log or timestamp authority vouches for, for a signature by an identity. */
  signedAt?: Date;
}

export type RejectionReason =
  | 'malformed'
  | 'unknown-key'
  | 'unknown-identity'
  | 'bad-signature'
  | 'revoked'
  | 'expired'
  | 'not-yet-valid'
  | 'duplicate-signer';

export interface RejectedSignature {
  slot: number;
  reason: RejectionReason;
  /** One sentence, safe to print. */
  detail: string;
}

export interface Verdict {
  accepted: AcceptedSignature[];
  rejected: RejectedSignature[];
  threshold: number;
  policyVersion: number;
}

interface Court {
  signed: Uint8Array;
  policy: TrustPolicy;
  now: Date;
  keys: ReadonlyMap<string, TrustedSigner>;
}

/**
 * Judges every slot. Slots that are rejected do not spoil a threshold that others meet: anyone who holds the media
 * can write a slot. Whether it is met is for `demandThreshold`.
 * @param signed the bytes that must have been signed: SHA256SUMS, or a new trust policy
 * @param slots of SLOT_BYTES each, in any number
 * @param now the time against which validity windows are held
 */
export function judgeSignatures(
  signed: Uint8Array,
  slots: readonly Uint8Array[],
  policy: TrustPolicy,
  now: Date,
): Verdict {
  // A Map, so that a hint like `__proto__` finds nothing.
  const keys = new Map<string, TrustedSigner>();
  for (const signer of policy.signers) if (signer.publicKey) keys.set(keyHint(signer.publicKey), signer);
  const court: Court = { signed, policy, now, keys };
  const verdict: Verdict = {
    accepted: [],
    rejected: [],
    threshold: policy.threshold,
    policyVersion: policy.version,
  };
  for (const [slot, bytes] of slots.entries()) record(verdict, judgeSlot(court, bytes, slot));
  return verdict;
}

/**
 * @param what was signed, as the subject of a sentence: `the bundle`
 * @throws {SealiftError} NOT_SIGNED, BAD_SIGNATURE, UNTRUSTED_SIGNER, SIGNER_REVOKED, SIGNER_EXPIRED or
 *   THRESHOLD_NOT_MET; its details list the finding for each slot and the signers that would count
 */
export function demandThreshold(verdict: Verdict, policy: TrustPolicy, what = 'the bundle'): void {
  // Negated, so that a threshold that is no number (a policy not made by parseTrustPolicy) refuses.
  if (!(verdict.accepted.length >= Math.max(1, policy.threshold))) throw refusal(verdict, policy, what);
}

/** Both of the above: the verdict, when enough different trusted signers have signed. */
export function verifySignatures(
  signed: Uint8Array,
  slots: readonly Uint8Array[],
  policy: TrustPolicy,
  now: Date,
  what?: string,
): Verdict {
  const verdict = judgeSignatures(signed, slots, policy, now);
  demandThreshold(verdict, policy, what);
  return verdict;
}

type Finding = AcceptedSignature | RejectedSignature | undefined;

function record(verdict: Verdict, finding: Finding): void {
  if (finding === undefined) return;
  if ('reason' in finding) {
    verdict.rejected.push(finding);
    return;
  }
  // By either: one signer may have a key and an identity, and one key may stand in a certificate as well.
  const earlier = verdict.accepted.find(
    (a) => a.signer === finding.signer || a.fingerprint === finding.fingerprint,
  );
  if (earlier === undefined) {
    verdict.accepted.push(finding);
    return;
  }
  const who = earlier.signer === finding.signer ? finding.signer : `the key of ${earlier.signer}`;
  const detail = `${printable(who)} has signed in slot ${earlier.slot} already, and counts once`;
  verdict.rejected.push(reject(finding.slot, 'duplicate-signer', detail));
}

/** Undefined for an empty slot. Whatever goes wrong while a slot is judged rejects that slot (THREATS.md G4). */
function judgeSlot(court: Court, bytes: Uint8Array, slot: number): Finding {
  try {
    const content = decodeSlot(bytes);
    if (content.kind === 'empty') return undefined;
    if (content.kind === 'malformed') return reject(slot, 'malformed', content.reason);
    const signature = readMessageSignature(content.json);
    return signature.hint === undefined
      ? judgeIdentity(court, signature, slot)
      : judgeKey(court, signature, signature.hint, slot);
  } catch (thrown) {
    return reject(slot, 'malformed', `not a signature of the expected form: ${textOf(thrown)}`);
  }
}

const textOf = (thrown: unknown): string =>
  printable(thrown instanceof Error ? thrown.message : String(thrown), MAX_SHOWN);

function judgeKey(court: Court, signature: MessageSignature, hint: string, slot: number): Finding {
  const signer = court.keys.get(hint);
  if (!signer?.publicKey) return judgeStranger(court.policy, hint, slot);
  // Computed from the key, and not taken from the policy object's own field: this is what is counted.
  const print = fingerprint(signer.publicKey);
  const who = `${signer.name} (${print})`;
  // First of all, since a slot only claims a key until its signature has been verified.
  if (!isSignedBy(signer.publicKey, court.signed, signature)) {
    return reject(
      slot,
      'bad-signature',
      `does not fit: damaged, or made over other content; it names ${who}`,
    );
  }
  return judgeSigner(court, signer, who, { slot, signer: signer.name, fingerprint: print });
}

/** A key that is not among the signers; it may have been, before it was revoked and taken out. */
function judgeStranger(policy: TrustPolicy, hint: string, slot: number): RejectedSignature {
  const named = hintAsFingerprint(hint);
  if (named === undefined) {
    return reject(
      slot,
      'unknown-key',
      `names a key in a form that sealift does not know: '${printable(hint, MAX_SHOWN)}'`,
    );
  }
  if (policy.revokedKeys.has(named)) return reject(slot, 'revoked', `names ${named}, which is revoked`);
  return reject(slot, 'unknown-key', `names ${named}, which is not a signer of the policy`);
}

/** What a key hint of ours or cosign's says as a fingerprint; undefined for any other text (FORMAT.md §3.2). */
export function hintAsFingerprint(hint: string): Fingerprint | undefined {
  const bytes = Buffer.from(hint, 'base64');
  if (bytes.length !== 32 || bytes.toString('base64') !== hint) return undefined;
  return `sha256:${bytes.toString('hex')}`;
}

function judgeIdentity(court: Court, signature: MessageSignature, slot: number): Finding {
  const { sigstore, signers } = court.policy;
  if (sigstore === undefined)
    return reject(slot, 'unknown-identity', 'made with a certificate; the policy trusts keys only');
  let found;
  try {
    found = sigstore.judge(signature.bundle, court.signed);
    // The kind of key and the hash are ours to choose, not the certificate's.
    const key = publicKeyOf(found.publicKey, 'the certificate');
    if (!isSignedBy(key, court.signed, signature)) throw new Error('signature verification failed');
  } catch (thrown) {
    if (thrown instanceof StrangersCertificate && fitsItsCertificate(court, signature))
      return reject(slot, 'unknown-identity', textOf(thrown));
    return reject(slot, 'bad-signature', `its certificate does not prove it: ${textOf(thrown)}`);
  }
  const { identity, publicKey, signedAt } = found;
  const who = identityText(identity);
  const signer = signers.find((s) => s.identity && sameIdentity(s.identity, identity));
  if (signer === undefined)
    return reject(slot, 'unknown-identity', `made by ${who}, which is not a signer of the policy`);
  const accepted = { slot, signer: signer.name, fingerprint: fingerprint(publicKey), identity, signedAt };
  return judgeSigner(court, signer, `${signer.name}, ${who}`, accepted);
}

/** A signature that does, under a certificate from elsewhere, is a stranger's (T2), and no damage to carry again. */
const fitsItsCertificate = ({ signed }: Court, signature: MessageSignature): boolean =>
  isSignedBy(certificateOf(signature.bundle).publicKey, signed, signature);

/** Equality, and nothing else: a prefix, a pattern or another case is somebody else. */
const sameIdentity = (a: Identity, b: Identity): boolean => a.subject === b.subject && a.issuer === b.issuer;

/** What the policy says of a signer whose signature has been verified. */
function judgeSigner(court: Court, signer: TrustedSigner, who: string, accepted: AcceptedSignature): Finding {
  const { slot } = accepted;
  if (court.policy.revokedKeys.has(accepted.fingerprint)) return reject(slot, 'revoked', `${who} is revoked`);
  return judgeTime(court.now, signer, who, slot) ?? accepted;
}

/** Both comparisons are negated, so that a clock that gives no valid date refuses. */
function judgeTime(
  now: Date,
  signer: TrustedSigner,
  who: string,
  slot: number,
): RejectedSignature | undefined {
  const { notBefore, notAfter } = signer;
  if (notBefore && !(now >= notBefore)) {
    return reject(slot, 'not-yet-valid', `${who} may sign from ${notBefore.toISOString()} on`);
  }
  if (notAfter && !(now <= notAfter)) {
    return reject(slot, 'expired', `${who} could sign until ${notAfter.toISOString()}`);
  }
  return undefined;
}

const reject = (slot: number, reason: RejectionReason, detail: string): RejectedSignature => ({
  slot,
  reason,
  detail,
});
