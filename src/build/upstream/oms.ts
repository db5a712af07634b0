// SPDX-License-Identifier: Apache-2.0
/**
 * OpenSSF Model Signing v1.0 (github.com/ossf/model-signing-spec): which files a signature names, and who made it.
 * Methods `key` and `certificate`, serialization `files` with sha256. Bytes in, verdict out.
 */
import { createHash, createPublicKey, sign, type KeyObject } from 'node:crypto';
import * as z from 'zod';
import { isSafePath, type UpstreamSigner } from '../../bundle/inventory.ts';
import { parseJson } from '../../json.ts';
import { fromHex, hexOf, type Digest } from '../../store/digest.ts';
import { leafOf, type Authorities } from './certificates.ts';
import {
  BUNDLE_TYPE,
  checked,
  IN_TOTO,
  preAuthEncoding,
  readEnvelope,
  STATEMENT,
  type Envelope,
} from './envelope.ts';
import { hintsOf, isSignedBy, omsHashOf, omsHintOf, type UpstreamKey } from './keys.ts';
import { doesNotFit, otherSigner, type Finding } from './verdict.ts';

const PREDICATE = 'https://model_signing/signature/v1.0';
/** Largest signature, in bytes: 100,000 files with names of 100 characters. */
export const MAX_OMS_BYTES = 48 * 1024 * 1024;
const MAX_RESOURCES = 100_000;
/** What model_signing leaves out by itself; named in the statement, so that every verifier does (reference: signing.py). */
const GIT_PATHS = ['.git', '.gitattributes', '.github', '.gitignore'];

export type ModelAnchor = { anchor: Digest } & ({ key: UpstreamKey } | { authorities: Authorities });

export interface FileDigest {
  path: string;
  digest: Digest;
}

/** What a verified signature says. */
export interface SignedModel {
  by: UpstreamSigner;
  /** sha256 over the digests of the files, in the order of the statement. */
  root: Digest;
  files: ReadonlyMap<string, Digest>;
}

const Hex = z.string().regex(/^[0-9a-f]{64}$/);
const Statement = z.object({
  _type: z.literal(STATEMENT),
  predicateType: z.literal(PREDICATE),
  subject: z.array(z.object({ digest: z.object({ sha256: Hex }) })).length(1),
  predicate: z.object({
    serialization: z.object({ method: z.literal('files'), hash_type: z.literal('sha256') }),
    resources: z
      .array(z.object({ name: z.string().refine(isSafePath), digest: Hex, algorithm: z.literal('sha256') }))
      .min(1)
      .max(MAX_RESOURCES),
  }),
});

/**
 * Verifies a signature file.
 * @param now certificates that begin later are refused
 * @returns what it says, or the finding that refuses it
 */
export function verifyOms(bytes: Uint8Array, anchor: ModelAnchor, now: Date): SignedModel | Finding {
  try {
    const envelope = readEnvelope(bytes, MAX_OMS_BYTES);
    const by =
      'key' in anchor ? judgeKey(envelope, anchor.key) : judgeCertificate(envelope, anchor.authorities, now);
    return typeof by === 'object' && 'outcome' in by ? by : { by, ...readStatement(envelope.payload) };
  } catch (error) {
    return doesNotFit(error instanceof Error ? error.message : 'it cannot be read');
  }
}

function judgeKey(
  { hint, signed, signature }: Envelope,
  { key, fingerprint }: UpstreamKey,
): UpstreamSigner | Finding {
  const hash = omsHashOf(key);
  if (hash !== undefined && isSignedBy(key, signed, signature, hash)) return fingerprint;
  if (hint === undefined) return otherSigner('a certificate');
  if (hintsOf(key).includes(hint))
    return doesNotFit('it names the key that is asked for, and does not verify under it');
  return otherSigner(`a key with the hint '${hint}'`);
}

function judgeCertificate(envelope: Envelope, authorities: Authorities, now: Date): UpstreamSigner | Finding {
  const { certificates, signed, signature } = envelope;
  if (certificates.length === 0) return otherSigner('a key without a certificate');
  const leaf = leafOf(certificates, authorities, now);
  if ('outcome' in leaf) return leaf;
  const hash = omsHashOf(leaf.key);
  if (hash === undefined || !isSignedBy(leaf.key, signed, signature, hash))
    return doesNotFit(`it does not verify under the certificate of ${leaf.subject}`);
  const { subject, certificate, root } = leaf;
  return { subject, certificate, root };
}

function readStatement(payload: Buffer): Omit<SignedModel, 'by'> {
  const json = parseJson(payload, 'its statement', 'UPSTREAM_BAD_SIGNATURE', MAX_OMS_BYTES);
  const { predicate, subject } = checked(Statement, json, 'a statement of OMS v1.0 over files with sha256');
  const files = new Map<string, Digest>();
  for (const { name, digest } of predicate.resources) {
    if (files.has(name)) throw new Error(`it names '${name}' twice`);
    files.set(name, fromHex(digest));
  }
  const root = rootOf([...files.values()]);
  if (root !== fromHex(subject[0]!.digest.sha256))
    throw new Error('its root digest is not that of its files');
  return { root, files };
}

/** sha256 over the raw digests, in the listed order: tools differ in how they sort names (facts/signing §3). */
function rootOf(digests: readonly Digest[]): Digest {
  const hash = createHash('sha256');
  for (const digest of digests) hash.update(Buffer.from(hexOf(digest), 'hex'));
  return fromHex(hash.digest('hex'));
}

/**
 * What keeps a model from being the signed one, in words. Files that are signed and not carried are fine: the
 * manifest chooses. The reverse is not, whatever the statement lets others ignore.
 * @param signatureFile carried or not, it cannot hold its own digest
 */
export function differences(
  carried: readonly FileDigest[],
  signed: ReadonlyMap<string, Digest>,
  signatureFile: string,
): { unsigned: string[]; changed: string[] } {
  const others = carried.filter(({ path }) => path !== signatureFile);
  return {
    unsigned: others.filter(({ path }) => !signed.has(path)).map(({ path }) => path),
    changed: others
      .filter(({ path, digest }) => signed.has(path) && signed.get(path) !== digest)
      .map(({ path }) => path),
  };
}

/** A signature that is made again from a lock: everything else of model.sig follows from the files and the name. */
export interface OmsSignature {
  /** Base64 of the DER SPKI. */
  key: string;
  /** Base64 of the DER ECDSA signature. */
  signature: string;
}

/**
 * Signs files as model_signing does, ECDSA P-256 with SHA-256.
 * @param name of the model, informative
 * @param files of which model_signing looks at one at least, see hasNothingToSign
 */
export function signOms(name: string, files: readonly FileDigest[], key: KeyObject): OmsSignature {
  const signature = sign('sha256', preAuthEncoding(IN_TOTO, statementOf(name, files)), {
    key,
    dsaEncoding: 'der',
  });
  return {
    key: createPublicKey(key).export({ type: 'spki', format: 'der' }).toString('base64'),
    signature: signature.toString('base64'),
  };
}

/**
 * The bytes of model.sig.
 * @throws {Error} when the signature is not over these files; of any kind when the key is none
 */
export function omsFile(
  name: string,
  files: readonly FileDigest[],
  { key, signature }: OmsSignature,
): Buffer {
  const payload = statementOf(name, files);
  const publicKey = createPublicKey({ key: Buffer.from(key, 'base64'), format: 'der', type: 'spki' });
  const signed = preAuthEncoding(IN_TOTO, payload);
  if (!isSignedBy(publicKey, signed, Buffer.from(signature, 'base64'), 'sha256'))
    throw new Error('the signature is not over these files');
  const bundle = {
    mediaType: BUNDLE_TYPE,
    verificationMaterial: { publicKey: { hint: omsHintOf(publicKey) }, tlogEntries: [] },
    dsseEnvelope: {
      payload: payload.toString('base64'),
      payloadType: IN_TOTO,
      signatures: [{ sig: signature, keyid: '' }],
    },
  };
  return Buffer.from(`${JSON.stringify(bundle)}\n`);
}

function statementOf(name: string, files: readonly FileDigest[]): Buffer {
  const resources = files
    .filter(({ path }) => !GIT_PATHS.includes(path.split('/')[0]!))
    .toSorted((a, b) => Buffer.compare(Buffer.from(a.path), Buffer.from(b.path)))
    .map(({ path, digest }) => ({ name: path, digest: hexOf(digest), algorithm: 'sha256' }));
  const statement = {
    _type: STATEMENT,
    subject: [{ name, digest: { sha256: hexOf(rootOf(resources.map((file) => fromHex(file.digest)))) } }],
    predicateType: PREDICATE,
    predicate: {
      serialization: {
        method: 'files',
        hash_type: 'sha256',
        allow_symlinks: false,
        ignore_paths: [OMS_FILE, ...GIT_PATHS],
      },
      resources,
    },
  };
  return Buffer.from(JSON.stringify(statement));
}

/** Where the signature lies in the model's folder. */
export const OMS_FILE = 'model.sig';

/** True when model_signing would find nothing to look at. */
export const hasNothingToSign = (files: readonly { path: string }[]): boolean =>
  files.every(({ path }) => GIT_PATHS.includes(path.split('/')[0]!));
