// SPDX-License-Identifier: Apache-2.0
import { dirname, join } from 'node:path';
import { repairVolumes } from '../../bundle/repair.ts';
import { command, type Result } from '../command.ts';
import type { Io } from '../context.ts';
import { findBundle } from '../files.ts';
import { count } from '../format.ts';
import { VOLUMES_OPTION } from '../volumes.ts';

interface RepairOptions {
  bundle: string;
  volumes: readonly string[];
  output: string | undefined;
}

export const repair = command<RepairOptions>({
  name: 'repair',
  summary: 'Rebuild damaged or missing volumes from parity volumes',
  about: [
    'Holds every volume against NAME.volumes, and rebuilds those that are damaged or missing, as many as there are good parity volumes (`split --parity N`). What is written has the digest that the list names before it gets its name. A damaged volume stays beside it as NAME.003.damaged; nothing is deleted.',
    'With --output the rebuilt volumes go to another folder, and the media are only read. Name that folder as the bundle then, and the media with --volumes: the volumes beside it come first. Whether the bundle is the right one is what `verify` says, not this command: nobody has signed list and parity.',
  ],
  positional: { name: 'BUNDLE', about: 'a volume, or the folder that holds them', required: true },
  options: [
    VOLUMES_OPTION,
    { flags: '-o, --output <DIR>', about: 'where rebuilt volumes go (default: beside the others)' },
  ],
  examples: [
    ['sealift repair /media/usb', 'beside the damaged ones'],
    ['sealift repair /media/dvd -o /srv/rebuilt', 'for media that cannot be written'],
    ['sealift verify /srv/rebuilt --volumes /media/dvd', 'afterwards'],
  ],
  exits: [13],
  parse: (given) => ({
    bundle: given.positional!,
    volumes: given.list('volumes'),
    output: given.text('output'),
  }),
  run: runRepair,
});

async function runRepair({ bundle, volumes, output }: RepairOptions, io: Io): Promise<Result> {
  const path = await findBundle(bundle);
  const { emit, signal } = io;
  const { rebuilt, folder } = await repairVolumes(path, { folders: volumes }, output, { emit, signal });
  const text =
    rebuilt.length === 0
      ? ['nothing to repair: every volume is as the list says']
      : [
          `rebuilt ${count(rebuilt.length, 'volume')} in ${folder}`,
          ...rebuilt.map((name) => `  ${join(folder, name)}`),
          ...(output === undefined ? [] : [`next: sealift verify ${output} --volumes ${dirname(path)}`]),
        ];
  return { schema: 'sealift/repair/v1', data: { folder, rebuilt }, text };
}
