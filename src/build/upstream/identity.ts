// SPDX-License-Identifier: Apache-2.0
/**
 * Who signed, by certificate: Fulcio's chain, its log's proof (SCT), Rekor's entry and a trusted time, all checked
 * by @sigstore/verify against a trusted root that a person chose; and then, by ourselves, the name. That library
 * takes a name for an unanchored regular expression, and reads names and issuers as ASCII by dropping eighth bits, so
 * that 'team-°' is 'team-B0' to it: it is given no policy at all.
 */
import { X509Certificate } from 'node:crypto';
import { bundleFromJSON } from '@sigstore/bundle';
import { TrustedRoot } from '@sigstore/protobuf-specs';
import {
  toSignedEntity,
  toTrustMaterial,
  VerificationError,
  Verifier,
  type Signer,
  type TrustMaterial,
} from '@sigstore/verify';
import { SealiftError } from '../../errors.ts';
import { parseJson } from '../../json.ts';

/** Largest trusted_root.json, in bytes; that of the public instance has about 10,000. */
const MAX_ROOT_BYTES = 1024 * 1024;
const ISSUER_V1 = '1.3.6.1.4.1.57264.1.1';
const ISSUER_V2 = '1.3.6.1.4.1.57264.1.8';

export interface Identity {
  identity: string;
  issuer: string;
  trust: TrustMaterial;
}

export interface FoundIdentity {
  identity: string;
  issuer: string;
  /** Values of the certificate's extensions, by object identifier. */
  extensions: ReadonlyMap<string, Uint8Array>;
}

export const describeIdentity = ({ identity, issuer }: { identity: string; issuer: string }): string =>
  `${identity} (${issuer})`;

/**
 * Reads a trusted_root.json. One without an authority or a log could not vouch for anything.
 * @throws {SealiftError} MANIFEST_INVALID
 */
export function readTrustedRoot(bytes: Uint8Array, file: string): TrustMaterial {
  const json = parseJson(bytes, file, 'MANIFEST_INVALID', MAX_ROOT_BYTES);
  try {
    const root = TrustedRoot.fromJSON(json);
    const { certificateAuthorities, tlogs, ctlogs } = root;
    if (certificateAuthorities.length > 0 && tlogs.length > 0 && ctlogs.length > 0)
      return toTrustMaterial(root);
  } catch (cause) {
    throw new SealiftError('MANIFEST_INVALID', `${file} is not a trusted_root.json of Sigstore`, { cause });
  }
  throw new SealiftError(
    'MANIFEST_INVALID',
    `${file} lacks a certificate authority, a log, or a certificate log`,
    {
      hint: '`cosign trusted-root create` writes one for an instance of your own',
    },
  );
}

/**
 * Verifies a Sigstore bundle and says whose it is.
 * @param artifact what was signed, when the bundle does not hold it
 * @returns undefined when its certificate is not one of the trusted root's authorities
 * @throws {Error} of any kind when anything else about it does not verify
 */
export function identify(
  trust: TrustMaterial,
  json: unknown,
  artifact?: Uint8Array,
): FoundIdentity | undefined {
  const content = artifact === undefined ? undefined : Buffer.from(artifact);
  const entity = toSignedEntity(bundleFromJSON(json), content);
  // Each of the three stands for another party that would have to collude.
  const verifier = new Verifier(trust, { tlogThreshold: 1, ctlogThreshold: 1, timestampThreshold: 1 });
  try {
    return foundIn(verifier.verify(entity));
  } catch (error) {
    if (error instanceof VerificationError && error.code === 'CERTIFICATE_ERROR') return undefined;
    throw error;
  }
}

function foundIn({ identity }: Signer): FoundIdentity {
  const oids = (identity?.oids ?? []).map(({ oid, value }) => [(oid?.id ?? []).join('.'), value] as const);
  return {
    identity: identity?.subjectAlternativeName ?? 'a certificate without a name',
    issuer: identity?.extensions?.issuer ?? 'no issuer',
    extensions: new Map(oids),
  };
}

/** True when the certificate has exactly the asked name, once as its only one, and exactly the asked issuer. */
export function isNamed(found: FoundIdentity, leaf: Uint8Array, asked: Identity): boolean {
  if (found.identity !== asked.identity || found.issuer !== asked.issuer) return false;
  return hasOnlyName(leaf, asked.identity) && hasIssuer(found.extensions, asked.issuer);
}

/** Node quotes a name that could be taken for several. */
function hasOnlyName(leaf: Uint8Array, name: string): boolean {
  const names = new X509Certificate(leaf).subjectAltName;
  return [name, JSON.stringify(name)].some((text) => names === `URI:${text}` || names === `email:${text}`);
}

/** The newer extension holds a DER UTF8String, the older one bare text. */
function hasIssuer(extensions: FoundIdentity['extensions'], issuer: string): boolean {
  const [newer, older] = [extensions.get(ISSUER_V2), extensions.get(ISSUER_V1)];
  const text = Buffer.from(issuer);
  if (newer === undefined) return older !== undefined && text.equals(older);
  return Buffer.from(newer.subarray(-text.length)).equals(text) && lengthOfString(newer) === text.length;
}

/** Bytes of content of a DER UTF8String that fills the value; undefined for anything else. */
function lengthOfString(der: Uint8Array): number | undefined {
  const [tag, first = 0, second = 0, third = 0] = der;
  if (tag !== 0x0c) return undefined;
  const [length, head] = first < 0x80 ? [first, 2] : first === 0x81 ? [second, 3] : [second * 256 + third, 4];
  return (first < 0x80 || first === 0x81 || first === 0x82) && der.length === head + length
    ? length
    : undefined;
}
