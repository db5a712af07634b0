// SPDX-License-Identifier: Apache-2.0
import * as z from 'zod';
import { SealiftError } from '../errors.ts';
import { parseJson } from '../json.ts';
import { digestOf, hexOf, type Digest } from '../store/digest.ts';
import { MAX_DOCUMENT_BYTES } from './limits.ts';

/** in-toto Statement v1 with SLSA provenance v1: only what binds it to this bundle is judged; the rest is evidence. */
const Statement = z.object({
  _type: z.literal('https://in-toto.io/Statement/v1'),
  subject: z.tuple([z.object({ name: z.string(), digest: z.object({ sha256: z.string() }) })]),
  predicateType: z.literal('https://slsa.dev/provenance/v1'),
});

/** What SLSA v1 asks of a provenance that says how something was built; anything may be missing in ours to judge. */
const Described = z.object({
  predicate: z.object({
    buildDefinition: z.object({ buildType: z.string().min(1) }),
    runDetails: z.object({ builder: z.object({ id: z.string().min(1) }) }),
  }),
});

/** The provenance of a bundle, as far as somebody later needs to know of it. */
export interface SignedProvenance {
  digest: Digest;
  /** Whether it says what kind of build it was and who built: what SLSA Build L1 is about. */
  describesBuild: boolean;
}

/**
 * Demands that the provenance speaks of this inventory and of no other (FORMAT.md §4.4); otherwise an old, valid
 * statement could be replayed beside new content.
 * @throws {SealiftError} BUNDLE_MALFORMED
 */
export function checkProvenance(provenance: Uint8Array, inventory: Uint8Array): SignedProvenance {
  const json = parseJson(provenance, 'provenance.json', 'BUNDLE_MALFORMED', MAX_DOCUMENT_BYTES);
  const parsed = Statement.safeParse(json);
  if (!parsed.success)
    throw new SealiftError('BUNDLE_MALFORMED', 'provenance.json is not a SLSA v1 provenance statement');
  const [subject] = parsed.data.subject;
  if (subject.name !== 'bundle.json' || subject.digest.sha256 !== hexOf(digestOf(inventory))) {
    throw new SealiftError('BUNDLE_MALFORMED', 'provenance.json speaks of another bundle.json');
  }
  return { digest: digestOf(provenance), describesBuild: Described.safeParse(json).success };
}
