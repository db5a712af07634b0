// SPDX-License-Identifier: Apache-2.0
/** Brings everything that a lock names into the store, and nothing twice. */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { SealiftError } from '../errors.ts';
import type { ItemKind } from '../events.ts';
import { hexOf, type Expected } from '../store/digest.ts';
import type { BlobSource, Store } from '../store/store.ts';
import { outcomeOf, type Sources } from './context.ts';
import { storedManifest, storeImageMeta } from './image.ts';
import type { Lock, LockedImage, LockedModel } from './lockfile.ts';
import { inParallel } from './pool.ts';
import type { ResolvedImage, SourceContext } from './sources/source.ts';

/** A blob that the bundle carries, and where it comes from when the store lacks it. */
export interface Need extends Expected {
  kind: ItemKind;
  label: string;
  source: BlobSource;
}

export interface Missing {
  needs: Need[];
  /** Bytes still to come; what partial downloads hold is not counted. */
  bytes: number;
}

/**
 * Lists every blob of the lock, each once. Manifests and configs of images are fetched on the way, because only
 * they name the layers; a source is asked only when the store lacks something of it.
 */
export async function listNeeds(lock: Lock, context: SourceContext, sources: Sources): Promise<Need[]> {
  const images = await inParallel(lock.images, context.signal, (image, signal) =>
    imageNeeds(image, { ...context, signal }, sources),
  );
  const models = lock.models.map((model) => modelNeeds(model, context, sources));
  return [...new Map([...images, ...models].flat().map((need) => [need.digest, need])).values()];
}

async function imageNeeds(image: LockedImage, context: SourceContext, sources: Sources): Promise<Need[]> {
  const resolved = lazily(() => resolveLocked(image, context, sources));
  const source = (blob: Expected): BlobSource => later(async () => (await resolved()).blob(blob));
  let manifest = await storedManifest(image.name, image.manifest, context.store);
  manifest ??= await storeImageMeta(image.name, await resolved(), context);
  const { config, layers } = manifest;
  return [config, ...layers].map((blob, i) => ({
    digest: blob.digest,
    size: blob.size,
    kind: 'blob',
    label: i === 0 ? `${image.name} config` : `${image.name} layer ${i}/${layers.length}`,
    source: source(blob),
  }));
}

async function resolveLocked(
  image: LockedImage,
  context: SourceContext,
  sources: Sources,
): Promise<ResolvedImage> {
  const resolved = await sources
    .image(image.from, context, { manifest: image.manifest })
    .resolve(context.emit);
  if (resolved.manifest.digest === image.manifest.digest) return resolved;
  throw new SealiftError('SOURCE_CHANGED', `image ${image.name}: ${image.from} is another image now`, {
    details: [
      ['locked', image.manifest.digest],
      ['found', resolved.manifest.digest],
    ],
    hint: 'if the change is meant, run `sealift lock`, review it, then build again',
  });
}

function modelNeeds(model: LockedModel, context: SourceContext, sources: Sources): Need[] {
  // Made at once: a --hub that contradicts the lock is refused even when nothing is missing.
  const origin = sources.model(model.from, context, { revision: model.revision, hub: model.hub });
  const resolved = lazily(() => origin.resolve(context.emit));
  return model.files.map(({ path, digest, size }) => ({
    digest,
    size,
    kind: 'file',
    label: `${model.name}/${path}`,
    source: later(async () => (await resolved()).file(path)),
  }));
}

/** Splits off what the store lacks; what it has is reported as cached. */
export async function findMissing(needs: readonly Need[], context: SourceContext): Promise<Missing> {
  const missing: Missing = { needs: [], bytes: 0 };
  for (const need of needs) {
    if (await context.store.has(need)) {
      context.emit({
        type: 'item-start',
        id: need.digest,
        kind: need.kind,
        label: need.label,
        bytes: need.size,
      });
      context.emit({ type: 'item-end', id: need.digest, outcome: 'cached' });
      continue;
    }
    missing.needs.push(need);
    missing.bytes += need.size - (await partialBytes(context.store, need));
  }
  return missing;
}

/** What an earlier, interrupted download of the blob already takes up on the disk. */
async function partialBytes(store: Store, { digest, size }: Expected): Promise<number> {
  const info = await stat(join(store.root, 'partial', hexOf(digest))).catch(() => undefined);
  return Math.min(info?.size ?? 0, size);
}

/** Downloads, some at a time. What was finished before a failure or a kill stays in the store. */
export async function fetchMissing({ needs }: Missing, context: SourceContext): Promise<void> {
  const { emit, store } = context;
  emit({ type: 'stage', name: 'fetch', totalBytes: needs.reduce((sum, need) => sum + need.size, 0) });
  await inParallel(needs, context.signal, async (need, signal) => {
    const id = need.digest;
    emit({ type: 'item-start', id, kind: need.kind, label: need.label, bytes: need.size });
    const onBytes = (delta: number): void => emit({ type: 'item-progress', id, delta });
    try {
      await store.add(need, need.source, { onBytes, signal, what: need.label });
      emit({ type: 'item-end', id, outcome: 'done' });
    } catch (error) {
      emit({ type: 'item-end', id, outcome: outcomeOf(error) });
      throw error;
    }
  });
}

/** Calls `make` at the first use only, and once. */
function lazily<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => (made ??= make());
}

/** A source that is found only when its content is wanted. */
function later(find: () => Promise<BlobSource>): BlobSource {
  return { open: async (offset, signal) => (await find()).open(offset, signal) };
}
