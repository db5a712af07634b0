// SPDX-License-Identifier: Apache-2.0
/**
 * Removes a release: its containers, the images and files that this home brought and no other release uses,
 * and its folder. trust.yaml, site.yaml, the clients' keys and the memory against rollbacks stay. The receipt
 * goes last, so that a killed uninstall can be run again.
 */
import { readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { asSealiftError, SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import { fromHex } from '../store/digest.ts';
import { fsyncDir } from '../store/files.ts';
import { Store } from '../store/store.ts';
import { EngineClient } from './engine-client.ts';
import type { Home } from './home.ts';
import { Compose } from './host.ts';
import { Journal, readJournal } from './journal.ts';
import { readReceipt, readReceipts, type Receipt } from './receipt.ts';
import type { World } from './step.ts';
import { rollBack, takeBack } from './undo.ts';

export interface UninstallInput {
  home: Home;
  /** Path of the engine's unix socket. */
  socket: string;
  /** PATH for finding docker and Compose. */
  path: string;
  compose?: string;
  /** The release to remove; by default the current one. */
  release?: string;
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

/** @throws {SealiftError} NOT_INSTALLED, ENGINE_NOT_RUNNING, COMPOSE_UNSUPPORTED, ROLLBACK_INCOMPLETE, LOCKED */
export async function uninstall(input: UninstallInput): Promise<UninstallReport> {
  const { home } = input;
  const engine = await EngineClient.connect(input.socket);
  const compose = await Compose.find({ ...input, configFolder: home.path('docker-config') });
  const unlock = await home.lock('uninstall');
  try {
    const world: World = {
      home,
      engine,
      compose,
      store: await Store.open(home.root),
      emit: input.emit ?? silent,
    };
    await home.sweep();
    const unfinished = await readJournal(home);
    if (unfinished !== undefined) await rollBack(new Journal(home, unfinished), world, undefined);
    const report = await removeRelease(input.release, world, unfinished !== undefined);
    return { ...report, takenBack: unfinished?.release };
  } finally {
    await unlock();
  }
}

async function removeRelease(
  wanted: string | undefined,
  world: World,
  hadUnfinished: boolean,
): Promise<Omit<UninstallReport, 'takenBack'>> {
  const { home } = world;
  const release = wanted ?? (await home.current());
  const receipt = release === undefined ? undefined : await readReceipt(home, release);
  if (receipt === undefined) {
    if (hadUnfinished && wanted === undefined)
      return { schema: 'sealift/uninstall/v1', release: undefined, removed: [], kept: [] };
    const there = await home.releases();
    throw new SealiftError(
      'NOT_INSTALLED',
      `${wanted ?? 'nothing'} is ${wanted === undefined ? '' : 'not '}installed in ${home.root}`,
      there.length === 0 ? {} : { hint: `releases here: ${there.join(', ')}` },
    );
  }
  const others = (await readReceipts(home)).filter((r) => r.release !== receipt.release);
  if ((await home.current()) === receipt.release) await stop(receipt, world);
  const report = await removeContent(receipt, others, world);
  await sweepStore(world.store);
  if (!others.some((r) => r.bundle.name === receipt.bundle.name))
    await rm(home.path('caches', receipt.bundle.name), { recursive: true, force: true });
  await rm(home.releaseFolder(receipt.release), { recursive: true, force: true });
  await fsyncDir(home.path('releases'));
  return { schema: 'sealift/uninstall/v1', release: receipt.release, ...report };
}

async function stop(receipt: Receipt, { home, compose }: World): Promise<void> {
  if (receipt.gateway !== undefined)
    await compose.down(join(home.releaseFolder(receipt.release), 'compose.yaml'), receipt.gateway.project);
  await home.setCurrent(undefined);
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
      await takeBack(record, world);
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
