// SPDX-License-Identifier: Apache-2.0
/**
 * Carries out a list of steps. The process may be killed at any moment: the journal is ahead of the host, every step is
 * checked before it is applied, and the same command goes on where it was. When a step fails, everything that
 * this job placed is taken back, also what an earlier, killed run of it placed. An interruption takes nothing
 * back, and neither does a fault of medium or disk while content is still being copied.
 */
import { asSealiftError, outcomeOf, SealiftError, type ErrorCode } from '../errors.ts';
import type { Emit } from '../events.ts';
import { inParallel } from '../store/pool.ts';
import type { Journal } from './journal.ts';
import type { Outcomes } from './outcome.ts';
import { readReceipt, readReceipts, type Receipt } from './receipt.ts';
import { dropCopy } from './release-folder.ts';
import type { Progress, Step, World } from './step.ts';
import type { Changes } from './steps/finish.ts';
import { rollBack } from './undo.ts';

export interface ApplyOptions {
  emit: Emit;
  signal?: AbortSignal;
}

export interface Job {
  /** What is being done, for messages: `installing`. */
  what: string;
  /** The release that is current when all is done. */
  release: string;
  world: World;
  steps: readonly Step[];
  changes: Changes;
  outcomes: Outcomes;
  /** Bytes to move. */
  totalBytes: number;
  /** Whether images and files can be brought at the same time: no medium has to be asked for. */
  atHand: boolean;
  /** Done when all steps are, and taken back with them when it fails. */
  settle?: () => Promise<void>;
}

/**
 * @returns the receipt that the last step wrote
 * @throws {SealiftError} what a step throws, after everything was taken back; ROLLBACK_INCOMPLETE when that failed
 */
export async function carryOut(job: Job, journal: Journal, options: ApplyOptions): Promise<Receipt> {
  const { world, outcomes, changes, what, release } = job;
  outcomes.brought = await broughtBefore(job);
  outcomes.list = [];
  changes.changed = false;
  options.emit({ type: 'stage', name: what, totalBytes: job.totalBytes });
  try {
    const content = job.steps.filter(isContent);
    await bringContent(content, job, journal, options);
    for (const step of job.steps) if (!isContent(step)) await carryOutStep(step, job, journal, options);
    await job.settle?.();
  } catch (thrown) {
    const error = asJobError(thrown, job, options.signal);
    if (error.code === 'INTERRUPTED') throw error;
    if (canGoOn(error, journal)) throw toGoOn(error);
    const begun = journal.state.entries.length > 0;
    await rollBack(journal, world, error);
    throw begun ? takenBack(error) : error;
  }
  await journal.remove();
  await dropCopy(world.home, release);
  return (await readReceipt(world.home, release))!;
}

/** Faults of a medium or a disk: what was copied has been verified, and copying it again may take hours. */
const FAULTS_OF_DISKS: ReadonlySet<ErrorCode> = new Set(['IO_ERROR', 'DISK_FULL', 'BUNDLE_INCOMPLETE']);

/** Content that is not what was signed must not be passed over because a disk was full as well. */
const isTampering = (error: unknown): boolean =>
  error instanceof SealiftError && ['CONTENT_MISMATCH', 'IMAGE_NOT_PROVED'].includes(error.code);

/** Whether an error may stop the install as an interruption does: so far there is content alone, and nothing runs from it. */
const canGoOn = ({ code }: SealiftError, { state }: Journal): boolean =>
  FAULTS_OF_DISKS.has(code) && state.entries.every(isContent);

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

/** Whether it brings content from which nothing runs yet. Such steps come first, and need nothing of one another. */
const isContent = ({ record }: Pick<Step, 'record'>): boolean =>
  record.kind === 'folder' || record.kind === 'image';

/** While the engine unpacks one image after the other, files are placed. */
async function bringContent(
  steps: readonly Step[],
  job: Job,
  journal: Journal,
  options: ApplyOptions,
): Promise<void> {
  const images = steps.filter(({ record }) => record.kind === 'image');
  const files = steps.filter(({ record }) => record.kind === 'folder');
  const errors: unknown[] = [];
  const bring = async (lane: readonly Step[], signal: AbortSignal): Promise<void> => {
    try {
      for (const step of lane) await carryOutStep(step, job, journal, { ...options, signal });
    } catch (error) {
      errors.push(error);
      throw error;
    }
  };
  await inParallel(job.atHand ? [images, files] : [steps], options.signal, bring).catch((first: unknown) => {
    throw errors.find(isTampering) ?? first;
  });
  // A receipt does not tell which was quicker.
  job.outcomes.list.sort((a, b) => steps.indexOf(a.step) - steps.indexOf(b.step));
}

async function carryOutStep(
  step: Step,
  { steps, outcomes, changes }: Job,
  journal: Journal,
  options: ApplyOptions,
): Promise<void> {
  if (options.signal?.aborted) throw new SealiftError('INTERRUPTED', 'interrupted between two steps');
  if (step.passive) {
    // Noted even when nothing changes before it: the first record after a kill is the one that counts.
    if (await anyNeeded(steps, step)) await journal.begin(step.id, step.record);
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
    options.emit({ type: 'item-end', id: step.id, outcome: outcomeOf(error) });
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

function asJobError(thrown: unknown, { what, release }: Job, signal: AbortSignal | undefined): SealiftError {
  if (!(thrown instanceof SealiftError) && signal?.aborted && thrown === signal.reason)
    return new SealiftError('INTERRUPTED', `${what} ${release}: interrupted`, { cause: thrown });
  return asSealiftError(thrown, `${what} ${release}`);
}

/** What this home placed in earlier installs, and so may remove one day. */
async function broughtBefore({ world: { home }, release }: Job): Promise<Set<string>> {
  const receipts = [...(await readReceipts(home)), await readReceipt(home, `.${release}.previous`)];
  return new Set(
    receipts
      .flatMap((receipt) => receipt?.steps ?? [])
      .filter((s) => s.brought)
      .map((s) => s.id),
  );
}
