// SPDX-License-Identifier: Apache-2.0
import { reload as reloadGateway, type ReloadReport } from '../../install/reload.ts';
import { isoSeconds } from '../../trust/state.ts';
import { command, type Result } from '../command.ts';
import { HOST_OPTIONS, hostFlags, hostPaths, type HostFlags } from '../host-options.ts';
import { styled, table } from '../output.ts';

export const reload = command<{ host: HostFlags }>({
  name: 'reload',
  summary: 'Let the running gateway read new API keys, certificate and limits',
  about: [
    'For after a change of the API keys, of the certificate, or of hostName, limits and metrics in site.yaml. nginx judges the new configuration first; when it refuses, the gateway goes on as it was. No container is restarted, and answers that are being given go on.',
    'Changes of the port or of GPUs need `sealift install` with the same bundle.',
  ],
  options: HOST_OPTIONS,
  examples: [['sealift reload', 'after a renewed certificate was put in its place']],
  exits: [20, 21],
  parse: (given) => ({ host: hostFlags(given) }),
  run: async ({ host }, io) => {
    const { home, socket } = hostPaths(host, io.env);
    return reloaded(await reloadGateway({ home, socket, now: io.now() }));
  },
});

export function reloaded({ schema, ...report }: ReloadReport): Result {
  return {
    schema,
    data: report,
    text: [
      [styled('green', report.changed.length > 0 ? 'reloaded' : 'unchanged'), `  ${report.release}`],
      ...table([
        ...report.changed.map((name) => ['read', name]),
        ['keys', report.keys.join(', ')],
        ...(report.expires === undefined ? [] : [['certificate', `until ${isoSeconds(report.expires)}`]]),
      ]),
    ],
  };
}
