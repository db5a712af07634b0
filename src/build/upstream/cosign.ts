// SPDX-License-Identifier: Apache-2.0
/**
 * cosign's two forms of an image signature, judged for one digest. Bytes in, finding out; whatever is wrong with
 * a candidate is a finding, never an exception, so that junk beside a good signature does no harm.
 */
import * as z from 'zod';
import type { UpstreamSignature, UpstreamSigner } from '../../bundle/inventory.ts';
import { parseJson } from '../../json.ts';
import type { Digest } from '../../store/digest.ts';
import { identityText } from '../../trust/identity.ts';
import { Base64, checked, readEnvelope, STATEMENT } from './envelope.ts';
import { identify, type AskedIdentity } from './identity.ts';
import { certificatesOf, NOTES, toBundle, type Annotations } from './legacy.ts';
import { cosignHashesOf, hintsOf, isSignedBy, type UpstreamKey } from './keys.ts';
import { doesNotFit, otherSigner, type Finding } from './verdict.ts';

/** What `cosign sign` states; other predicates are attestations, which say something else about an image. */
const SIGN_PREDICATE = 'https://sigstore.dev/cosign/sign/v1';
/** Largest bundle or payload, in bytes. Certificates, logs and timestamps fit in 16,384. */
export const MAX_SIGNATURE_BYTES = 1024 * 1024;

/** Whom the manifest names, with the digest of the file that says so. */
export type ImageAnchor = { anchor: Digest } & ({ key: UpstreamKey } | { identity: AskedIdentity });

/** What both forms come down to. */
interface Candidate {
  kind: UpstreamSignature['kind'];
  signed: Uint8Array;
  signature: Uint8Array;
  /** What it says of its key; undefined when it says nothing. */
  hint: string | undefined;
  /** DER, leaf first; empty when it comes without. */
  certificates: readonly Buffer[];
  /** As Sigstore bundle for @sigstore/verify, beside the artifact when it is not in there. */
  bundle: () => { json: unknown; artifact?: Uint8Array };
  /** The digest that the signed content names. To be asked once the signature is verified. */
  over: () => string;
}

const Statement = z.object({
  _type: z.literal(STATEMENT),
  predicateType: z.literal(SIGN_PREDICATE),
  subject: z.array(z.object({ digest: z.object({ sha256: z.string() }) })).length(1),
});

const Payload = z.object({
  critical: z.object({
    type: z.literal('cosign container image signature'),
    image: z.object({ 'docker-manifest-digest': z.string() }),
  }),
});

/** Whom the manifest asks for, in words. */
export const askedFor = (anchor: ImageAnchor): string =>
  'key' in anchor ? `key ${anchor.key.fingerprint}` : identityText(anchor.identity);

/**
 * Judges one Sigstore bundle that hangs on an image.
 * @returns undefined when it is an attestation and no signature
 */
export function judgeBundle(bytes: Uint8Array, digest: Digest, anchor: ImageAnchor): Finding | undefined {
  return guarded(() => {
    const { json, hint, certificates, payload, signed, signature } = readEnvelope(bytes, MAX_SIGNATURE_BYTES);
    const statement = jsonOf(payload, 'its statement');
    // Nothing is verified yet, but an attestation may be left alone without that.
    const { predicateType } = (statement ?? {}) as { predicateType?: unknown };
    if (typeof predicateType === 'string' && predicateType !== SIGN_PREDICATE) return undefined;
    const bundle = (): { json: unknown } => ({ json });
    const over = (): string =>
      `sha256:${checked(Statement, statement, 'a statement of cosign sign').subject[0]!.digest.sha256}`;
    return judge(
      { kind: 'sigstore-bundle', signed, signature, hint, certificates, bundle, over },
      digest,
      anchor,
    );
  });
}

/** Judges one layer of the `.sig` tag: a payload whose signature is in the layer's annotations. */
export function judgeSimpleSigning(
  payload: Uint8Array,
  annotations: Annotations,
  digest: Digest,
  anchor: ImageAnchor,
): Finding {
  const finding = guarded(() => {
    const signature = checked(
      Base64,
      annotations[NOTES.signature],
      'signed: its annotation holds no signature',
    );
    const certificates = certificatesOf(annotations);
    const over = (): string =>
      checked(Payload, jsonOf(payload, 'its payload'), "cosign's simple signing").critical.image[
        'docker-manifest-digest'
      ];
    const bundle = (): { json: unknown; artifact: Uint8Array } => ({
      json: toBundle(payload, signature, annotations),
      artifact: payload,
    });
    const candidate = { signed: payload, signature, hint: undefined, certificates, bundle, over };
    return judge({ kind: 'simple-signing', ...candidate }, digest, anchor);
  });
  return finding ?? doesNotFit('it says nothing');
}

/** Signature first, then what it is over: a digest that nobody vouches for proves nothing. */
function judge(candidate: Candidate, digest: Digest, anchor: ImageAnchor): Finding {
  const signer =
    'key' in anchor ? judgeKey(candidate, anchor.key) : judgeIdentity(candidate, anchor.identity);
  if (typeof signer === 'object' && 'outcome' in signer) return signer;
  const over = candidate.over();
  if (over !== digest) return doesNotFit(`it is over ${over}`);
  return {
    outcome: 'accepted',
    signature: { kind: candidate.kind, over: digest, by: signer, anchor: anchor.anchor },
  };
}

function judgeKey(candidate: Candidate, { key, fingerprint }: UpstreamKey): Finding | UpstreamSigner {
  const { signed, signature, hint, certificates } = candidate;
  if (cosignHashesOf(key).some((hash) => isSignedBy(key, signed, signature, hash))) return fingerprint;
  if (hint !== undefined && hintsOf(key).includes(hint)) {
    return doesNotFit('it names the key that is asked for, and does not verify under it');
  }
  if (certificates.length > 0) return otherSigner('a certificate');
  return otherSigner(hint === undefined ? 'another key' : `a key with the hint '${hint}'`);
}

function judgeIdentity({ certificates, bundle }: Candidate, asked: AskedIdentity): Finding | UpstreamSigner {
  if (certificates.length === 0) return otherSigner('a key without a certificate');
  const { json, artifact } = bundle();
  const found = identify(asked.trust, json, artifact);
  if (found === undefined) return otherSigner('a certificate that the trusted root does not vouch for');
  const { subject, issuer } = asked;
  // Equality and nothing else: a prefix, a pattern or another case is somebody else.
  const same = found.subject === subject && found.issuer === issuer;
  return same ? { identity: subject, issuer } : otherSigner(identityText(found));
}

const jsonOf = (bytes: Uint8Array, what: string): unknown =>
  parseJson(bytes, what, 'UPSTREAM_BAD_SIGNATURE', MAX_SIGNATURE_BYTES);

/** Libraries throw whatever comes; all of it means that this candidate counts for nothing. */
function guarded(work: () => Finding | undefined): Finding | undefined {
  try {
    return work();
  } catch (error) {
    return doesNotFit(error instanceof Error ? error.message : 'it cannot be read');
  }
}
