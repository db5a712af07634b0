// SPDX-License-Identifier: Apache-2.0
/**
 * Rebuilding from parity volumes (FORMAT.md §12): as many lost or damaged volumes come back as there are parity volumes.
 * List and parity are not signed: they bring back bytes, and no verdict rests on them.
 */
import { basename, dirname, join } from 'node:path';
import { SealiftError } from '../errors.ts';
import { hexOf, type Digest } from '../store/digest.ts';
import { describeShortage, findShortages, shortageDetails } from '../store/space.ts';
import { recipe } from './parity.ts';
import { giveNames, rebuild, type RebuildOptions } from './rebuild.ts';
import { isParity, shapeOf, shardsOf, type Shape, type Shard } from './shards.ts';
import { baseOf, diagnose, listName, VolumeSet, type Media, type VolumeList } from './volumes.ts';

export interface Repaired {
  /** Names of what was rebuilt; none when nothing was wrong. */
  rebuilt: string[];
  folder: string;
}

/**
 * Rebuilds every volume that the list calls damaged or missing, and parity volumes, too. What is written has the digest
 * that the list names, before it gets its name; a damaged volume stays, as NAME.003.damaged.
 * @param path of any volume, or the name that they have in common
 * @param folder where it is written; by default beside the volumes
 * @throws {SealiftError} REPAIR_FAILED when there is no list or too little parity (with what to carry again); DISK_FULL,
 *   IO_ERROR, INTERRUPTED
 */
export async function repairVolumes(
  path: string,
  media: Media,
  folder: string | undefined,
  options: RebuildOptions = {},
): Promise<Repaired> {
  const base = baseOf(path) ?? path;
  const set = await VolumeSet.of(base, media);
  const list = demandList(set);
  const shape = demandShape(list, basename(base));
  const target = folder ?? dirname(base);
  const bad = new Set((await diagnose(set, options)).map(({ name }) => name));
  if (bad.size === 0) return { rebuilt: [], folder: target };
  const shards = shape === undefined ? [] : shardsOf(basename(base), shape);
  const how = shape && recipe(shape.volumes, shape.parity, indicesOf(shards, bad));
  if (how === undefined) throw tooLittle([...list.digests.keys()], bad);
  const sizes = how.outputs.map(({ index }) => shards[index]!.size);
  await demandRoom(
    target,
    sizes.reduce((sum, size) => sum + size, 0),
  );
  const work = { shards, recipe: how, paths: await pathsOf(set, list, bad), folder: target };
  const rebuilt = await rebuild(work, (digests) => demandListed(digests, list, base), options);
  await giveNames(rebuilt, target);
  return { rebuilt, folder: target };
}

function demandList({ list, base }: VolumeSet): VolumeList {
  if (list !== undefined && list.digests.size > 0) return list;
  throw new SealiftError(
    'REPAIR_FAILED',
    `there is no ${basename(listName(base))}, which says what is damaged`,
    {
      hint: 'carry it again: it is small, and lies beside the volumes on the staging side',
    },
  );
}

/** @returns undefined when there is no parity */
function demandShape(list: VolumeList, base: string): Shape | undefined {
  const shape = shapeOf(base, list);
  if (shape !== undefined || ![...list.digests.keys()].some(isParity)) return shape;
  throw new SealiftError('REPAIR_FAILED', `sizes and names in ${listName(base)} do not fit each other`, {
    hint: 'carry the list again: it is small, and lies beside the volumes on the staging side',
  });
}

const indicesOf = (shards: readonly Shard[], names: ReadonlySet<string>): Set<number> =>
  new Set(shards.flatMap(({ name }, i) => (names.has(name) ? [i] : [])));

function tooLittle(names: readonly string[], bad: ReadonlySet<string>): SealiftError {
  const lost = names.filter((name) => bad.has(name) && !isParity(name));
  const left = names.filter((name) => isParity(name) && !bad.has(name)).length;
  const parity = left === 0 ? 'no parity volume is' : `${left} parity volume${left === 1 ? ' is' : 's are'}`;
  const volumes = lost.length === 1 ? '1 volume is' : `${lost.length} volumes are`;
  const few = lost.length - left === lost.length ? 'all' : `any ${lost.length - left}`;
  return new SealiftError('REPAIR_FAILED', `${volumes} damaged or missing, and ${parity} good`, {
    details: lost.map((name) => ['lost', name]),
    hint: `carry again ${lost.length === 1 ? '' : `${few} of: `}${lost.join(', ')}`,
  });
}

async function pathsOf(
  set: VolumeSet,
  list: VolumeList,
  bad: ReadonlySet<string>,
): Promise<Map<string, string>> {
  const good = [...list.digests.keys()].filter((name) => !bad.has(name));
  const found = await Promise.all(good.map(async (name) => [name, await set.find(name)] as const));
  return new Map(found.map(([name, path]) => [name, path ?? join(dirname(set.base), name)]));
}

/** Wrong sums under the name of a volume would look like one. */
function demandListed(digests: ReadonlyMap<string, Digest>, list: VolumeList, base: string): void {
  for (const [name, digest] of digests) {
    const expected = list.digests.get(name)!;
    if (digest === expected) continue;
    throw new SealiftError(
      'REPAIR_FAILED',
      `${name} was rebuilt, and is not what ${basename(listName(base))} lists`,
      {
        details: [
          ['listed', hexOf(expected)],
          ['rebuilt', hexOf(digest)],
        ],
        hint: 'list and parity do not belong together: carry all of them again',
      },
    );
  }
}

async function demandRoom(folder: string, bytes: number): Promise<void> {
  const shortages = await findShortages([{ folder, what: 'rebuilt volumes', bytes }]);
  if (shortages.length === 0) return;
  throw new SealiftError('DISK_FULL', shortages.map(describeShortage).join('; '), {
    details: shortageDetails(shortages),
    hint: 'free space there, or name another folder with --output',
  });
}
