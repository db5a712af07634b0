// SPDX-License-Identifier: Apache-2.0
/** Which file of a model's folder is the model, for the engines that are started with one. */
import type { ModelFile } from '../bundle/inventory.ts';
import { unsupported, type ServiceSpec, type Surroundings } from './row.ts';

const SHARD = /-(\d{5})-of-(\d{5})\.gguf$/;
/** Not a model of its own: an encoder for pictures, or heads for speculative decoding. */
const SIDECAR = /(^|\/)(mmproj|mtp)[-.]/i;

export interface GgufFiles {
  /** Files that a server can be started with: whole models, and first shards. */
  models: string[];
  /** Projectors for pictures and sound. */
  projectors: string[];
  /** Shards that a first one needs and that are not carried. */
  missing: string[];
}

export function ggufFiles(files: readonly ModelFile[]): GgufFiles {
  const paths = files.map(({ path }) => path).filter((path) => path.toLowerCase().endsWith('.gguf'));
  const there = new Set(paths);
  const models = paths.filter((path) => !SIDECAR.test(path) && Number(SHARD.exec(path)?.[1] ?? 1) === 1);
  const sets = new Set(
    paths.filter((path) => SHARD.test(path)).map((path) => path.replace(SHARD, '-*-of-$2.gguf')),
  );
  return {
    models,
    projectors: paths.filter((path) => /(^|\/)mmproj[-.]/i.test(path)),
    missing: [...sets].flatMap((set) => shardsOf(set)).filter((path) => !there.has(path)),
  };
}

function shardsOf(set: string): string[] {
  const count = Number(/-\*-of-(\d{5})\.gguf$/.exec(set)![1]);
  return Array.from({ length: Math.min(count, 9999) }, (_, i) =>
    set.replace('*', String(i + 1).padStart(5, '0')),
  );
}

/** The file that is served: the one that `model` names, or the only one there is. */
export function modelFile(spec: ServiceSpec, { model }: Surroundings): string {
  const { models } = ggufFiles(model.files);
  const named = spec.options['model'];
  const names = models.slice(0, 8).join(', ');
  if (typeof named === 'string') {
    if (models.includes(named)) return named;
    return unsupported(
      spec,
      `model ${spec.model} has no file '${named}' that could be served`,
      `it has: ${names}`,
    );
  }
  const [only, ...more] = models;
  if (only === undefined)
    return unsupported(spec, `llama.cpp serves GGUF files, and model ${spec.model} has none`);
  if (more.length > 0)
    return unsupported(
      spec,
      `model ${spec.model} has ${models.length} GGUF files that could be served`,
      `name one with the option 'model', or carry only one: ${names}`,
    );
  return only;
}
