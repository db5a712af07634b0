// SPDX-License-Identifier: Apache-2.0
/**
 * The trust policy, `trust.yaml`: who may sign, how many must, what is revoked. It comes to the host out of
 * band, never from a bundle (THREATS.md T5).
 */
import { createHash, type KeyObject } from 'node:crypto';
import { z } from 'zod';
import { readDocument } from '../document.ts';
import { SealiftError } from '../errors.ts';
import { fingerprint, loadPublicKey, type Fingerprint } from './keys.ts';
import { SLOT_COUNT } from './slots.ts';

/** `sha256:` and 64 hex digits: a digest of the store or a key's fingerprint. */
type Sha256 = `sha256:${string}`;

export interface TrustedSigner {
  name: string;
  publicKey: KeyObject;
  fingerprint: Fingerprint;
  /** First and last moment at which a signature of this key is accepted, by the clock given to the verifier. */
  notBefore?: Date;
  notAfter?: Date;
}

export interface TrustPolicy {
  version: number;
  /** How many different signers must have signed. */
  threshold: number;
  signers: readonly TrustedSigner[];
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

// Shown in verdicts, so one line of printable text.
const SignerName = z
  .string()
  .regex(/^[^\p{C}\p{Zl}\p{Zp}]{1,128}$/u, 'expected 1 to 128 printable characters');

const SignerEntry = z
  .strictObject({
    name: SignerName,
    publicKey: PublicKey,
    notBefore: Instant.optional(),
    notAfter: Instant.optional(),
  })
  .refine((s) => !s.notBefore || !s.notAfter || s.notBefore < s.notAfter, {
    error: 'notAfter must be later than notBefore',
    path: ['notAfter'],
  });

const NAME = /^[a-z]([a-z0-9.-]{0,61}[a-z0-9])?$/;
const VERSION = /^(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$/;
const MinVersion = z.string().regex(VERSION, "expected a semantic version such as '1.4.0'");

const PolicyDocument = z
  .strictObject({
    apiVersion: z.literal('sealift.dev/v1'),
    kind: z.literal('TrustPolicy'),
    version: z.number().int().min(1).max(Number.MAX_SAFE_INTEGER),
    threshold: z.number().int().min(1).max(SLOT_COUNT),
    signers: z.array(SignerEntry).min(1).max(MAX_SIGNERS),
    revoked: z
      .strictObject({ keys: z.array(Sha256Text).default([]), bundles: z.array(Sha256Text).default([]) })
      .default({ keys: [], bundles: [] }),
    bundles: z
      .record(
        z.string().regex(NAME, 'expected the name of a bundle'),
        z.strictObject({ minVersion: MinVersion }),
      )
      .default({}),
  })
  .superRefine((policy, context) => {
    for (const { index, message, field } of repeatedSigners(policy.signers)) {
      context.addIssue({ code: 'custom', path: ['signers', index, field], message });
    }
    if (policy.threshold > policy.signers.length) {
      const message = `expected at most ${policy.signers.length}, the number of signers`;
      context.addIssue({ code: 'custom', path: ['threshold'], message });
    }
  });
type PolicyDocument = z.infer<typeof PolicyDocument>;

/** Signers that repeat an earlier key, which would be a threshold that one person meets alone, or its name. */
function repeatedSigners(
  signers: PolicyDocument['signers'],
): { index: number; field: string; message: string }[] {
  const names = new Set<string>();
  const keys = new Map<string, string>();
  return signers.flatMap(({ name, publicKey }, index) => {
    const key = fingerprint(publicKey);
    const owner = keys.get(key);
    const repeats = [
      ...(owner === undefined
        ? []
        : [{ index, field: 'publicKey', message: `the same key as that of '${owner}'` }]),
      ...(names.has(name)
        ? [{ index, field: 'name', message: `a second signer with the name '${name}'` }]
        : []),
    ];
    keys.set(key, owner ?? name);
    names.add(name);
    return repeats;
  });
}

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
    revokedKeys: new Set(document.revoked.keys),
    revokedBundles: new Set(document.revoked.bundles),
    minVersions: new Map(Object.entries(document.bundles).map(([name, rule]) => [name, rule.minVersion])),
    fingerprint: `sha256:${createHash('sha256').update(text).digest('hex')}`,
  };
}

function toSigner({
  name,
  publicKey,
  notBefore,
  notAfter,
}: PolicyDocument['signers'][number]): TrustedSigner {
  return {
    name,
    publicKey,
    fingerprint: fingerprint(publicKey),
    ...(notBefore && { notBefore }),
    ...(notAfter && { notAfter }),
  };
}

export interface Release {
  version: string;
  digest: Sha256;
}

/**
 * Judges a bundle whose signatures have been verified already.
 * @param installed what stands on this host under the same name. The caller leaves it out when a person has
 *   asked for a downgrade; revocation and the policy's minimum hold even then
 * @throws {SealiftError} BUNDLE_REVOKED, VERSION_REFUSED
 */
export function checkPolicy(
  subject: Release & { name: string },
  policy: TrustPolicy,
  installed: Release | undefined,
): void {
  const { name, version, digest } = subject;
  if (policy.revokedBundles.has(digest)) {
    throw new SealiftError('BUNDLE_REVOKED', `${name} ${version} is revoked`, {
      details: [['bundle', digest]],
    });
  }
  const minimum = policy.minVersions.get(name);
  if (minimum !== undefined && compareVersions(version, minimum) < 0) {
    throw new SealiftError(
      'VERSION_REFUSED',
      `${name} ${version} is older than ${minimum}, which the policy asks for`,
    );
  }
  if (installed !== undefined) checkUpgrade(subject, installed);
}

function checkUpgrade({ name, version, digest }: Release & { name: string }, installed: Release): void {
  const order = compareVersions(version, installed.version);
  if (order > 0 || (order === 0 && digest === installed.digest)) return;
  const message =
    order === 0
      ? `${name} ${version} is installed already, with other content`
      : `${name} ${version} is older than ${installed.version}, which is installed`;
  throw new SealiftError('VERSION_REFUSED', message, {
    details: [
      ['installed', `${installed.version} ${installed.digest}`],
      ['bundle', `${version} ${digest}`],
    ],
  });
}

/** Semantic Versioning 2.0.0 precedence (§11): negative when `a` comes before `b`. Build metadata is ignored. */
export function compareVersions(a: string, b: string): number {
  const [left, right] = [parseVersion(a), parseVersion(b)];
  const core = compareLists(left.core, right.core);
  if (core !== 0) return core;
  // A version without pre-release identifiers comes after every one that has some.
  if (left.pre.length === 0 || right.pre.length === 0) return right.pre.length - left.pre.length;
  return compareLists(left.pre, right.pre);
}

function parseVersion(text: string): { core: string[]; pre: string[] } {
  const [version = ''] = text.split('+', 1);
  const dash = version.indexOf('-');
  if (dash < 0) return { core: version.split('.'), pre: [] };
  return { core: version.slice(0, dash).split('.'), pre: version.slice(dash + 1).split('.') };
}

/** Identifier by identifier; the longer list comes after the shorter one that it begins with. */
function compareLists(a: readonly string[], b: readonly string[]): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    const order = compareIdentifiers(a[i] ?? '', b[i] ?? '');
    if (order !== 0) return order;
  }
  return a.length - b.length;
}

/** Numbers by value, of any length (2^53 is not a limit for them), before words; words by code unit. */
function compareIdentifiers(a: string, b: string): number {
  const numeric = isNumber(a);
  if (numeric !== isNumber(b)) return numeric ? -1 : 1;
  const [left, right] = numeric ? [withoutZeros(a), withoutZeros(b)] : [a, b];
  if (numeric && left.length !== right.length) return left.length - right.length;
  return left < right ? -1 : left > right ? 1 : 0;
}

const isNumber = (text: string): boolean => /^\d+$/.test(text);
const withoutZeros = (digits: string): string => digits.replace(/^0+(?=\d)/, '');
