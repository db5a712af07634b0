// SPDX-License-Identifier: Apache-2.0
/**
 * One trust policy after another: TUF's rule for root metadata (TUF specification 1.0, §5.3.4 and §5.3.5). The
 * new policy must be signed by a threshold of the old signers and by a threshold of the new ones, and its number
 * must be exactly one higher. So whoever took over too few of the old keys cannot name successors, nobody is
 * locked out by a list of keys that cannot sign, and no policy in between, with what it revoked, is left out.
 */
import { SealiftError } from '../errors.ts';
import { parseTrustPolicy, type TrustPolicy } from './policy.ts';
import { encodeSlot, SLOT_COUNT } from './slots.ts';
import { verifySignatures, type Verdict } from './verify.ts';

/** Enough for two thresholds without a signer in common. */
export const MAX_POLICY_SIGNATURES = 2 * SLOT_COUNT;

export interface PolicySignature {
  /** Of the file, for messages. */
  name: string;
  /** A Sigstore bundle v0.3 over the bytes of the new policy, as `sealift sign --detached` writes it. */
  json: string;
}

export interface Proposal {
  /** The policy that the host goes by. */
  old: TrustPolicy;
  /** The new one: the bytes of its file, which are what was signed, and its name for messages. */
  bytes: Uint8Array;
  file: string;
  signatures: readonly PolicySignature[];
  /** The time by which the host judges (trust/state.ts), not its clock. */
  now: Date;
}

export interface Rotation {
  policy: TrustPolicy;
  byOld: Verdict;
  byNew: Verdict;
}

/**
 * Judges a new policy. Each list of signers is held against its own policy: a key that the old one has revoked,
 * or that is outside the old one's window, does not count for the old threshold, and likewise for the new one.
 * One signature counts in both lists when both name its key.
 * @throws {SealiftError} POLICY_INVALID; POLICY_REFUSED when its number is not the next; BAD_SIGNATURE when a file
 *   is no signature at all; and what verifySignatures throws, saying by which of the two policies
 */
export function judgeRotation({ old, bytes, file, signatures, now }: Proposal): Rotation {
  const policy = parseTrustPolicy(policyText(bytes, file), file);
  demandNext(old, policy, file);
  const slots = signatures.map(slotOf);
  const judge = (by: TrustPolicy, which: string): Verdict => {
    const subject = `by the ${which} policy (version ${by.version}), ${file}`;
    try {
      return verifySignatures(bytes, slots, by, now, subject);
    } catch (error) {
      throw inTermsOfFiles(error, signatures, file);
    }
  };
  return { policy, byOld: judge(old, 'old'), byNew: judge(policy, 'new') };
}

/**
 * The text of a policy's file. Strict, so that two files never have one text: what is signed and adopted is bytes.
 * @throws {SealiftError} POLICY_INVALID when it is not UTF-8
 */
export function policyText(bytes: Uint8Array, file: string): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new SealiftError('POLICY_INVALID', `${file} is not UTF-8 text`, { cause });
  }
}

/** Before the signatures (TUF looks at them first), because signers of a policy further on mean nothing here. */
function demandNext(old: TrustPolicy, policy: TrustPolicy, file: string): void {
  const wanted = old.version + 1;
  if (policy.version === wanted) return;
  const { why, hint } = misnumbered(old.version, policy.version);
  throw new SealiftError('POLICY_REFUSED', `${file} has version ${policy.version}, ${why}`, {
    details: [
      ['here', `version ${old.version} ${old.fingerprint}`],
      ['new', `version ${policy.version} ${policy.fingerprint}`],
    ],
    hint,
  });
}

function misnumbered(old: number, found: number): { why: string; hint: string } {
  if (found === old)
    return {
      why: 'as the policy of this host, with other content',
      hint: `a changed policy needs the next number: version: ${old + 1}`,
    };
  if (found < old)
    return {
      why: `and this host is at version ${old} already`,
      hint: 'an older policy may trust what was revoked since; what it had right goes into the next version',
    };
  return {
    why: `and the one after that of this host is ${old + 1}`,
    hint: `adopt version ${old + 1} first: policies are adopted one after the other, so that nothing they revoked is missed`,
  };
}

function slotOf({ name, json }: PolicySignature): Uint8Array {
  try {
    return encodeSlot(json);
  } catch (cause) {
    throw new SealiftError(
      'BAD_SIGNATURE',
      `${name} is not a signature: ${cause instanceof Error ? cause.message : 'unreadable'}`,
      { hint: 'sealift sign --detached NEW.yaml --key FILE -o NAME.sigstore.json', cause },
    );
  }
}

/** What is said of a bundle's slots, said of the files that were named. */
function inTermsOfFiles(error: unknown, signatures: readonly PolicySignature[], file: string): unknown {
  if (!(error instanceof SealiftError)) return error;
  const nameOf = (label: string): string =>
    signatures[Number(/^slot (\d+)$/.exec(label)?.[1] ?? -1)]?.name ?? label;
  return new SealiftError(error.code, error.message, {
    details: error.details.map(([label, value]) => [nameOf(label), value] as const),
    hint: `each signer of the old and of the new policy makes one with: sealift sign --detached ${file} --key FILE -o NAME.sigstore.json, and all are named with --signature; when too few of the old keys are left: sealift help POLICY_CHANGED`,
    cause: error,
  });
}
