// SPDX-License-Identifier: Apache-2.0
/**
 * `journal.json`: which steps the install that is under way has begun or finished, and how to take each back. An entry is
 * durable before its step touches the host, so a kill at any moment leaves either nothing or an entry. The
 * file is gone when no install is under way.
 */
import { readFile, rm } from 'node:fs/promises';
import * as z from 'zod';
import { DigestSchema } from '../bundle/inventory.ts';
import { asSealiftError, SealiftError } from '../errors.ts';
import { canonicalJson, parseJson } from '../json.ts';
import { fsyncDir, writeFileDurably } from '../store/files.ts';
import type { Digest } from '../store/digest.ts';
import { absent, MAX_STATE_BYTES, type Home } from './home.ts';
import { UndoRecord } from './step.ts';

const Entry = z.strictObject({ id: z.string(), state: z.enum(['begun', 'done']), record: UndoRecord });

const JournalFile = z.strictObject({
  schema: z.literal('sealift/journal/v1'),
  bundle: DigestSchema,
  release: z.string(),
  startedAt: z.iso.datetime(),
  entries: z.array(Entry),
});
export type JournalState = z.infer<typeof JournalFile>;

/** What an unfinished install left, or undefined. @throws {SealiftError} IO_ERROR when it cannot be read */
export async function readJournal(home: Home): Promise<JournalState | undefined> {
  const bytes = await readFile(home.journalFile).catch(absent);
  if (bytes === undefined) return undefined;
  const parsed = JournalFile.safeParse(parseJson(bytes, home.journalFile, 'IO_ERROR', MAX_STATE_BYTES));
  if (parsed.success) return parsed.data;
  throw new SealiftError(
    'IO_ERROR',
    `${home.journalFile} is damaged: what an earlier install began is not known`,
    {
      hint: `look at ${home.root} and the engine by hand, then remove the file`,
    },
  );
}

/** For whoever cannot do anything beside it. */
export const unfinishedInstall = ({ release }: JournalState): SealiftError =>
  new SealiftError('HOST_CHANGED', `an install of ${release} is unfinished`, {
    hint: 'run it again, or take it back: sealift uninstall',
  });

export class Journal {
  readonly #home: Home;
  readonly state: JournalState;
  /** The last write that was begun; never rejects. */
  #saving: Promise<unknown> = Promise.resolve();

  constructor(home: Home, state: JournalState) {
    this.#home = home;
    this.state = state;
  }

  static fresh(home: Home, bundle: Digest, release: string, now: Date): Journal {
    return new Journal(home, {
      schema: 'sealift/journal/v1',
      bundle,
      release,
      startedAt: now.toISOString(),
      entries: [],
    });
  }

  has(id: string): boolean {
    return this.state.entries.some((entry) => entry.id === id);
  }

  /**
   * Notes that a step is about to touch the host. After a kill the first record stays: it knows what was there
   * before anything was placed.
   */
  async begin(id: string, record: UndoRecord): Promise<void> {
    const known = this.state.entries.find((entry) => entry.id === id);
    if (known) known.state = 'begun';
    else this.state.entries.push({ id, state: 'begun', record });
    await this.#save();
  }

  async finish(id: string): Promise<void> {
    const entry = this.state.entries.find((e) => e.id === id);
    if (entry) entry.state = 'done';
    await this.#save();
  }

  /**
   * Notes that a step has been taken back. A full disk, which may be why it was, must not end that: an entry too
   * many in the file is harmless, since taking back twice is.
   */
  async forget(id: string): Promise<void> {
    this.state.entries = this.state.entries.filter((entry) => entry.id !== id);
    await this.#save().catch((error: unknown) => {
      if (asSealiftError(error, 'noting').code !== 'DISK_FULL') throw error;
    });
  }

  async remove(): Promise<void> {
    await rm(this.#home.journalFile, { force: true });
    await fsyncDir(this.#home.root);
  }

  /** One after the other: an older state must not take the place of a newer one. */
  async #save(): Promise<void> {
    const saving = this.#saving.then(() =>
      writeFileDurably(this.#home.journalFile, canonicalJson(this.state), 0o600),
    );
    this.#saving = saving.catch(() => undefined);
    await saving;
  }
}
