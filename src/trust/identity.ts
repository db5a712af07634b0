// SPDX-License-Identifier: Apache-2.0
/**
 * Signatures by an identity: a short-lived certificate that Fulcio gave to whoever proved to an OIDC issuer who they
 * are, with an entry in Rekor and a timestamp, all judged offline against a trusted root that the policy holds
 * (sigstore client spec, "Verification"). @sigstore/verify walks chains, logs and timestamps; what it leaves open is
 * decided here: which names a certificate may have, what it may be used for, and that an identity is compared as a
 * whole (the library's own comparison is an unanchored regular expression).
 */
import { createPublicKey, X509Certificate, type KeyObject } from 'node:crypto';
import type { Bundle } from '@sigstore/bundle';
import { TrustedRoot } from '@sigstore/protobuf-specs';
import { toSignedEntity, toTrustMaterial, Verifier } from '@sigstore/verify';
import { parseJsonOneWay } from '../json.ts';
import { printable } from '../text.ts';

/** Who a certificate was given to, and by whose word. Compared by equality of both strings, never as a pattern. */
export interface Identity {
  /** The one subject alternative name: a URI, such as a CI workflow with its ref, or an e-mail address. */
  subject: string;
  /** URL of the OIDC issuer. */
  issuer: string;
}

export interface IdentifiedSigner {
  identity: Identity;
  /** Of any kind that the library verifies; the caller says which it takes. */
  publicKey: KeyObject;
  /** The latest moment that the log or a timestamp authority vouches for, whole or fractional seconds. */
  signedAt: Date;
}

/**
 * Judges signatures against one trusted root.
 * @param bytes what was signed, unless the bundle holds it (DSSE)
 * @throws {StrangersCertificate} when no authority of the root issued the certificate; {Error} of any other kind
 */
export type SigstoreTrust = (bundle: Bundle, bytes?: Uint8Array) => IdentifiedSigner;

/** The certificate comes from elsewhere, which is no damage: "signed by someone else" is another answer than "bad". */
export class StrangersCertificate extends Error {}

/**
 * Longest subject or issuer that a policy can name, in characters. Whatever can be trusted is shown whole: two
 * identities that differ must not look the same in a list of what changes.
 */
export const MAX_IDENTITY_CHARS = 1024;

/** Largest trusted_root.json, in bytes. That of the public instance takes about 7,000. */
export const MAX_TRUSTED_ROOT_BYTES = 256 * 1024;

/** id-kp-codeSigning (RFC 5280 §4.2.1.12): what Fulcio issues. The same authority may sign certificates for servers. */
const CODE_SIGNING = '1.3.6.1.5.5.7.3.3';

/** Issuer of the identity, in Fulcio's certificates: as a DER UTF8String, and formerly as bare text. */
const FULCIO_ISSUER_V2 = '1.3.6.1.4.1.57264.1.8';
const FULCIO_ISSUER_V1 = '1.3.6.1.4.1.57264.1.1';

/**
 * Reads a trusted_root.json (protobuf-specs `TrustedRoot`), as `cosign trusted-root create` writes it.
 * @throws {Error} of any kind when it is not one, or lacks an authority that verification needs
 */
export function parseTrustedRoot(text: string): SigstoreTrust {
  const json = parseJsonOneWay(
    Buffer.from(text),
    'the trusted root',
    'POLICY_INVALID',
    MAX_TRUSTED_ROOT_BYTES,
  );
  const root = TrustedRoot.fromJSON(json);
  demandKnown(json, TrustedRoot.toJSON(root));
  const needed = {
    certificateAuthorities: 'a certificate authority',
    tlogs: 'a log',
    ctlogs: 'a CT log',
  } as const;
  for (const [list, what] of Object.entries(needed))
    if (root[list as keyof typeof needed].length === 0)
      throw new Error(`the trusted root names not even ${what}`);
  const material = toTrustMaterial(root);
  if (material.certificateAuthorities.some(({ certChain }) => certChain.length === 0))
    throw new Error('a certificate authority of the trusted root has no certificate');
  // One of each, said out loud: a default of the library that changes must not change what is asked for.
  const verifier = new Verifier(material, { tlogThreshold: 1, ctlogThreshold: 1, timestampThreshold: 1 });
  const issuers = material.certificateAuthorities.flatMap(({ certChain }) =>
    certChain.map(({ publicKey }) => createPublicKey({ key: publicKey, format: 'der', type: 'spki' })),
  );
  return (bundle, bytes) => {
    // Asked first, since the library may stumble over a stranger's timestamp before it comes to the certificate.
    const certificate = certificateOf(bundle);
    if (!issuers.some((key) => certificate.verify(key)))
      throw new StrangersCertificate('no authority of the trusted root vouches for its certificate');
    return identify(verifier, toSignedEntity(bundle, bytes && Buffer.from(bytes)), certificate);
  };
}

/**
 * The library drops what it does not know: a misspelt `end` would be an authority that never ends (THREATS.md T5).
 * @param kept what the library made of `json`
 * @throws {Error} naming a member that it dropped
 */
function demandKnown(json: unknown, kept: unknown): void {
  if (json === null || typeof json !== 'object') return;
  for (const [name, member] of Object.entries(json)) {
    const inner = Object.entries(kept ?? {}).find(([known]) => known === name)?.[1] as unknown;
    if (inner === undefined && !isDefault(member)) throw new Error(`unknown member '${name}'`);
    demandKnown(member, inner);
  }
}

/** What a serialiser may leave out. */
const isDefault = (value: unknown): boolean =>
  value === null || value === '' || (Array.isArray(value) && value.length === 0);

/** @throws {Error} of any kind; the text may quote the input */
function identify(verifier: Verifier, entity: Entity, certificate: X509Certificate): IdentifiedSigner {
  const { key } = verifier.verify(entity);
  if (!certificate.keyUsage?.includes(CODE_SIGNING))
    throw new Error('the certificate is not for signing code');
  return {
    identity: identityIn(entity, certificate),
    publicKey: key,
    signedAt: new Date(Math.max(...entity.timestamps.map(timeOf))),
  };
}

/**
 * What the certificate of a bundle says of its holder; proven only by a SigstoreTrust.
 * @throws {Error} of any kind when it says nothing, or more than one thing
 */
export function claimedIdentity(bundle: Bundle): Identity {
  return identityIn(toSignedEntity(bundle), certificateOf(bundle));
}

/** @param certificate that of `entity`, as Node reads it */
function identityIn({ key }: Entity, certificate: X509Certificate): Identity {
  if (key.$case !== 'certificate') throw new Error('it does not come with a certificate');
  return {
    subject: subjectOf(certificate, key.certificate.subjectAltName),
    issuer: issuerOf(key.certificate),
  };
}

/** One line for people. */
export const identityText = ({ subject, issuer }: Identity): string =>
  `${printable(subject, MAX_IDENTITY_CHARS)} (${printable(issuer, MAX_IDENTITY_CHARS)})`;

/** The certificate of the signer: alone, or, in bundles of cosign 2, first in a chain. @throws {Error} when there is none */
export function certificateOf({ verificationMaterial }: Bundle): X509Certificate {
  const { content } = verificationMaterial;
  if (content.$case === 'publicKey') throw new Error('it does not come with a certificate');
  const leaf =
    content.$case === 'certificate' ? content.certificate : content.x509CertificateChain.certificates[0];
  return new X509Certificate(leaf?.rawBytes ?? Buffer.alloc(0));
}

/**
 * The library gives the first URI, else the first address, with the top bit of each byte dropped. Node's text has every
 * name, so equality with it means: one name, printable ASCII, nothing that text could hide.
 */
function subjectOf(certificate: X509Certificate, first: string | undefined): string {
  const all = certificate.subjectAltName;
  if (first !== undefined && (all === `URI:${first}` || all === `email:${first}`)) return first;
  throw new Error('the certificate does not have exactly one name that is a URI or an e-mail address');
}

type Entity = ReturnType<typeof toSignedEntity>;
type ParsedCertificate = Extract<Entity['key'], { $case: 'certificate' }>['certificate'];

function issuerOf(certificate: ParsedCertificate): string {
  const wrapped = certificate.extension(FULCIO_ISSUER_V2)?.value;
  // A UTF8String (tag 0x0c) of less than 128 bytes has its length in one byte.
  const isShort = wrapped?.[0] === 0x0c && wrapped[1] === wrapped.length - 2 && wrapped.length < 130;
  const bytes =
    wrapped === undefined ? certificate.extension(FULCIO_ISSUER_V1)?.value : isShort && wrapped.subarray(2);
  const text = bytes ? bytes.toString('latin1') : '';
  if (/^[\x21-\x7e]+$/.test(text)) return text;
  throw new Error('the certificate does not name the issuer of its identity');
}

/** Milliseconds since 1970. A log vouches for its time only in an inclusion promise; without one anybody may have written it. */
function timeOf(time: Entity['timestamps'][number]): number {
  if (time.$case === 'timestamp-authority') return time.timestamp.signingTime.getTime();
  return time.tlogEntry.inclusionPromise ? Number(time.tlogEntry.integratedTime) * 1000 : 0;
}
