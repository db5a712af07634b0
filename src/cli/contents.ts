// SPDX-License-Identifier: Apache-2.0
import { describeSigner, type Inventory, type UpstreamSignature } from '../bundle/inventory.ts';
import { count } from './format.ts';
import { formatBytes } from '../text.ts';
import { table } from './output.ts';

/** What upstream vouches for, as far as the manifest asked and the lock found. */
const vouched = (signature: UpstreamSignature | undefined): string =>
  signature === undefined ? '' : `  signed by ${describeSigner(signature.by)}`;

/** What a bundle carries, a line each. */
export function contentLines({ platform, images, models, configs, services, base }: Inventory): string[] {
  const bytes = (files: readonly { size: number }[]): string =>
    formatBytes(files.reduce((sum, f) => sum + f.size, 0));
  return table([
    ['platform', platform, ''],
    ...(base === undefined
      ? []
      : [
          [
            'base',
            `${base.name} ${base.version}`,
            `leaves out ${count(base.omits.length, 'blob')}, ${bytes(base.omits)}: not looked at here`,
          ],
        ]),
    ...images.map((image) => [
      'image',
      image.name,
      `${image.ref}  ${image.manifest.digest}${vouched(image.signature)}`,
    ]),
    ...models.map((model) => [
      'model',
      model.name,
      `${model.from}  ${model.revision}  ${count(model.files.length, 'file')}, ${bytes(model.files)}${model.license === undefined ? '' : `  ${model.license}`}${vouched(model.signature)}`,
    ]),
    ...configs.map((config) => ['config', config.name, formatBytes(config.size)]),
    ...services.map((s) => ['service', s.name, `${s.engine} on image ${s.image} with model ${s.model}`]),
  ]);
}
