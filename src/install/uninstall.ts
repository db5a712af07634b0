// SPDX-License-Identifier: Apache-2.0
/**
 * Removes a release: its containers, the images and files that this home brought and no other release uses,
 * and its folder. trust.yaml, site.yaml, the clients' keys and the memory against rollbacks stay. The receipt
 * goes last, so that a killed uninstall can be run again. An install that was left unfinished is taken back
 * instead, when no release is named or it is the one: what ran before it goes on running.
 */
import { readdir, rm, stat } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { asSealiftError, SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import { fromHex } from '../store/digest.ts';
import { exists, fsyncDir } from '../store/files.ts';
import { Store } from '../store/store.ts';
import { EngineClient } from './engine-client.ts';
import type { Home } from './home.ts';
import { composeFinder } from './host.ts';
import { Journal, readJournal, unfinishedInstall } from './journal.ts';
import { sweepBundles } from './kept-bundle.ts';
import { readReceipt, readReceipts, removeReceipt, type Receipt } from './receipt.ts';
import { dropCopy } from './release-folder.ts';
import { releasesIn, releasesOf } from './running.ts';
import type { World } from './step.ts';
import { rollBack, takeBack } from './undo.ts';

export interface UninstallInput {
  home: Home;
  /** Path of the engine's unix socket. */
  socket: string;
  /** PATH for finding docker and Compose. */
  path: string;
  compose?: string;
  /** The release to remove; by default what an unfinished install left, and the current one when there is none. */
  release?: string;
  /** Refuses a release that runs, or is current: for whoever collects what nobody uses. */
  idleOnly?: boolean;
  /** Demands that there is an unfinished install, so that nothing else can be removed. */
  unfinishedOnly?: boolean;
  emit?: Emit;
}

export interface UninstallReport {
  schema: 'sealift/uninstall/v1';
  /** Undefined when there was only an unfinished install, which has been taken back. */
  release: string | undefined;
  /** Steps that were taken back, and such as stay because another release uses them or this home did not bring them. */
  removed: string[];
  kept: string[];
  takenBack: string | undefined;
}

/**
 * @throws {SealiftError} HOST_CHANGED when another release than the named one was left unfinished; NOT_INSTALLED, ENGINE_NOT_RUNNING, COMPOSE_UNSUPPORTED, ROLLBACK_INCOMPLETE, LOCKED
 */
export async function uninstall(input: UninstallInput): Promise<UninstallReport> {
  const { home } = input;
  const engine = await EngineClient.connect(input.socket);
  const unlock = await home.lock('uninstall');
  try {
    const world: World = {
      home,
      engine,
      compose: composeFinder(input),
      store: await Store.open(home.root),
      emit: input.emit ?? silent,
    };
    await home.sweep();
    await engine.sweepProbes();
    const unfinished = await readJournal(home);
    // It may need the release that was named, to return to.
    if (unfinished !== undefined && input.release !== undefined && unfinished.release !== input.release)
      throw unfinishedInstall(unfinished);
    if (unfinished !== undefined) await rollBack(new Journal(home, unfinished), world, undefined);
    if (input.release === undefined && (unfinished !== undefined || input.unfinishedOnly))
      return onlyTakenBack(unfinished?.release, home);
    if (unfinished !== undefined && (await readReceipt(home, unfinished.release)) === undefined)
      return onlyTakenBack(unfinished.release, home);
    const report = await removeRelease(input.release, world, input.idleOnly ?? false);
    return { ...report, takenBack: unfinished?.release };
  } finally {
    await unlock();
  }
}

function onlyTakenBack(takenBack: string | undefined, home: Home): UninstallReport {
  if (takenBack !== undefined)
    return { schema: 'sealift/uninstall/v1', release: undefined, removed: [], kept: [], takenBack };
  throw new SealiftError('NOT_INSTALLED', `no unfinished install is left in ${home.root}`);
}

async function removeRelease(
  wanted: string | undefined,
  world: World,
  idleOnly: boolean,
): Promise<Omit<UninstallReport, 'takenBack'>> {
  const { home } = world;
  const release = wanted ?? (await home.current());
  const receipt = release === undefined ? undefined : await readReceipt(home, release);
  if (receipt === undefined) {
    const there = await home.releases();
    throw new SealiftError(
      'NOT_INSTALLED',
      `${wanted ?? 'nothing'} is ${wanted === undefined ? '' : 'not '}installed in ${home.root}`,
      there.length === 0 ? {} : { hint: `releases here: ${there.join(', ')}` },
    );
  }
  if (idleOnly && (await isInUse(receipt, world)))
    throw new SealiftError('HOST_CHANGED', `${receipt.release} is in use by now`, {
      hint: 'run the same command again, and look at what would go',
    });
  const others = (await readReceipts(home)).filter((r) => r.release !== receipt.release);
  await stop(receipt, world);
  const report = await removeContent(receipt, others, world);
  await sweepStore(world.store);
  if (!others.some((r) => r.bundle.name === receipt.bundle.name))
    await rm(home.path('caches', receipt.bundle.name), { recursive: true, force: true });
  await removeFolder(receipt.release, home);
  await dropCopy(home, receipt.release);
  await sweepBundles(home);
  return { schema: 'sealift/uninstall/v1', release: receipt.release, ...report };
}

async function isInUse({ release, gateway }: Receipt, { home, engine }: World): Promise<boolean> {
  return (await home.current()) === release || (await releasesIn(engine, gateway?.project)).has(release);
}

/** Stops what runs from a release. */
async function stop({ release, gateway }: Receipt, world: World): Promise<void> {
  const { home } = world;
  const isCurrent = (await home.current()) === release;
  if (gateway !== undefined) {
    const containers = await world.engine.containers(gateway.project);
    if (releasesOf(containers).has(release) || (isCurrent && containers.length === 0)) {
      const file = join(home.releaseFolder(release), 'compose.yaml');
      await (await world.compose()).down((await exists(file)) ? file : undefined, gateway.project);
    }
  }
  if (isCurrent) await home.setCurrent(undefined);
}

/** The receipt after all else: a kill in between leaves a release that can be uninstalled again. */
async function removeFolder(release: string, home: Home): Promise<void> {
  const folder = home.releaseFolder(release);
  const others = (await readdir(folder)).filter((name) => name !== basename(home.receiptFile(release)));
  for (const name of others) await rm(join(folder, name), { recursive: true, force: true });
  await fsyncDir(folder);
  await removeReceipt(home, release);
  await rm(folder, { recursive: true, force: true });
  await fsyncDir(home.path('releases'));
}

async function removeContent(
  receipt: Receipt,
  others: readonly Receipt[],
  world: World,
): Promise<{ removed: string[]; kept: string[] }> {
  const used = new Set(others.flatMap((r) => r.steps.map((step) => step.id)));
  const content = receipt.steps
    .filter(({ record }) => record.kind === 'image' || record.kind === 'folder')
    .toReversed();
  const removed: string[] = [];
  const kept: string[] = [];
  const left: (readonly [string, string])[] = [];
  for (const { id, brought, record } of content) {
    if (!brought || used.has(id)) {
      kept.push(id);
      continue;
    }
    try {
      // What was in use when it was repaired is not any more.
      await takeBack(record.kind === 'folder' ? { ...record, inUse: false } : record, world);
      removed.push(id);
    } catch (error) {
      left.push([id, asSealiftError(error, 'removing it').message]);
    }
  }
  if (left.length === 0) return { removed, kept };
  throw new SealiftError(
    'ROLLBACK_INCOMPLETE',
    `${left.length} parts of ${receipt.release} could not be removed`,
    {
      details: left,
      hint: `remove the cause, then: sealift uninstall --release ${receipt.release}`,
    },
  );
}

/** A blob that no model or configuration folder links to belongs to no release. */
async function sweepStore(store: Store): Promise<void> {
  const folder = join(store.root, 'blobs', 'sha256');
  for (const hex of await readdir(folder)) {
    if ((await stat(join(folder, hex))).nlink === 1) await store.remove(fromHex(hex));
  }
}
