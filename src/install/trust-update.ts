// SPDX-License-Identifier: Apache-2.0
/**
 * Puts a new trust policy in place, which trust/rotate.ts has accepted. trust.yaml and trust-state.json cannot be
 * replaced in one moment, so the state first says that the new policy may stand there too, then the policy is
 * replaced, then the state says that it is the one. Killed before the second write the host goes by the old
 * policy, killed after it by the new one, and at no moment by a pair that it would refuse. The other order, policy
 * first, would for a moment look like a policy that somebody swapped.
 */
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { writeFileDurably } from '../store/files.ts';
import type { TrustPolicy } from '../trust/policy.ts';
import type { PolicySignature, Rotation } from '../trust/rotate.ts';
import { latestOf, policyId, type TrustState } from '../trust/state.ts';
import type { Home } from './home.ts';
import { demandStanding, keepPolicy, readTrustState, rememberTrust, writeTrustState } from './trust-state.ts';

export interface PolicyUpdate {
  /** The policy that was shown as the one to replace. */
  old: TrustPolicy;
  rotation: Rotation;
  newBytes: Uint8Array;
  signatures: readonly PolicySignature[];
  clock: Date;
}

/**
 * Keeps the old policy and the signatures as evidence, and replaces the policy.
 * @throws {SealiftError} LOCKED; HOST_CHANGED, POLICY_CHANGED when another policy stands there by now
 */
export async function replacePolicy(home: Home, update: PolicyUpdate): Promise<void> {
  const { old, rotation } = update;
  const unlock = await home.lock('trust update');
  try {
    await demandStanding(home, old);
    const latestTime = await timeAfter(home, update);
    const policy = policyId(rotation.policy);
    await keepEvidence(home, update);
    const between: TrustState = { policy: policyId(old), next: policy, latestTime };
    await writeTrustState(home, between);
    await writeFileDurably(home.trustFile, update.newBytes);
    await writeTrustState(home, { policy, latestTime });
  } finally {
    await unlock();
  }
}

/** Finishes an update whose last write is missing: the new policy stands there, and the state still names both. */
export async function settlePolicy(home: Home, policy: TrustPolicy): Promise<void> {
  const unlock = await home.lock('trust update');
  try {
    await demandStanding(home, policy);
    await rememberTrust(home, policy, []);
  } finally {
    await unlock();
  }
}

async function timeAfter(home: Home, { rotation, clock }: PolicyUpdate): Promise<Date> {
  const signed = [...rotation.byOld.accepted, ...rotation.byNew.accepted].map(({ signedAt }) => signedAt);
  return latestOf((await readTrustState(home))?.latestTime, clock, ...signed)!;
}

/** `1.yaml`, then `2.yaml` with `2.0.sigstore.json`, …: the chain from the first policy on, for an auditor. */
async function keepEvidence(home: Home, update: PolicyUpdate): Promise<void> {
  const { old, rotation, newBytes, signatures } = update;
  const { version } = rotation.policy;
  const file = (name: string): string => join(home.trustFolder, name);
  await keepPolicy(home, old.version, await readFile(home.trustFile));
  // An update to another policy of the same number may have been killed, and left more signatures than come now.
  const stale = new RegExp(`^${version}\\.\\d+\\.sigstore\\.json$`);
  for (const name of await readdir(home.trustFolder))
    if (stale.test(name)) await rm(file(name), { force: true });
  await keepPolicy(home, version, newBytes);
  for (const [i, { json }] of signatures.entries())
    await writeFileDurably(file(`${version}.${i}.sigstore.json`), `${json.trim()}\n`);
}
