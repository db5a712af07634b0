// SPDX-License-Identifier: Apache-2.0
/** A model: `models/<name>/<commit>/`, one folder a revision. */
import type { Inventory } from '../../bundle/inventory.ts';
import { canonicalJson } from '../../json.ts';
import { digestOf, hexOf } from '../../store/digest.ts';
import type { Home } from '../home.ts';
import { revisionFolder } from '../home.ts';
import type { Step, World } from '../step.ts';
import { FolderStep, isPlaced, type BlobBody } from './folder.ts';
import { stat } from 'node:fs/promises';

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
 * Where a model's folder is, relative to the home. Two bundles may carry different files of one commit; the
 * second one then gets a folder of its own, because the first may be in use.
 */
export async function modelPath(world: Pick<World, 'home' | 'store'>, model: Model): Promise<string> {
  const plain = `models/${model.name}/${revisionFolder(model.revision)}`;
  if (
    !(await exists(world.home, plain)) ||
    (await isPlaced(world.home.path(plain), model.files, world.store))
  )
    return plain;
  return `${plain}-${hexOf(digestOf(canonicalJson(model.files))).slice(0, 12)}`;
}

const exists = (home: Home, path: string): Promise<boolean> =>
  stat(home.path(path)).then(
    () => true,
    () => false,
  );
