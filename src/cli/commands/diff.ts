// SPDX-License-Identifier: Apache-2.0
import { diffBundles, type BundleDiff } from '../../audit/diff.ts';
import { SealiftError } from '../../errors.ts';
import { formatBytes } from '../../text.ts';
import { command, type Result } from '../command.ts';
import type { Io } from '../context.ts';
import { findBundle } from '../files.ts';
import { count } from '../format.ts';
import { table, type Line } from '../output.ts';
import { mediaOf, VOLUMES_OPTION } from '../volumes.ts';

interface DiffOptions {
  bundle: string;
  base: string;
  volumes: readonly string[];
}

export const diff = command<DiffOptions>({
  name: 'diff',
  summary: 'Show what changed since another bundle, and what a delta carries',
  about: [
    'Compares every layer and file of a bundle with those of an older one, and says what a delta on that one carries (`sealift build --base`), or, of a delta, what it does carry. No signature is judged: `sealift verify` answers whether any of it is true.',
  ],
  positional: { name: 'BUNDLE', about: 'the newer bundle, or the folder that holds it', required: true },
  options: [{ flags: '--base <FILE>', about: 'the older bundle' }, VOLUMES_OPTION],
  examples: [
    ['sealift diff new.sealift.tar --base old.sealift.tar', 'before it is built as a delta, or after'],
  ],
  exits: [12, 13],
  parse: (given) => {
    const base = given.text('base');
    if (base === undefined)
      throw new SealiftError('USAGE', 'no older bundle was given', { hint: 'add --base old.sealift.tar' });
    return { bundle: given.positional!, base, volumes: given.list('volumes') };
  },
  run: runDiff,
});

async function runDiff({ bundle, base, volumes }: DiffOptions, io: Io): Promise<Result> {
  const found = await diffBundles(await findBundle(bundle), await findBundle(base), mediaOf(volumes, io));
  return { schema: 'sealift/diff/v1', data: { ...found }, text: linesOf(found) };
}

function linesOf({ from, to, isDelta, pieces, carries, leavesOut }: BundleDiff): Line[] {
  const shown = pieces.filter(({ state, carried }) => state !== 'same' || carried);
  return [
    `${from} → ${to}`,
    ...table(
      shown.map(({ state, carried, purpose, size }) => [
        state,
        carried ? 'carried' : '',
        purpose,
        formatBytes(size),
      ]),
    ),
    '',
    `${isDelta ? 'the delta carries' : 'a delta would carry'} ${count(carries.blobs, 'blob')}, ${formatBytes(carries.bytes)}, and ${isDelta ? 'leaves' : 'leave'} out ${count(leavesOut.blobs, 'blob')}, ${formatBytes(leavesOut.bytes)}`,
  ];
}
