// SPDX-License-Identifier: Apache-2.0
/** The file of trust/state.ts in the home: who may raise what it says, and when. */
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SealiftError } from '../errors.ts';
import { digestOf } from '../store/digest.ts';
import { writeFileDurably } from '../store/files.ts';
import type { TrustPolicy } from '../trust/policy.ts';
import {
  demandAdopted,
  latestOf,
  parseTrustState,
  policyId,
  trustStateBytes,
  type TrustState,
} from '../trust/state.ts';
import { absent, readMemory, type Home } from './home.ts';

/** @returns undefined before the first install. @throws {SealiftError} IO_ERROR when the file is damaged */
export async function readTrustState(home: Home): Promise<TrustState | undefined> {
  const bytes = await readMemory(home.trustStateFile);
  return bytes && parseTrustState(bytes, home.trustStateFile);
}

/** For the holder of the home's lock. */
export async function writeTrustState(home: Home, state: TrustState): Promise<void> {
  await writeFileDurably(home.trustStateFile, trustStateBytes(state));
}

/**
 * Adopts a policy on its first use, and raises the latest time seen; to be called when everything that a bundle
 * holds has been verified under that policy. What a killed `trust update` had begun is settled by it: the policy
 * in use is the one that stands. For the holder of the home's lock.
 * @param seen moments that have passed; the latest of them counts
 */
export async function rememberTrust(home: Home, policy: TrustPolicy, seen: readonly Date[]): Promise<void> {
  const before = await readTrustState(home);
  const latestTime = latestOf(before?.latestTime, ...seen);
  if (latestTime === undefined) throw new SealiftError('UNEXPECTED', 'the clock gives no date');
  const after: TrustState = { policy: policyId(policy), latestTime };
  if (before === undefined) await keepPolicy(home, policy.version, await readFile(home.trustFile));
  else if (trustStateBytes(before).equals(trustStateBytes(after))) return;
  await writeTrustState(home, after);
}

/** Keeps a policy under its number: to put back when trust.yaml was overwritten, and for auditors. */
export async function keepPolicy(home: Home, version: number, bytes: Uint8Array): Promise<void> {
  await mkdir(home.trustFolder, { recursive: true, mode: 0o755 });
  await writeFileDurably(join(home.trustFolder, `${version}.yaml`), bytes);
}

/**
 * Demands that `policy` still is the one that stands in the home and may stand there: since it was read, a person
 * was asked, and a policy that revokes something may have been adopted. For the holder of the home's lock.
 * @throws {SealiftError} HOST_CHANGED, POLICY_CHANGED
 */
export async function demandStanding(home: Home, policy: TrustPolicy): Promise<void> {
  const bytes = await readFile(home.trustFile).catch(absent);
  if (bytes === undefined || digestOf(bytes) !== policy.fingerprint) {
    throw new SealiftError('HOST_CHANGED', 'the trust policy of this host was replaced since it was read', {
      hint: 'run the same command again: everything is then judged by the new policy',
    });
  }
  demandAdopted(policy, await readTrustState(home), home.trustFile);
}
