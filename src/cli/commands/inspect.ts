// SPDX-License-Identifier: Apache-2.0
import { inspectBundle, type Inspection, type SlotClaim } from '../../audit/inspect.ts';
import { command, type Result } from '../command.ts';
import { contentLines } from '../contents.ts';
import { findBundle } from '../files.ts';
import { formatBytes } from '../../text.ts';
import { styled, table, type Line } from '../output.ts';
import { mediaOf, VOLUMES_OPTION } from '../volumes.ts';

export const inspect = command<{ bundle: string; volumes: readonly string[] }>({
  name: 'inspect',
  summary: 'Show what a bundle says of itself, without trusting it',
  about: [
    'Reads the documents at the start of a bundle and shows them. No signature is judged and no blob is read: anybody could have written all of it. `sealift verify` is the command that answers whether it is true.',
  ],
  positional: { name: 'BUNDLE', about: 'the bundle, or the folder that holds it', required: true },
  options: [VOLUMES_OPTION],
  examples: [
    ['sealift inspect demo.sealift.tar', 'contents and signature slots'],
    ['sealift inspect demo.sealift.tar --json', 'with the whole inventory and provenance'],
  ],
  exits: [12, 13],
  parse: (given) => ({ bundle: given.positional!, volumes: given.list('volumes') }),
  run: async ({ bundle, volumes }, io): Promise<Result> => {
    const path = await findBundle(bundle);
    const inspection = await inspectBundle(path, mediaOf(volumes, io));
    return { schema: 'sealift/inspect/v1', data: { path, ...inspection }, text: render(inspection) };
  },
});

function render({ inventory, digest, size, slots }: Inspection): Line[] {
  return [
    [styled('yellow', 'UNVERIFIED'), '  what the bundle says of itself; nobody has vouched for it'],
    '',
    ...table([
      ['name', `${inventory.name} ${inventory.version}`],
      ['digest', digest],
      ['size', formatBytes(size)],
      ['created', inventory.created],
    ]),
    '',
    ...contentLines(inventory),
    '',
    ...slotLines(slots),
    '',
    [styled('yellow', 'UNVERIFIED'), '  sealift verify checks signatures and every byte'],
  ];
}

function slotLines(slots: readonly SlotClaim[]): string[] {
  const taken = slots.filter((slot) => slot.state !== 'empty');
  if (taken.length === 0) return ['no signatures'];
  return table(
    taken.map((claim) => [
      `slot ${claim.slot}`,
      claim.state === 'malformed' ? `malformed: ${claim.reason}` : 'a signature, not checked',
      claim.state === 'unverified' ? `names ${claim.names}` : '',
    ]),
  );
}
