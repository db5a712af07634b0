// SPDX-License-Identifier: Apache-2.0
/** A model: `models/<name>/<commit>/`, one folder a revision. */
import type { Inventory } from '../../bundle/inventory.ts';
import { canonicalJson } from '../../json.ts';
import { digestOf, hexOf, type Digest } from '../../store/digest.ts';
import { revisionFolder } from '../home.ts';
import { readReceipts } from '../receipt.ts';
import type { Step, World } from '../step.ts';
import { FolderStep, hasFolder, isPlaced, type BlobBody } from './folder.ts';

type Model = Inventory['models'][number];

/** @param path of the model's folder, from `modelPath` */
export function modelStep(world: World, source: BlobBody, model: Model, path: string): Promise<Step> {
  const label = `model ${model.name} (${model.repo ?? model.from}@${model.revision.slice(0, 12)})`;
  return FolderStep.create(world, source, {
    kind: 'model',
    id: `model:${path}`,
    label,
    path,
    files: model.files,
  });
}

/**
 * Where a model's folder is, relative to the home. A bundle that is installed already keeps the folder that its
 * receipt names, so that a damaged one is repaired. Two bundles may carry different files of one commit; the
 * second one then gets a folder of its own, because the first is in use.
 */
export async function modelPath(
  world: Pick<World, 'home' | 'store'>,
  model: Model,
  bundle: Digest,
): Promise<string> {
  const receipts = await readReceipts(world.home);
  const own = receipts.find((receipt) => receipt.bundle.digest === bundle);
  const before = own?.models.find(({ name }) => name === model.name)?.path;
  if (before !== undefined) return before;
  const plain = `models/${model.name}/${revisionFolder(model.revision)}`;
  if (
    !receipts.some((receipt) => hasFolder(receipt, plain)) ||
    (await isPlaced(world.home.path(plain), model.files, world.store))
  )
    return plain;
  return `${plain}-${hexOf(digestOf(canonicalJson(model.files))).slice(0, 12)}`;
}
