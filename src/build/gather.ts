// SPDX-License-Identifier: Apache-2.0
/**
 * Brings everything that a lock names into a bundle, and nothing over the network twice. What the store or a local
 * folder has is copied by threads; the rest is fetched into the store meanwhile, and goes on into the bundle in the pass
 * in which it is hashed.
 */
import type { BundleWriter } from '../bundle/write.ts';
import { asSealiftError, outcomeOf, SealiftError } from '../errors.ts';
import type { ItemKind } from '../events.ts';
import type { Digest, Expected } from '../store/digest.ts';
import { sourceChanged } from '../store/download.ts';
import { inParallel } from '../store/pool.ts';
import { bringAlone, type BlobSource, type Store } from '../store/store.ts';
import { transferAll, TransferError, type WholeFile } from '../store/transfer.ts';
import type { Sources } from './context.ts';
import { storedManifest, storeImageMeta } from './image.ts';
import type { Lock, LockedImage, LockedModel } from './lockfile.ts';
import type { SoleCopy } from './sole.ts';
import { isLocal } from './sources/index.ts';
import type { ResolvedImage, SourceContext, SourceFile } from './sources/source.ts';
import { OMS_FILE } from './upstream/oms.ts';

/** Contents that are fetched at a time. */
const FETCHES = 6;

/** While there are so many times as many bytes of others left, content comes over one connection, in its order. */
const COMPANY = 3;

/** A blob that the bundle carries, and how to find where it comes from when the store lacks it. */
export interface Need extends Expected {
  kind: ItemKind;
  label: string;
  /** Whether it can be read where it is, without a copy in the store. */
  local: boolean;
  /** Whether it can be had again when the store has it no more. */
  lasting: boolean;
  find: () => Promise<BlobSource>;
}

/** A blob that is on this machine, in a file of its own. */
export interface Ready extends Expected {
  label: string;
  path: string;
  /** Where to get it when the store's copy has rotted; undefined for a file that a person named. */
  again: Need | undefined;
}

export interface Gathering {
  ready: Ready[];
  missing: Need[];
  /** Bytes still to come; what partial downloads in the store hold is not counted. */
  bytes: number;
  /** Those of them of which some is in the store. */
  begun: number;
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
  let manifest = await storedManifest(image.name, image.manifest, context);
  manifest ??= await storeImageMeta(image.name, await resolved(), context);
  const { config, layers } = manifest;
  return [config, ...layers].map((blob, i) => ({
    digest: blob.digest,
    size: blob.size,
    kind: 'blob',
    label: i === 0 ? `${image.name} config` : `${image.name} layer ${i}/${layers.length}`,
    local: isLocal(image.from),
    lasting: true,
    find: async () => (await resolved()).blob(blob),
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
  const listed = lazily(async () => new Map((await resolved()).files.map((file) => [file.path, file])));
  const local = isLocal(model.from);
  // The signature that the lock made is nowhere but in the store.
  const files = model.files.filter(({ path }) => model.oms === undefined || path !== OMS_FILE);
  return files.map((file) => ({
    digest: file.digest,
    size: file.size,
    kind: 'file',
    label: `${model.name}/${file.path}`,
    local,
    lasting: true,
    find: async () => {
      if (!local) demandSame(`${model.name}/${file.path}`, file, (await listed()).get(file.path));
      return (await resolved()).file(file.path);
    },
  }));
}

/** A hub that lists other content than the lock has is believed before a byte of it is fetched. */
function demandSame(what: string, { digest, size }: Expected, listed: SourceFile | undefined): void {
  if (listed === undefined) return; // the source says so in its own words
  const found = listed.digest ?? digest;
  if (listed.size !== size || found !== digest)
    throw sourceChanged(what, { digest, size }, `listed as ${found} (${listed.size} bytes)`);
}

/** Divides the needs into what is on this machine and what has to come over the network. */
export async function findMissing(needs: readonly Need[], context: SourceContext): Promise<Gathering> {
  const { store } = context;
  const found: Gathering = { ready: [], missing: [], bytes: 0, begun: 0 };
  const present = await store.present(needs);
  for (const need of needs) {
    if (present.has(need.digest)) {
      found.ready.push({ ...need, path: store.path(need.digest), again: need });
      continue;
    }
    const path = need.local ? (await need.find()).path : undefined;
    if (path !== undefined) {
      found.ready.push({ ...need, path, again: undefined });
      continue;
    }
    found.missing.push(need);
    const arrived = store.arrived(need);
    found.bytes += need.size - arrived;
    if (arrived > 0) found.begun += need.size - arrived;
  }
  return found;
}

/** Everything into the bundle. What was fetched before a failure or a kill stays: in the store, or where it landed. */
export async function collect(
  gathering: Gathering,
  writer: BundleWriter,
  context: SourceContext,
  sole?: SoleCopy,
): Promise<void> {
  const all = [...gathering.ready, ...gathering.missing];
  const totalBytes = all.reduce((sum, { size }) => sum + size, 0);
  context.emit({ type: 'stage', name: 'build', totalBytes });
  const there = sole === undefined ? new Set() : await findWritten(all, writer, context, sole);
  const isLeft = ({ digest }: Expected): boolean => !there.has(digest);
  const ready = gathering.ready.filter(isLeft);
  const missing = gathering.missing.filter(isLeft);
  const rotten: Need[] = [];
  const work = [
    async (signal: AbortSignal) =>
      void rotten.push(...(await copyReady(ready, writer, { ...context, signal }, sole))),
    (signal: AbortSignal) => fetchMissing(missing, writer, { ...context, signal }, sole),
  ];
  await inParallel(work, context.signal, (part, signal) => part(signal));
  await fetchMissing(rotten, writer, context, sole);
}

/** What an earlier run has brought into the bundle, and is still right there. */
async function findWritten(
  all: readonly Expected[],
  writer: BundleWriter,
  { emit, signal }: SourceContext,
  { done }: SoleCopy,
): Promise<Set<Digest>> {
  const noted = all.filter(({ digest }) => done.has(digest));
  if (noted.length === 0) return new Set();
  const id = 'written';
  const bytes = noted.reduce((sum, { size }) => sum + size, 0);
  emit({ type: 'item-start', id, kind: 'bundle', label: 'what an earlier run has brought', bytes });
  const jobs = noted.map(({ digest }) => ({ from: writer.written(digest) }));
  const onBytes = (delta: number): void => emit({ type: 'item-progress', id, delta });
  const results = await transferAll(jobs, { onBytes, signal });
  const right = noted.filter(({ digest }, i) => results[i] === digest);
  const wrong = bytes - right.reduce((sum, { size }) => sum + size, 0);
  if (wrong > 0) onBytes(-wrong);
  emit({ type: 'item-end', id, outcome: 'done' });
  return new Set(right.map(({ digest }) => digest));
}

/** @returns what the store has only in a rotten copy, which is removed */
async function copyReady(
  ready: readonly Ready[],
  writer: BundleWriter,
  context: SourceContext,
  sole: SoleCopy | undefined,
): Promise<Need[]> {
  if (ready.length === 0) return [];
  const { emit, signal, store } = context;
  const id = 'ready';
  const bytes = ready.reduce((sum, { size }) => sum + size, 0);
  emit({ type: 'item-start', id, kind: 'bundle', label: 'what is on this machine already', bytes });
  // In the order of the bundle, which is written once through.
  const ordered = ready.toSorted((a, b) => (a.digest < b.digest ? -1 : 1));
  const onBytes = (delta: number): void => {
    writer.wrote(delta);
    emit({ type: 'item-progress', id, delta });
  };
  try {
    const jobs = ordered.map(({ path, size, digest }) => ({
      from: { path, length: size } satisfies WholeFile,
      ...writer.place(digest),
    }));
    const results = await transferAll(jobs, { onBytes, signal });
    const rotten = ordered.flatMap((blob, i) => judge(blob, results[i]!) ?? []);
    for (const need of rotten) {
      await store.remove(need.digest);
      const message = `the store's copy of ${need.label} is damaged, and is fetched again`;
      emit({ type: 'warning', code: 'STORE_DAMAGED', message });
    }
    for (const [i, { digest }] of ordered.entries()) if (results[i] === digest) sole?.note(digest);
    emit({ type: 'item-end', id, outcome: 'done' });
    return rotten;
  } catch (error) {
    emit({ type: 'item-end', id, outcome: outcomeOf(error) });
    throw error;
  }
}

/** Less than this stays in the store, in bytes: it takes no room, and the next run looks into documents of models again. */
const SMALL_BYTES = 1024 ** 2;

/** The bundle is whole and has its name: the store does without what can be had again. */
export async function spareStore({ ready, missing }: Gathering, store: Store): Promise<void> {
  const needs = [...ready.flatMap(({ again }) => again ?? []), ...missing];
  for (const { lasting, size, digest } of needs)
    if (lasting && size >= SMALL_BYTES) await store.remove(digest);
}

/**
 * @returns what has to be fetched again; undefined when the copy is right
 * @throws {SealiftError} SOURCE_CHANGED for a file that a person named; DISK_FULL, IO_ERROR
 */
function judge(
  { digest, size, label, path, again }: Ready,
  result: string | TransferError,
): Need | undefined {
  if (result === digest) return undefined;
  const changed = typeof result === 'string' || ['EBADSIZE', 'EEND', 'ENOENT'].includes(result.code);
  if (!changed) throw asSealiftError(result, `copying ${path} into the bundle`);
  if (again !== undefined) return again;
  throw sourceChanged(
    `${label}: ${path}`,
    { digest, size },
    typeof result === 'string' ? result : result.message,
  );
}

/** Downloads, some at a time, each into the bundle in the pass in which it is hashed. */
async function fetchMissing(
  needs: readonly Need[],
  writer: BundleWriter,
  context: SourceContext,
  sole: SoleCopy | undefined,
): Promise<void> {
  const { emit, store } = context;
  let left = needs.reduce((sum, { size }) => sum + size, 0);
  const fetchOne = async (need: Need, signal: AbortSignal): Promise<void> => {
    const { digest: id, kind, label, size } = need;
    const inOrder = left - size >= COMPANY * size;
    emit({ type: 'item-start', id, kind, label, bytes: size });
    const onBytes = (delta: number): void => emit({ type: 'item-progress', id, delta });
    try {
      const source = await need.find();
      const options = { onBytes, signal, what: label, into: writer.place(id), inOrder };
      // What has begun to come into the store is ended there.
      if (sole === undefined || store.arrived(need) > 0) await store.add(need, source, options);
      else await bringAlone(need, source, { ...options, notes: sole.notes(id) });
      sole?.note(id);
      writer.wrote(size);
      left -= size;
      emit({ type: 'item-end', id, outcome: 'done' });
    } catch (error) {
      emit({ type: 'item-end', id, outcome: outcomeOf(error) });
      throw error;
    }
  };
  await inParallel(needs, context.signal, fetchOne, FETCHES);
}

/** Calls `make` at the first use only, and once. */
function lazily<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => (made ??= make());
}
