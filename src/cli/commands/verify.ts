// SPDX-License-Identifier: Apache-2.0
import { CHECKS } from '../../bundle/judge.ts';
import { openBundle, type OpenOptions, type VerifiedBundle } from '../../bundle/open.ts';
import type { SealiftError } from '../../errors.ts';
import type { SealiftEvent } from '../../events.ts';
import { command, type Result } from '../command.ts';
import { contentLines } from '../contents.ts';
import { homeFolder, type Io } from '../context.ts';
import { checkLine, type Check } from '../evidence.ts';
import { Home } from '../../install/home.ts';
import { hostTime, policyId } from '../../trust/state.ts';
import { adoptedPolicy, findBundle, readPolicy, type HomePolicy } from '../files.ts';
import { formatBytes } from '../../text.ts';
import { styled, type Line } from '../output.ts';
import { mediaOf, VOLUMES_OPTION, withVolumes } from '../volumes.ts';

interface VerifyOptions {
  bundle: string;
  policy: string | undefined;
  home: string | undefined;
  volumes: readonly string[];
}

export const verify = command<VerifyOptions>({
  name: 'verify',
  summary: "Check a bundle's signatures and every byte of it against a trust policy",
  about: [
    'Checks, in this order: signatures and threshold, policy (revoked, expired, too old, not for this host), the form of the archive, and then the content, every byte of it. Each check is printed with its outcome, also when one fails. It ends with 0 only when all of them held.',
    'Who may sign comes from the trust policy alone, never from the bundle. To look into a bundle that nobody has vouched for, use `sealift inspect`.',
    "With the policy of a home, validity is judged by the host's time (the later of its clock and the latest time it has seen), a trust.yaml that the host has not adopted is refused, and so is an older version than the host has installed, as by `sealift install`. With --policy, which needs no home, by that file and the clock alone.",
    'Of a bundle in volumes name the first one, or the folder. They are read where they are; --volumes names further folders, and on a terminal a medium that is not there is asked for. When something is wrong, every volume is held against NAME.volumes, and all that are damaged or missing are named.',
  ],
  positional: { name: 'BUNDLE', about: 'the bundle, or the folder that holds it', required: true },
  options: [
    { flags: '--policy <FILE>', about: 'the trust policy (default: trust.yaml in the home)' },
    { flags: '--home <DIR>', about: 'the home whose trust.yaml is used (default: /var/lib/sealift)' },
    VOLUMES_OPTION,
  ],
  examples: [
    ['sealift verify /media/usb', 'the one bundle of a medium, against the policy of this host'],
    ['sealift verify demo.sealift.tar --policy trust.yaml --json', 'for another program'],
  ],
  exits: [10, 11, 12, 13, 14],
  parse: (given) => ({
    bundle: given.positional!,
    policy: given.text('policy'),
    home: given.text('home'),
    volumes: given.list('volumes'),
  }),
  run: runVerify,
});

/** By what a bundle is judged. */
type Measure = Pick<HomePolicy, 'policy' | 'time'> & Pick<OpenOptions, 'installed'>;

/** A policy that is named stands for itself: no host has adopted it, so there is no memory, of time or of versions. */
async function measureFor({ policy, home: folder }: VerifyOptions, io: Io): Promise<Measure> {
  if (policy !== undefined) return { policy: await readPolicy(policy), time: hostTime(io.now(), undefined) };
  const home = new Home(homeFolder(folder, io.env));
  const adopted = await adoptedPolicy(home, io);
  const installed = await home.installed();
  return { ...adopted, installed: (name) => installed.get(name) };
}

async function runVerify(options: VerifyOptions, io: Io): Promise<Result> {
  const measure = await measureFor(options, io);
  const { policy, time, installed } = measure;
  const path = await findBundle(options.bundle);
  const checks: Check[] = [];
  const emit = (event: SealiftEvent): void => {
    if (event.type === 'check') checks.push(event);
    else io.emit(event);
  };
  let bundle: VerifiedBundle | undefined;
  try {
    bundle = await openBundle(path, {
      policy,
      now: time.judged,
      emit,
      media: mediaOf(options.volumes, io),
      ...(installed && { installed }),
    });
    await bundle.verifyContent({ emit, signal: io.signal });
    return verified(bundle, checks, measure);
  } catch (thrown) {
    // Only what was judged is evidence; a defect or an interruption is no verdict.
    const error = await withVolumes(thrown, path, options.volumes, io);
    if (!checks.some(({ outcome }) => outcome === 'failed')) throw error;
    return refused(path, checks, error, measure);
  } finally {
    await bundle?.close();
  }
}

/** The whole list of checks, whatever became of them. */
const checkLines = (checks: readonly Check[]): Line[] =>
  checks.map((check) => checkLine(check.outcome, check.name, check.detail));

const checkData = (checks: readonly Check[]): object[] =>
  checks.map(({ name, outcome, detail }) => ({ name, outcome, detail }));

/** By which policy and at what time it was judged: without them a verdict is no evidence. */
const measureData = ({ policy, time }: Measure): object => ({ policy: policyId(policy), time });

function verified(bundle: VerifiedBundle, checks: readonly Check[], measure: Measure): Result {
  const { inventory, verdict, digest, size, path } = bundle;
  const { name, version, channel } = inventory;
  return {
    schema: 'sealift/verify/v1',
    data: {
      verified: true,
      bundle: { path, name, version, channel, digest, size },
      ...measureData(measure),
      checks: checkData(checks),
      signatures: verdict,
      inventory,
    },
    text: [
      ...checkLines(checks),
      '',
      ...contentLines(inventory),
      '',
      [styled('green', 'OK'), `  ${name} ${version}  ${digest}  ${formatBytes(size)}`],
    ],
  };
}

function refused(path: string, made: readonly Check[], problem: SealiftError, measure: Measure): Result {
  const left = CHECKS.filter((name) => made.every((check) => check.name !== name));
  const skipped = left.map((name): Check => ({
    type: 'check',
    name,
    outcome: 'skipped',
    detail: 'not reached',
  }));
  const checks = [...made, ...skipped];
  return {
    schema: 'sealift/verify/v1',
    data: { verified: false, bundle: { path }, ...measureData(measure), checks: checkData(checks) },
    text: [...checkLines(checks), '', [styled('red', 'REFUSED'), `  ${path}`]],
    problem,
  };
}
