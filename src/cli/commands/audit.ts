// SPDX-License-Identifier: Apache-2.0
import { audit as auditHost, type AuditReport } from '../../install/audit.ts';
import { formatBytes } from '../../text.ts';
import { command } from '../command.ts';
import { adoptedPolicy } from '../files.ts';
import { count } from '../format.ts';
import { HOST_OPTIONS, hostFlags, hostPaths, type HostFlags } from '../host-options.ts';
import { styled, table, type Line } from '../output.ts';

/** Exit status when something differs, see EXIT_CODES. */
const DRIFT = 30;

export const audit = command<{ host: HostFlags; release: string | undefined }>({
  name: 'audit',
  summary: 'Hold everything on this host against what was signed, byte for byte',
  about: [
    'Hashes every file that was placed, and holds against the receipts: the signatures, by the policy of today; images and their layers; containers with their arguments, variables, mounts, networks and rights; compose.yaml, nginx.conf and the other rendered files; and names what nobody placed. It reads as much as verify does, and takes as long.',
    'Ends with 30 when anything differs. Changes nothing: the same install, run again from its medium, repairs what was placed, and `sealift reload` what the gateway reads.',
  ],
  options: [
    { flags: '--release <NAME>', about: 'only this release (default: all that are installed)' },
    ...HOST_OPTIONS,
  ],
  examples: [
    ['sealift audit', 'everything, for a person'],
    ['sealift audit --json', 'for another program, or for the files of the auditors'],
  ],
  exits: [14, 20, 30],
  parse: (given) => ({ host: hostFlags(given), release: given.text('release') }),
  run: async ({ host, release }, io) => {
    const { home, socket } = hostPaths(host, io.env);
    const { policy, time } = await adoptedPolicy(home, io);
    const { schema, ...report } = await auditHost({
      home,
      socket,
      policy,
      now: time.judged,
      ...(release === undefined ? {} : { release }),
      emit: io.emit,
      signal: io.signal,
    });
    const exit = report.findings.length > 0 ? { exit: DRIFT } : {};
    return { schema, data: report, text: render(report), ...exit };
  },
});

function render({
  releases,
  files,
  bytes,
  images,
  containers,
  findings,
}: Omit<AuditReport, 'schema'>): Line[] {
  return [
    ...table(releases.map(({ release, bundle }) => ['release', release, bundle])),
    `checked  ${count(files, 'file')}, ${formatBytes(bytes)} hashed; ${count(images, 'image')}, ${count(containers, 'container')}`,
    '',
    ...(findings.length === 0
      ? [[styled('green', 'OK'), '  everything is as it was signed and proved']]
      : findings.map(({ what, subject, problem }): Line => [
          styled('red', 'DIFFERS'),
          `  ${what} ${subject}: ${problem}`,
        ])),
  ];
}
