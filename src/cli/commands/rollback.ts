// SPDX-License-Identifier: Apache-2.0
import { planRollback } from '../../install/rollback.ts';
import { command } from '../command.ts';
import { demandConsent, demandSomebody } from '../consent.ts';
import { adoptedPolicy } from '../files.ts';
import { HOST_OPTIONS, hostFlags, hostPaths, YES_OPTION, type HostFlags } from '../host-options.ts';
import { styled, table } from '../output.ts';
import { reasonOf } from '../reason.ts';

interface RollbackOptions {
  host: HostFlags;
  release: string | undefined;
  reason: string;
  yes: boolean;
}

export const rollback = command<RollbackOptions>({
  name: 'rollback',
  summary: 'Go back to a release that was installed before, without its medium',
  about: [
    'Starts the older release in place of the one that runs, waits until it is healthy and asks it a real question; when that fails, what ran before is started again. The older one must still be here whole, and the trust policy of today must still accept it: what was revoked since does not come back.',
    'Why is written into its receipt. From then on the older version is what later ones are compared with.',
  ],
  options: [
    { flags: '--reason <WHY>', about: 'why; goes into the receipt' },
    { flags: '--release <NAME>', about: 'the release to go back to (default: the one before the current)' },
    YES_OPTION,
    ...HOST_OPTIONS,
  ],
  examples: [['sealift rollback --reason "1.4.0 answers wrongly, ticket 311"', 'shows the plan and asks']],
  exits: [10, 11, 14, 20, 21, 22],
  parse: (given) => ({
    host: hostFlags(given),
    release: given.text('release'),
    reason: reasonOf(given.need('reason', '--reason'), '--reason'),
    yes: given.is('yes'),
  }),
  run: async ({ host, release, reason, yes }, io) => {
    demandSomebody(yes, io, 'rollback');
    const paths = hostPaths(host, io.env);
    const { policy, time } = await adoptedPolicy(paths.home, io);
    const plan = await planRollback({
      ...paths,
      now: io.now,
      emit: io.emit,
      policy,
      judged: time.judged,
      reason,
      ...(release === undefined ? {} : { release }),
    });
    const rows = [
      ['replaces', plan.replaces ?? 'nothing'],
      ['reason', reason],
      ...plan.steps.map((step) => ['to do', step]),
    ];
    for (const line of [[styled('bold', `back to ${plan.release}`)], ...table(rows, '  ')]) io.out.note(line);
    await demandConsent(yes, io, `go back to ${plan.release}?`);
    const receipt = await plan.apply({ emit: io.emit, signal: io.signal });
    return {
      schema: 'sealift/rollback/v1',
      data: { release: plan.release, replaced: plan.replaces, receipt },
      text: [[styled('green', 'went back'), `  to ${plan.release}  ${receipt.bundle.digest}`]],
    };
  },
});
