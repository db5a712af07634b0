// SPDX-License-Identifier: Apache-2.0
import { uninstall as remove } from '../../install/uninstall.ts';
import { command } from '../command.ts';
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
    'Stops the services and removes the images, models and files that this home brought and no other release uses. trust.yaml, site.yaml and the API keys stay, and so does the memory of which versions were installed: an older bundle is still refused afterwards. An install that was never finished is taken back too.',
  ],
  options: [
    YES_OPTION,
    { flags: '--release <NAME>', about: 'the release to remove (default: the current one)' },
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
    const wanted = release ?? (await paths.home.current());
    await demandConsent(
      yes,
      io,
      `stop and remove ${wanted ?? 'what an unfinished install left'} from ${paths.home.root}?`,
    );
    const { schema, ...report } = await remove({
      ...paths,
      ...(release === undefined ? {} : { release }),
      emit: io.emit,
    });
    return {
      schema,
      data: report,
      text: [
        ...(report.takenBack === undefined
          ? []
          : [`taken back  an unfinished install of ${report.takenBack}`]),
        ...(report.release === undefined ? [] : [[styled('bold', 'removed'), `     ${report.release}`]]),
        ...report.removed.map((id) => `removed     ${id}`),
        ...report.kept.map((id) => `kept        ${id}, in use or not ours`),
      ],
    };
  },
});
