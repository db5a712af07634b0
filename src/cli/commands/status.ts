// SPDX-License-Identifier: Apache-2.0
import { readStatus, type StatusReport } from '../../install/status.ts';
import type { ReceiptSignature } from '../../install/receipt.ts';
import { command } from '../command.ts';
import { HOST_OPTIONS, hostFlags, hostPaths, type HostFlags } from '../host-options.ts';
import { styled, table, type Line } from '../output.ts';

/** Exit status of --exit-code, see EXIT_CODES. */
const DRIFT = 30;

export const status = command<{ host: HostFlags; exitCode: boolean }>({
  name: 'status',
  summary: 'Show what is installed and whether it runs as it was proved',
  about: [
    'Holds what runs now against the receipt of the current release: containers, their images, tags, model folders; and the receipt against the signature of the host, when it has one. Changes nothing.',
  ],
  options: [
    { flags: '--exit-code', about: 'end with 30 when something differs from the receipt' },
    ...HOST_OPTIONS,
  ],
  examples: [
    ['sealift status', 'for a person'],
    ['sealift status --exit-code --json', 'for monitoring'],
  ],
  exits: [20, 30],
  parse: (given) => ({ host: hostFlags(given), exitCode: given.is('exitCode') }),
  run: async ({ host, exitCode }, io) => {
    const { home, socket } = hostPaths(host, io.env);
    const { schema, ...report } = await readStatus({ home, socket });
    const differs = report.drift.length > 0 || report.unfinished !== undefined;
    return {
      schema,
      data: report,
      text: render(report),
      ...(exitCode && differs ? { exit: DRIFT } : {}),
    };
  },
});

const SIGNATURE: Readonly<Record<ReceiptSignature['state'], string>> = {
  none: 'not signed (the host had no key)',
  signed: 'signed by this host',
  foreign: "NOT SIGNED BY THIS HOST'S KEY",
  unchecked: 'signed, not checked: there is no host.pub',
  missing: 'NOT SIGNED, and should be',
  wrong: 'CHANGED since it was signed',
};

function render({
  current,
  signature,
  releases,
  services,
  unfinished,
  drift,
}: Omit<StatusReport, 'schema'>): Line[] {
  const others = releases.filter((release) => release !== current.release);
  return [
    ...table([
      ['release', `${current.release}  ${current.bundle.digest}`],
      ['installed', current.finishedAt],
      ['signed by', current.signatures.signers.map(({ signer }) => signer).join(', ')],
      ['receipt', [SIGNATURE[signature.state], signature.key ?? ''].join('  ').trimEnd()],
      ...(current.overrides ?? []).map((o) => ['override', `${o.refused}: ${o.reason}`]),
      ...(current.gateway === undefined ? [] : [['gateway', current.gateway.url]]),
      ...(others.length === 0 ? [] : [['also here', others.join(', ')]]),
    ]),
    '',
    ...table(services.map((s) => [s.service, s.state, s.health, s.container ?? 'no container'])),
    '',
    ...(unfinished === undefined
      ? []
      : [
          [
            styled('yellow', 'UNFINISHED'),
            `  an install of ${unfinished.release}, begun ${unfinished.startedAt}`,
          ],
        ]),
    ...(drift.length === 0
      ? [[styled('green', 'OK'), '  as the receipt says']]
      : drift.map((text) => [styled('red', 'DIFFERS'), `  ${text}`])),
  ];
}
