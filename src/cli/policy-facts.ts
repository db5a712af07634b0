// SPDX-License-Identifier: Apache-2.0
/** What a trust policy says, as rows that can be shown and compared. */
import type { TrustedSigner, TrustPolicy } from '../trust/policy.ts';
import { signerText } from '../trust/refusal.ts';
import { isoSeconds } from '../trust/state.ts';

type Fact = readonly [what: string, ...values: string[]];

/** Whether a signature of a signer would count at this moment. */
export type SignerState = 'valid' | 'not yet valid' | 'expired' | 'revoked';

export function signerState(signer: TrustedSigner, policy: TrustPolicy, now: Date): SignerState {
  // One that has an identity as well can still sign by that.
  const revoked = signer.fingerprint !== undefined && policy.revokedKeys.has(signer.fingerprint);
  if (revoked && signer.identity === undefined) return 'revoked';
  if (signer.notBefore !== undefined && now < signer.notBefore) return 'not yet valid';
  return signer.notAfter !== undefined && now > signer.notAfter ? 'expired' : 'valid';
}

/** The time in which a signer is trusted, in words. */
export function windowOf({ notBefore, notAfter }: TrustedSigner): string {
  const from = notBefore === undefined ? [] : [`from ${isoSeconds(notBefore)}`];
  const until = notAfter === undefined ? [] : [`until ${isoSeconds(notAfter)}`];
  return [...from, ...until].join(' ') || 'without end';
}

/** Everything but who the signers are. */
export function rulesOf(policy: TrustPolicy): Fact[] {
  const { channel, names, sigstore } = policy;
  return [
    ...(sigstore === undefined ? [] : [['trusted root', sigstore.digest] as const]),
    ...(channel === undefined ? [] : [['channel', channel] as const]),
    ...(names === undefined ? [] : [['names', [...names].join(', ')] as const]),
    ...[...policy.revokedKeys].map((key): Fact => ['revoked key', key]),
    ...[...policy.revokedBundles].map((bundle): Fact => ['revoked bundle', bundle]),
    ...[...policy.minVersions].map(([name, version]): Fact => ['lowest version', name, version]),
  ];
}

function factsOf(policy: TrustPolicy): Fact[] {
  return [
    ['threshold', String(policy.threshold)],
    ...policy.signers.map((s): Fact => ['signer', signerText(s), windowOf(s)]),
    ...rulesOf(policy),
  ];
}

export interface Change {
  change: 'added' | 'removed';
  what: string;
  value: string;
}

/** How two policies differ: what only the old one says, and what only the new one says, side by side. */
export function differenceOf(old: TrustPolicy, policy: TrustPolicy): Change[] {
  const [before, after] = [factsOf(old), factsOf(policy)];
  const without = (facts: Fact[], others: Fact[]): Fact[] => {
    const known = new Set(others.map((fact) => JSON.stringify(fact)));
    return facts.filter((fact) => !known.has(JSON.stringify(fact)));
  };
  const change =
    (how: Change['change']) =>
    ([what, ...values]: Fact): Change => ({ change: how, what, value: values.join('  ') });
  return [
    ...without(before, after).map(change('removed')),
    ...without(after, before).map(change('added')),
  ].toSorted((a, b) => (a.what < b.what ? -1 : a.what > b.what ? 1 : 0));
}
