// SPDX-License-Identifier: Apache-2.0
/** The configuration files of a bundle, carried verbatim: `configs/<digest of their list>/…`. */
import type { Inventory } from '../../bundle/inventory.ts';
import { canonicalJson } from '../../json.ts';
import { digestOf, hexOf } from '../../store/digest.ts';
import type { Step, World } from '../step.ts';
import { FolderStep, type BlobBody } from './folder.ts';

/** Relative to the home. The same files in two bundles share a folder. */
export const configsPath = (configs: Inventory['configs']): string =>
  `configs/${hexOf(digestOf(canonicalJson(configs)))}`;

export function configStep(world: World, source: BlobBody, configs: Inventory['configs']): Promise<Step> {
  const path = configsPath(configs);
  const files = configs.map(({ name, digest, size }) => ({ path: name, digest, size }));
  return FolderStep.create(world, source, {
    kind: 'config',
    id: `config:${path}`,
    label: 'configuration files',
    path,
    files,
  });
}
