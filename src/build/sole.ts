// SPDX-License-Identifier: Apache-2.0
/**
 * A bundle that is to be the only copy of what it carries (`build --sole-copy`): content is fetched into its place under the
 * bundle's temporary name, and into nothing else. What has come is noted in the store, so that a build that was
 * stopped goes on. Notes are hints: all that they tell of is hashed again, where it lies.
 */
import { appendFileSync } from 'node:fs';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { FileTarget } from '../bundle/target.ts';
import type { BundlePlan } from '../bundle/write.ts';
import { digestOf, hexOf, isDigest, type Digest } from '../store/digest.ts';
import type { Store } from '../store/store.ts';

/** Names of what is noted, beside those of blobs: of which bundle, and what has been verified. */
const BUNDLE = 'bundle';
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

  /** Goes on with what an earlier run left of the same bundle at the same place; what it left of another one is dropped. */
  static async open(out: string, { digest, size }: BundlePlan, store: Store): Promise<SoleCopy> {
    const folder = notesOf(store, out);
    const noted = await readFile(join(folder, BUNDLE), 'utf8').catch(() => undefined);
    const left = noted === digest ? await FileTarget.resume(out, size) : undefined;
    const target = left ?? (await FileTarget.create(out, { stays: true }));
    if (left === undefined) {
      await rm(folder, { recursive: true, force: true });
      await mkdir(folder, { recursive: true });
      await writeFile(join(folder, BUNDLE), digest);
    }
    return new SoleCopy(target, folder, await readDone(join(folder, DONE)));
  }

  /** A blob is in its place, verified. */
  note(digest: Digest): void {
    // The newline first: a line that a kill cut short spoils none that follows.
    appendFileSync(join(this.#folder, DONE), `\n${digest}`);
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

/** One for each place, so that those of a bundle that nobody goes on with make way for the next one's. */
const notesOf = (store: Store, out: string): string =>
  join(store.root, 'partial', `bundle-${hexOf(digestOf(out))}`);

async function readDone(path: string): Promise<Set<Digest>> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return new Set(text.split('\n').filter((line): line is Digest => isDigest(line)));
}
