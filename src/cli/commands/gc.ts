// SPDX-License-Identifier: Apache-2.0
import { SealiftError } from '../../errors.ts';
import { collect, oldReleases } from '../../install/gc.ts';
import { command, type Given } from '../command.ts';
import { demandConsent, demandSomebody } from '../consent.ts';
import { HOST_OPTIONS, hostFlags, hostPaths, YES_OPTION, type HostFlags } from '../host-options.ts';
import { styled } from '../output.ts';

interface GcOptions {
  host: HostFlags;
  keep: number;
  yes: boolean;
}

export const gc = command<GcOptions>({
  name: 'gc',
  summary: 'Remove old releases with what only they need',
  about: [
    'Of each bundle the running release stays, and the latest others: one, unless --keep says otherwise, so that `sealift rollback` has where to go. Images, models and files that a release uses which stays are never touched.',
  ],
  options: [
    { flags: '--keep <N>', about: 'how many releases to keep beside the running one (default: 1)' },
    YES_OPTION,
    ...HOST_OPTIONS,
  ],
  examples: [['sealift gc', 'shows what would go, and asks']],
  exits: [20, 22],
  parse: (given) => ({ host: hostFlags(given), keep: keepOf(given), yes: given.is('yes') }),
  run: async ({ host, keep, yes }, io) => {
    demandSomebody(yes, io, 'gc');
    const paths = hostPaths(host, io.env);
    const old = await oldReleases(paths.home, paths.socket, keep);
    for (const release of old) io.out.note(`to remove  ${release}`);
    await demandConsent(yes || old.length === 0, io, `remove ${old.join(', ')}?`);
    const reports = await collect(old, { ...paths, emit: io.emit });
    const removed = reports.flatMap((report) => report.removed);
    return {
      schema: 'sealift/gc/v1',
      data: { releases: old, removed },
      text: [
        ...old.map((release) => [styled('bold', 'removed'), `  ${release}`]),
        ...removed.map((id) => `removed  ${id}`),
        ...(old.length === 0 ? ['nothing to remove'] : []),
      ],
    };
  },
});

function keepOf(given: Given): number {
  const text = given.text('keep') ?? '1';
  if (/^\d{1,3}$/.test(text)) return Number(text);
  throw new SealiftError('USAGE', `--keep wants a number of releases, not '${text}'`);
}
