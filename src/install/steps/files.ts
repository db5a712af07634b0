// SPDX-License-Identifier: Apache-2.0
/**
 * The release's folder. It is built beside its place and renamed. When the same release is already there (a new
 * certificate, other keys), its old folder is kept until the install has succeeded.
 */
import { chmod, chown, mkdir, readdir, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { exists, fsyncDir, writeFileDurably } from '../../store/files.ts';
import type { Service } from '../../engines/index.ts';
import { absent, releaseName, type Home } from '../home.ts';
import {
  cacheFolder,
  cachePath,
  newEngineKey,
  readEngineKeys,
  renderRelease,
  type ReleaseSecrets,
  type ReleaseSpec,
} from '../release.ts';
import { apiKeysFile, newApiKeys, readApiKeys } from '../site.ts';
import type { Progress, Step, StepState, UndoRecord } from '../step.ts';

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
    return `write compose.yaml, nginx.conf and secrets to releases/${this.#release}`;
  }

  async check(): Promise<StepState> {
    const { home, services, site } = this.#spec;
    const apiKeys = await readApiKeys(apiKeysFile(site, home));
    const engineKeys = await readEngineKeys(home.releaseFolder(this.#release), services);
    if (apiKeys === undefined || engineKeys.size < services.length) return 'needed';
    return (await this.#equals({ apiKeys, engineKeys })) ? 'done' : 'needed';
  }

  async apply(_progress: Progress): Promise<void> {
    const { home, services } = this.#spec;
    const folder = home.releaseFolder(this.#release);
    const engineKeys = await readEngineKeys(folder, services);
    for (const { name } of services) if (!engineKeys.has(name)) engineKeys.set(name, newEngineKey());
    const secrets = { apiKeys: await this.#apiKeys(), engineKeys };
    await makeCaches(home, this.#spec.inventory.name, services);
    await this.#write(partialOf(home, this.#release), secrets);
    // The oldest copy is the one to return to: after a kill, what stands in the folder may already be ours.
    if (!(await exists(previousOf(home, this.#release))))
      await rename(folder, previousOf(home, this.#release)).catch(absent);
    await rm(folder, { recursive: true, force: true });
    await rename(partialOf(home, this.#release), folder);
    await fsyncDir(dirname(folder));
  }

  async #equals(secrets: ReleaseSecrets): Promise<boolean> {
    const folder = this.#spec.home.releaseFolder(this.#release);
    const wanted = renderRelease(this.#spec, secrets);
    for (const [name, { bytes }] of wanted) {
      const found = await readFile(join(folder, name)).catch(absent);
      if (found === undefined || !found.equals(bytes)) return false;
    }
    const found = await readdir(join(folder, 'secrets', 'gateway'));
    return found.every((name) => wanted.has(`secrets/gateway/${name}`)); // nginx is shown no more than these
  }

  async #apiKeys(): Promise<ReleaseSecrets['apiKeys']> {
    const { site, home } = this.#spec;
    const file = apiKeysFile(site, home);
    const found = await readApiKeys(file);
    if (found !== undefined) return found;
    await writeFileDurably(file, newApiKeys(), 0o600);
    return (await readApiKeys(file))!;
  }

  async #write(folder: string, secrets: ReleaseSecrets): Promise<void> {
    await rm(folder, { recursive: true, force: true });
    await mkdir(folder, { recursive: true, mode: 0o755 });
    await mkdir(join(folder, 'secrets', 'gateway'), { recursive: true, mode: 0o700 });
    for (const [name, { bytes, mode }] of renderRelease(this.#spec, secrets)) {
      await mkdir(dirname(join(folder, name)), { recursive: true });
      await writeFileDurably(join(folder, name), bytes, mode);
    }
    await fsyncDir(folder);
  }
}

/** The engine runs as a user of its own, who must be able to write its cache. */
async function makeCaches(home: Home, bundleName: string, services: readonly Service[]): Promise<void> {
  for (const service of services) {
    for (const i of service.caches.keys()) {
      const folder = home.path(cachePath(bundleName, service.name, i));
      await mkdir(folder, { recursive: true });
      await chmod(folder, 0o770);
      if (process.getuid?.() === 0) await chown(folder, service.user.uid, service.user.gid);
    }
  }
}

const partialOf = (home: Home, release: string): string => home.path('releases', `.${release}.partial`);
const previousOf = (home: Home, release: string): string => home.path('releases', `.${release}.previous`);

/**
 * Brings the folder of before back, or removes the folder when there was none. Where one stood and there is no copy
 * of it, it stands there still: the step had not moved it yet, or an undo before this one has brought it back.
 */
export async function undoFiles(record: Extract<UndoRecord, { kind: 'files' }>, home: Home): Promise<void> {
  const folder = home.releaseFolder(record.release);
  const previous = previousOf(home, record.release);
  await rm(partialOf(home, record.release), { recursive: true, force: true });
  if (!record.hadFolder) {
    // A second run after a kill may have kept the first run's folder.
    await rm(previous, { recursive: true, force: true });
    await rm(folder, { recursive: true, force: true });
  } else if (await exists(previous)) {
    await rm(folder, { recursive: true, force: true });
    await rename(previous, folder);
  }
  if (record.newCaches !== undefined) await rm(home.path(record.newCaches), { recursive: true, force: true });
  if (await exists(dirname(folder))) await fsyncDir(dirname(folder));
}

/** After a success the old copy of the release's folder is not needed any more; without a journal nobody would return to it. */
export async function dropPrevious(home: Home, release: string): Promise<void> {
  await rm(previousOf(home, release), { recursive: true, force: true });
}
