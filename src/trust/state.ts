// SPDX-License-Identifier: Apache-2.0
/**
 * `trust-state.json`: which trust policy a host has adopted, and the latest time it has seen. Bytes in, verdict
 * out; install/trust-state.ts reads and writes the file. What it is for: a policy that is swapped for another
 * one (THREATS.md T25), and a clock that is set back so that an expired key looks valid again (T26).
 */
import * as z from 'zod';
import { SealiftError } from '../errors.ts';
import { canonicalJson, parseJson } from '../json.ts';
import type { TrustPolicy } from './policy.ts';

/** Largest state file, in bytes. Ours take about 300. */
export const MAX_TRUST_STATE_BYTES = 64 * 1024;

/** A policy by its number and the sha256 of its file. */
export interface PolicyId {
  version: number;
  digest: `sha256:${string}`;
}

export interface TrustState {
  policy: PolicyId;
  /**
   * A policy that `trust update` has verified and is putting in place. While it is set, the file may be either
   * of the two: a kill in between leaves the old policy or the new one, and both were vouched for.
   */
  next?: PolicyId;
  /** The latest moment that this host knows to have passed, in whole seconds. */
  latestTime: Date;
}

const Policy = z.strictObject({
  version: z.number().int().min(1).max(Number.MAX_SAFE_INTEGER),
  digest: z.custom<PolicyId['digest']>(
    (value) => typeof value === 'string' && /^sha256:[0-9a-f]{64}$/.test(value),
  ),
});

/** UTC, without fractions. The pattern knows the days of each month; `new Date` would take 30 February for 2 March. */
const WholeSeconds = z.iso.datetime({ precision: 0 }).transform((text) => new Date(text));

const StateFile = z.strictObject({
  schema: z.literal('sealift/trust-state/v1'),
  policy: Policy,
  next: Policy.optional(),
  latestTime: WholeSeconds,
});

/**
 * Reads the state. A damaged file is never taken for an absent one: forgetting would let any policy in.
 * @param file its name for messages
 * @throws {SealiftError} IO_ERROR
 */
export function parseTrustState(bytes: Uint8Array, file: string): TrustState {
  try {
    const {
      schema: _,
      next,
      ...state
    } = StateFile.parse(parseJson(bytes, file, 'IO_ERROR', MAX_TRUST_STATE_BYTES));
    return { ...state, ...(next && { next }) };
  } catch (cause) {
    throw new SealiftError(
      'IO_ERROR',
      `${file} is damaged, and it says which trust policy and what time this host goes by`,
      {
        hint: 'restore it from a backup; if there is none, check trust.yaml by another way, then remove the file as root: the next install adopts what stands there',
        cause,
      },
    );
  }
}

/** The bytes of the file: canonical JSON. */
export function trustStateBytes({ policy, next, latestTime }: TrustState): Buffer {
  return canonicalJson({
    schema: 'sealift/trust-state/v1',
    policy,
    next,
    latestTime: isoSeconds(latestTime),
  });
}

/** `2026-11-23T10:00:00Z`: fractions are dropped, never rounded up, so no time is written that has not passed. */
export const isoSeconds = (date: Date): string => date.toISOString().replace(/\.\d{3}Z$/, 'Z');

export const policyId = ({ version, fingerprint }: TrustPolicy): PolicyId => ({
  version,
  digest: fingerprint,
});

/** How the policy that stands in the home relates to what the host has adopted. */
export type Standing = 'first-use' | 'adopted' | 'updating' | 'changed';

export function standingOf(policy: TrustPolicy, state: TrustState | undefined): Standing {
  if (state === undefined) return 'first-use';
  if (policy.fingerprint === state.policy.digest) return 'adopted';
  return policy.fingerprint === state.next?.digest ? 'updating' : 'changed';
}

/**
 * Refuses a policy that came to stand in the home by another way than `trust update`.
 * @throws {SealiftError} POLICY_CHANGED
 */
export function demandAdopted(policy: TrustPolicy, state: TrustState | undefined, file: string): void {
  if (standingOf(policy, state) !== 'changed') return;
  const { policy: adopted } = state!;
  throw new SealiftError('POLICY_CHANGED', `${file} is not the trust policy that this host has adopted`, {
    details: [
      ['adopted', `version ${adopted.version} ${adopted.digest}`],
      ['found', `version ${policy.version} ${policy.fingerprint}`],
    ],
    hint: `put the adopted one back (a copy is trust/${adopted.version}.yaml in the home), then: sealift trust update NEW.yaml --signature FILE; when the keys that would sign are lost: sealift help POLICY_CHANGED`,
  });
}

/** The time by which a host judges: the clock's, or a later one that it has seen. */
export interface HostTime {
  clock: Date;
  /** The later of the two. An unreadable clock stays unreadable, and is refused where validity is judged. */
  judged: Date;
}

export function hostTime(clock: Date, state: TrustState | undefined): HostTime {
  const latest = state?.latestTime;
  return { clock, judged: latest !== undefined && latest > clock ? latest : clock };
}

/** A clock that is behind by less than this, in milliseconds, gets no words: two machines never agree to the second. */
const SMALL_MS = 60_000;

/** What to say about a clock that is behind what the host has seen; undefined when it is not. */
export function clockWarning({ clock, judged }: HostTime): string | undefined {
  if (judged.getTime() - clock.getTime() < SMALL_MS) return undefined;
  return (
    `the clock of this host says ${isoSeconds(clock)}, but the host has seen ${isoSeconds(judged)} before, and goes by that: ` +
    'what had expired stays expired. Set the clock; if the later time is the wrong one, see: sealift trust show --help'
  );
}

/** The years that the state file has a form for, in milliseconds: another one would be a damaged file at the next look. */
const YEAR_0 = Date.parse('0000-01-01T00:00:00Z');
const YEAR_10000 = Date.UTC(10_000, 0);

/** The latest of some times; those that are no dates, or not of these years, do not count. @returns undefined when none is left */
export function latestOf(...times: readonly (Date | undefined)[]): Date | undefined {
  const known = times
    .map((time) => time?.getTime() ?? Number.NaN)
    .filter((time) => time >= YEAR_0 && time < YEAR_10000);
  return known.length === 0 ? undefined : new Date(Math.floor(Math.max(...known) / 1000) * 1000);
}
