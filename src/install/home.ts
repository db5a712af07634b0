// SPDX-License-Identifier: Apache-2.0
/**
 * The folder of an installation (DESIGN §7): where everything under --home is, and the two small facts that
 * outlive a release, `current` and `installed.json`. Paths that are written down (journal, receipt) are relative
 * to the home, so that a home can be restored elsewhere.
 */
import { mkdir, readdir, readFile, readlink, rename, rm, stat, symlink } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import * as z from 'zod';
import { DigestSchema, Name, Version } from '../bundle/inventory.ts';
import { asSealiftError, SealiftError } from '../errors.ts';
import { canonicalJson, parseJson } from '../json.ts';
import { digestOf, hexOf, type Digest } from '../store/digest.ts';
import { exists, fsyncDir, writeFileDurably } from '../store/files.ts';
import { lockFolder } from '../store/lock.ts';

/** Longest journal, receipt or installed.json that is read, in bytes: room for as many files as a bundle can list. */
export const MAX_STATE_BYTES = 64 * 1024 * 1024;

/** What this host has installed under a bundle's name; the memory against rollbacks. */
export interface InstalledVersion {
  version: string;
  digest: Digest;
}

const InstalledFile = z.strictObject({
  schema: z.literal('sealift/installed/v1'),
  bundles: z.record(Name, z.strictObject({ version: Version, digest: DigestSchema })),
});

export class Home {
  readonly root: string;

  constructor(root: string) {
    this.root = resolve(root);
  }

  path(...parts: string[]): string {
    return join(this.root, ...parts);
  }

  get siteFile(): string {
    return this.path('site.yaml');
  }

  get trustFile(): string {
    return this.path('trust.yaml');
  }

  /** Which policy was adopted, and the latest time seen; trust-state.ts reads and writes it. */
  get trustStateFile(): string {
    return this.path('trust-state.json');
  }

  /** Policies that were replaced, and the signatures that did it. */
  get trustFolder(): string {
    return this.path('trust');
  }

  get journalFile(): string {
    return this.path('journal.json');
  }

  /** With which the host signs its receipts, when it has one. */
  get hostKeyFile(): string {
    return this.path('secrets', 'host.key');
  }

  /** Its public half: outside of `secrets`, which is closed to those who are to carry it to the auditors. */
  get hostPublicFile(): string {
    return this.path('host.pub');
  }

  /** Keys of the clients; made with one key on the first install unless site.yaml names another file. */
  get apiKeysFile(): string {
    return this.path('secrets', 'api-keys');
  }

  /** What was signed of a bundle; kept-bundle.ts reads and writes it. */
  bundleFolder(digest: Digest): string {
    return this.path('bundles', hexOf(digest));
  }

  releaseFolder(release: string): string {
    return this.path('releases', release);
  }

  receiptFile(release: string): string {
    return join(this.releaseFolder(release), 'receipt.json');
  }

  /** The host's signature over the receipt, when it has a key. */
  receiptSignatureFile(release: string): string {
    return join(this.releaseFolder(release), 'receipt.sigstore.json');
  }

  /** Takes the home for one writer. @throws {SealiftError} LOCKED */
  async lock(what: string): Promise<() => Promise<void>> {
    return lockFolder(this.root, what);
  }

  /** Name of the release that `current` points to. */
  async current(): Promise<string | undefined> {
    try {
      const target = await readlink(this.path('current'));
      return /^releases\/([^/]+)$/.exec(target)?.[1];
    } catch {
      return undefined;
    }
  }

  /** Moves `current`; a reader sees the old or the new release, never none. */
  async setCurrent(release: string | undefined): Promise<void> {
    const link = this.path('current');
    if (release === undefined) {
      await rm(link, { force: true });
    } else {
      const temp = `${link}.${process.pid}.tmp`;
      await rm(temp, { force: true });
      await symlink(`releases/${release}`, temp);
      await rename(temp, link);
    }
    await fsyncDir(this.root);
  }

  /** Releases that were installed completely: those with a receipt. */
  async releases(): Promise<string[]> {
    const names = await readdir(this.path('releases')).catch(() => []);
    const complete = await Promise.all(names.map((name) => exists(this.receiptFile(name))));
    return names.filter((name, i) => !name.startsWith('.') && complete[i]).sort();
  }

  /**
   * What is or was installed, by bundle name. It stays after an uninstall, so that an old bundle cannot come
   * back through the door of removing the new one.
   * @throws {SealiftError} IO_ERROR when the file is damaged: forgetting would allow a rollback
   */
  async installed(): Promise<Map<string, InstalledVersion>> {
    const file = this.path('installed.json');
    const bytes = await readMemory(file);
    if (bytes === undefined) return new Map();
    const parsed = InstalledFile.safeParse(parseJson(bytes, file, 'IO_ERROR', MAX_STATE_BYTES));
    if (!parsed.success) {
      throw new SealiftError('IO_ERROR', `${file} is damaged, and it is the memory against rollbacks`, {
        hint: 'restore it from a backup; its form is in the README',
      });
    }
    return new Map(Object.entries(parsed.data.bundles));
  }

  async setInstalled(name: string, version: InstalledVersion | undefined): Promise<void> {
    const bundles = await this.installed();
    if (version === undefined) bundles.delete(name);
    else bundles.set(name, version);
    const document = { schema: 'sealift/installed/v1', bundles: Object.fromEntries(bundles) };
    await writeFileDurably(this.path('installed.json'), canonicalJson(document));
  }

  /** Folders that an install writes into; the home itself may be listed by anyone, secrets by the owner only. */
  async prepare(): Promise<void> {
    for (const folder of ['models', 'configs', 'bundles', 'releases', 'caches'])
      await mkdir(this.path(folder), { recursive: true, mode: 0o755 });
    await mkdir(this.path('secrets'), { recursive: true, mode: 0o700 });
    await this.sweep();
    await mkdir(this.path('spool'), { recursive: true, mode: 0o700 });
  }

  async #sweepFolder(folder: string): Promise<void> {
    for (const name of await readdir(folder).catch(() => [])) {
      const path = join(folder, name);
      if (TEMPORARY.test(name)) await rm(path, { force: true });
      else if (LOCK_ATTEMPT.test(name) && (await isOld(path))) await rm(path, { force: true });
    }
  }

  /** Removes what only a killed process leaves: temporary files and unpacked layers. For the holder of the lock. */
  async sweep(): Promise<void> {
    await rm(this.path('spool'), { recursive: true, force: true });
    const releases = await readdir(this.path('releases')).catch(() => []);
    for (const folder of ['.', 'secrets', 'trust', ...releases.map((name) => join('releases', name))])
      await this.#sweepFolder(this.path(folder));
  }
}

/** Of `setCurrent` above, and of `writeFileDurably`. */
const TEMPORARY = /\.(?:\d+|[0-9a-f-]{36})\.tmp$/;
/** Of `lockFolder`, which has one for a moment; that of a living process must stay. */
const LOCK_ATTEMPT = /^lock\.[0-9a-f-]{36}$/;
const OLD_MS = 60_000;

const isOld = (path: string): Promise<boolean> =>
  stat(path).then(
    ({ mtimeMs }) => Date.now() - mtimeMs > OLD_MS,
    () => false,
  );

/** Name of the release folder of a bundle. Names and versions hold no '/', and no release starts with a dot. */
export const releaseName = (bundle: { name: string; version: string }): string =>
  `${bundle.name}-${bundle.version}`;

/** Folder name for a model's revision: the commit; the hex of a digest; anything else only as a hash of it. */
export function revisionFolder(revision: string): string {
  const plain = /^(?:sha256:)?([0-9a-f]{40,64})$/.exec(revision)?.[1];
  return plain ?? hexOf(digestOf(revision));
}

/** For `.catch` of a read: undefined when the file is not there; every other error stays one. */
export function absent(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
  throw error;
}

/**
 * A file in which the host remembers something. Undefined only when nothing stands there: behind a link that leads
 * nowhere there was a memory, and going on without it would be forgetting.
 * @throws {SealiftError} IO_ERROR
 */
export async function readMemory(file: string): Promise<Buffer | undefined> {
  try {
    const bytes = await readFile(file).catch(absent);
    if (bytes !== undefined || !(await exists(file))) return bytes;
  } catch (thrown) {
    throw asSealiftError(thrown, `reading ${file}`);
  }
  throw new SealiftError('IO_ERROR', `${file} is a link to a file that is not there`, {
    hint: 'is a file system not mounted? The host goes by what is written there',
  });
}
