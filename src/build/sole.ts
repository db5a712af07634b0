// SPDX-License-Identifier: Apache-2.0
/**
 * What is known of a bundle that will be the only copy of its content (`build --sole-copy`): content lands in its place
 * under the bundle's temporary name, and what the store has leaves it. What has come is noted in the store, so that a
 * build that was stopped goes on; after a power cut the notes may say too much, and so all is hashed again.
 */
import { appendFileSync } from 'node:fs';
import { mkdir, open, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FileTarget } from '../bundle/target.ts';
import type { BundlePlan } from '../bundle/write.ts';
import { hexOf, isDigest, type Digest } from '../store/digest.ts';
import { fsyncDir } from '../store/files.ts';
import type { Store } from '../store/store.ts';

/** Names of what is noted, beside those of blobs. */
const FILE = 'file';
const DONE = 'done';

export class SoleCopy {
  readonly target: FileTarget;
  /** What an earlier run brought and verified. */
  readonly done: ReadonlySet<Digest>;
  readonly #folder: string;

  private constructor(target: FileTarget, folder: string, done: ReadonlySet<Digest>) {
    this.target = target;
    this.#folder = folder;
    this.done = done;
  }

  /** Goes on with what an earlier run left of the same bundle at the same place, and forgets what cannot be gone on with. */
  static async open(out: string, { digest, size }: BundlePlan, store: Store): Promise<SoleCopy> {
    const folder = notesOf(store, digest);
    const noted = await readFile(join(folder, FILE), 'utf8').catch(() => undefined);
    const target = await FileTarget.resume(out, noted, size);
    const identity = await target.identity();
    if (identity !== noted) {
      await rm(folder, { recursive: true, force: true });
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, FILE), identity);
    }
    return new SoleCopy(target, folder, await readDone(join(folder, DONE)));
  }

  /** A blob is in its place, verified. */
  note(digest: Digest): void {
    // The newline first: a line that a kill cut short spoils none that follows.
    appendFileSync(join(this.#folder, DONE), `\n${digest}`);
  }

  /** What is noted is on the disk, and survives a power cut without any other copy. */
  async settle(): Promise<void> {
    await this.target.settle();
    const handle = await open(join(this.#folder, DONE), 'a');
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
    await fsyncDir(this.#folder);
  }

  /** Path beside which is noted what has come of a blob. */
  notes(digest: Digest): string {
    return join(this.#folder, hexOf(digest));
  }

  /** The bundle has got its name. */
  async forget(): Promise<void> {
    await rm(this.#folder, { recursive: true, force: true });
  }
}

const notesOf = (store: Store, bundle: Digest): string =>
  join(store.root, 'partial', `bundle-${hexOf(bundle)}`);

async function readDone(path: string): Promise<Set<Digest>> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return new Set(text.split('\n').filter((line): line is Digest => isDigest(line)));
}
