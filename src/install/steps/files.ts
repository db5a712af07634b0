// SPDX-License-Identifier: Apache-2.0
/**
 * The files of a release. When the same release is already there (a new certificate, other keys), a copy of what it had
 * is kept until the install has succeeded.
 */
import { chmod, chown, mkdir, rm } from 'node:fs/promises';
import { exists, fsyncDir, writeFileDurably } from '../../store/files.ts';
import type { Service } from '../../engines/index.ts';
import { apiKeysFile, newApiKeys, readApiKeys } from '../api-keys.ts';
import { loadedFile } from '../gateway-control.ts';
import { releaseName, type Home } from '../home.ts';
import {
  cacheFolder,
  cachePath,
  grafanaPassword,
  newEngineKey,
  readEngineKeys,
  renderRelease,
  type ReleaseSecrets,
  type ReleaseSpec,
} from '../release.ts';
import { bringBack, dropCopy, holds, keepCopy, writeFiles } from '../release-folder.ts';
import type { Progress, Step, StepState, UndoRecord } from '../step.ts';
import { containersOf, monitorsOf } from '../targets/compose.ts';

export class FilesStep implements Step {
  readonly kind = 'config';
  readonly bytes = 0;
  readonly id: string;
  readonly record: UndoRecord;
  readonly #spec: ReleaseSpec;
  readonly #release: string;

  private constructor(spec: ReleaseSpec, hadFolder: boolean, newCaches: string | undefined) {
    this.#spec = spec;
    this.#release = releaseName(spec.inventory);
    this.id = `files:${this.#release}`;
    this.record = {
      kind: 'files',
      release: this.#release,
      hadFolder,
      ...(newCaches === undefined ? {} : { newCaches }),
    };
  }

  static async create(spec: ReleaseSpec): Promise<FilesStep> {
    const caches = cacheFolder(spec.inventory.name);
    const hadFolder = await exists(spec.home.releaseFolder(releaseName(spec.inventory)));
    return new FilesStep(spec, hadFolder, (await exists(spec.home.path(caches))) ? undefined : caches);
  }

  describe(): string {
    return `write compose.yaml, nginx.conf, secrets and RUNBOOK.md to releases/${this.#release}`;
  }

  async check(): Promise<StepState> {
    const { home, services, site } = this.#spec;
    const apiKeys = await readApiKeys(apiKeysFile(site, home));
    const engineKeys = await readEngineKeys(home.releaseFolder(this.#release), services);
    if (apiKeys === undefined || engineKeys.size < services.length) return 'needed';
    const grafana = await grafanaPassword(home.releaseFolder(this.#release));
    const wanted = renderRelease(this.#spec, { apiKeys, engineKeys, grafana });
    return (await holds(home.releaseFolder(this.#release), wanted)) ? 'done' : 'needed';
  }

  async apply(_progress: Progress): Promise<void> {
    const { home, services } = this.#spec;
    const folder = home.releaseFolder(this.#release);
    const engineKeys = await readEngineKeys(folder, services);
    for (const { name } of services) if (!engineKeys.has(name)) engineKeys.set(name, newEngineKey());
    const secrets = { apiKeys: await this.#apiKeys(), engineKeys, grafana: await grafanaPassword(folder) };
    await makeCaches(home, this.#spec.inventory.name, services);
    for (const name of monitorsOf(this.#spec.inventory.monitoring))
      await mkdir(home.path(cachePath(this.#spec.inventory.name, name, 0)), { recursive: true, mode: 0o700 });
    await keepCopy(home, this.#release);
    // Before a file is written: what the gateway has read may be another one, whatever stands there now.
    await rm(loadedFile(folder), { force: true });
    await writeFiles(folder, renderRelease(this.#spec, secrets));
    await fsyncDir(home.path('releases'));
  }

  async #apiKeys(): Promise<ReleaseSecrets['apiKeys']> {
    const { site, home } = this.#spec;
    const file = apiKeysFile(site, home);
    const found = await readApiKeys(file);
    if (found !== undefined) return found;
    await writeFileDurably(file, newApiKeys(), 0o600);
    return (await readApiKeys(file))!;
  }
}

/** The engine runs as a user of its own, who must be able to write its cache. */
async function makeCaches(home: Home, bundleName: string, services: readonly Service[]): Promise<void> {
  for (const service of services) {
    const paths = containersOf(service).flatMap((container) =>
      [...service.caches.keys()].map((i) => cachePath(bundleName, container, i)),
    );
    for (const path of paths) {
      const folder = home.path(path);
      await mkdir(folder, { recursive: true });
      await chmod(folder, 0o770);
      if (process.getuid?.() === 0) await chown(folder, service.user.uid, service.user.gid);
    }
  }
}

/** Brings the files of before back, or removes the folder when there was none. */
export async function undoFiles(record: Extract<UndoRecord, { kind: 'files' }>, home: Home): Promise<void> {
  if (record.hadFolder) await bringBack(home, record.release);
  else {
    await dropCopy(home, record.release); // a second run after a kill may have kept the first run's folder
    await rm(home.releaseFolder(record.release), { recursive: true, force: true });
  }
  if (record.newCaches !== undefined) await rm(home.path(record.newCaches), { recursive: true, force: true });
  if (await exists(home.path('releases'))) await fsyncDir(home.path('releases'));
}
