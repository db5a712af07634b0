// SPDX-License-Identifier: Apache-2.0
/**
 * The verdict over a bundle's signatures: bytes in, verdict out, no I/O. Distinct trusted keys are counted, by
 * the fingerprint of the key in the policy; never hints, slots or signature bytes (THREATS.md T3, T4).
 */
import { SealiftError, type ErrorCode } from '../errors.ts';
import { fingerprint, keyHint } from './keys.ts';
import { isSignedBy, readMessageSignature, type MessageSignature } from './message-signature.ts';
import type { TrustedSigner, TrustPolicy } from './policy.ts';
import { printable } from '../text.ts';
import { decodeSlot } from './slots.ts';

/** Longest piece of a slot that is shown, in code points. */
const MAX_SHOWN = 160;

export interface AcceptedSignature {
  /** Number of the slot, from 0. */
  slot: number;
  /** Name that the policy gives the signer. */
  signer: string;
  fingerprint: string;
  /** When it was made, by a timestamp that was verified; a key alone proves no time. */
  signedAt?: Date;
}

export type RejectionReason =
  | 'malformed'
  | 'unknown-key'
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
  sums: Uint8Array;
  policy: TrustPolicy;
  now: Date;
  signers: ReadonlyMap<string, TrustedSigner>;
}

/**
 * Judges every slot and returns the verdict when enough different trusted signers have signed `sums`. Slots
 * that are rejected do not spoil a threshold that others meet: anyone who holds the media can write a slot.
 * @param sums the bytes of SHA256SUMS
 * @param now the time against which validity windows are held
 * @param subject what the bytes are, for messages: they begin with it
 * @throws {SealiftError} NOT_SIGNED, BAD_SIGNATURE, UNTRUSTED_SIGNER, SIGNER_REVOKED, SIGNER_EXPIRED or
 *   THRESHOLD_NOT_MET; its details list the finding for each slot and the keys that would count
 */
export function verifySignatures(
  sums: Uint8Array,
  slots: readonly Uint8Array[],
  policy: TrustPolicy,
  now: Date,
  subject = 'the bundle',
): Verdict {
  // A Map, so that a hint like `__proto__` finds nothing.
  const signers = new Map(policy.signers.map((signer) => [keyHint(signer.publicKey), signer]));
  const court: Court = { sums, policy, now, signers };
  const verdict: Verdict = {
    accepted: [],
    rejected: [],
    threshold: policy.threshold,
    policyVersion: policy.version,
  };
  for (const [slot, bytes] of slots.entries()) record(verdict, judgeSlot(court, bytes, slot));
  // Negated, so that a threshold that is no number (a policy not made by parseTrustPolicy) refuses.
  if (!(verdict.accepted.length >= Math.max(1, policy.threshold))) throw refusal(verdict, policy, subject);
  return verdict;
}

type Finding = AcceptedSignature | RejectedSignature | undefined;

function record(verdict: Verdict, finding: Finding): void {
  if (finding === undefined) return;
  if ('reason' in finding) {
    verdict.rejected.push(finding);
    return;
  }
  const earlier = verdict.accepted.find((accepted) => accepted.fingerprint === finding.fingerprint);
  if (earlier === undefined) {
    verdict.accepted.push(finding);
    return;
  }
  const detail = `${finding.signer} has signed in slot ${earlier.slot} already, and counts once`;
  verdict.rejected.push(reject(finding.slot, 'duplicate-signer', detail));
}

/** Undefined for an empty slot. Whatever goes wrong while a slot is judged rejects that slot. */
function judgeSlot(court: Court, bytes: Uint8Array, slot: number): Finding {
  try {
    const content = decodeSlot(bytes);
    if (content.kind === 'empty') return undefined;
    if (content.kind === 'malformed') return reject(slot, 'malformed', content.reason);
    return judgeSignature(court, readMessageSignature(content.json), slot);
  } catch (thrown) {
    const text = thrown instanceof Error ? thrown.message : String(thrown);
    return reject(slot, 'malformed', `not a signature of the expected form: ${printable(text, MAX_SHOWN)}`);
  }
}

function judgeSignature(court: Court, signature: MessageSignature, slot: number): Finding {
  const signer = signature.hint === undefined ? undefined : court.signers.get(signature.hint);
  if (signer === undefined) return judgeStranger(court.policy, signature, slot);
  // Computed from the key, and not taken from the policy object's own field: this is what is counted.
  const print = fingerprint(signer.publicKey);
  const who = `${signer.name} (${print})`;
  // First of all, since a slot only claims a key until its signature has been verified.
  if (!isSignedBy(signer.publicKey, court.sums, signature)) {
    return reject(
      slot,
      'bad-signature',
      `does not fit: damaged, or made over other content; it names ${who}`,
    );
  }
  if (court.policy.revokedKeys.has(print)) return reject(slot, 'revoked', `${who} is revoked`);
  return judgeTime(court.now, signer, who, slot) ?? { slot, signer: signer.name, fingerprint: print };
}

/** A key that is not among the signers; it may have been, before it was revoked and taken out. */
function judgeStranger(policy: TrustPolicy, { hint }: MessageSignature, slot: number): RejectedSignature {
  if (hint === undefined)
    return reject(slot, 'unknown-key', 'made with a certificate; the policy trusts keys only');
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

function hintAsFingerprint(hint: string): string | undefined {
  const bytes = Buffer.from(hint, 'base64');
  if (bytes.length !== 32 || bytes.toString('base64') !== hint) return undefined;
  return `sha256:${bytes.toString('hex')}`;
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

interface Refusal {
  code: ErrorCode;
  message: string;
  hint: string;
}

const NOT_SIGNED: Refusal = {
  code: 'NOT_SIGNED',
  message: 'is not signed: every signature slot is empty',
  hint: 'ask the staging side to sign it with `sealift sign`',
};

/** When nothing was accepted, the first of these that any slot shows names the error; the strongest is first. */
const REFUSALS: readonly (Refusal & { reasons: readonly RejectionReason[] })[] = [
  {
    reasons: ['revoked'],
    code: 'SIGNER_REVOKED',
    message: 'is signed with a key that the trust policy has revoked',
    hint: 'do not install it; ask the staging side why, and for a bundle signed with another key',
  },
  {
    reasons: ['expired', 'not-yet-valid'],
    code: 'SIGNER_EXPIRED',
    message: 'is signed, but outside the time in which the signer is trusted',
    hint: "check this host's clock, then notBefore and notAfter in the trust policy",
  },
  {
    reasons: ['unknown-key'],
    code: 'UNTRUSTED_SIGNER',
    message: 'is signed, but by nobody whom the trust policy names',
    hint: 'compare the fingerprints with the signer by another way than the media before adding a key',
  },
  {
    reasons: ['bad-signature', 'malformed'],
    code: 'BAD_SIGNATURE',
    message: 'has a signature, but it does not fit: damaged, or made over other content',
    hint: 'carry the bundle again; if it still fails, it is not what was signed',
  },
];

function refusal(verdict: Verdict, policy: TrustPolicy, subject: string): SealiftError {
  const { code, message, hint } = chooseRefusal(verdict);
  const needed = `${policy.threshold} of the ${policy.signers.length} signers of policy version ${policy.version}`;
  const trusted = policy.signers.map((s) => ['trusted', `${printable(s.name)} ${s.fingerprint}`] as const);
  return new SealiftError(code, `${subject} ${message}`, {
    hint,
    details: [...slotDetails(verdict), ['needed', needed], ...trusted],
  });
}

function chooseRefusal({ accepted, rejected, threshold }: Verdict): Refusal {
  if (accepted.length > 0) {
    const message = `is signed by ${accepted.length} trusted signer(s), and the trust policy asks for ${threshold}`;
    return {
      code: 'THRESHOLD_NOT_MET',
      message,
      hint: 'another signer adds a signature with `sealift sign`',
    };
  }
  if (rejected.length === 0) return NOT_SIGNED;
  const shown = new Set(rejected.map((r) => r.reason));
  return (
    REFUSALS.find(({ reasons }) => reasons.some((reason) => shown.has(reason))) ??
    REFUSALS.at(-1) ??
    NOT_SIGNED
  );
}

/** What was found in each slot that is not empty, in the order of the slots. */
function slotDetails({ accepted, rejected }: Verdict): (readonly [string, string])[] {
  const findings = [
    ...accepted.map((a) => ({ slot: a.slot, text: `accepted: ${printable(a.signer)} (${a.fingerprint})` })),
    ...rejected.map((r) => ({ slot: r.slot, text: `${r.reason}: ${r.detail}` })),
  ];
  return findings
    .toSorted((a, b) => a.slot - b.slot)
    .map(({ slot, text }) => [`slot ${slot}`, text] as const);
}
