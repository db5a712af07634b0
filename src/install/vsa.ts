// SPDX-License-Identifier: Apache-2.0
/**
 * The form of `receipt.json`: an in-toto Statement v1 with a SLSA Verification Summary
 * (slsa.dev/spec/v1.0/verification_summary), so that tools which know neither sealift nor this host can read who
 * verified what by which policy. Its subject is SHA256SUMS, whose sha256 is the bundle's identity. What only
 * sealift reads stands in the predicate under `sealift_receipt`; consumers must ignore fields that they do not know.
 */
import * as z from 'zod';
import { canonicalJson } from '../json.ts';
import { hexOf, type Digest } from '../store/digest.ts';
import { VERSION } from '../version.ts';
import type { Receipt } from './receipt.ts';

const STATEMENT = 'https://in-toto.io/Statement/v1';
const SUMMARY = 'https://slsa.dev/verification_summary/v1';
/** Whoever pins a verifier pins the key with it: every host is this verifier, under a key of its own. */
const VERIFIER = 'https://sealift.dev/verifier/v1';

/** A receipt with all that a summary must say; those of before summaries lack some of it. */
export type FullReceipt = Receipt & {
  [Part in 'policy' | 'time' | 'provenance']: NonNullable<Receipt[Part]>;
};

/** The bytes of `receipt.json`, which are also what the host signs. */
export function summaryOf(receipt: FullReceipt): Buffer {
  const { bundle, policy, time, provenance } = receipt;
  const { name, version, digest } = bundle;
  return canonicalJson({
    _type: STATEMENT,
    subject: [{ name: 'SHA256SUMS', digest: sha256(digest) }],
    predicateType: SUMMARY,
    predicate: {
      verifier: { id: VERIFIER, version: { sealift: VERSION } },
      timeVerified: time.judged,
      resourceUri: `pkg:generic/${name}@${version}?checksum=${digest}`,
      policy: { uri: 'file:trust.yaml', digest: sha256(policy.digest) },
      inputAttestations: [{ uri: 'file:provenance.json', digest: sha256(provenance.digest) }],
      verificationResult: 'PASSED',
      verifiedLevels: [levelOf(provenance)],
      slsaVersion: '1.0',
      sealift_receipt: receipt,
    },
  });
}

const sha256 = (digest: Digest): { sha256: string } => ({ sha256: hexOf(digest) });

/**
 * Build L1 says that there is a provenance which tells how something was built and by whom: that was seen, and
 * that the signers signed it together with the content. L2 and above are about the build platform, of which a
 * host behind an air gap knows nothing but what that provenance says.
 */
const levelOf = ({ describesBuild }: FullReceipt['provenance']): string =>
  describesBuild ? 'SLSA_BUILD_LEVEL_1' : 'SLSA_BUILD_LEVEL_0';

const Summary = z.object({
  _type: z.literal(STATEMENT),
  subject: z.array(z.object({ name: z.string(), digest: z.object({ sha256: z.string() }) })).length(1),
  predicateType: z.literal(SUMMARY),
  predicate: z.object({ verificationResult: z.literal('PASSED'), sealift_receipt: z.unknown() }),
});

/** What stands in a summary under `sealift_receipt`; receipts of before summaries are what they are. */
export function unwrapped(json: unknown): unknown {
  const summary = Summary.safeParse(json);
  if (!summary.success) return json;
  const { subject, predicate } = summary.data;
  const receipt = predicate.sealift_receipt;
  const digest = (receipt as { bundle?: { digest?: unknown } } | null)?.bundle?.digest;
  // The part that auditors read and the part that this host reads must speak of one bundle.
  return digest === `sha256:${subject[0]!.digest.sha256}` ? receipt : undefined;
}
