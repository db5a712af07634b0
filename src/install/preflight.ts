// SPDX-License-Identifier: Apache-2.0
/**
 * What can be known to be wrong before anything is changed. Every check runs, so that one visit to the machine
 * is enough; the first failure gives the code, the others are its details.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import type { VerifiedBundle, VerifiedImage } from '../bundle/open.ts';
import { asSealiftError, SealiftError } from '../errors.ts';
import type { Emit } from '../events.ts';
import { hexOf, type Digest, type Expected } from '../store/digest.ts';
import { exists, freeBytes } from '../store/files.ts';
import { describeShortage, findShortages, shortageDetails, type SpaceNeed } from '../store/space.ts';
import type { Store } from '../store/store.ts';
import type { Diagnosis } from './doctor.ts';
import { expectedId, type EngineClient, type EngineFacts, type PublishedPort } from './engine-client.ts';
import { releaseName, type Home } from './home.ts';
import type { JournalState } from './journal.ts';
import { firstUnprivilegedPort, listeners, overlaps } from './ports.ts';
import { readReceipt } from './receipt.ts';
import type { Site } from './site.ts';
import { formatBytes } from '../text.ts';
import { isoSeconds, latestOf } from '../trust/state.ts';

/** Rounding of a file's size on disk, in bytes. */
const BLOCK = 4096;
/** Journal, release files, receipt. */
const RESERVE = 4 * 1024 * 1024;

/** Runs checks one after the other and remembers what failed. */
export class Findings {
  readonly #emit: Emit;
  readonly #estimates: boolean;
  readonly #failed: SealiftError[] = [];

  /** @param estimates whether what is only reckoned counts as a failure */
  constructor(emit: Emit, estimates = false) {
    this.#emit = emit;
    this.#estimates = estimates;
  }

  /** @param make returns one line of evidence, or a value with one; undefined comes back after a failure */
  async check<T>(name: string, make: () => Promise<{ detail: string; value: T }>): Promise<T | undefined> {
    try {
      const { detail, value } = await make();
      this.#emit({ type: 'check', name, outcome: 'ok', detail });
      return value;
    } catch (thrown) {
      const error = asSealiftError(thrown, name);
      const advice = error.hint === undefined ? {} : { advice: error.hint };
      this.#emit({ type: 'check', name, outcome: 'failed', detail: error.message, ...advice });
      this.#failed.push(error);
      return undefined;
    }
  }

  warn(name: string, detail: string): void {
    this.#emit({ type: 'check', name, outcome: 'warning', detail });
  }

  /** What the doctor found; an illness is a failure. */
  add({ check, outcome: found, detail, advice, estimate }: Diagnosis): void {
    const more = advice === undefined ? {} : { advice };
    const outcome = found === 'failed' && estimate && !this.#estimates ? 'warning' : found;
    this.#emit({ type: 'check', name: check, outcome, detail, ...more });
    if (outcome === 'failed')
      this.#failed.push(
        new SealiftError('HOST_UNFIT', `${check}: ${detail}`, advice === undefined ? {} : { hint: advice }),
      );
  }

  get failures(): readonly SealiftError[] {
    return this.#failed;
  }

  /** @throws {SealiftError} the first failure */
  demandNone(): void {
    const [first, ...rest] = this.#failed;
    if (first === undefined) return;
    if (rest.length === 0) throw first;
    throw new SealiftError(first.code, first.message, {
      ...(first.hint === undefined ? {} : { hint: first.hint }),
      details: [...first.details, ...rest.map((e) => ['also', `${e.code}: ${e.message}`] as const)],
      cause: first,
    });
  }
}

/** @throws {SealiftError} ENGINE_UNSUPPORTED */
export function checkPlatform(engine: EngineClient, platform: string): string {
  if (engine.facts.platform === platform) return platform;
  throw new SealiftError(
    'ENGINE_UNSUPPORTED',
    `the bundle is for ${platform}, and the engine runs ${engine.facts.platform}`,
  );
}

/**
 * `demo` 1.0.0-2.0.0 and `demo-1.0.0` 2.0.0 are two bundles, and their releases would share a folder.
 * @throws {SealiftError} RELEASE_CONFLICT
 */
export async function checkRelease(home: Home, bundle: { name: string; version: string }): Promise<string> {
  const release = releaseName(bundle);
  const other = (await readReceipt(home, release))?.bundle;
  if (other === undefined || other.name === bundle.name) return release;
  throw new SealiftError(
    'RELEASE_CONFLICT',
    `release ${release} is ${other.name} ${other.version}, not ${bundle.name} ${bundle.version}`,
    { hint: `sealift uninstall --release ${release}   (or build this bundle under another name)` },
  );
}

/**
 * A port that our own gateway of this project holds is free for its successor.
 * @throws {SealiftError} PORT_TAKEN, HOST_UNFIT
 */
export async function checkPort(
  engine: EngineClient,
  site: Site,
  project: string | undefined,
): Promise<string> {
  const { address, port } = site.listen;
  demandOpenable(port, engine.facts, await firstUnprivilegedPort());
  const published = (await engine.publishedPorts()).filter(
    (p) => p.port === port && overlaps(p.address, address),
  );
  const foreign = published.find((p) => (project === undefined ? !isOurs(p) : p.project !== project));
  if (foreign !== undefined) throw portTaken(site, `container ${foreign.container} publishes it`);
  if (published.length > 0) return `${address}:${port} is held by the release that is replaced`;
  const holder = (await listeners(port)).find((a) => overlaps(a, address));
  if (holder !== undefined) throw portTaken(site, `something listens on ${holder}:${port}`);
  return `${address}:${port} is free`;
}

/**
 * @param least the first port that everybody may open
 * @throws {SealiftError} HOST_UNFIT
 */
export function demandOpenable(
  port: number,
  { opensPortsAsUser }: Pick<EngineFacts, 'opensPortsAsUser'>,
  least: number,
): void {
  if (port >= least || !opensPortsAsUser) return;
  throw new SealiftError('HOST_UNFIT', `port ${port} is below ${least}, and the engine runs without root`, {
    hint: `set listen.port in site.yaml to ${least} or more, or let everybody open it: sysctl net.ipv4.ip_unprivileged_port_start=${port}`,
  });
}

/** Of some release of sealift, for whoever looks at the host without a bundle. */
const isOurs = ({ project }: PublishedPort): boolean => project?.startsWith('sealift-') === true;

function portTaken({ listen }: Site, who: string): SealiftError {
  return new SealiftError('PORT_TAKEN', `port ${listen.port} is taken: ${who}`, {
    hint: `stop it (ss -ltnp 'sport = :${listen.port}' names it), or set listen.port in site.yaml`,
  });
}

/** What an install writes, and where. */
export interface DiskUse {
  home: Home;
  store: Store;
  /** Blobs that the home must hold in the end. */
  blobs: Iterable<Expected>;
  /** Bytes for layers that are unpacked on the way. */
  spool: number;
  /** Undefined when there is none to ask. */
  engine: EngineClient | undefined;
  images: readonly VerifiedImage[];
}

/**
 * Space on every file system involved, those of the home and of the engine, which may be one.
 * @throws {SealiftError} DISK_TOO_SMALL
 */
export async function checkDisk(use: DiskUse): Promise<string> {
  const { root } = use.home;
  const bytes = (await missingBytes(use)) + use.spool + RESERVE;
  const needs: SpaceNeed[] = [{ folder: root, what: 'models and files', bytes }];
  if (use.engine !== undefined) needs.push(...(await engineNeeds(use.engine, use.images)));
  const shortages = await findShortages(needs);
  const summary = needs.map((need) => `${formatBytes(need.bytes)} in ${need.folder}`).join(' and ');
  if (shortages.length === 0)
    return `${summary} needed, ${formatBytes((await freeBytes(root)).bytes)} free under ${root}`;
  throw new SealiftError('DISK_TOO_SMALL', shortages.map(describeShortage).join('; '), {
    details: shortageDetails(shortages),
    hint: `free ${shortages.map((s) => `${formatBytes(s.needed - s.free)} there`).join(' and ')}, or put the home on another disk with --home`,
  });
}

/** Bytes of the blobs that are not there yet, in whole blocks. What a killed run left of them counts. */
async function missingBytes({ store, blobs }: DiskUse): Promise<number> {
  const seen = new Set<Digest>();
  let bytes = 0;
  for (const blob of blobs) {
    if (seen.has(blob.digest) || (await store.has(blob))) continue;
    seen.add(blob.digest);
    const partial = await stat(join(store.root, 'partial', hexOf(blob.digest))).catch(() => undefined);
    bytes += Math.max(0, Math.ceil(blob.size / BLOCK) * BLOCK - (partial?.size ?? 0));
  }
  return bytes;
}

/**
 * An engine keeps a layer packed while it unpacks it, and unpacked afterwards: twice the packed size is the least that
 * it needs. How large a layer becomes is known only when it has been unpacked.
 */
async function engineNeeds(engine: EngineClient, images: readonly VerifiedImage[]): Promise<SpaceNeed[]> {
  const folder = engine.facts.rootFolder;
  if (folder === '' || !(await exists(folder))) return []; // another machine's, or nothing that we may look at
  const missing: VerifiedImage[] = [];
  for (const image of images)
    if ((await engine.image(image.ref))?.id !== expectedId(image, engine.facts.store)) missing.push(image);
  return missing.length === 0 ? [] : [{ folder, what: 'images', bytes: 2 * packedBytes(missing) }];
}

/** Bytes of the layers, each counted once. */
function packedBytes(images: readonly VerifiedImage[]): number {
  const layers = new Map(images.flatMap((image) => image.layers).map(({ digest, size }) => [digest, size]));
  return [...layers.values()].reduce((sum, size) => sum + size, 0);
}

/** Bytes for the largest zstd layer that has to be unpacked on the way. Its real size is unknown: four times the packed. */
export function spoolBytes(bundle: VerifiedBundle, engine: EngineClient): number {
  if (engine.facts.readsZstd) return 0;
  const zstd = bundle.images
    .flatMap((image) => image.layers)
    .filter((layer) => layer.mediaType.endsWith('zstd'));
  return 4 * Math.max(0, ...zstd.map((layer) => layer.size));
}

/**
 * A tag that stands on another image is never moved. One that an unfinished install of another bundle left is
 * about to be taken back.
 * @throws {SealiftError} TAG_CONFLICT
 */
export async function checkTags(
  engine: EngineClient,
  bundle: VerifiedBundle,
  unfinished: JournalState | undefined,
): Promise<string> {
  const left = new Set(
    (unfinished?.entries ?? []).map(({ record }) =>
      record.kind === 'image' ? `${record.ref} ${record.id}` : '',
    ),
  );
  for (const image of bundle.images) {
    const found = await engine.image(image.ref);
    const expected = expectedId(image, engine.facts.store);
    if (found === undefined || found.id === expected || left.has(`${image.ref} ${found.id}`)) continue;
    throw new SealiftError('TAG_CONFLICT', `the engine has ${image.ref} already, and it is another image`, {
      details: [
        ['engine', found.id],
        ['bundle', expected],
      ],
      hint: `look at it, then: docker image rm ${image.ref}   (docker tag ${image.ref} NAME keeps it)`,
    });
  }
  return `${bundle.images.length} tags are free or stand on the bundle's own images`;
}

/** The engine's disk cannot be judged exactly, because layers are packed; a warning is all there can be. */
export async function engineDiskWarning(
  engine: EngineClient,
  bundle: VerifiedBundle,
): Promise<string | undefined> {
  const packed = packedBytes(bundle.images);
  const free = await freeBytes(engine.facts.rootFolder || '/').catch(() => undefined);
  if (free === undefined || free.bytes >= 3 * packed) return undefined;
  return `images are ${formatBytes(packed)} packed and need about three times that; ${engine.facts.rootFolder} has ${formatBytes(free.bytes)}`;
}

/** Clocks of two machines may differ by this much, in milliseconds, without a word. */
const CLOCKS_MS = 60 * 60_000;

/** Moments that have passed, by the word of a verified bundle: it was made, and perhaps stamped when it was signed. */
export const vouchedTimes = ({ inventory, verdict }: VerifiedBundle): Date[] => [
  new Date(inventory.created),
  ...verdict.accepted.flatMap(({ signedAt }) => signedAt ?? []),
];

/**
 * What to say of a bundle that was made or signed later than it is here; undefined when it was not. The host remembers
 * the latest time that it has seen, so a staging machine that is years ahead would make keys expire here.
 */
export function laterThanHere(bundle: VerifiedBundle): string | undefined {
  const { judgedAt } = bundle;
  const latest = latestOf(...vouchedTimes(bundle))!;
  if (latest.getTime() - judgedAt.getTime() < CLOCKS_MS) return undefined;
  return `the bundle was made or signed at ${isoSeconds(latest)}, and here it is ${isoSeconds(judgedAt)}: one clock is wrong; after this install the host goes by the later time (sealift trust show --help)`;
}
