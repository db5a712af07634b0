// SPDX-License-Identifier: Apache-2.0
/**
 * A bundle in volumes (FORMAT.md §11): the same bytes, cut at a size, NAME.001, NAME.002, …; they are read where they lie,
 * in one folder or several or one medium after another, and never joined. The list beside them, NAME.volumes in the form
 * of sha256sum, tells which one is damaged; nobody has signed it, and no verdict rests on it.
 */
import { constants } from 'node:fs';
import { open, readdir, readFile, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { asSealiftError, SealiftError } from '../errors.ts';
import { silent, type Emit } from '../events.ts';
import { fromHex, hexOf, type Digest } from '../store/digest.ts';
import { transferAll, TransferError, type Stretch } from '../store/transfer.ts';
import { FileSource, incomplete, readingFailed, type StoredSource } from './source.ts';
import { Turns } from './turns.ts';

/** Where volumes are looked for, beside the folder of the one that was named. */
export interface Media {
  folders?: readonly string[];
  /** Asks a person for the medium with one of these volumes; undefined when nobody can be asked. */
  ask?: ((names: readonly string[]) => Promise<void>) | undefined;
}

/** What NAME.volumes says. */
export interface VolumeList {
  /** Bytes of every volume but the last, and of all together; undefined in a list that another program wrote. */
  volumeBytes: number | undefined;
  totalBytes: number | undefined;
  /** By name, without folder, in the order of the list. Parity volumes are among them. */
  digests: ReadonlyMap<string, Digest>;
}

/** Largest list, in bytes; one of 999 volumes takes about 100,000. */
const MAX_LIST_BYTES = 1024 * 1024;

const NUMBERED = /^(.+)\.(\d{3,6})$/;

export const volumeName = (base: string, index: number): string =>
  `${base}.${String(index).padStart(3, '0')}`;
export const listName = (base: string): string => `${base}.volumes`;

/** The name without its number, when it is that of a volume. */
export const baseOf = (path: string): string | undefined => NUMBERED.exec(path)?.[1];

export function formatList(list: {
  volumeBytes: number;
  totalBytes: number;
  digests: ReadonlyMap<string, Digest>;
}): string {
  const count = Math.max(1, Math.ceil(list.totalBytes / list.volumeBytes));
  const head = `# sealift: ${count} volumes of ${list.volumeBytes} bytes, ${list.totalBytes} bytes in all\n`;
  return head + [...list.digests].map(([name, digest]) => `${hexOf(digest)}  ${name}\n`).join('');
}

/** Reads a list; lines that are none are passed over, as by sha256sum. */
export function parseList(text: string): VolumeList {
  const sizes = /^# sealift: \d+ volumes of (\d{1,16}) bytes, (\d{1,16}) bytes in all$/m.exec(text);
  const lines = text.matchAll(/^([0-9a-f]{64}) [ *]([^/\0\r\n]{1,255})$/gm);
  return {
    volumeBytes: sizes ? Number(sizes[1]) : undefined,
    totalBytes: sizes ? Number(sizes[2]) : undefined,
    digests: new Map([...lines].map(([, hex, name]) => [name!, fromHex(hex!)])),
  };
}

/** The volumes of one bundle, as far as they can be found now. */
export class VolumeSet {
  /** Path of the bundle without a number, in the folder that was named. */
  readonly base: string;
  readonly list: VolumeList | undefined;
  readonly #folders: readonly string[];

  private constructor(base: string, folders: readonly string[], list: VolumeList | undefined) {
    this.base = base;
    this.list = list;
    this.#folders = folders;
  }

  static async of(base: string, media: Media): Promise<VolumeSet> {
    const folders = [...new Set([dirname(base), ...(media.folders ?? [])])];
    return new VolumeSet(base, folders, await readList(basename(base), folders));
  }

  name(index: number): string {
    return volumeName(basename(this.base), index);
  }

  /** Where a file of the set is now; undefined when it is in none of the folders. */
  async find(name: string): Promise<string | undefined> {
    for (const folder of this.#folders) {
      const path = join(folder, name);
      if (
        await stat(path).then(
          (info) => info.isFile(),
          () => false,
        )
      )
        return path;
    }
    return undefined;
  }

  /** How many volumes there are: by the list, or as many as are found without a gap at the end. */
  async count(): Promise<number> {
    const prefix = `${basename(this.base)}.`;
    const names = [...(this.list?.digests.keys() ?? [])];
    if (names.length === 0)
      for (const folder of this.#folders) names.push(...(await readdir(folder).catch(() => [])));
    const numbers = names
      .filter(
        (name) => name.startsWith(prefix) && NUMBERED.test(name) && baseOf(name) === basename(this.base),
      )
      .map((name) => Number(NUMBERED.exec(name)![2]));
    return Math.max(0, ...numbers);
  }

  /** Volumes that are not to be found, by name. */
  async missing(): Promise<string[]> {
    const names = Array.from({ length: await this.count() }, (_, i) => this.name(i + 1));
    const found = await Promise.all(names.map((name) => this.find(name)));
    return names.filter((_, i) => found[i] === undefined);
  }
}

async function readList(base: string, folders: readonly string[]): Promise<VolumeList | undefined> {
  for (const folder of folders) {
    const path = join(folder, listName(base));
    const info = await stat(path).catch(() => undefined);
    if (info?.isFile() === true && info.size <= MAX_LIST_BYTES)
      return parseList(await readFile(path, 'utf8'));
  }
  return undefined;
}

/** A bundle in one file or in volumes. @throws {SealiftError} NOT_A_BUNDLE, BUNDLE_INCOMPLETE, FILE_MISSING, IO_ERROR */
export async function openSource(path: string, media: Media = {}): Promise<StoredSource> {
  const base = baseOf(path);
  return base === undefined
    ? FileSource.open(path)
    : VolumeSource.open(await VolumeSet.of(base, media), media.ask);
}

export class VolumeSource implements StoredSource {
  readonly name: string;
  readonly size: number;
  readonly #set: VolumeSet;
  readonly #volumeBytes: number;
  readonly #ask: Media['ask'];
  /** By index; undefined for one that is not here. Thousands of blobs ask for one volume at the same time. */
  readonly #open = new Map<number, Promise<FileHandle | undefined>>();
  /** Which volume a file descriptor is of. */
  readonly #indices = new Map<number, number>();
  readonly #turns = new Turns();

  private constructor(set: VolumeSet, volumeBytes: number, size: number, ask: Media['ask']) {
    this.name = set.base;
    this.size = size;
    this.#set = set;
    this.#volumeBytes = volumeBytes;
    this.#ask = ask;
  }

  static async open(set: VolumeSet, ask: Media['ask']): Promise<VolumeSource> {
    const missing = await set.missing();
    const { volumeBytes, totalBytes } = set.list ?? {};
    const known = volumeBytes !== undefined && totalBytes !== undefined && volumeBytes > 0;
    // Asking for one medium after another needs to know what lies on those that are not here.
    if (missing.length > 0 && (ask === undefined || !known)) throw volumesMissing(set, missing);
    if (known) return new VolumeSource(set, volumeBytes, totalBytes, ask);
    const sizes = await Promise.all(
      Array.from(
        { length: await set.count() },
        async (_, i) => (await stat((await set.find(set.name(i + 1)))!)).size,
      ),
    );
    const total = sizes.reduce((sum, size) => sum + size, 0);
    return new VolumeSource(set, sizes[0]!, total, ask);
  }

  async readInto(target: Uint8Array, position: number): Promise<void> {
    if (position + target.length > this.size)
      throw incomplete(this.name, position + target.length, this.size);
    // One reader at a time: each may have to ask for a medium, which takes away that of another.
    await this.#turns.alone(async () => {
      let done = 0;
      for (const { index, offset, length } of this.#parts(position, target.length)) {
        await this.#readPart(index, offset, target.subarray(done, done + length));
        done += length;
      }
    });
  }

  async stretches(position: number, length: number): Promise<Stretch[] | undefined> {
    const stretches: Stretch[] = [];
    for (const part of this.#parts(position, length)) {
      const handle = await this.#openHere(part.index);
      if (handle === undefined) return undefined;
      stretches.push({ fd: handle.fd, offset: part.offset, length: part.length });
    }
    return stretches;
  }

  failed(error: TransferError, stretches: readonly Stretch[]): SealiftError {
    const { fd } = stretches[error.stretch]!;
    return readingFailed(error, this.#set.name(this.#indices.get(fd) ?? 0));
  }

  async close(): Promise<void> {
    const opening = [...this.#open.values()];
    this.#open.clear();
    for (const handle of await Promise.allSettled(opening))
      if (handle.status === 'fulfilled') await handle.value?.close();
  }

  *#parts(position: number, length: number): Generator<{ index: number; offset: number; length: number }> {
    for (let done = 0; done < length;) {
      const volume = Math.floor((position + done) / this.#volumeBytes);
      const offset = position + done - volume * this.#volumeBytes;
      const part = Math.min(length - done, this.#volumeBytes - offset);
      yield { index: volume + 1, offset, length: part };
      done += part;
    }
  }

  async #readPart(index: number, offset: number, target: Uint8Array): Promise<void> {
    const handle = await this.#handle(index);
    for (let done = 0; done < target.length;) {
      const { bytesRead } = await handle
        .read(target, done, target.length - done, offset + done)
        .catch((error: unknown) => {
          throw asSealiftError(error, `reading ${this.#set.name(index)} at byte ${offset + done}`);
        });
      if (bytesRead === 0) throw incomplete(this.#set.name(index), offset + target.length, offset + done);
      done += bytesRead;
    }
  }

  /** A volume, asked for when it is not here. Nothing is held open meanwhile: a medium must be free to be taken out. */
  async #handle(index: number): Promise<FileHandle> {
    for (;;) {
      const handle = await this.#openHere(index);
      if (handle !== undefined) return handle;
      if (this.#ask === undefined) throw volumesMissing(this.#set, [this.#set.name(index)]);
      await this.close();
      await this.#ask([this.#set.name(index)]);
    }
  }

  /** Opened once, as long as its medium stays: replacing the name between check and use changes nothing (THREATS.md, T9). */
  async #openHere(index: number): Promise<FileHandle | undefined> {
    const known = this.#open.get(index);
    if (known !== undefined) return known;
    const opening = this.#openVolume(index);
    this.#open.set(index, opening);
    const forget = (): void => {
      if (this.#open.get(index) === opening) this.#open.delete(index);
    };
    opening.then((handle) => handle ?? forget(), forget);
    return opening;
  }

  async #openVolume(index: number): Promise<FileHandle | undefined> {
    const path = await this.#set.find(this.#set.name(index));
    if (path === undefined) return undefined;
    const handle = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch((error: unknown) => {
      throw asSealiftError(error, `opening ${path}`);
    });
    const { size } = await handle.stat();
    const expected = Math.min(this.#volumeBytes, this.size - (index - 1) * this.#volumeBytes);
    if (size !== expected) {
      await handle.close();
      throw new SealiftError('BUNDLE_INCOMPLETE', `${path} has ${size} bytes, not ${expected}`, {
        hint: 'the copy broke off, or it belongs to another bundle: carry this volume again',
      });
    }
    this.#indices.set(handle.fd, index);
    return handle;
  }
}

function volumesMissing(set: VolumeSet, names: readonly string[]): SealiftError {
  return new SealiftError(
    'BUNDLE_INCOMPLETE',
    `${names.length === 1 ? 'a volume is' : `${names.length} volumes are`} missing: ${names.join(', ')}`,
    {
      details: names.map((name) => ['missing', name]),
      hint: `carry ${names.length === 1 ? 'it' : 'them'} again, or name the folder that has ${names.length === 1 ? 'it' : 'them'} with --volumes (the bundle is ${basename(set.base)})`,
    },
  );
}

/** What is wrong with a volume. */
export interface VolumeFinding {
  name: string;
  problem: 'missing' | 'damaged' | 'unreadable';
  detail: string;
}

/**
 * Holds every volume against the list, whatever the verdict on the bundle was: for saying which ones to carry again.
 * Reads all of them.
 */
export async function diagnose(
  set: VolumeSet,
  { emit = silent, signal }: { emit?: Emit; signal?: AbortSignal | undefined } = {},
): Promise<VolumeFinding[]> {
  const findings: VolumeFinding[] = [];
  const present: { name: string; path: string; length: number }[] = [];
  const names = set.list ? [...set.list.digests.keys()] : await set.missing();
  for (const name of names) {
    const path = await set.find(name);
    if (path === undefined)
      findings.push({ name, problem: 'missing', detail: 'it is in none of the folders' });
    else present.push({ name, path, length: (await stat(path)).size });
  }
  const bytes = present.reduce((sum, { length }) => sum + length, 0);
  const id = 'volumes';
  emit({ type: 'stage', name: 'looking for damaged volumes', totalBytes: bytes });
  emit({ type: 'item-start', id, kind: 'file', label: basename(set.base), bytes });
  const results = await transferAll(
    present.map((from) => ({ from })),
    { signal, onBytes: (delta) => emit({ type: 'item-progress', id, delta }) },
  );
  emit({ type: 'item-end', id, outcome: 'done' });
  for (const [i, result] of results.entries()) {
    const { name } = present[i]!;
    const expected = set.list!.digests.get(name)!;
    if (result instanceof TransferError)
      findings.push({ name, problem: 'unreadable', detail: result.message });
    else if (result !== expected)
      findings.push({
        name,
        problem: 'damaged',
        detail: `sha256 is ${hexOf(result)}, not ${hexOf(expected)}`,
      });
  }
  return findings.toSorted((a, b) => names.indexOf(a.name) - names.indexOf(b.name));
}
