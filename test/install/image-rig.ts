// SPDX-License-Identifier: Apache-2.0
/** A real engine and a bundle of two images without services, for tests of loading, proving and taking back. */
import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, expect } from 'vitest';
import { SealiftError, type ErrorCode } from '../../src/errors.ts';
import type { Home } from '../../src/install/home.ts';
import { readJournal } from '../../src/install/journal.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { tinyImage, type TinyImage } from '../support/images.ts';
import { runOk, tempDir, waitFor } from '../support/workspace.ts';
import { installer, makeBundle, makeHome, type Installer, type RigBundle } from './rig.ts';

export const REF = 'registry.example.org/group/one:1';
export const REF_ZSTD = 'registry.example.org/group/two:1';

export let engine: DockerEngine;
export let images: { one: TinyImage; two: TinyImage };
export let bundle: RigBundle;
export let home: Home;
export let me: Installer;

/** An engine for the file that calls this, and a new home for each of its tests. */
export function useEngine(): void {
  beforeAll(async () => {
    engine = await startDocker({ dir: join(tempDir('engine'), 'engine') });
    images = {
      one: tinyImage({ name: 'one', payload: 'first', shared: true }),
      two: tinyImage({ name: 'two', payload: 'second '.repeat(50_000), compression: 'zstd', shared: true }),
    };
    bundle = await makeBundle({ images: rigImages() });
  }, 120_000);

  afterAll(async () => {
    await engine?.stop();
  }, 60_000);

  beforeEach(async () => {
    ({ home } = await makeHome());
    me = installer(home, engine.socket);
    await docker('image', 'prune', '--all', '--force');
  });
}

export const rigImages = (): { name: string; ref: string; layout: string }[] => [
  { name: 'one', ref: REF, layout: images.one.dir },
  { name: 'two', ref: REF_ZSTD, layout: images.two.dir },
];

export const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);
export const tags = async (): Promise<string[]> =>
  (await docker('images', '--format', '{{.Repository}}:{{.Tag}}')).split('\n').filter(Boolean).toSorted();
export const idOf = async (ref: string): Promise<string> =>
  (await docker('image', 'inspect', '--format', '{{.Id}}', ref)).trim();

/** Everything of a bundle that an install leaves outside the engine. */
export const placed = (): string[] =>
  ['models', 'configs', 'releases', 'blobs/sha256', 'partial', 'spool'].flatMap((folder) =>
    existsSync(home.path(folder)) ? readdirSync(home.path(folder)).map((name) => join(folder, name)) : [],
  );

export async function expectNothingLeft(): Promise<void> {
  expect(await tags()).toEqual([]);
  expect((await docker('images', '--all', '--quiet')).trim()).toBe('');
  expect(placed()).toEqual([]);
  expect(await home.current()).toBeUndefined();
  expect(await readJournal(home)).toBeUndefined();
  expect(await home.installed()).toEqual(new Map());
}

export const failure = (
  install: Promise<unknown>,
): Promise<Error & { code?: string; details?: [string, string][] }> =>
  install.then(
    () => Promise.reject(new Error('it did not fail')),
    (error: Error) => error,
  );

/** Waits for the files of a bundle, which are placed while images are loaded; configuration files come last. */
const filesPlaced = (): Promise<true> =>
  waitFor('the files of the bundle', () => placed().some((path) => /^configs\/[^.]/.test(path)) || undefined);

/** The same bundle with a last layer that breaks when it is read, after the files have been placed. */
export const tampered = (rig: RigBundle, code: ErrorCode = 'CONTENT_MISMATCH'): RigBundle => ({
  ...rig,
  open: async () => {
    const opened = await rig.open();
    const layer = opened.images[1]!.layers.at(-1)!.digest;
    const blob = opened.blob.bind(opened);
    opened.blob = async function* (expected, signal) {
      if (expected.digest === layer) {
        await filesPlaced();
        throw new SealiftError(code, 'tampered');
      }
      yield* blob(expected, signal);
    };
    return opened;
  },
});
