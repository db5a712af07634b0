// SPDX-License-Identifier: Apache-2.0
/** The files of an installed release once more, from what was signed and what the site says now. */
import { servicesOf, type Service } from '../engines/index.ts';
import { SealiftError } from '../errors.ts';
import { apiKeysFile, readApiKeys } from './api-keys.ts';
import type { Home } from './home.ts';
import type { Installed } from './kept-bundle.ts';
import {
  grafanaPassword,
  readEngineKeys,
  renderRelease,
  type ReleaseSpec,
  type RenderedFile,
} from './release.ts';
import type { EngineFacts } from './engine-facts.ts';
import { readSite, type Site } from './site.ts';
import { readTls, type TlsFiles } from './tls.ts';

export interface Rerendered {
  files: Map<string, RenderedFile>;
  services: readonly Service[];
  /** Between gateway and engines, by service. */
  engineKeys: ReadonlyMap<string, string>;
  tls: TlsFiles;
  /** Names of the clients' keys. */
  keyNames: string[];
}

/** All that the files of an installed release depend on, but secrets. */
export function specOf(
  home: Home,
  { receipt, inventory }: Installed,
  { site, tls, engine }: { site: Site; tls: TlsFiles; engine: Pick<EngineFacts, 'kind'> },
): ReleaseSpec {
  return {
    home,
    inventory,
    bundle: receipt.bundle.digest,
    site,
    tls,
    services: servicesOf(inventory),
    imageIds: new Map(receipt.images.map(({ name, id }) => [name, id])),
    modelPaths: new Map(receipt.models.map(({ name, path }) => [name, path])),
    engine: engine.kind,
  };
}

/** @throws {SealiftError} SITE_MISSING, SITE_INVALID, TLS_INVALID; INSTALL_NEEDED when a key of an engine is gone */
export async function rerender(
  home: Home,
  installed: Installed,
  { engine, now }: { engine: Pick<EngineFacts, 'kind'>; now: Date },
): Promise<Rerendered> {
  const site = await readSite(home);
  const tls = await readTls(site, home, now);
  const spec = specOf(home, installed, { site, tls, engine });
  const file = apiKeysFile(site, home);
  const apiKeys = await readApiKeys(file);
  if (apiKeys === undefined)
    throw new SealiftError('SITE_INVALID', `${file}, the file with the API keys, does not exist`, {
      hint: 'sealift keys add NAME makes it, with one key',
    });
  const engineKeys = await readEngineKeys(home.releaseFolder(installed.receipt.release), spec.services);
  if (engineKeys.size < spec.services.length) throw installNeeded('a key between gateway and engine is gone');
  const grafana = await grafanaPassword(home.releaseFolder(installed.receipt.release));
  const files = renderRelease(spec, { apiKeys, engineKeys, grafana });
  return { files, services: spec.services, engineKeys, tls, keyNames: apiKeys.map(({ name }) => name) };
}

export const installNeeded = (why: string): SealiftError =>
  new SealiftError('INSTALL_NEEDED', `a reload is not enough: ${why}`, {
    hint: 'run the install again: only what differs is done, and only containers that differ are replaced',
  });
