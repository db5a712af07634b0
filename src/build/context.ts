// SPDX-License-Identifier: Apache-2.0
import { outcomeOf } from '../errors.ts';
import type { Emit, ItemKind } from '../events.ts';
import type { Descriptor } from '../bundle/inventory.ts';
import { imageSource, modelSource } from './sources/index.ts';
import type { ImageSource, LockedRevision, ModelSource, SourceContext } from './sources/source.ts';

/** How a place of the manifest becomes a source; `locked` asks for exactly what the lock names. */
export interface Sources {
  image(from: string, context: SourceContext, locked?: { manifest: Descriptor }): ImageSource;
  model(from: string, context: SourceContext, locked?: LockedRevision): ModelSource;
}

export const SOURCES: Sources = { image: imageSource, model: modelSource };

/** Surrounds one piece of work with its events; `work` returns what to say at its end. */
export async function asItem<T>(
  emit: Emit,
  item: { id: string; kind: ItemKind; label: string; bytes?: number },
  work: () => Promise<{ result: T; detail: string }>,
): Promise<T> {
  emit({ type: 'item-start', ...item });
  try {
    const { result, detail } = await work();
    emit({ type: 'item-end', id: item.id, outcome: 'done', detail });
    return result;
  } catch (error) {
    emit({ type: 'item-end', id: item.id, outcome: outcomeOf(error) });
    throw error;
  }
}

/** Sorts entries of a map of the manifest by key, by UTF-16 code unit. */
export function byKey<T>(map: Readonly<Record<string, T>>): [string, T][] {
  return Object.entries(map).toSorted(([a], [b]) => (a < b ? -1 : 1));
}
