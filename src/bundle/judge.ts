// SPDX-License-Identifier: Apache-2.0
/**
 * The argument of the whole program, in the order in which it must be made (DESIGN §4, FORMAT.md §7.3): bounds,
 * signatures and threshold, documents, policy, structure. Each check is reported as it is made; the first that fails
 * ends the reading, so with too few good signatures nothing behind the slots is read.
 */
import { asSealiftError } from '../errors.ts';
import { silent, type CheckOutcome, type Emit } from '../events.ts';
import { digestOf, type Digest } from '../store/digest.ts';
import type { TrustPolicy } from '../trust/policy.ts';
import { acceptedText } from '../trust/refusal.ts';
import { judgePolicy, type PolicySubject, type Release } from '../trust/rules.ts';
import { demandThreshold, judgeSignatures, type Verdict } from '../trust/verify.ts';
import { ArchiveWalk, readHead, type SignedHead } from './archive.ts';
import type { Inventory } from './inventory.ts';
import type { ByteSource } from './source.ts';
import type { Media } from './volumes.ts';
import { readInventory, readStructure, type Structure } from './structure.ts';

export interface OpenOptions {
  policy: TrustPolicy;
  /** The time at which validity is judged. */
  now: Date;
  /** What this host has installed under a bundle's name, for the refusal of rollbacks. */
  installed?: (name: string) => Release | undefined;
  emit?: Emit;
  /** Where the other volumes of a split bundle may be. */
  media?: Media;
}

/** A bundle that every check but the last, that of its content, has let pass. */
export interface Judged extends Structure {
  policy: TrustPolicy;
  /** The time at which validity was judged. */
  judgedAt: Date;
  digest: Digest;
  inventory: Inventory;
  verdict: Verdict;
  /** What was signed, and the signatures. */
  signed: Pick<SignedHead, 'sums' | 'slots'>;
}

/** Checks in the order in which they are made, each a line of evidence; `verifyContent` makes the last one. */
export const CHECKS = [
  'bounds',
  'signatures',
  'documents',
  'revocation',
  'name',
  'channel',
  'version',
  'structure',
  'content',
] as const;
export type CheckName = (typeof CHECKS)[number];

/** Runs one check and reports how it ended. */
async function evidence<T>(
  emit: Emit,
  name: CheckName,
  check: () => T | Promise<T>,
  say: (result: Awaited<T>) => string,
): Promise<Awaited<T>> {
  try {
    const result = await check();
    emit({ type: 'check', name, outcome: 'ok', detail: say(result) });
    return result;
  } catch (thrown) {
    const detail = asSealiftError(thrown, `checking ${name}`).message;
    emit({ type: 'check', name, outcome: 'failed', detail });
    throw thrown;
  }
}

/**
 * @throws {SealiftError} NOT_A_BUNDLE, BUNDLE_MALFORMED, BUNDLE_INCOMPLETE, BUNDLE_UNSUPPORTED; NOT_SIGNED,
 *   BAD_SIGNATURE, UNTRUSTED_SIGNER, THRESHOLD_NOT_MET, SIGNER_REVOKED, SIGNER_EXPIRED; BUNDLE_REVOKED,
 *   NOT_FOR_THIS_HOST, VERSION_REFUSED; CONTENT_MISMATCH
 */
export async function judgeBundle(source: ByteSource, options: OpenOptions): Promise<Judged> {
  const { policy, emit = silent } = options;
  const walk = new ArchiveWalk(source);
  const head = await evidence(
    emit,
    'bounds',
    () => readHead(source, walk),
    ({ sums, slots }) => `SHA256SUMS of ${sums.length} bytes, ${slots.length} signature slots`,
  );
  const digest = digestOf(head.sums);
  const verdict = await judgeHead(head, options);
  const read = await evidence(
    emit,
    'documents',
    () => readInventory(walk, head.sums),
    ({ documents }) => `${documents.size} documents, each as SHA256SUMS lists it`,
  );
  const { inventory } = read;
  checkRules(subjectOf(inventory, digest), options);
  const structure = await evidence(
    emit,
    'structure',
    () => readStructure(walk, read),
    ({ blobs }) => `${blobs.size} blobs, ${source.size} bytes, canonical`,
  );
  return { policy, judgedAt: options.now, digest, inventory, verdict, signed: head, ...structure };
}

/** The verdict on signatures, with a line for each slot that is not empty. */
async function judgeHead(
  { sums, slots }: SignedHead,
  { policy, now, emit = silent }: OpenOptions,
): Promise<Verdict> {
  const verdict = judgeSignatures(sums, slots, policy, now);
  for (const { slot, detail, outcome } of slotFindings(verdict))
    emit({ type: 'check', name: `slot ${slot}`, outcome, detail });
  await evidence(
    emit,
    'signatures',
    () => demandThreshold(verdict, policy),
    () => `${verdict.accepted.length} of ${verdict.threshold} needed, by policy version ${policy.version}`,
  );
  return verdict;
}

/** A rejected slot is a warning: it spoils nothing (FORMAT.md §3.4). */
function slotFindings({
  accepted,
  rejected,
}: Verdict): { slot: number; outcome: CheckOutcome; detail: string }[] {
  const good = accepted.map((a) => ({ slot: a.slot, outcome: 'ok' as const, detail: acceptedText(a) }));
  const bad = rejected.map((r) => ({
    slot: r.slot,
    outcome: 'warning' as const,
    detail: `not counted: ${r.reason}: ${r.detail}`,
  }));
  return [...good, ...bad].toSorted((a, b) => a.slot - b.slot);
}

/** What the rules of a policy are about. */
export const subjectOf = ({ name, version, channel }: Inventory, digest: Digest): PolicySubject => ({
  name,
  version,
  channel,
  digest,
});

/** Every rule with its outcome, and then the first one that refuses. */
function checkRules(subject: PolicySubject, { policy, installed, emit = silent }: OpenOptions): void {
  const findings = judgePolicy(subject, policy, installed?.(subject.name));
  for (const { rule, detail, error } of findings)
    emit({ type: 'check', name: rule, outcome: error ? 'failed' : 'ok', detail: error?.message ?? detail });
  const refused = findings.find(({ error }) => error);
  if (refused?.error) throw refused.error;
}
