// SPDX-License-Identifier: Apache-2.0
/** What the trust policy says of a bundle whose signatures have been verified: revoked, not for this host, too old. */
import { SealiftError } from '../errors.ts';
import type { Sha256, TrustPolicy } from './policy.ts';
import { compareVersions } from './semver.ts';

export interface Release {
  version: string;
  digest: Sha256;
}

export interface PolicySubject extends Release {
  name: string;
  channel?: string | undefined;
}

/** What one rule of the policy says of a bundle: an error when the rule refuses it. */
export interface PolicyFinding {
  rule: 'revocation' | 'name' | 'channel' | 'version';
  /** One line of evidence, for a rule that was kept. */
  detail: string;
  error: SealiftError | undefined;
}

/**
 * Holds every rule of the policy against a bundle whose signatures have been verified already, whether or not an
 * earlier one refuses it.
 * @param installed what stands on this host under the same name. The caller leaves it out when a person has
 *   asked for a downgrade; revocation and the policy's minimum hold even then
 */
export function judgePolicy(
  subject: PolicySubject,
  policy: TrustPolicy,
  installed: Release | undefined,
): PolicyFinding[] {
  return [
    judgeRevocation(subject, policy),
    judgeName(subject, policy),
    judgeChannel(subject, policy),
    judgeVersion(subject, policy, installed),
  ];
}

/**
 * The first of these findings that refuses.
 * @throws {SealiftError} BUNDLE_REVOKED, NOT_FOR_THIS_HOST, VERSION_REFUSED
 */
export function checkPolicy(
  subject: PolicySubject,
  policy: TrustPolicy,
  installed: Release | undefined,
): void {
  const refused = judgePolicy(subject, policy, installed).find(({ error }) => error);
  if (refused?.error) throw refused.error;
}

function judgeRevocation({ name, version, digest }: PolicySubject, policy: TrustPolicy): PolicyFinding {
  const error = policy.revokedBundles.has(digest)
    ? new SealiftError('BUNDLE_REVOKED', `${name} ${version} is revoked`, {
        details: [['bundle', digest]],
        hint: 'do not use it; ask the staging side for a newer bundle',
      })
    : undefined;
  return { rule: 'revocation', detail: `not among ${policy.revokedBundles.size} revoked bundles`, error };
}

function judgeName({ name }: PolicySubject, { names }: TrustPolicy): PolicyFinding {
  const error =
    names && !names.has(name)
      ? new SealiftError('NOT_FOR_THIS_HOST', `the trust policy does not let bundles named ${name} in`, {
          details: [['allowed', [...names].join(', ')]],
          hint: NOT_HERE,
        })
      : undefined;
  return { rule: 'name', detail: names ? `${name} is allowed` : 'any name is allowed', error };
}

function judgeChannel({ name, channel }: PolicySubject, policy: TrustPolicy): PolicyFinding {
  const own = channel === undefined ? 'no channel' : `channel ${channel}`;
  const error =
    policy.channel !== undefined && policy.channel !== channel
      ? new SealiftError('NOT_FOR_THIS_HOST', `${name} is of ${own}; this host takes ${policy.channel}`, {
          hint: NOT_HERE,
        })
      : undefined;
  return { rule: 'channel', detail: policy.channel === undefined ? `${own}, any is allowed` : own, error };
}

const NOT_HERE =
  'was this medium meant for another host? What a host takes is written in its trust policy (names, channel)';

function judgeVersion(
  subject: PolicySubject,
  policy: TrustPolicy,
  installed: Release | undefined,
): PolicyFinding {
  const { name, version } = subject;
  const minimum = policy.minVersions.get(name);
  const tooOld =
    minimum !== undefined && compareVersions(version, minimum) < 0
      ? new SealiftError(
          'VERSION_REFUSED',
          `${name} ${version} is older than ${minimum}, which the policy asks for`,
          { hint: 'ask the staging side for a newer bundle' },
        )
      : undefined;
  const error = tooOld ?? (installed && rollback(subject, installed));
  const before = installed
    ? `after ${installed.version}, which is installed`
    : 'not compared with an installed version';
  const least = minimum === undefined ? 'the policy asks for no minimum' : `the policy asks for ${minimum}`;
  return { rule: 'version', detail: `${version}; ${before}; ${least}`, error };
}

/** An older version than the installed one, or the same with other content (THREATS.md T11). */
function rollback({ name, version, digest }: PolicySubject, installed: Release): SealiftError | undefined {
  const order = compareVersions(version, installed.version);
  if (order > 0 || (order === 0 && digest === installed.digest)) return undefined;
  const message =
    order === 0
      ? `${name} ${version} is installed already, with other content`
      : `${name} ${version} is older than ${installed.version}, which is installed`;
  return new SealiftError('VERSION_REFUSED', message, {
    details: [
      ['installed', `${installed.version} ${installed.digest}`],
      ['bundle', `${version} ${digest}`],
    ],
    hint: 'if going back is meant: sealift install BUNDLE --allow-downgrade "REASON", which the receipt will show',
  });
}
