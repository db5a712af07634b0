// SPDX-License-Identifier: Apache-2.0
/** Looks up the signatures of an image in its registry, and takes the first that fits. */
import * as z from 'zod';
import { DigestSchema, Size, type Descriptor, type UpstreamSignature } from '../../bundle/inventory.ts';
import { SealiftError } from '../../errors.ts';
import { parseJson } from '../../json.ts';
import { hexOf, type Digest } from '../../store/digest.ts';
import type { Attached } from '../sources/attached.ts';
import type { ResolvedImage } from '../sources/source.ts';
import {
  askedFor,
  judgeBundle,
  judgeSimpleSigning,
  MAX_SIGNATURE_BYTES,
  type ImageAnchor,
} from './cosign.ts';
import { BUNDLE_TYPE } from './envelope.ts';
import { doesNotFit, refusalOf, type Finding } from './verdict.ts';

const SIMPLE_SIGNING = 'application/vnd.dev.cosign.simplesigning.v1+json';
/** Candidates that are looked at, of each form and for each digest. Who may push could leave any number. */
const MAX_CANDIDATES = 64;
/** Largest manifest of signatures, in bytes. Each signature of the older form is a layer with its certificates. */
const MAX_MANIFEST_BYTES = 1024 * 1024;

const Layer = z.object({
  mediaType: z.string(),
  digest: DigestSchema,
  size: Size,
  annotations: z.record(z.string(), z.string()).default({}),
});
const Manifest = z.object({
  subject: z.object({ digest: z.string() }).optional(),
  layers: z.array(Layer),
});

/**
 * Demands a signature of an image, over the index that its tag named or over the platform's manifest.
 * @throws {SealiftError} UPSTREAM_NOT_SIGNED, UPSTREAM_UNTRUSTED, UPSTREAM_BAD_SIGNATURE, and the registry's own
 */
export async function verifyImageSignature(
  name: string,
  { manifest, index, attached }: ResolvedImage,
  anchor: ImageAnchor,
): Promise<UpstreamSignature> {
  const digests = [...new Set([index, manifest.digest])].filter((digest) => digest !== undefined);
  const findings: Finding[] = [];
  for (const digest of attached === undefined ? [] : digests) {
    for await (const finding of findingsFor(digest, attached!, anchor)) {
      if (finding.outcome === 'accepted') return finding.signature;
      findings.push(finding);
    }
  }
  const looked = `${MAX_CANDIDATES} referrers and signatures at most of ${digests.join(' and ')}`;
  throw refusalOf(`image ${name}`, askedFor(anchor), findings, looked);
}

async function* findingsFor(
  digest: Digest,
  attached: Attached,
  anchor: ImageAnchor,
): AsyncGenerator<Finding> {
  const referrers: Descriptor[] = [];
  yield* tolerant(
    async () => void referrers.push(...(await attached.referrers(digest, BUNDLE_TYPE, MAX_CANDIDATES))),
  );
  for (const descriptor of referrers) {
    yield* tolerant(async () => {
      const manifest = readManifest(await attached.manifest(descriptor, MAX_MANIFEST_BYTES));
      const layers = manifest.layers.filter(({ mediaType }) => mediaType === BUNDLE_TYPE);
      // An attestation's or SBOM's of another form.
      if (layers.length === 0) return undefined;
      if (manifest.subject?.digest !== digest)
        return doesNotFit('a referrer is of another image by its own word');
      return judgeBundle(await attached.blob(layers[0]!, MAX_SIGNATURE_BYTES), digest, anchor);
    });
  }
  const layers: z.infer<typeof Layer>[] = [];
  yield* tolerant(async () => {
    const bytes = await attached.tagged(`sha256-${hexOf(digest)}.sig`);
    if (bytes !== undefined) layers.push(...readManifest(bytes).layers);
    return undefined;
  });
  const signatures = layers.filter(({ mediaType }) => mediaType === SIMPLE_SIGNING);
  for (const layer of signatures.slice(0, MAX_CANDIDATES)) {
    yield* tolerant(async () => {
      const payload = await attached.blob(layer, MAX_SIGNATURE_BYTES);
      return judgeSimpleSigning(payload, layer.annotations, digest, anchor);
    });
  }
}

function readManifest(bytes: Uint8Array): z.infer<typeof Manifest> {
  const json = parseJson(bytes, 'a manifest of signatures', 'SOURCE_INVALID', MAX_MANIFEST_BYTES);
  const parsed = Manifest.safeParse(json);
  if (parsed.success) return parsed.data;
  throw new SealiftError('SOURCE_INVALID', 'a manifest of signatures is none');
}

/** What one candidate is damaged in does not keep the next from being looked at; that the network fails does. */
async function* tolerant(look: () => Promise<Finding | undefined>): AsyncGenerator<Finding> {
  try {
    const finding = await look();
    if (finding !== undefined) yield finding;
  } catch (error) {
    const own = error instanceof SealiftError && DAMAGE.has(error.code);
    if (!own) throw error;
    yield doesNotFit(error.message);
  }
}

const DAMAGE: ReadonlySet<string> = new Set(['IMAGE_NOT_FOUND', 'SOURCE_INVALID', 'SOURCE_CHANGED']);
