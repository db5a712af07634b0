// SPDX-License-Identifier: Apache-2.0
/** Building: a lock becomes a signed bundle. What was fetched stays where it landed, so a killed build goes on. */
import { stat } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import type { Inventory } from '../bundle/inventory.ts';
import { demandParity, parityBytes } from '../bundle/shards.ts';
import { demandNoVolumes, demandVolumeSize } from '../bundle/split.ts';
import { FileTarget, VolumeTarget, type ByteTarget } from '../bundle/target.ts';
import { volumeName } from '../bundle/volumes.ts';
import { BundleWriter, headBytes, layoutOf, planBundle, type BundlePlan } from '../bundle/write.ts';
import { asSealiftError, SealiftError } from '../errors.ts';
import type { Emit } from '../events.ts';
import type { Digest } from '../store/digest.ts';
import { temporary } from '../store/files.ts';
import { describeShortage, findShortages, shortageDetails, type SpaceNeed } from '../store/space.ts';
import type { Store } from '../store/store.ts';
import { readClaim } from '../trust/claim.ts';
import type { Signer } from '../trust/sign.ts';
import { SLOT_COUNT } from '../trust/slots.ts';
import { deltaOn, readBase } from './base.ts';
import { claimStore } from './claim.ts';
import { storeConfigs } from './configs.ts';
import { byKey, SOURCES, type Sources } from './context.ts';
import { checkServices } from './fitness.ts';
import { collect, findMissing, listNeeds, spareStore, type Gathering, type Need } from './gather.ts';
import { placeInstaller, type Installer } from './installer.ts';
import { ownSignature } from './lock-signature.ts';
import type { Lock } from './lockfile.ts';
import { manifestDigest, type Manifest } from './manifest.ts';
import { provenanceOf } from './provenance.ts';
import { SoleCopy } from './sole.ts';
import type { SourceContext } from './sources/source.ts';
import { checkAnchors, readAnchors } from './upstream/anchors.ts';

export interface BuildInput {
  manifest: Manifest;
  lock: Lock;
  context: SourceContext;
  /** Path of the bundle to write; its folder must exist. */
  out: string;
  /** Each signs; none leaves a bundle to be signed later. */
  signers: readonly Signer[];
  /** Bytes of a volume; undefined writes one file. */
  volumeBytes?: number | undefined;
  /** Parity volumes to add. */
  parity?: number;
  /** The program that crosses beside the bundle; its digest goes into the provenance. */
  installer?: Installer | undefined;
  /** Path of a base: what it has is left out. */
  base?: string | undefined;
  /** What is fetched goes into the bundle alone, and what the store has of it leaves it when the bundle is whole. */
  soleCopy?: boolean;
  /** Replaces a file that is there. */
  overwrite?: boolean;
  emit: Emit;
  signal?: AbortSignal | undefined;
  sources?: Sources;
}

export interface BuiltBundle {
  path: string;
  /** The bundle's identity: sha256 of its SHA256SUMS. */
  digest: Digest;
  /** Bytes. */
  size: number;
}

/**
 * Builds the bundle that a lock describes. Holds the store's lock meanwhile. Until the last byte is on the disk
 * there is no file at `out`.
 * @throws {SealiftError} LOCK_STALE, FILE_EXISTS, FILE_MISSING, SLOTS_FULL, ALREADY_SIGNED, SOURCE_CHANGED,
 *   DISK_FULL, LOCKED, INTERRUPTED, and the codes of sources and signers
 */
export async function buildBundle(input: BuildInput): Promise<BuiltBundle> {
  const { manifest, lock, signers } = input;
  const out = resolve(input.out);
  checkLock(manifest, lock);
  if (signers.length > SLOT_COUNT) {
    throw new SealiftError(
      'SLOTS_FULL',
      `a bundle has room for ${SLOT_COUNT} signatures, not ${signers.length}`,
    );
  }
  if (input.volumeBytes !== undefined) {
    demandOneFile(input);
    await demandNoVolumes(out);
  }
  const stale = await checkOut(out, input.overwrite ?? false);
  const { store } = input.context;
  const release = await claimStore(store, 'build');
  try {
    const { plan, gathering, context } = await prepare(input, out, stale);
    const sole = input.soleCopy === true ? await SoleCopy.open(out, plan, store) : undefined;
    const writer = new BundleWriter(plan, sole?.target ?? (await openTarget(out, plan, input)));
    try {
      await collect(gathering, writer, context, sole);
      await writer.finish(await signAll(plan.sums, signers));
    } catch (error) {
      await writer.discard();
      throw error;
    }
    if (sole !== undefined) {
      await sole.forget();
      await spareStore(gathering, store);
    }
    const path = input.volumeBytes === undefined ? out : volumeName(out, 1);
    const { name, version } = manifest.metadata;
    if (input.installer !== undefined) await placeInstaller(input.installer, path, `${name} ${version}`);
    return { path, digest: plan.digest, size: plan.size };
  } catch (error) {
    throw asSealiftError(error, `building ${out}`);
  } finally {
    await release();
  }
}

/** What came of many volumes could not be gone on with. @throws {SealiftError} USAGE */
function demandOneFile({ soleCopy = false }: BuildInput): void {
  if (!soleCopy) return;
  throw new SealiftError('USAGE', '--sole-copy writes one file, and --volume-size many', {
    hint: 'leave one of them out; `sealift split` cuts a bundle that is there',
  });
}

async function openTarget(out: string, { size }: BundlePlan, input: BuildInput): Promise<ByteTarget> {
  const { volumeBytes, parity = 0, emit, signal } = input;
  if (volumeBytes === undefined) return FileTarget.create(out);
  return VolumeTarget.create(out, { volumeBytes, totalBytes: size, parity }, { emit, signal });
}

/** One after the other, since each may ask a person. Only a finished signature shows whose it is. */
async function signAll(sums: Uint8Array, signers: readonly Signer[]): Promise<string[]> {
  const signatures = new Map<string, string>();
  for (const signer of signers) {
    const json = await signer.sign(sums);
    const { by } = readClaim(JSON.parse(json));
    if (signatures.has(by)) {
      throw new SealiftError('ALREADY_SIGNED', 'two of the signers are one and the same', {
        details: [['signer', by]],
        hint: 'a signer counts once: name each key or identity once',
      });
    }
    signatures.set(by, json);
  }
  return [...signatures.values()];
}

/** Everything that is known before the first byte is fetched. */
interface Prepared {
  plan: BundlePlan;
  gathering: Gathering;
  context: SourceContext;
}

async function prepare(input: BuildInput, out: string, stale: number): Promise<Prepared> {
  const { manifest, lock, sources = SOURCES } = input;
  const context = { ...input.context, platform: lock.platform, emit: input.emit, signal: input.signal };
  const { store } = context;
  checkAnchors(lock, await readAnchors(manifest, context.baseDir));
  await storeConfigs(manifest, lock, context.baseDir, store);
  for (const model of lock.models) {
    const own = ownSignature(model);
    if (own) await store.addBytes(own.bytes);
  }
  const needs = await listNeeds(lock, context, sources);
  const whole = composeInventory(manifest, lock);
  await checkServices(whole, needs, context);
  const inventory = await withBase(whole, input.base, store);
  const omitted = new Set(inventory.base?.omits.map(({ digest }) => digest));
  const plan = await planBundle(inventory, provenanceOf(inventory, manifest, lock, input.installer), store);
  const { volumeBytes, parity = 0 } = input;
  if (volumeBytes !== undefined) {
    demandVolumeSize(volumeBytes, plan.size, headBytes(plan));
    demandParity(parity, volumeBytes, plan.size);
  }
  const sizes = { volumeBytes: volumeBytes ?? plan.size, totalBytes: plan.size };
  const extra = parity * parityBytes(sizes);
  const gathering = await findMissing(
    [...needs.filter(({ digest }) => !omitted.has(digest)), ...storedAlready(plan, needs)],
    context,
  );
  await demandSpace([
    {
      folder: store.root,
      what: 'downloads',
      bytes: input.soleCopy === true ? gathering.begun : gathering.bytes,
    },
    { folder: dirname(out), what: 'bundle', bytes: plan.size + extra + (input.installer?.size ?? 0) - stale },
  ]);
  return { plan, gathering, context };
}

async function withBase(whole: Inventory, base: string | undefined, store: Store): Promise<Inventory> {
  if (base === undefined) return whole;
  const { content } = await layoutOf(whole, store);
  return deltaOn(whole, await readBase(base, store), content);
}

/** Manifests of images, configuration files, our own signatures: the store has got them a moment ago. */
function storedAlready(plan: BundlePlan, needs: readonly Need[]): Need[] {
  const listed = new Set(needs.map(({ digest }) => digest));
  const others = plan.blobs.filter(({ digest }) => !listed.has(digest) && !plan.generated.has(digest));
  return others.map(({ digest, size }) => ({
    digest,
    size,
    kind: 'blob',
    label: digest,
    local: false,
    lasting: false,
    find: () =>
      Promise.reject(new SealiftError('STORE_DAMAGED', `the store lost ${digest} during the build`)),
  }));
}

/** Before hours of downloading. @throws {SealiftError} DISK_FULL, naming every file system that is too small */
async function demandSpace(needs: readonly SpaceNeed[]): Promise<void> {
  const shortages = await findShortages(needs);
  if (shortages.length === 0) return;
  throw new SealiftError('DISK_FULL', shortages.map(describeShortage).join('; '), {
    details: shortageDetails(shortages),
    hint: 'free space there, or put the store (--store) or the bundle (--output) on another file system',
  });
}

/** What the bundle says of itself, in the one order that FORMAT.md allows. The plan holds it against the schema. */
export function composeInventory(manifest: Manifest, lock: Lock): Inventory {
  return {
    apiVersion: 'sealift.dev/v1',
    kind: 'Inventory',
    name: manifest.metadata.name,
    version: manifest.metadata.version,
    ...(manifest.metadata.channel === undefined ? {} : { channel: manifest.metadata.channel }),
    platform: lock.platform,
    created: lock.created,
    images: lock.images,
    models: lock.models.map(({ oms: _, ...model }) => model),
    configs: lock.configs,
    services: byKey(manifest.services).map(([name, service]) => Object.assign({ name }, service)),
    ...(manifest.gateway === undefined ? {} : { gateway: manifest.gateway }),
    ...(manifest.monitoring === undefined ? {} : { monitoring: manifest.monitoring }),
  };
}

/** The digest catches an edited manifest, the names an edited lock. */
function checkLock(manifest: Manifest, lock: Lock): void {
  const same =
    lock.manifest === manifestDigest(manifest) &&
    lock.platform === manifest.platform &&
    sameOrigins(manifest.images, lock.images) &&
    lock.models.every(({ name, oms }) => (oms !== undefined) === (manifest.models[name]?.sign === true)) &&
    sameOrigins(manifest.models, lock.models) &&
    byKey(manifest.configs)
      .map(([name]) => name)
      .join('\0') === lock.configs.map(({ name }) => name).join('\0');
  if (same) return;
  throw new SealiftError('LOCK_STALE', 'the manifest and its lock do not belong together any more', {
    details: [
      ['manifest', manifestDigest(manifest)],
      ['lock is for', lock.manifest],
    ],
    hint: 'run `sealift lock`, review what it prints, then build',
  });
}

function sameOrigins(
  asked: Readonly<Record<string, { from: string }>>,
  locked: readonly { name: string; from: string }[],
): boolean {
  const wanted = byKey(asked).map(([name, { from }]) => [name, from]);
  return JSON.stringify(wanted) === JSON.stringify(locked.map(({ name, from }) => [name, from]));
}

/**
 * Says no before the work rather than after it. Returns the size of what an earlier, killed build left beside
 * `out`: those bytes come free again.
 */
async function checkOut(out: string, overwrite: boolean): Promise<number> {
  const folder = await stat(dirname(out)).catch((error: unknown) => {
    throw asSealiftError(error, `writing ${out}`);
  });
  if (!folder.isDirectory()) throw new SealiftError('FILE_MISSING', `${dirname(out)} is not a folder`);
  const there = await stat(out).catch(() => undefined);
  if (there && (!overwrite || !there.isFile())) {
    throw new SealiftError('FILE_EXISTS', `${out} is already there`, {
      hint: there.isFile() ? 'name another file with --output, or remove it' : 'name a file with --output',
    });
  }
  // Not its size: there are holes where nothing had come yet.
  return ((await stat(temporary(out)).catch(() => undefined))?.blocks ?? 0) * 512;
}
