// SPDX-License-Identifier: Apache-2.0
/**
 * What a delta leaves out, on the host that must hold it: files in the home's store, hashed before they are relied on, and
 * layers in images of the engine, which are exported and found by their digest. Nothing of it is taken on trust: an image
 * with a layer of other bytes would not get the ID that was signed.
 */
import { createReadStream } from 'node:fs';
import { open, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { VerifiedBundle } from '../bundle/open.ts';
import { purposeOf } from '../bundle/inventory.ts';
import { asSealiftError, SealiftError } from '../errors.ts';
import type { Emit } from '../events.ts';
import { hexOf, type Digest, type Expected } from '../store/digest.ts';
import { receive, type Store } from '../store/store.ts';
import { tarEntries, type TarEntry } from '../store/tar-entries.ts';
import { transferAll } from '../store/transfer.ts';
import { expectedId, type EngineClient } from './engine-client.ts';
import type { Home } from './home.ts';
import { readReceipts } from './receipt.ts';

/** A layer that the engine has given back, in a file. */
export interface HeldLayer {
  path: string;
  /** Bytes of the file. */
  size: number;
  /** Whether it is unpacked: then its sha256 is the layer's diff ID, and otherwise its digest. */
  unpacked: boolean;
}

/** Most missing blobs that an error lists. */
const MAX_LISTED = 100;

/** Layers that a delta leaves out of one image, where they can be got. */
export interface Borrowed {
  layer: Expected;
  diffId: Digest;
  /** ID of an image of the engine that has it. */
  from: Digest;
}

/**
 * Finds everything that a delta leaves out.
 * @returns what has to be borrowed from the engine, by image
 * @throws {SealiftError} BASE_MISSING with the list of what is not there or has rotted; nothing was changed
 */
export async function demandBase(
  bundle: VerifiedBundle,
  world: { home: Home; store: Store; engine: EngineClient; emit: Emit },
): Promise<Map<string, Borrowed[]>> {
  const { base } = bundle.inventory;
  const borrowed = new Map<string, Borrowed[]>();
  if (base === undefined) return borrowed;
  const omitted = new Map(base.omits.map((blob) => [blob.digest, blob]));
  const missing = await missingFiles(bundle, omitted, world);
  const engineImages = await layersHere(world);
  for (const image of bundle.images) {
    const found = await world.engine.image(image.ref);
    if (found?.id === expectedId(image, world.engine.facts.store)) continue;
    borrowed.set(image.name, []);
    for (const [i, layer] of image.layers.entries()) {
      if (!omitted.has(layer.digest)) continue;
      const diffId = image.diffIds[i]!;
      const from = engineImages.get(diffId);
      if (from === undefined) missing.push({ ...layer, purpose: `image ${image.name}: layer ${i + 1}` });
      else borrowed.get(image.name)!.push({ layer, diffId, from });
    }
  }
  if (missing.length > 0) throw baseMissing(bundle, missing);
  return borrowed;
}

interface Piece extends Expected {
  purpose: string;
}

/** Files of models and configs that the store lacks, or has in other bytes. */
async function missingFiles(
  { inventory }: VerifiedBundle,
  omitted: ReadonlyMap<Digest, Expected>,
  { store, emit }: { store: Store; emit: Emit },
): Promise<Piece[]> {
  const files = [...inventory.models.flatMap((model) => model.files), ...inventory.configs];
  const wanted = [
    ...new Map(files.filter(({ digest }) => omitted.has(digest)).map((f) => [f.digest, f])).values(),
  ];
  const bytes = wanted.reduce((sum, { size }) => sum + size, 0);
  emit({ type: 'stage', name: 'looking at the base', totalBytes: bytes });
  const id = 'base';
  emit({ type: 'item-start', id, kind: 'bundle', label: 'files that the bundle leaves out', bytes });
  const jobs = wanted.map(({ digest, size }) => ({ from: { path: store.path(digest), length: size } }));
  const results = await transferAll(jobs, { onBytes: (delta) => emit({ type: 'item-progress', id, delta }) });
  emit({ type: 'item-end', id, outcome: 'done' });
  return wanted
    .filter(({ digest }, i) => results[i] !== digest)
    .map(({ digest, size }) => ({ digest, size, purpose: purposeOf(digest, inventory) }));
}

/** Layers of the images that releases of this home have brought, by diff ID, and an image that has each. */
async function layersHere({
  home,
  engine,
}: {
  home: Home;
  engine: EngineClient;
}): Promise<Map<Digest, Digest>> {
  const layers = new Map<Digest, Digest>();
  const ids = new Set((await readReceipts(home)).flatMap(({ images }) => images.map(({ id }) => id)));
  for (const id of ids)
    for (const layer of (await engine.image(id))?.layers ?? []) layers.set(layer as Digest, id);
  return layers;
}

function baseMissing({ inventory }: VerifiedBundle, missing: readonly Piece[]): SealiftError {
  const { name, version } = inventory.base!;
  const bytes = missing.reduce((sum, { size }) => sum + size, 0);
  const listed = missing
    .slice(0, MAX_LISTED)
    .map(({ digest, size, purpose }) => [purpose, `${digest} (${size} bytes)`] as const);
  const rest = missing.length > MAX_LISTED ? ([['and', `${missing.length - MAX_LISTED} more`]] as const) : [];
  return new SealiftError(
    'BASE_MISSING',
    `the bundle builds on ${name} ${version}, and this host lacks ${missing.length} of its blobs (${bytes} bytes)`,
    {
      details: [...listed, ...rest],
      hint: 'install the base first, or have the bundle built whole, or on the receipt.json of what this host runs',
    },
  );
}

/**
 * Brings layers out of the engine into files under `folder`, each verified. The caller removes them.
 * @throws {SealiftError} BASE_MISSING when the engine's export has other bytes; ENGINE_FAILED, DISK_FULL, INTERRUPTED
 */
export async function borrowLayers(
  engine: EngineClient,
  wanted: readonly Borrowed[],
  folder: string,
  signal: AbortSignal | undefined,
): Promise<Map<Digest, HeldLayer>> {
  const held = new Map<Digest, HeldLayer>();
  for (const from of new Set(wanted.map((borrowed) => borrowed.from))) {
    const pending = wanted.filter((borrowed) => borrowed.from === from && !held.has(borrowed.layer.digest));
    if (pending.length === 0) continue;
    const archive = await engine.export(from, signal);
    for await (const entry of tarEntries(archive, `the export of image ${from}`)) {
      signal?.throwIfAborted();
      if (entry.kind === 'file' && isLayer(entry.path)) await keep(entry, pending, folder, held);
    }
  }
  const lost = wanted.find(({ layer }) => !held.has(layer.digest));
  if (lost === undefined) return held;
  throw new SealiftError(
    'BASE_MISSING',
    `the engine does not give back layer ${lost.layer.digest} as it was signed`,
    {
      details: [['image', lost.from]],
      hint: 'its data folder is damaged, or it changes layers: have the bundle built whole',
    },
  );
}

/** Docker up to 24 exports `<id>/layer.tar`, since 25 an OCI layout; Podman `<diff ID>.tar`, with links to it. */
const isLayer = (path: string): boolean =>
  path.endsWith('/layer.tar') || path.startsWith('blobs/sha256/') || /^[0-9a-f]{64}\.tar$/.test(path);

async function keep(
  { body, size }: TarEntry,
  wanted: readonly Borrowed[],
  folder: string,
  held: Map<Digest, HeldLayer>,
): Promise<void> {
  const temp = join(folder, `borrowed-${process.pid}`);
  const digest = await spool(body, temp);
  for (const { layer, diffId } of wanted) {
    if (held.has(layer.digest) || (digest !== diffId && digest !== layer.digest)) continue;
    const path = join(folder, `layer-${hexOf(layer.digest)}`);
    await rename(temp, path);
    held.set(layer.digest, { path, size, unpacked: digest !== layer.digest });
    return;
  }
  await rm(temp, { force: true });
}

async function spool(body: AsyncIterable<Buffer>, path: string): Promise<Digest> {
  const handle = await open(path, 'w', 0o600);
  try {
    return (await receive(body, handle)).digest;
  } catch (error) {
    await rm(path, { force: true });
    throw asSealiftError(error, 'taking a layer out of the engine');
  } finally {
    await handle.close();
  }
}

/** Content of a held layer. */
export const heldBody = ({ path }: HeldLayer): AsyncIterable<Buffer> =>
  createReadStream(path, { highWaterMark: 1024 * 1024 });

/** Bytes that borrowing takes on the home's disk while an image is loaded: unpacked layers are larger than packed ones. */
export const borrowedBytes = (borrowed: ReadonlyMap<string, readonly Borrowed[]>): number =>
  Math.max(
    0,
    ...[...borrowed.values()].map((list) => list.reduce((sum, { layer }) => sum + 4 * layer.size, 0)),
  );
