// SPDX-License-Identifier: Apache-2.0
import { basename, join } from 'node:path';
import { splitBundle } from '../../bundle/split.ts';
import { baseOf, listName, volumeName } from '../../bundle/volumes.ts';
import { SealiftError } from '../../errors.ts';
import { command, type Result } from '../command.ts';
import type { Io } from '../context.ts';
import { findBundle } from '../files.ts';
import { count } from '../format.ts';
import { PARITY_OPTION, parityOf, VOLUME_SIZE_OPTION, volumeSizeOf } from '../volumes.ts';

interface SplitOptions {
  bundle: string;
  volumeBytes: number;
  parity: number;
  output: string | undefined;
}

export const split = command<SplitOptions>({
  name: 'split',
  summary: 'Cut a bundle into volumes that fit the media',
  about: [
    'Writes NAME.001, NAME.002 and so on, the same bytes cut at a size, and NAME.volumes, a list that `sha256sum -c` reads. The bundle is only read; signatures stay as they are, and `sealift sign NAME.001` can add more. `verify` and `install` read volumes where they are: nobody joins them.',
    'With --parity N there are N more files, NAME.p01 and on, each as large as a volume. Any N of all files may then be lost or damaged: `sealift repair` makes them again from the others, also in the enclave.',
    'Volumes can be split again, to another size, into another folder.',
  ],
  positional: { name: 'BUNDLE', about: 'the bundle, or the folder that holds it', required: true },
  options: [
    VOLUME_SIZE_OPTION,
    PARITY_OPTION,
    { flags: '-o, --output <DIR>', about: "where the volumes go (default: the bundle's folder)" },
  ],
  examples: [
    ['sealift split demo.sealift.tar --volume-size 4GiB-1', 'for sticks with FAT32'],
    ['sealift split demo.sealift.tar --volume-size 25GB --parity 1 -o /mnt/out', 'any one disc may be lost'],
  ],
  exits: [12, 13],
  parse: (given) => {
    const volumeBytes = volumeSizeOf(given);
    if (volumeBytes === undefined)
      throw new SealiftError('USAGE', 'no size was given', {
        hint: 'add --volume-size 4GiB-1, or another size',
      });
    return { bundle: given.positional!, volumeBytes, parity: parityOf(given), output: given.text('output') };
  },
  run: runSplit,
});

async function runSplit({ bundle, volumeBytes, parity, output }: SplitOptions, io: Io): Promise<Result> {
  const path = await findBundle(bundle);
  const whole = baseOf(path) ?? path;
  const out = output === undefined ? whole : join(output, basename(whole));
  const { emit, signal } = io;
  const volumes = await splitBundle(path, { out, volumeBytes, parity, emit, signal });
  return {
    schema: 'sealift/split/v1',
    data: { bundle: path, first: volumeName(out, 1), volumes, volumeBytes, parity, list: listName(out) },
    text: [`wrote  ${volumeName(out, 1)} and on, ${count(volumes, 'volume')}`, `list   ${listName(out)}`],
  };
}
