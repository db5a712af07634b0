// SPDX-License-Identifier: Apache-2.0
/** Files that a person names on the command line. */
import { access, open, readdir, stat, type FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { asSealiftError, SealiftError, type ErrorCode } from '../errors.ts';
import { MAX_DOCUMENT_BYTES } from '../document.ts';
import { baseOf, listName, volumeName } from '../bundle/volumes.ts';
import type { Home } from '../install/home.ts';
import { readTrustState } from '../install/trust-state.ts';
import { parseTrustPolicy, type TrustPolicy } from '../trust/policy.ts';
import { policyText } from '../trust/rotate.ts';
import {
  clockWarning,
  demandAdopted,
  hostTime,
  standingOf,
  type HostTime,
  type TrustState,
} from '../trust/state.ts';
import type { Io } from './context.ts';

/** Longest text file that is read, in bytes: documents, keys, tokens. */
const MAX_TEXT_BYTES = 4 * 1024 * 1024;
/** Bytes that are asked for at once. */
const READ_BYTES = 256 * 1024;

/**
 * Reads a text file, bounded.
 * @param missing the code when there is no such file
 */
export async function readText(
  path: string,
  what: string,
  missing: ErrorCode = 'FILE_MISSING',
  hint?: string,
): Promise<string> {
  return (await readBytes(path, what, MAX_TEXT_BYTES, missing, hint)).toString();
}

/** Reads a file of at most `maxBytes` bytes. A pipe will do (`<(…)`, /dev/stdin), and is waited for. */
export async function readBytes(
  path: string,
  what: string,
  maxBytes: number,
  missing: ErrorCode = 'FILE_MISSING',
  hint?: string,
): Promise<Buffer> {
  try {
    const handle = await open(path);
    try {
      const bytes = await readUpTo(handle, maxBytes + 1);
      if (bytes.length > maxBytes)
        throw new SealiftError('USAGE', `${what} ${path} is larger than ${maxBytes} bytes`);
      return bytes;
    } finally {
      await handle.close();
    }
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') {
      const options = hint === undefined ? { cause: thrown } : { hint, cause: thrown };
      throw new SealiftError(missing, `${what} ${path} does not exist`, options);
    }
    throw asSealiftError(thrown, `reading ${what} ${path}`);
  }
}

/** Without positions, which a pipe does not have; a pipe also gives less at once than is asked for. */
async function readUpTo(handle: FileHandle, maxBytes: number): Promise<Buffer> {
  const pieces: Buffer[] = [];
  for (let size = 0; size < maxBytes;) {
    const piece = Buffer.allocUnsafe(Math.min(READ_BYTES, maxBytes - size));
    const { bytesRead } = await handle.read(piece, 0, piece.length, null);
    if (bytesRead === 0) break;
    pieces.push(piece.subarray(0, bytesRead));
    size += bytesRead;
  }
  return Buffer.concat(pieces);
}

/** @throws {SealiftError} FILE_EXISTS when something is there already */
export async function demandAbsent(path: string): Promise<void> {
  try {
    await access(path);
  } catch (thrown) {
    if ((thrown as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw asSealiftError(thrown, `looking for ${path}`);
  }
  throw new SealiftError('FILE_EXISTS', `${path} is already there`, {
    hint: 'name another file, or remove it',
  });
}

const NEW_POLICY = '`sealift help trust` prints one to start from; it must come to this host out of band';

/**
 * Reads a trust policy, whatever the host it is for has adopted.
 * @throws {SealiftError} POLICY_MISSING, POLICY_INVALID
 */
export async function readPolicy(path: string): Promise<TrustPolicy> {
  const bytes = await readBytes(path, 'the trust policy', MAX_DOCUMENT_BYTES, 'POLICY_MISSING', NEW_POLICY);
  return parseTrustPolicy(policyText(bytes, path), path);
}

/** A policy, what its host has adopted, and the time by which that host judges. */
export interface HomePolicy {
  policy: TrustPolicy;
  state: TrustState | undefined;
  time: HostTime;
}

/**
 * The policy of a home, whether it has been adopted or not.
 * @throws {SealiftError} POLICY_MISSING, POLICY_INVALID; IO_ERROR when trust-state.json is damaged
 */
export async function readHomePolicy(home: Home, clock: Date): Promise<HomePolicy> {
  const read = async (): Promise<Omit<HomePolicy, 'time'>> => ({
    policy: await readPolicy(home.trustFile).catch((error: unknown) => lostPolicy(home, error)),
    state: await readTrustState(home),
  });
  let found = await read();
  // Between the two a `trust update` may have replaced both, which would look like a policy that somebody swapped.
  if (standingOf(found.policy, found.state) === 'changed') found = await read();
  return { ...found, time: hostTime(clock, found.state) };
}

/** Where a policy has been adopted, a new one in its place would be refused: the adopted one is to be put back. */
async function lostPolicy(home: Home, error: unknown): Promise<never> {
  const state = await readTrustState(home);
  if (!(error instanceof SealiftError) || error.code !== 'POLICY_MISSING' || !state) throw error;
  const hint = `put the adopted one back: a copy is trust/${state.policy.version}.yaml in the home`;
  throw new SealiftError(error.code, error.message, { hint, cause: error });
}

/**
 * The policy of a home for judging bundles; says so when the clock is behind. Writes nothing: a policy is adopted
 * by an install, never by a look.
 * @throws {SealiftError} POLICY_MISSING, POLICY_INVALID, POLICY_CHANGED, IO_ERROR
 */
export async function adoptedPolicy(home: Home, io: Pick<Io, 'emit' | 'now'>): Promise<HomePolicy> {
  const found = await readHomePolicy(home, io.now());
  demandAdopted(found.policy, found.state, home.trustFile);
  const warning = clockWarning(found.time);
  if (warning !== undefined) io.emit({ type: 'warning', code: 'CLOCK_BEHIND', message: warning });
  return found;
}

/**
 * The bundle that a person means: a file, a volume, the name that volumes have in common, or a folder (a mounted medium)
 * that holds exactly one bundle.
 * @returns path of the bundle, or of its first volume, which need not be there
 * @throws {SealiftError} FILE_MISSING, USAGE
 */
export async function findBundle(path: string): Promise<string> {
  try {
    const info = await stat(path).catch(unlessAbsent);
    if (info === undefined) return await volumesOf(path);
    if (!info.isDirectory()) return firstOf(path);
    const names = (await readdir(path)).toSorted();
    const own = names.filter((name) => name.endsWith('.sealift.tar'));
    const split = new Set(names.flatMap((name) => setOf(name) ?? []).filter((base) => base.endsWith('.tar')));
    const volumes = [...split].map((base) => volumeName(base, 1));
    const others = names.filter((name) => name.endsWith('.tar'));
    const found = own.length + volumes.length > 0 ? [...own, ...volumes] : others;
    return join(path, onlyOne(found, path));
  } catch (thrown) {
    throw asSealiftError(thrown, `looking for a bundle in ${path}`);
  }
}

function unlessAbsent(error: unknown): undefined {
  if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
}

/** The name that a volume, a parity volume or a list has in common with the others of its set. */
const setOf = (path: string): string | undefined =>
  baseOf(path) ?? /^(.+)\.(?:p\d{2}|volumes)$/.exec(path)?.[1];

/** Any file of a set stands for all of them. */
const firstOf = (path: string): string => {
  const base = setOf(path);
  return base?.endsWith('.tar') === true ? volumeName(base, 1) : path;
};

/** Of a name that is no file: that of a bundle in volumes, or of a volume that lies elsewhere. */
async function volumesOf(path: string): Promise<string> {
  const base = setOf(path) ?? path;
  for (const beside of [volumeName(base, 1), listName(base)])
    if ((await stat(beside).catch(unlessAbsent)) !== undefined) return volumeName(base, 1);
  throw new SealiftError('FILE_MISSING', `there is no bundle ${path}`, {
    hint: 'check the path; is the medium mounted?',
  });
}

function onlyOne(names: readonly string[], folder: string): string {
  const [name, ...others] = names;
  if (name === undefined)
    throw new SealiftError('FILE_MISSING', `the folder ${folder} holds no *.sealift.tar`, {
      hint: 'name the bundle itself; is the medium mounted?',
    });
  if (others.length > 0) {
    throw new SealiftError('USAGE', `the folder ${folder} holds ${names.length} bundles`, {
      details: names.slice(0, 10).map((found) => ['found', found]),
      hint: 'name one of them',
    });
  }
  return name;
}
