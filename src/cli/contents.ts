// SPDX-License-Identifier: Apache-2.0
import type { Inventory } from '../bundle/inventory.ts';
import { count } from './format.ts';
import { formatBytes } from '../text.ts';
import { table } from './output.ts';

/** What a bundle carries, a line each. */
export function contentLines({ platform, images, models, configs, services }: Inventory): string[] {
  const bytes = (files: readonly { size: number }[]): string =>
    formatBytes(files.reduce((sum, f) => sum + f.size, 0));
  return table([
    ['platform', platform, ''],
    ...images.map((image) => ['image', image.name, `${image.ref}  ${image.manifest.digest}`]),
    ...models.map((model) => [
      'model',
      model.name,
      `${model.from}  ${model.revision}  ${count(model.files.length, 'file')}, ${bytes(model.files)}${model.license === undefined ? '' : `  ${model.license}`}`,
    ]),
    ...configs.map((config) => ['config', config.name, formatBytes(config.size)]),
    ...services.map((s) => ['service', s.name, `${s.engine} on image ${s.image} with model ${s.model}`]),
  ]);
}
