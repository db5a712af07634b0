// SPDX-License-Identifier: Apache-2.0
/** Carries out the plan of an install, if the host still is what the plan was made for. */
import { SealiftError } from '../errors.ts';
import { carryOut, type ApplyOptions } from './carry-out.ts';
import { Journal, readJournal } from './journal.ts';
import { recheckVersion } from './override.ts';
import type { Plan } from './plan.ts';
import { checkRelease, vouchedTimes } from './preflight.ts';
import type { Receipt } from './receipt.ts';
import { dropCopy } from './release-folder.ts';
import { demandStanding, rememberTrust } from './trust-state.ts';
import { rollBack } from './undo.ts';

/**
 * @throws {SealiftError} what a step throws, after everything was taken back (CONTENT_MISMATCH, IMAGE_LOAD_FAILED,
 *   IMAGE_NOT_PROVED, SERVICE_UNHEALTHY, SMOKE_TEST_FAILED, ENGINE_FAILED, TAG_CONFLICT, DISK_FULL, IO_ERROR);
 *   ROLLBACK_INCOMPLETE when that failed; INTERRUPTED, LOCKED; HOST_CHANGED, POLICY_CHANGED, VERSION_REFUSED, RELEASE_CONFLICT before
 *   anything is changed; DISK_FULL, IO_ERROR and BUNDLE_INCOMPLETE with all content kept, while nothing else was begun
 */
export async function applyPlan(plan: Plan, options: ApplyOptions): Promise<Receipt> {
  const { home } = plan.work.world;
  plan.work.world.emit = options.emit;
  const unlock = await home.lock('install');
  try {
    // Before an unfinished install is taken back: under another policy that was not agreed to either.
    await demandStanding(home, plan.bundle.policy);
    await home.prepare();
    await plan.work.world.engine.sweepProbes();
    const journal = await openJournal(plan);
    const { work, release, totalBytes, bundle } = await planAgain(plan);
    const settle = (): Promise<void> => rememberTrust(home, bundle.policy, seenBy(bundle, work));
    const atHand = await bundle.isAtHand();
    const job = { ...work, what: 'installing', release, totalBytes, settle, atHand };
    return await carryOut(job, journal, options);
  } finally {
    await unlock();
  }
}

/**
 * The plan from what the host is under the lock. Between the first one and now there was a question to a person, and
 * others may have installed: an older version must not come in, nothing be done that was not shown, and what to
 * return to must be what is there now.
 */
async function planAgain(plan: Plan): Promise<Plan> {
  const { bundle, work } = plan;
  const { home } = work.world;
  await checkRelease(home, bundle.inventory);
  recheckVersion(bundle, (await home.installed()).get(bundle.inventory.name), plan.override);
  const again = await work.remake();
  const shown = new Set(plan.steps.filter((step) => step.state === 'needed').map(({ id }) => id));
  const unseen = again.steps.find((step) => step.state === 'needed' && !shown.has(step.id));
  if (again.replaces !== plan.replaces)
    throw hostChanged(`${again.replaces ?? 'nothing'} would be replaced, not ${plan.replaces ?? 'nothing'}`);
  // Taking an unfinished install back, which the plan did say, also takes what the two bundles share.
  if (unseen !== undefined && work.unfinished === undefined)
    throw hostChanged(`to do now: ${unseen.describe}`);
  return again;
}

const hostChanged = (how: string): SealiftError =>
  new SealiftError('HOST_CHANGED', `the host changed since the plan was made: ${how}`, {
    hint: 'run the same command again, and look at the new plan',
  });

/** The journal of this bundle. One that another bundle left unfinished is taken back first, if the plan said so. */
async function openJournal({ bundle, release, work }: Plan): Promise<Journal> {
  const { home } = work.world;
  const left = await readJournal(home);
  if (left?.bundle === bundle.digest) return new Journal(home, left);
  if (left !== undefined) {
    if (left.bundle !== work.unfinished) throw hostChanged(`an install of ${left.release} was begun`);
    work.world.emit({
      type: 'warning',
      code: 'UNFINISHED',
      message: `an install of ${left.release} was not finished, and is taken back`,
    });
    await rollBack(new Journal(home, left), work.world, undefined);
  }
  await dropCopy(home, release); // left by a kill right after a success: nothing to return to
  return Journal.fresh(home, bundle.digest, release, work.now());
}

/** Moments that have passed, now that this bundle has been verified. */
const seenBy = (bundle: Plan['bundle'], { now }: Plan['work']): Date[] => [
  now(),
  bundle.judgedAt,
  ...vouchedTimes(bundle),
];
