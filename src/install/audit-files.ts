// SPDX-License-Identifier: Apache-2.0
/** Every file that a bundle placed, held against what was signed, byte for byte; and what stands beside it. */
import { lstat, readdir } from 'node:fs/promises';
import { join, relative } from 'node:path';
import type { Emit } from '../events.ts';
import type { Expected } from '../store/digest.ts';
import { transferAll, TransferError } from '../store/transfer.ts';
import type { Finding } from './audit.ts';
import type { Home } from './home.ts';
import type { Installed } from './kept-bundle.ts';
import { readReceipts } from './receipt.ts';
import { configsPath } from './steps/config.ts';
import { filesUnder } from './release-folder.ts';

interface Placed extends Expected {
  /** Relative to the home. */
  path: string;
}

export interface AuditedFiles {
  findings: Finding[];
  files: number;
  /** Bytes that were hashed. */
  bytes: number;
}

/**
 * Hashes what the releases placed, each inode once: releases share most of it.
 * @throws the signal's reason
 */
export async function auditFiles(
  home: Home,
  releases: readonly Installed[],
  emit: Emit,
  signal?: AbortSignal,
): Promise<AuditedFiles> {
  const folders = new Map(releases.flatMap((installed) => placedFolders(installed)));
  const findings: Finding[] = [];
  const inodes = new Map<string, Placed>();
  for (const [folder, files] of folders) {
    const { problems, present } = await look(home, folder, files);
    findings.push(...problems);
    // An inode that must be two things at once is hashed for both, and one of them then differs.
    for (const [inode, file] of present) inodes.set(`${inode} ${file.digest}`, file);
  }
  const all = [...inodes.values()];
  const bytes = all.reduce((sum, { size }) => sum + size, 0);
  emit({ type: 'stage', name: 'hashing what was placed', totalBytes: bytes });
  findings.push(...(await hash(home, all, bytes, emit, signal)));
  const others = (await readReceipts(home)).flatMap(({ models, configs }) => [
    ...models.map((m) => m.path),
    configs?.path ?? '',
  ]);
  findings.push(...(await strangeFolders(home, new Set([...folders.keys(), ...others]))));
  return { findings, files: [...folders.values()].reduce((sum, list) => sum + list.length, 0), bytes };
}

function placedFolders({ receipt, inventory }: Installed): [string, Placed[]][] {
  const { models, configs } = inventory;
  const paths = new Map(receipt.models.map(({ name, path }) => [name, path]));
  const all = models.map(({ name, files }): [string, Placed[]] => {
    const folder = paths.get(name)!;
    return [folder, files.map((file) => ({ ...file, path: join(folder, file.path) }))];
  });
  if (configs.length === 0) return all;
  const folder = configsPath(configs);
  return [...all, [folder, configs.map((c) => ({ ...c, path: join(folder, c.name) }))]];
}

interface Looked {
  problems: Finding[];
  /** By device and inode: the files whose bytes are worth a look. */
  present: [string, Placed][];
}

async function look(home: Home, folder: string, files: readonly Placed[]): Promise<Looked> {
  const problems: Finding[] = [];
  const present: [string, Placed][] = [];
  for (const file of files) {
    const found = await lstat(home.path(file.path)).catch(() => undefined);
    const is = (problem: string): unknown => problems.push({ what: 'file', subject: file.path, problem });
    if (found === undefined) is('is gone');
    else if (!found.isFile()) is('is not a regular file any more');
    else {
      if ((found.mode & 0o222) !== 0) is(`is writable (mode ${(found.mode & 0o777).toString(8)})`);
      if (found.size === file.size) present.push([`${found.dev}:${found.ino}`, file]);
      else is(`has ${found.size} bytes, not ${file.size}`);
    }
  }
  const known = new Set(files.map(({ path }) => path));
  for (const name of await filesUnder(home.path(folder), '.'))
    if (!known.has(join(folder, name)))
      problems.push({ what: 'file', subject: join(folder, name), problem: 'was not placed by any bundle' });
  return { problems, present };
}

async function hash(
  home: Home,
  files: readonly Placed[],
  bytes: number,
  emit: Emit,
  signal: AbortSignal | undefined,
): Promise<Finding[]> {
  const item = { id: 'audit', kind: 'file', label: `every byte of ${files.length} files`, bytes } as const;
  emit({ type: 'item-start', ...item });
  const onBytes = (delta: number): void => emit({ type: 'item-progress', id: item.id, delta });
  // The largest first, so that no thread is left alone with one at the end.
  const ordered = files.toSorted((a, b) => b.size - a.size);
  const jobs = ordered.map(({ path, size }) => ({ from: { path: home.path(path), length: size } }));
  const results = await transferAll(jobs, { onBytes, signal });
  const findings = ordered.flatMap(({ path, digest }, i): Finding[] => {
    const result = results[i]!;
    if (result === digest) return [];
    const problem =
      result instanceof TransferError
        ? `cannot be read: ${result.message}`
        : `has other content: ${result}, not ${digest}`;
    return [{ what: 'file', subject: path, problem }];
  });
  emit({ type: 'item-end', id: item.id, outcome: findings.length === 0 ? 'done' : 'failed' });
  return findings;
}

/** Folders of models and configuration files that no release has. */
async function strangeFolders(home: Home, known: ReadonlySet<string>): Promise<Finding[]> {
  const revisions = (await readdir(home.path('models')).catch(() => [])).map((model) =>
    join('models', model),
  );
  const found: string[] = [];
  for (const model of revisions)
    found.push(...(await readdir(home.path(model)).catch(() => ['.'])).map((name) => join(model, name)));
  found.push(...(await readdir(home.path('configs')).catch(() => [])).map((name) => join('configs', name)));
  return found
    .filter((path) => !known.has(path))
    .map((path) => ({ what: 'file', subject: relative('.', path), problem: 'belongs to no release' }));
}
