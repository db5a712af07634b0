// SPDX-License-Identifier: Apache-2.0
/**
 * The files of a release, rendered from bundle, site and secrets: the same input gives the same bytes, so
 * "is it installed as it should be" is a comparison of files.
 */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Inventory } from '../bundle/inventory.ts';
import { canonicalJson } from '../json.ts';
import { digestOf, type Digest } from '../store/digest.ts';
import type { Service } from '../engines/index.ts';
import type { ApiKey } from './api-keys.ts';
import { renderApiKeys, renderNginx, renderUpstream } from './gateway.ts';
import { absent, releaseName, type Home } from './home.ts';
import type { Site } from './site.ts';
import { configFile, projectName, renderCompose } from './targets/compose.ts';
import { configsPath } from './steps/config.ts';
import { renderMonitoring } from './monitoring.ts';
import { DCGM_COUNTERS, DCGM_EXPORTER } from './monitoring-names.ts';
import type { EngineKind } from './engine-facts.ts';
import { nameService, type NameService } from './name-service.ts';
import { renderRunbook } from './runbook.ts';
import type { TlsFiles } from './tls.ts';

/** All that a release's files depend on, except secrets. */
export interface ReleaseSpec {
  home: Home;
  inventory: Inventory;
  bundle: Digest;
  site: Site;
  tls: TlsFiles;
  services: readonly Service[];
  /** Proved image IDs by the names that the inventory gives the images. */
  imageIds: ReadonlyMap<string, Digest>;
  /** Models' folders relative to the home, by name. */
  modelPaths: ReadonlyMap<string, string>;
  /** Which kind of container engine runs it. */
  engine: EngineKind;
}

/** Secrets of a release: clients' keys, and for each service the key between gateway and engine. */
export interface ReleaseSecrets {
  apiKeys: readonly ApiKey[];
  engineKeys: ReadonlyMap<string, string>;
  /** Password of Grafana's user admin. */
  grafana: string;
}

export interface RenderedFile {
  bytes: Buffer;
  mode: number;
}

/** Caches of a bundle's services, relative to the home; they outlive restarts and releases. */
export const cacheFolder = (bundleName: string): string => `caches/${bundleName}`;

export const cachePath = (bundleName: string, container: string, index: number): string =>
  `${cacheFolder(bundleName)}/${container}-${index}`;

/** @returns files by path relative to the release's folder */
export function renderRelease(spec: ReleaseSpec, secrets: ReleaseSecrets): Map<string, RenderedFile> {
  const files = new Map<string, RenderedFile>();
  const names = namesOf(spec);
  const put = (name: string, bytes: string | Buffer, mode: number): unknown =>
    files.set(name, { bytes: Buffer.from(bytes), mode });
  put('gateway/nginx.conf', renderNginx(spec.services, spec.site, names, spec.inventory.monitoring), 0o644);
  put('secrets/gateway/tls.crt', spec.tls.certificate, 0o600);
  put('secrets/gateway/tls.key', spec.tls.key, 0o600);
  put('secrets/gateway/api-keys.conf', renderApiKeys(secrets.apiKeys), 0o600);
  for (const service of spec.services) {
    const key = secrets.engineKeys.get(service.name)!;
    put(`secrets/gateway/upstream-${service.name}.conf`, renderUpstream(key), 0o600);
    for (const [i, { content }] of service.files.entries()) put(configFile(service.name, i), content, 0o644);
    put(envFile(service.name), `${service.keyVariable}=${key}\n`, 0o600);
    if (spec.inventory.monitoring !== undefined) put(`secrets/monitoring/${service.name}.key`, key, 0o600);
  }
  for (const [name, text] of renderMonitoring({ ...spec, expires: spec.tls.expires })) put(name, text, 0o644);
  if (spec.inventory.monitoring?.grafana !== undefined)
    put('secrets/monitoring/grafana-admin', secrets.grafana, 0o600);
  put('compose.yaml', compose(spec, files), 0o644);
  put('RUNBOOK.md', renderRunbook(spec), 0o644);
  return files;
}

/** Of the network that gateway and engines share. */
const namesOf = ({ engine, inventory }: ReleaseSpec): NameService =>
  nameService(engine, projectName(inventory.name));

/** The file with the variable that holds an engine's key. */
const envFile = (service: string): string => `secrets/${service}.env`;

/** What can change while everything runs: what the gateway is told to read again, and what people read. */
export const isForGateway = (name: string): boolean =>
  /^(secrets\/)?gateway\/|^monitoring\//.test(name) || name === 'RUNBOOK.md';

export function digestOfFiles(files: Iterable<readonly [name: string, { bytes: Buffer }]>): Digest {
  return digestOf(canonicalJson([...files].map(([name, { bytes }]) => [name, digestOf(bytes)])));
}

/** What a container of a service reads when it starts, and never again. */
function startFiles(service: Service, files: ReadonlyMap<string, RenderedFile>): Digest {
  const names = [envFile(service.name), ...service.files.map((_, i) => configFile(service.name, i))];
  return digestOfFiles(names.map((name) => [name, files.get(name)!] as const));
}

function compose(spec: ReleaseSpec, files: ReadonlyMap<string, RenderedFile>): string {
  const { home, inventory } = spec;
  const release = releaseName(inventory);
  return renderCompose({
    project: projectName(inventory.name),
    release,
    bundle: spec.bundle,
    files: new Map([
      ...spec.services.map((service) => [service.name, startFiles(service, files)] as const),
      ...[...files]
        .filter(([name]) => name.startsWith(`${DCGM_COUNTERS.folder}/`))
        .map((file) => [DCGM_EXPORTER, digestOfFiles([file])] as const),
    ]),
    services: spec.services,
    imageIds: spec.imageIds,
    gatewayImage: inventory.gateway!.image,
    monitoring: inventory.monitoring,
    site: spec.site,
    enginesSubnet: namesOf(spec).subnet,
    modelFolders: new Map([...spec.modelPaths].map(([name, path]) => [name, home.path(path)])),
    configFolder: home.path(configsPath(inventory.configs)),
    cacheFolder: (container, i) => home.path(cachePath(inventory.name, container, i)),
    releaseFolder: home.releaseFolder(release),
    ownedByRoot: process.getuid?.() === 0,
  });
}

export const newEngineKey = (): string => randomBytes(32).toString('hex');

/** The password that Grafana was given; a new one when it has none yet. */
export async function grafanaPassword(folder: string): Promise<string> {
  const text = await readFile(join(folder, 'secrets/monitoring/grafana-admin'), 'utf8').catch(absent);
  return text ?? newEngineKey().slice(0, 24);
}

/** The keys that a release's engines were given, by service; a service that has none yet is not in the map. */
export async function readEngineKeys(
  folder: string,
  services: readonly Service[],
): Promise<Map<string, string>> {
  const keys = new Map<string, string>();
  for (const { name, keyVariable } of services) {
    const text = await readFile(join(folder, envFile(name)), 'utf8').catch(absent);
    const key = text?.trim().split(`${keyVariable}=`)[1];
    if (key !== undefined && /^[0-9a-f]{64}$/.test(key)) keys.set(name, key);
  }
  return keys;
}
