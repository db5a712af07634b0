// SPDX-License-Identifier: Apache-2.0
/**
 * The trust policy, `trust.yaml`: who may sign, how many must, what is revoked. It comes to the host out of
 * band, never from a bundle (THREATS.md T5).
 */
import { createHash, type KeyObject } from 'node:crypto';
import * as z from 'zod';
import { readDocument } from '../document.ts';
import { SealiftError } from '../errors.ts';
import { printable } from '../text.ts';
import { MAX_IDENTITY_CHARS, parseTrustedRoot, type Identity, type SigstoreTrust } from './identity.ts';
import { fingerprint, loadPublicKey, type Fingerprint } from './keys.ts';
import { SLOT_COUNT } from './slots.ts';

/** `sha256:` and 64 hex digits: a digest of the store or a key's fingerprint. */
export type Sha256 = `sha256:${string}`;

/** One person or machine. A key and an identity are two ways to sign, and still one signer. */
export interface TrustedSigner {
  name: string;
  publicKey?: KeyObject;
  /** Of `publicKey`. */
  fingerprint?: Fingerprint;
  identity?: Identity;
  /** First and last moment at which a signature of this signer is accepted, by the clock given to the verifier. */
  notBefore?: Date;
  notAfter?: Date;
}

export interface TrustPolicy {
  version: number;
  /** How many different signers must have signed. */
  threshold: number;
  signers: readonly TrustedSigner[];
  /** The trusted root of a Sigstore instance, by which certificates are judged. */
  sigstore?: { judge: SigstoreTrust; digest: Sha256 };
  /** The only channel whose bundles this host takes; any when undefined. */
  channel?: string;
  /** The only bundles that this host takes, by name; any when undefined. */
  names?: ReadonlySet<string>;
  revokedKeys: ReadonlySet<string>;
  revokedBundles: ReadonlySet<string>;
  /** Lowest version that may be installed, by bundle name. */
  minVersions: ReadonlyMap<string, string>;
  /** Digest of the file's bytes, for the receipt. */
  fingerprint: Sha256;
}

/** Most signers in one policy. */
const MAX_SIGNERS = 256;

const Sha256Text = z.custom<Sha256>(
  (value) => typeof value === 'string' && /^sha256:[0-9a-f]{64}$/.test(value),
  'expected sha256:<64 lower-case hex digits>',
);

const Instant = z.iso
  .datetime({ offset: true, error: "expected a date and time with a zone, such as '2026-12-31T23:59:59Z'" })
  .transform((text) => new Date(text));

const PublicKey = z.string().transform((pem, context) => {
  try {
    return loadPublicKey(pem, 'the value');
  } catch (thrown) {
    context.addIssue(thrown instanceof SealiftError ? thrown.message : 'the value is not a public key');
    return z.NEVER;
  }
});

// Shown in verdicts and compared by people: visible characters, with single blanks between words, as columns have two.
const SignerName = z
  .string()
  .max(128)
  .regex(/^[^\p{C}\p{Z}\p{DI}]+( [^\p{C}\p{Z}\p{DI}]+)*$/u, 'expected 1 to 128 printable characters');

// Compared byte for byte with what a certificate holds, so nothing in it may only look like something else.
const IdentityText = z
  .string()
  .max(MAX_IDENTITY_CHARS)
  .regex(
    /^[\x21-\x7e]+$/,
    'expected printable ASCII without spaces, exactly as it stands in the certificate',
  );

const SignerEntry = z
  .strictObject({
    name: SignerName,
    publicKey: PublicKey.optional(),
    identity: z.strictObject({ subject: IdentityText, issuer: IdentityText }).optional(),
    notBefore: Instant.optional(),
    notAfter: Instant.optional(),
  })
  .refine((s) => s.publicKey ?? s.identity, { error: 'expected a publicKey or an identity' })
  .refine((s) => !s.notBefore || !s.notAfter || s.notBefore < s.notAfter, {
    error: 'notAfter must be later than notBefore',
    path: ['notAfter'],
  });

const NAME = /^[a-z]([a-z0-9.-]{0,61}[a-z0-9])?$/;
const VERSION = /^(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$/;
const BundleName = z.string().regex(NAME, 'expected the name of a bundle');
const MinVersion = z.string().regex(VERSION, "expected a semantic version such as '1.4.0'");

const sha256 = (text: string): Sha256 => `sha256:${createHash('sha256').update(text).digest('hex')}`;

const TrustedRootText = z.string().transform((text, context) => {
  try {
    return { judge: parseTrustedRoot(text), digest: sha256(text) };
  } catch (thrown) {
    const why = thrown instanceof Error ? printable(thrown.message, 160) : 'it cannot be read';
    context.addIssue(`expected the text of a trusted_root.json: ${why}`);
    return z.NEVER;
  }
});

const PolicyDocument = z
  .strictObject({
    apiVersion: z.literal('sealift.dev/v1'),
    kind: z.literal('TrustPolicy'),
    version: z.number().int().min(1).max(Number.MAX_SAFE_INTEGER),
    threshold: z.number().int().min(1).max(SLOT_COUNT),
    signers: z.array(SignerEntry).min(1).max(MAX_SIGNERS),
    sigstore: z.strictObject({ trustedRoot: TrustedRootText }).optional(),
    channel: z.string().regex(NAME, "expected the name of a channel, such as 'stable'").optional(),
    names: z.array(BundleName).min(1).max(1024).optional(),
    revoked: z
      .strictObject({ keys: z.array(Sha256Text).default([]), bundles: z.array(Sha256Text).default([]) })
      .prefault({}),
    bundles: z.record(BundleName, z.strictObject({ minVersion: MinVersion })).default({}),
  })
  .superRefine((policy, context) => {
    const report = (path: PropertyKey[], message: string): void =>
      context.addIssue({ code: 'custom', path, message });
    for (const { index, message, field } of repeatedSigners(policy.signers))
      report(['signers', index, field], message);
    for (const [index, { identity }] of policy.signers.entries()) {
      if (identity && !policy.sigstore)
        report(['signers', index, 'identity'], 'certificates need sigstore.trustedRoot in the same policy');
    }
    if (policy.threshold > policy.signers.length)
      report(['threshold'], `expected at most ${policy.signers.length}, the number of signers`);
  });
type PolicyDocument = z.infer<typeof PolicyDocument>;

/** What makes two signers one. A second one would be a threshold that one person meets alone. */
const MARKS = {
  /** Without what only a close look tells apart: width, composition, case. */
  name: ({ name }: SignerEntry): string => name.normalize('NFKC').toLowerCase(),
  publicKey: ({ publicKey }: SignerEntry): string | undefined => publicKey && fingerprint(publicKey),
  identity: ({ identity }: SignerEntry): string | undefined =>
    identity && `${identity.subject} ${identity.issuer}`,
};
type SignerEntry = PolicyDocument['signers'][number];

/** Signers that repeat the name, key or identity of an earlier one. */
function repeatedSigners(
  signers: readonly SignerEntry[],
): { index: number; field: string; message: string }[] {
  return Object.entries(MARKS).flatMap(([field, markOf]) => {
    const marks = signers.map(markOf);
    return marks.flatMap((mark, index) => {
      const first = marks.indexOf(mark);
      if (mark === undefined || first === index) return [];
      const owner = signers[first]!.name;
      const what = field === 'name' ? 'a second signer with the name' : `the same ${WORDS[field]} as that of`;
      return [{ index, field, message: `${what} '${owner}'` }];
    });
  });
}

const WORDS: Readonly<Record<string, string>> = { publicKey: 'key', identity: 'identity' };

/**
 * Reads a trust policy.
 * @param text the file's content, `file` its name for messages
 * @throws {SealiftError} POLICY_INVALID, with line and column
 */
export function parseTrustPolicy(text: string, file: string): TrustPolicy {
  const document = readDocument<PolicyDocument>(text, file, PolicyDocument, 'POLICY_INVALID');
  return {
    version: document.version,
    threshold: document.threshold,
    signers: document.signers.map(toSigner),
    ...(document.sigstore && { sigstore: document.sigstore.trustedRoot }),
    ...(document.channel !== undefined && { channel: document.channel }),
    ...(document.names && { names: new Set(document.names) }),
    revokedKeys: new Set(document.revoked.keys),
    revokedBundles: new Set(document.revoked.bundles),
    minVersions: new Map(Object.entries(document.bundles).map(([name, rule]) => [name, rule.minVersion])),
    fingerprint: sha256(text),
  };
}

function toSigner({ name, publicKey, identity, notBefore, notAfter }: SignerEntry): TrustedSigner {
  return {
    name,
    ...(publicKey && { publicKey, fingerprint: fingerprint(publicKey) }),
    ...(identity && { identity }),
    ...(notBefore && { notBefore }),
    ...(notAfter && { notAfter }),
  };
}
