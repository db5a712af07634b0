// SPDX-License-Identifier: Apache-2.0
/** A change of a few bytes in the first volume, and what lies beside it: the list and the parity (FORMAT.md §12.5). */
import { open, readFile, rm, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { asSealiftError, SealiftError } from '../errors.ts';
import { multiply } from '../store/combine.ts';
import { hexOf, type Digest } from '../store/digest.ts';
import { createTemporary, temporary, writeFileDurably } from '../store/files.ts';
import { transferAll, TransferError, type Stretch } from '../store/transfer.ts';
import { coefficient } from './parity.ts';
import { isParity, parityName } from './shards.ts';
import { baseOf, listName, parseList, type VolumeList } from './volumes.ts';

/** Other bytes at one place of a file; the file's length stays. */
interface Change {
  path: string;
  handle: FileHandle;
  size: number;
  after: Uint8Array;
}

/**
 * Changes bytes of a file in place. Of the first volume of a split bundle, list and parity change with it: the code is
 * linear, so each parity volume changes by its coefficient times the difference, at the same place. In whatever moment it
 * is killed, `repair` brings back either the old first volume or new parity: first the volume, then the list, then parity.
 * @throws {SealiftError} FILE_MISSING when parity is elsewhere, CONTENT_MISMATCH when something is not what the list says
 *   (nothing has changed then), IO_ERROR
 */
export async function changeInPlace(
  path: string,
  offset: number,
  before: Uint8Array,
  after: Uint8Array,
): Promise<void> {
  const beside = await listBeside(path);
  const changes: Change[] = [];
  try {
    changes.push(await openChange(path, after));
    if (beside === undefined) return await write(changes[0]!, offset);
    for (const [row, other] of parityOf(path, beside.list).entries())
      changes.push(await openParity(other, path, offset, timesDifference(row, beside.list, before, after)));
    const digests = await digestsAfter(changes, offset, beside);
    const [first, ...parity] = changes;
    await write(first!, offset);
    await writeFileDurably(beside.path, relisted(beside, digests));
    for (const change of parity) await write(change, offset);
  } catch (error) {
    throw asSealiftError(error, `writing the signature into ${path}`);
  } finally {
    for (const { handle } of changes) await handle.close();
  }
}

/** A list, and its file. */
interface Beside {
  path: string;
  text: string;
  list: VolumeList;
}

/** The list beside a first volume, when there is one that names it. */
async function listBeside(volume: string): Promise<Beside | undefined> {
  const base = baseOf(volume);
  if (base === undefined) return undefined;
  const path = listName(base);
  const text = await readFile(path, 'utf8').catch(() => '');
  const list = parseList(text);
  return list.digests.has(basename(volume)) ? { path, text, list } : undefined;
}

/** Paths of the parity volumes, in the order of their rows. */
function parityOf(path: string, list: VolumeList): string[] {
  const base = basename(baseOf(path)!);
  const count = [...list.digests.keys()].filter(isParity).length;
  return Array.from({ length: count }, (_, i) => join(dirname(path), parityName(base, i + 1)));
}

function timesDifference(row: number, list: VolumeList, before: Uint8Array, after: Uint8Array): Uint8Array {
  const volumes = [...list.digests.keys()].filter((name) => !isParity(name)).length;
  const factor = coefficient(row, 0, volumes);
  return before.map((byte, i) => multiply(factor, byte ^ after[i]!));
}

async function openChange(path: string, after: Uint8Array): Promise<Change> {
  const handle = await open(path, 'r+');
  return { path, handle, size: (await handle.stat()).size, after };
}

async function openParity(
  path: string,
  first: string,
  offset: number,
  difference: Uint8Array,
): Promise<Change> {
  const there = await stat(path).catch(() => undefined);
  if (there === undefined)
    throw new SealiftError(
      'FILE_MISSING',
      `${basename(path)} is not beside ${first}, and has to be signed with it`,
      {
        hint: 'put the parity volumes beside the first volume for signing, or sign before the bundle is split',
      },
    );
  const change = await openChange(path, difference);
  const sums = Buffer.alloc(difference.length);
  await change.handle.read(sums, 0, sums.length, offset);
  return { ...change, after: sums.map((byte, i) => byte ^ difference[i]!) };
}

/**
 * What the files will hash to, before one of them is touched: hashing takes minutes, in which power can fail. Damage is
 * not listed as if it were right.
 * @throws {SealiftError} CONTENT_MISMATCH
 */
async function digestsAfter(
  changes: readonly Change[],
  offset: number,
  beside: Beside,
): Promise<Map<string, Digest>> {
  const patch = await createTemporary(beside.path);
  try {
    await patch.writeFile(Buffer.concat(changes.map(({ after }) => after)));
    const now = await hashes(changes.map(({ handle: { fd }, size }) => [{ fd, offset: 0, length: size }]));
    for (const [i, { path }] of changes.entries()) demandAsListed(path, now[i]!, beside.list);
    const then = await hashes(
      changes.map(({ handle: { fd }, size, after: { length } }, i) => [
        { fd, offset: 0, length: offset },
        { fd: patch.fd, offset: i * length, length },
        { fd, offset: offset + length, length: size - offset - length },
      ]),
    );
    return new Map(changes.map(({ path }, i) => [basename(path), then[i]!]));
  } finally {
    await patch.close();
    await rm(temporary(beside.path), { force: true });
  }
}

async function hashes(files: readonly Stretch[][]): Promise<Digest[]> {
  const results = await transferAll(files.map((from) => ({ from })));
  return results.map((result) => {
    if (result instanceof TransferError) throw result;
    return result;
  });
}

function demandAsListed(path: string, found: Digest, list: VolumeList): void {
  const listed = list.digests.get(basename(path));
  if (found === listed) return;
  throw new SealiftError('CONTENT_MISMATCH', `${path} is not what the list beside it says`, {
    details: [
      ['listed', listed ?? 'nothing'],
      ['found', found],
    ],
    hint: `sealift repair ${baseOf(path) ?? path}, and sign then`,
  });
}

function relisted({ text, list }: Beside, digests: Map<string, Digest>): string {
  const line = (digest: Digest, name: string): string => `${hexOf(digest)}  ${name}`;
  let now = text;
  for (const [name, digest] of digests)
    now = now.replace(line(list.digests.get(name)!, name), line(digest, name));
  return now;
}

async function write({ handle, after }: Change, offset: number): Promise<void> {
  await handle.write(after, 0, after.length, offset);
  await handle.sync();
}
