// SPDX-License-Identifier: Apache-2.0
/** Configuration files of the manifest: carried verbatim from the staging box. */
import { readFile, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import { asSealiftError, SealiftError } from '../errors.ts';
import { digestOf } from '../store/digest.ts';
import type { Store } from '../store/store.ts';
import { byKey } from './context.ts';
import type { Lock, LockedConfig } from './lockfile.ts';
import type { Manifest } from './manifest.ts';

/** Largest configuration file, in bytes: it is read whole. Larger things are models. */
const MAX_CONFIG_BYTES = 64 * 1024 * 1024;

/** Hashes every configuration file of the manifest. @throws {SealiftError} FILE_MISSING, MANIFEST_INVALID */
export async function lockConfigs(manifest: Manifest, baseDir: string): Promise<LockedConfig[]> {
  const locked: LockedConfig[] = [];
  for (const [name, path] of byKey(manifest.configs)) {
    const bytes = await readConfig(name, path, baseDir);
    locked.push({ name, digest: digestOf(bytes), size: bytes.length });
  }
  return locked;
}

/**
 * Brings every configuration file into the store, as the lock has it.
 * @throws {SealiftError} SOURCE_CHANGED when a file was edited after it was locked
 */
export async function storeConfigs(
  manifest: Manifest,
  lock: Lock,
  baseDir: string,
  store: Store,
): Promise<void> {
  for (const { name, digest, size } of lock.configs) {
    const path = manifest.configs[name] ?? name;
    const bytes = await readConfig(name, path, baseDir);
    if (digestOf(bytes) !== digest) {
      throw new SealiftError('SOURCE_CHANGED', `config ${name}: ${path} changed after it was locked`, {
        details: [
          ['locked', `${digest} (${size} bytes)`],
          ['found', `${digestOf(bytes)} (${bytes.length} bytes)`],
        ],
        hint: 'if the change is meant, run `sealift lock`, review it, then build again',
      });
    }
    await store.addBytes(bytes);
  }
}

async function readConfig(name: string, path: string, baseDir: string): Promise<Buffer> {
  const full = resolve(baseDir, path);
  try {
    const info = await stat(full);
    if (info.isFile() && info.size <= MAX_CONFIG_BYTES) return await readFile(full);
  } catch (error) {
    throw asSealiftError(error, `reading config ${name}`);
  }
  throw new SealiftError(
    'MANIFEST_INVALID',
    `config ${name}: ${path} is not a file of at most ${MAX_CONFIG_BYTES} bytes`,
  );
}
