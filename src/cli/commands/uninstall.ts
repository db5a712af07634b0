// SPDX-License-Identifier: Apache-2.0
import { uninstall as remove } from '../../install/uninstall.ts';
import { command } from '../command.ts';
import type { Home } from '../../install/home.ts';
import { readJournal, unfinishedInstall } from '../../install/journal.ts';
import { demandConsent, demandSomebody } from '../consent.ts';
import { HOST_OPTIONS, hostFlags, hostPaths, YES_OPTION, type HostFlags } from '../host-options.ts';
import { styled } from '../output.ts';

interface UninstallOptions {
  host: HostFlags;
  release: string | undefined;
  yes: boolean;
}

export const uninstall = command<UninstallOptions>({
  name: 'uninstall',
  summary: 'Stop a release and remove what only it needs',
  about: [
    'Stops the services and removes the images, models and files that this home brought and no other release uses. trust.yaml, site.yaml and the API keys stay, and so does the memory of which versions were installed: an older bundle is still refused afterwards. An install that was never finished is taken back instead: what ran before it goes on running. While there is one, no other release is removed.',
  ],
  options: [
    YES_OPTION,
    {
      flags: '--release <NAME>',
      about: 'the release to remove (default: an unfinished one, else the current)',
    },
    ...HOST_OPTIONS,
  ],
  examples: [
    ['sealift uninstall', 'asks first'],
    ['sealift uninstall --release qwen3-coder-1.3.0 --yes', 'an older release, without a question'],
  ],
  exits: [20, 22],
  parse: (given) => ({ host: hostFlags(given), release: given.text('release'), yes: given.is('yes') }),
  run: async ({ host, release, yes }, io) => {
    demandSomebody(yes, io, 'uninstall');
    const paths = hostPaths(host, io.env);
    const unfinished = await readJournal(paths.home);
    if (release !== undefined && unfinished !== undefined && unfinished.release !== release)
      throw unfinishedInstall(unfinished);
    const unfinishedOnly = release === undefined && unfinished !== undefined;
    // What was agreed to is named, so that nothing else goes when the host changes meanwhile.
    const wanted = unfinishedOnly ? undefined : (release ?? (await paths.home.current()));
    await demandConsent(yes, io, question(wanted, unfinished?.release, paths.home));
    const { schema, ...report } = await remove({
      ...paths,
      ...(wanted === undefined ? {} : { release: wanted }),
      unfinishedOnly,
      emit: io.emit,
    });
    const stays = report.release === undefined ? await paths.home.current() : undefined;
    return {
      schema,
      data: report,
      text: [
        ...(report.takenBack === undefined
          ? []
          : [`taken back  an unfinished install of ${report.takenBack}`]),
        ...(stays === undefined ? [] : [`kept        ${stays}, which is installed`]),
        ...(report.release === undefined ? [] : [[styled('bold', 'removed'), `     ${report.release}`]]),
        ...report.removed.map((id) => `removed     ${id}`),
        ...report.kept.map((id) => `kept        ${id}, in use or not ours`),
      ],
    };
  },
});

function question(wanted: string | undefined, unfinished: string | undefined, home: Home): string {
  const back = unfinished === undefined ? [] : [`take back the unfinished install of ${unfinished}`];
  if (wanted !== undefined)
    return `${[...back, `stop and remove ${wanted}`].join(', and ')} from ${home.root}?`;
  if (unfinished === undefined) return `remove what is left in ${home.root}?`;
  return `${back.join('')} from ${home.root}, and remove no release?`;
}
