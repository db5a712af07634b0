// SPDX-License-Identifier: Apache-2.0
/** Locking: tags become digests, branches become commits, files get their sha256 (DESIGN §1, "lock"). */
import type { KeyObject } from 'node:crypto';
import { describeSigner, ImageRef } from '../bundle/inventory.ts';
import { asSealiftError, SealiftError } from '../errors.ts';
import { inParallel } from '../store/pool.ts';
import { claimStore } from './claim.ts';
import { caseCollisions } from './collide.ts';
import { lockConfigs } from './configs.ts';
import { asItem, byKey, SOURCES, type Sources } from './context.ts';
import { storeImageMeta } from './image.ts';
import { lockModel } from './lock-model.ts';
import type { LockTrust } from './lock-signature.ts';
import { lockBytes, LockSchema, type Lock, type LockedImage, type LockedModel } from './lockfile.ts';
import { manifestDigest, type Manifest } from './manifest.ts';
import type { ResolvedImage, SourceContext } from './sources/source.ts';
import { readAnchors } from './upstream/anchors.ts';
import { verifyImageSignature } from './upstream/image-signature.ts';

export { diffLocks, type LockChange } from './lock-diff.ts';
export { lockBytes, lockPath, parseLock, type Lock } from './lockfile.ts';

/**
 * Resolves everything that the manifest names. Holds the store's lock meanwhile.
 * @param previous the lock so far; when nothing changed, its date is kept and the result has its very bytes
 * @param now the date of a new lock
 * @param modelKey signs models with `sign: true`; ECDSA P-256
 * @throws {SealiftError} the sources' own codes; MANIFEST_INVALID, UNSAFE_NAME, PLATFORM_NOT_FOUND, LOCKED,
 *   FILE_MISSING, KEY_INVALID, KEY_MISSING, UPSTREAM_NOT_SIGNED, UPSTREAM_UNTRUSTED, UPSTREAM_BAD_SIGNATURE
 */
export async function resolveLock(
  manifest: Manifest,
  context: SourceContext,
  previous: Lock | undefined,
  now: Date,
  sources: Sources = SOURCES,
  modelKey?: KeyObject,
): Promise<Lock> {
  const release = await claimStore(context.store, 'lock');
  try {
    const anchors = await readAnchors(manifest, context.baseDir);
    const trust = { anchors, modelKey, previous: previous?.models ?? [], now };
    const lock = await resolveAll(manifest, { ...context, platform: manifest.platform }, trust, sources);
    const kept = previous && { ...lock, created: previous.created };
    return kept && lockBytes(kept).equals(lockBytes(previous)) ? kept : lock;
  } catch (error) {
    throw asSealiftError(error, 'locking');
  } finally {
    await release();
  }
}

async function resolveAll(
  manifest: Manifest,
  context: SourceContext,
  trust: LockTrust,
  sources: Sources,
): Promise<Lock> {
  const configs = await lockConfigs(manifest, context.baseDir);
  warnOfCollisions(Object.keys(manifest.configs), context);
  context.emit({ type: 'stage', name: 'lock' });
  const images: LockedImage[] = [];
  const models: LockedModel[] = [];
  // Together: while an engine or a registry is being waited for, files can be hashed.
  const parts = [
    async (part: SourceContext) => void images.push(...(await lockImages(manifest, part, sources, trust))),
    async (part: SourceContext) => void models.push(...(await lockModels(manifest, part, sources, trust))),
  ];
  await inParallel(parts, context.signal, (part, signal) => part({ ...context, signal }));
  return checked({
    apiVersion: 'sealift.dev/v1',
    kind: 'Lock',
    created: trust.now.toISOString().replace(/\.\d+Z$/, 'Z'),
    manifest: manifestDigest(manifest),
    platform: manifest.platform,
    images,
    models,
    configs,
  });
}

async function lockImages(
  manifest: Manifest,
  context: SourceContext,
  sources: Sources,
  trust: LockTrust,
): Promise<LockedImage[]> {
  const images = await inParallel(byKey(manifest.images), context.signal, ([name, entry], signal) =>
    lockImage(name, entry, { ...context, signal }, sources, trust),
  );
  refuseTwoMeanings(images);
  return images;
}

/** One after the other: the files of one model already use all transfers. */
async function lockModels(
  manifest: Manifest,
  context: SourceContext,
  sources: Sources,
  trust: LockTrust,
): Promise<LockedModel[]> {
  const models: LockedModel[] = [];
  for (const [name, entry] of byKey(manifest.models))
    models.push(await lockModel(name, entry, context, sources, trust));
  return models;
}

async function lockImage(
  name: string,
  entry: Manifest['images'][string],
  context: SourceContext,
  sources: Sources,
  { anchors }: LockTrust,
): Promise<LockedImage> {
  const item = { id: `image ${name}`, kind: 'image' as const, label: `${name} ← ${entry.from}` };
  return asItem(context.emit, item, async () => {
    const resolved = await sources.image(entry.from, context).resolve(context.emit);
    const ref = refOf(name, entry, resolved);
    await storeImageMeta(name, resolved, context);
    const { mediaType, digest, size } = resolved.manifest;
    const anchor = anchors.images.get(name);
    const signature = anchor && (await verifyImageSignature(name, resolved, anchor));
    const result = {
      name,
      from: entry.from,
      ref,
      manifest: { mediaType, digest, size },
      ...(resolved.index === undefined ? {} : { index: resolved.index }),
      ...(signature === undefined ? {} : { signature }),
    };
    return { result, detail: signature ? `${digest}, signed by ${describeSigner(signature.by)}` : digest };
  });
}

/** The name under which the engine will know the image: `as`, or the one that it has at its source. */
function refOf(name: string, entry: Manifest['images'][string], resolved: ResolvedImage): string {
  const ref = entry.as ?? resolved.ref;
  if (ref !== undefined && ImageRef.safeParse(ref).success) return ref;
  const why =
    ref === undefined ? 'has no tag of its own' : `is called '${ref}' there, which is no full reference`;
  throw new SealiftError('MANIFEST_INVALID', `image ${name}: ${entry.from} ${why}`, {
    hint: `say how the enclave shall call it: add 'as: docker.io/library/${name}:1.0' to images.${name}`,
  });
}

/** An engine can keep only one image under a reference; the second to be loaded would take it from the first. */
function refuseTwoMeanings(images: readonly LockedImage[]): void {
  for (const [i, image] of images.entries()) {
    const other = images.slice(0, i).find(({ ref }) => ref === image.ref);
    if (other === undefined || other.manifest.digest === image.manifest.digest) continue;
    throw new SealiftError(
      'MANIFEST_INVALID',
      `images ${other.name} and ${image.name} are both called ${image.ref}`,
      {
        details: [
          [other.name, other.manifest.digest],
          [image.name, image.manifest.digest],
        ],
        hint: `give one of them another name with 'as:'`,
      },
    );
  }
}

function warnOfCollisions(names: readonly string[], context: SourceContext): void {
  for (const [a, b] of caseCollisions(names)) {
    const message = `configs '${a}' and '${b}' are one file on a disk that ignores case`;
    context.emit({ type: 'warning', code: 'CASE_COLLISION', message });
  }
}

/** What goes out must come in again: text from outside (a licence, a media type) may not fit the lock's form. */
function checked(lock: Lock): Lock {
  const parsed = LockSchema.safeParse(lock);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new SealiftError(
    'SOURCE_INVALID',
    `a source sent what a lock cannot hold: ${issue?.path.join('.')}: ${issue?.message}`,
  );
}
