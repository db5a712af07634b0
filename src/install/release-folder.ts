// SPDX-License-Identifier: Apache-2.0
/**
 * The folder of a release on the disk. Files are replaced in it one by one and by rename, never the folder: running
 * containers see what is in it, and would go on seeing a folder that was moved away. Before an install changes it, a copy
 * is made to return to.
 */
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { exists, fsyncDir, writeFileDurably } from '../store/files.ts';
import { absent, type Home } from './home.ts';
import type { RenderedFile } from './release.ts';

/** Files under a part of a folder, relative to the folder, sorted; none when it is not there. */
export async function filesUnder(folder: string, part: string): Promise<string[]> {
  const found = await readdir(join(folder, part), { recursive: true, withFileTypes: true }).catch(() => []);
  return found
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
    .sort();
}

/** Parts of the folder that hold rendered files and nothing else, so that what is not rendered is removed. */
const RENDERED = ['gateway', 'secrets', 'engines', 'monitoring'];

/** Whether the folder holds these files, and in their parts no other. */
export async function holds(folder: string, wanted: ReadonlyMap<string, RenderedFile>): Promise<boolean> {
  for (const [name, file] of wanted) if (!(await isThere(join(folder, name), file))) return false;
  return (await strangers(folder, wanted)).length === 0;
}

/** Whether a file is what was rendered, in content and mode. */
export async function isThere(file: string, { bytes, mode }: RenderedFile): Promise<boolean> {
  const found = await readFile(file).catch(absent);
  return found?.equals(bytes) === true && ((await stat(file)).mode & 0o777) === mode;
}

/** Writes what differs, and removes what is not wanted. */
export async function writeFiles(folder: string, wanted: ReadonlyMap<string, RenderedFile>): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o755 });
  await mkdir(join(folder, 'secrets', 'gateway'), { recursive: true, mode: 0o700 });
  await putFiles(folder, wanted);
  for (const name of await strangers(folder, wanted)) await rm(join(folder, name), { force: true });
  await fsyncDir(folder);
}

/** Writes those of the files that differ. */
export async function putFiles(folder: string, wanted: ReadonlyMap<string, RenderedFile>): Promise<void> {
  for (const [name, { bytes, mode }] of wanted) {
    const file = join(folder, name);
    if (await isThere(file, { bytes, mode })) continue;
    await mkdir(dirname(file), { recursive: true });
    await writeFileDurably(file, bytes, mode);
  }
}

/** What stands in those parts and was not rendered. */
export async function strangers(folder: string, wanted: ReadonlyMap<string, unknown>): Promise<string[]> {
  const found = await Promise.all(RENDERED.map((part) => filesUnder(folder, part)));
  return found.flat().filter((name) => !wanted.has(name));
}

const previousOf = (home: Home, release: string): string => home.path('releases', `.${release}.previous`);
const copyOf = (home: Home, release: string): string => home.path('releases', `.${release}.partial`);

/** Keeps a copy of the folder. The oldest one stays: after a kill, what stands in the folder may already be ours. */
export async function keepCopy(home: Home, release: string): Promise<void> {
  const folder = home.releaseFolder(release);
  if (!(await exists(folder)) || (await exists(previousOf(home, release)))) return;
  const copy = copyOf(home, release);
  await rm(copy, { recursive: true, force: true });
  await mkdir(copy, { mode: 0o700 });
  // Every file is on the disk before the name that makes them the ones to return to.
  for (const name of await filesUnder(folder, '.')) await copyFile(join(folder, name), join(copy, name));
  await rename(copy, previousOf(home, release));
  await fsyncDir(home.path('releases'));
}

async function copyFile(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true });
  await writeFileDurably(to, await readFile(from), (await stat(from)).mode & 0o777);
}

/** Makes the folder what the copy says, and drops the copy. Without one, the folder was not touched yet. */
export async function bringBack(home: Home, release: string): Promise<void> {
  const folder = home.releaseFolder(release);
  const previous = previousOf(home, release);
  if (await exists(previous)) {
    const names = await filesUnder(previous, '.');
    for (const name of names) await copyFile(join(previous, name), join(folder, name));
    for (const name of await filesUnder(folder, '.'))
      if (!names.includes(name)) await rm(join(folder, name), { force: true });
  }
  await dropCopy(home, release);
}

/** After a success the copy is not needed any more; without a journal nobody would return to it. */
export async function dropCopy(home: Home, release: string): Promise<void> {
  await rm(copyOf(home, release), { recursive: true, force: true });
  if (!(await exists(previousOf(home, release)))) return;
  // Out of the way first: half a copy must not be taken for a whole one by whoever comes after a kill.
  await rename(previousOf(home, release), copyOf(home, release));
  await fsyncDir(home.path('releases'));
  await rm(copyOf(home, release), { recursive: true, force: true });
}
