// SPDX-License-Identifier: Apache-2.0
/**
 * Carries out a plan. The process may be killed at any moment: the journal is ahead of the host, every step is
 * checked before it is applied, and the same command goes on where it was. When a step fails, everything that
 * this bundle placed is taken back, also what an earlier, killed run of it placed. An interruption takes nothing
 * back, and neither does a fault of medium or disk while content is still being copied.
 */
import { asSealiftError, SealiftError, type ErrorCode } from '../errors.ts';
import type { Emit } from '../events.ts';
import { Journal, readJournal } from './journal.ts';
import { recheckVersion } from './override.ts';
import type { Plan } from './plan.ts';
import { checkRelease, vouchedTimes } from './preflight.ts';
import { readReceipt, readReceipts, type Receipt } from './receipt.ts';
import { dropCopy } from './release-folder.ts';
import type { Progress, Step } from './step.ts';
import { demandStanding, rememberTrust } from './trust-state.ts';
import { rollBack } from './undo.ts';

export interface ApplyOptions {
  emit: Emit;
  signal?: AbortSignal;
}

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
    return await carryOut(await planAgain(plan), journal, options);
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

async function carryOut(plan: Plan, journal: Journal, options: ApplyOptions): Promise<Receipt> {
  const { world } = plan.work;
  plan.work.outcomes.brought = await broughtBefore(plan);
  plan.work.outcomes.list = [];
  plan.work.changes.changed = false;
  options.emit({ type: 'stage', name: 'installing', totalBytes: plan.totalBytes });
  try {
    for (const step of plan.work.steps) await carryOutStep(step, plan, journal, options);
    await rememberTrust(world.home, plan.bundle.policy, seenBy(plan));
  } catch (thrown) {
    const error = asInstallError(thrown, plan.release, options.signal);
    if (error.code === 'INTERRUPTED') throw error;
    if (canGoOn(error, journal)) throw toGoOn(error);
    const begun = journal.state.entries.length > 0;
    await rollBack(journal, world, error);
    throw begun ? takenBack(error) : error;
  }
  await journal.remove();
  await dropCopy(world.home, plan.release);
  return (await readReceipt(world.home, plan.release))!;
}

/** Moments that have passed, now that this bundle has been verified. */
const seenBy = ({ bundle, work }: Plan): Date[] => [work.now(), bundle.judgedAt, ...vouchedTimes(bundle)];

/** Faults of a medium or a disk: what was copied has been verified, and copying it again may take hours. */
const FAULTS_OF_DISKS: ReadonlySet<ErrorCode> = new Set(['IO_ERROR', 'DISK_FULL', 'BUNDLE_INCOMPLETE']);

/** Whether an error may stop the install as an interruption does: so far there is content alone, and nothing runs from it. */
const canGoOn = ({ code }: SealiftError, { state }: Journal): boolean =>
  FAULTS_OF_DISKS.has(code) &&
  state.entries.every(({ record }) => record.kind === 'folder' || record.kind === 'image');

const toGoOn = (error: SealiftError): SealiftError =>
  new SealiftError(error.code, error.message, {
    details: [...error.details, ['kept', 'what was verified so far; nothing was started']],
    hint: `${error.hint === undefined ? '' : `${error.hint}; `}run the same command again to go on, or \`sealift uninstall\` takes back what was placed`,
    cause: error,
  });

const takenBack = (error: SealiftError): SealiftError =>
  new SealiftError(error.code, `${error.message}; everything was taken back`, {
    details: error.details,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    cause: error,
  });

async function carryOutStep(
  step: Step,
  { work }: Plan,
  journal: Journal,
  options: ApplyOptions,
): Promise<void> {
  const { outcomes, changes } = work;
  if (options.signal?.aborted) throw new SealiftError('INTERRUPTED', 'interrupted between two steps');
  if (step.passive) {
    // Noted even when nothing changes before it: the first record after a kill is the one that counts.
    if (await anyNeeded(work.steps, step)) await journal.begin(step.id, step.record);
    return;
  }
  const item = { id: step.id, kind: step.kind, label: step.describe(), bytes: step.bytes };
  options.emit({ type: 'item-start', ...item });
  if ((await step.check()) === 'done') {
    outcomes.list.push({ step, outcome: 'kept' });
    if (journal.has(step.id)) outcomes.brought.add(step.id);
    options.emit({ type: 'item-end', id: step.id, outcome: 'cached' });
    return;
  }
  changes.changed = true;
  await journal.begin(step.id, step.record);
  // Before it is applied, because the last step writes all of these into the receipt, its own line too.
  outcomes.list.push({ step, outcome: 'done' });
  outcomes.brought.add(step.id);
  const progress: Progress = (delta) => options.emit({ type: 'item-progress', id: step.id, delta });
  try {
    await step.apply(progress, options.signal);
  } catch (error) {
    options.emit({ type: 'item-end', id: step.id, outcome: 'failed' });
    throw error;
  }
  await journal.finish(step.id);
  options.emit({ type: 'item-end', id: step.id, outcome: 'done' });
}

/** Whether one of the steps after `step` would do something. */
async function anyNeeded(steps: readonly Step[], step: Step): Promise<boolean> {
  for (const later of steps.slice(steps.indexOf(step) + 1))
    if ((await later.check()) === 'needed') return true;
  return false;
}

/** What this home placed in earlier installs, and so may remove one day. */
async function broughtBefore({ work, release }: Plan): Promise<Set<string>> {
  const { home } = work.world;
  const receipts = [...(await readReceipts(home)), await readReceipt(home, `.${release}.previous`)];
  return new Set(
    receipts
      .flatMap((receipt) => receipt?.steps ?? [])
      .filter((s) => s.brought)
      .map((s) => s.id),
  );
}

function asInstallError(thrown: unknown, release: string, signal: AbortSignal | undefined): SealiftError {
  if (!(thrown instanceof SealiftError) && signal?.aborted && thrown === signal.reason)
    return new SealiftError('INTERRUPTED', `installing ${release}: interrupted`, { cause: thrown });
  return asSealiftError(thrown, `installing ${release}`);
}
