// SPDX-License-Identifier: Apache-2.0
/**
 * Gives the running gateway what has changed of site.yaml, certificate and API keys, without a restart of anything: no
 * engine loads its model again, and no answer that is being given breaks off.
 */
import { rm, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SealiftError } from '../errors.ts';
import { EngineClient, type EngineFacts } from './engine-client.ts';
import { gatewayContainer, isLoaded, loadedFile, loadGateway } from './gateway-control.ts';
import { absent, type Home } from './home.ts';
import { readJournal } from './journal.ts';
import { readInstalled, type Installed } from './kept-bundle.ts';
import { readReceipts } from './receipt.ts';
import { isThere, putFiles } from './release-folder.ts';
import { isForGateway, type RenderedFile } from './release.ts';
import { renderApiKeys } from './gateway.ts';
import { releasesIn } from './running.ts';
import { readSite } from './site.ts';
import { apiKeysFile, readApiKeys } from './api-keys.ts';
import { installNeeded, rerender } from './rerender.ts';

export interface ReloadInput {
  home: Home;
  /** Path of the engine's unix socket. */
  socket: string;
  now: Date;
  /** Only the clients' keys: a certificate that has ended, say, must not keep a key in that is to go. */
  only?: 'keys';
}

export interface ReloadReport {
  schema: 'sealift/reload/v1';
  release: string;
  /** Files that changed, relative to the release's folder; empty when the gateway had read all of them. */
  changed: string[];
  /** Names of the keys that are let in from now on. */
  keys: string[];
  /** Until when the certificate is valid; undefined when only keys were read. */
  expires: Date | undefined;
}

/**
 * @throws {SealiftError} NOT_INSTALLED, LOCKED, SITE_MISSING, SITE_INVALID, TLS_INVALID, ENGINE_NOT_RUNNING;
 *   INSTALL_NEEDED when containers would have to be made anew; GATEWAY_REFUSED, and the gateway goes on as it was
 */
export async function reload({ home, socket, now, only }: ReloadInput): Promise<ReloadReport> {
  const unlock = await home.lock('reload');
  try {
    const unfinished = await readJournal(home);
    if (unfinished !== undefined) throw installNeeded(`an install of ${unfinished.release} is unfinished`);
    const engine = await EngineClient.connect(socket);
    const installed = await readInstalled(home, await servingRelease(home, engine));
    const { release, gateway } = installed.receipt;
    if (gateway === undefined)
      throw new SealiftError('NOT_INSTALLED', `${release} has no services, and so no gateway`);
    const { id } = await gatewayContainer(engine, gateway.project, installed.receipt.services);
    const { wanted, keys, expires } =
      only === 'keys'
        ? await keysAlone(home)
        : await everything(home, installed, { engine: engine.facts, now });
    const folder = home.releaseFolder(release);
    const changed = await differing(folder, wanted);
    const beyond = changed.find((name) => !isForGateway(name));
    if (beyond !== undefined) throw installNeeded(`${beyond} would change`);
    if (changed.length > 0 || !(await isLoaded(folder)))
      await replace(folder, wanted, () =>
        loadGateway(engine, { project: gateway.project, gateway: id }, folder),
      );
    return { schema: 'sealift/reload/v1', release, changed, keys, expires };
  } finally {
    await unlock();
  }
}

type Wanted = Pick<ReloadReport, 'keys' | 'expires'> & { wanted: Map<string, RenderedFile> };

async function everything(
  home: Home,
  installed: Installed,
  input: { engine: EngineFacts; now: Date },
): Promise<Wanted> {
  const { files, keyNames, tls } = await rerender(home, installed, input);
  return { wanted: files, keys: keyNames, expires: tls.expires };
}

async function keysAlone(home: Home): Promise<Wanted> {
  const apiKeys = (await readApiKeys(apiKeysFile(await readSite(home), home))) ?? [];
  const bytes = Buffer.from(renderApiKeys(apiKeys));
  const wanted = new Map([['secrets/gateway/api-keys.conf', { bytes, mode: 0o600 }]]);
  return { wanted, keys: apiKeys.map(({ name }) => name), expires: undefined };
}

/** The release whose gateway runs; undefined when none does. */
async function servingRelease(home: Home, engine: EngineClient): Promise<string | undefined> {
  for (const { release, gateway } of await readReceipts(home)) {
    if ((await releasesIn(engine, gateway?.project)).has(release)) return release;
  }
  return undefined;
}

async function differing(folder: string, wanted: ReadonlyMap<string, RenderedFile>): Promise<string[]> {
  const names: string[] = [];
  for (const [name, file] of wanted) if (!(await isThere(join(folder, name), file))) names.push(name);
  return names;
}

/** Writes the files and has them read; when they are refused, those of before stand there again. */
async function replace(
  folder: string,
  wanted: ReadonlyMap<string, RenderedFile>,
  load: () => Promise<void>,
): Promise<void> {
  const before = new Map<string, RenderedFile>();
  for (const [name, { mode }] of wanted) {
    const bytes = await readFile(join(folder, name)).catch(absent);
    if (bytes !== undefined) before.set(name, { bytes, mode });
  }
  await rm(loadedFile(folder), { force: true });
  await putFiles(folder, wanted);
  try {
    await load();
  } catch (error) {
    await putFiles(folder, before);
    throw error;
  }
}
