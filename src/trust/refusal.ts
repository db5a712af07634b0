// SPDX-License-Identifier: Apache-2.0
/** A verdict that does not suffice, in words: which error it is, what was found in each slot, and whose signature would count. */
import { SealiftError, type ErrorCode } from '../errors.ts';
import { printable } from '../text.ts';
import { identityText } from './identity.ts';
import type { TrustedSigner, TrustPolicy } from './policy.ts';
import type { AcceptedSignature, RejectionReason, Verdict } from './verify.ts';

interface Refusal {
  code: ErrorCode;
  /** Goes on after what was signed: `the bundle …`. */
  predicate: string;
  hint: string;
}

const NOT_SIGNED: Refusal = {
  code: 'NOT_SIGNED',
  predicate: 'is not signed: there is no signature',
  hint: 'ask the staging side to sign it with `sealift sign`',
};

/** When nothing was accepted, the first of these that any slot shows names the error; the strongest is first. */
const REFUSALS: readonly (Refusal & { reasons: readonly RejectionReason[] })[] = [
  {
    reasons: ['revoked'],
    code: 'SIGNER_REVOKED',
    predicate: 'is signed with a key that the trust policy has revoked',
    hint: 'do not use it; ask the staging side why, and for a signature by another key',
  },
  {
    reasons: ['expired', 'not-yet-valid'],
    code: 'SIGNER_EXPIRED',
    predicate: 'is signed, but outside the time in which the signer is trusted',
    hint: "when this host's clock is right: ask for a signature by a signer who is trusted now, or for a new trust policy (`sealift trust update`)",
  },
  {
    reasons: ['unknown-key', 'unknown-identity'],
    code: 'UNTRUSTED_SIGNER',
    predicate: 'is signed, but by nobody whom the trust policy names',
    hint: 'compare fingerprints or identities with the signer by another way than the media before adding one',
  },
  {
    reasons: ['bad-signature', 'malformed'],
    code: 'BAD_SIGNATURE',
    predicate: 'has a signature, but it does not fit: damaged, or made over other content',
    hint: 'carry it again; if it still fails, it is not what was signed',
  },
];

/** The error for a verdict below the threshold. @param what was signed, as the subject of a sentence */
export function refusal(verdict: Verdict, policy: TrustPolicy, what: string): SealiftError {
  const { code, predicate, hint } = chooseRefusal(verdict);
  const needed = `${policy.threshold} of the ${policy.signers.length} signers of policy version ${policy.version}`;
  const trusted = policy.signers.map((signer) => ['trusted', signerText(signer)] as const);
  return new SealiftError(code, `${what} ${predicate}`, {
    hint,
    details: [...slotDetails(verdict), ['needed', needed], ...trusted],
  });
}

/** A signer of the policy in one line: name, and the key or identity by which it is known. */
export function signerText({ name, fingerprint, identity }: TrustedSigner): string {
  return [printable(name), fingerprint, identity && identityText(identity)]
    .filter((part) => part !== undefined)
    .join('  ');
}

/** A signature that counts, in one line: by whom, with what, and when, if somebody vouches for the time. */
export function acceptedText({ signer, fingerprint, identity, signedAt }: AcceptedSignature): string {
  const by = identity === undefined ? fingerprint : identityText(identity);
  return `${printable(signer)}  ${by}${signedAt === undefined ? '' : `, ${signedAt.toISOString()}`}`;
}

function chooseRefusal({ accepted, rejected, threshold }: Verdict): Refusal {
  if (accepted.length > 0) {
    return {
      code: 'THRESHOLD_NOT_MET',
      predicate: `has ${accepted.length} signature${accepted.length === 1 ? '' : 's'} that count${accepted.length === 1 ? 's' : ''}, and the trust policy asks for ${threshold}`,
      hint: 'another signer adds a signature with `sealift sign`',
    };
  }
  const shown = new Set(rejected.map((r) => r.reason));
  return REFUSALS.find(({ reasons }) => reasons.some((reason) => shown.has(reason))) ?? NOT_SIGNED;
}

/** What was found in each slot that is not empty, in the order of the slots. */
function slotDetails({ accepted, rejected }: Verdict): (readonly [string, string])[] {
  const findings = [
    ...accepted.map((a) => ({ slot: a.slot, text: `accepted: ${acceptedText(a)}` })),
    ...rejected.map((r) => ({ slot: r.slot, text: `${r.reason}: ${r.detail}` })),
  ];
  return findings
    .toSorted((a, b) => a.slot - b.slot)
    .map(({ slot, text }) => [`slot ${slot}`, text] as const);
}
