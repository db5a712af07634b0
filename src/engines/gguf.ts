// SPDX-License-Identifier: Apache-2.0
/** Which file of a model's folder is the model, for the engines that are started with one. */
import type { InventoryModel } from '../bundle/inventory.ts';

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

export function ggufFiles({ files }: Pick<InventoryModel, 'files'>): GgufFiles {
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
