// SPDX-License-Identifier: Apache-2.0
import { openBundle, type VerifiedBundle } from '../../bundle/open.ts';
import type { SealiftEvent } from '../../events.ts';
import { command, type Result } from '../command.ts';
import { contentLines } from '../contents.ts';
import { homeFolder, type Io } from '../context.ts';
import { checkLine } from '../evidence.ts';
import { Home } from '../../install/home.ts';
import { hostTime } from '../../trust/state.ts';
import { adoptedPolicy, findBundle, readPolicy, type HomePolicy } from '../files.ts';
import { count } from '../format.ts';
import { formatBytes } from '../../text.ts';
import { styled, table, type Line } from '../output.ts';

interface VerifyOptions {
  bundle: string;
  policy: string | undefined;
  home: string | undefined;
}

type Check = Extract<SealiftEvent, { type: 'check' }>;

export const verify = command<VerifyOptions>({
  name: 'verify',
  summary: "Check a bundle's signatures and every byte of it against a trust policy",
  about: [
    'Checks, in this order: signatures and threshold, policy (revoked, expired, too old), the form of the archive, and then the content, every byte of it. It ends with 0 only when all of that held.',
    'Who may sign comes from the trust policy alone, never from the bundle. To look into a bundle that nobody has vouched for, use `sealift inspect`.',
    "With the policy of a home, validity is judged by the host's time (the later of its clock and the latest time it has seen), and a trust.yaml that the host has not adopted is refused. With --policy, which needs no home, by that file and the clock alone.",
  ],
  positional: { name: 'BUNDLE', about: 'the bundle, or the folder that holds it', required: true },
  options: [
    { flags: '--policy <FILE>', about: 'the trust policy (default: trust.yaml in the home)' },
    { flags: '--home <DIR>', about: 'the home whose trust.yaml is used (default: /var/lib/sealift)' },
  ],
  examples: [
    ['sealift verify /media/usb', 'the one bundle of a medium, against the policy of this host'],
    ['sealift verify demo.sealift.tar --policy trust.yaml --json', 'for another program'],
  ],
  exits: [10, 11, 12, 13, 14],
  parse: (given) => ({ bundle: given.positional!, policy: given.text('policy'), home: given.text('home') }),
  run: runVerify,
});

/** A policy that is named stands for itself: no host has adopted it, so the time is that of the clock alone. */
async function policyFor(
  { policy, home }: VerifyOptions,
  io: Io,
): Promise<Pick<HomePolicy, 'policy' | 'time'>> {
  if (policy !== undefined) return { policy: await readPolicy(policy), time: hostTime(io.now(), undefined) };
  return adoptedPolicy(new Home(homeFolder(home, io.env)), io);
}

async function runVerify(options: VerifyOptions, io: Io): Promise<Result> {
  const { policy, time } = await policyFor(options, io);
  const path = await findBundle(options.bundle);
  const checks: Check[] = [];
  const emit = (event: SealiftEvent): void => {
    if (event.type === 'check') checks.push(event);
    else io.emit(event);
  };
  try {
    const bundle = await openBundle(path, { policy, now: time.judged, emit });
    try {
      const content = await bundle.verifyContent({ emit, signal: io.signal });
      const detail = `${count(content.blobs, 'blob')}, ${formatBytes(content.bytes)}, every byte as signed`;
      checks.push({ type: 'check', name: 'content', outcome: 'ok', detail });
      return verified(bundle, checks);
    } finally {
      await bundle.close();
    }
  } catch (error) {
    // The error says what failed; this says what had held before.
    for (const check of checks) io.out.note(checkLine(check.outcome, check.name, check.detail));
    throw error;
  }
}

function verified(bundle: VerifiedBundle, checks: readonly Check[]): Result {
  const { inventory, verdict, digest, size } = bundle;
  return {
    schema: 'sealift/verify/v1',
    data: {
      verified: true,
      bundle: { path: bundle.path, name: inventory.name, version: inventory.version, digest, size },
      checks: checks.map(({ name, outcome, detail }) => ({ name, outcome, detail })),
      signatures: verdict,
      inventory,
    },
    text: [
      ...checks.map((check) => checkLine(check.outcome, check.name, check.detail)),
      '',
      ...signatureLines(bundle),
      '',
      ...contentLines(bundle.inventory),
      '',
      [styled('green', 'OK'), `  ${inventory.name} ${inventory.version}  ${digest}  ${formatBytes(size)}`],
    ],
  };
}

function signatureLines({ verdict }: VerifiedBundle): Line[] {
  const accepted = verdict.accepted.map((s) => ['signed by', s.signer, s.fingerprint, `slot ${s.slot}`]);
  const rejected = verdict.rejected.map((s) => ['not counted', s.reason, s.detail, `slot ${s.slot}`]);
  return table([...accepted, ...rejected]);
}
