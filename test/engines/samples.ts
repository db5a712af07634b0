// SPDX-License-Identifier: Apache-2.0
import { chmodSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Inventory, type InventoryModel } from '../../src/bundle/inventory.ts';
import { digestOf } from '../../src/store/digest.ts';
import { runOk, tempDir } from '../support/workspace.ts';

/** A model with these files, whose content is their name. */
export const modelOf = (name: string, paths: readonly string[]): InventoryModel => ({
  name,
  from: 'file:./x',
  revision: '1',
  files: paths.map((path) => ({ path, digest: digestOf(path), size: path.length })),
});

export const inventoryOf = (services: object[], models: readonly InventoryModel[]): Inventory =>
  Inventory.parse({
    apiVersion: 'sealift.dev/v1',
    kind: 'Inventory',
    name: 'demo.one',
    version: '1.0.0',
    platform: 'linux/amd64',
    created: '2026-11-23T10:00:00Z',
    images: [],
    models,
    configs: [],
    services,
    gateway: { image: 'gateway' },
  });

/** Starts an entry point with a python3 of our own on the PATH, which writes down how it was called. */
export async function commandOf(
  entrypoint: readonly string[],
  command: readonly string[],
  env: Record<string, string>,
): Promise<{ argv: string[]; file: string; mode: string; environment: string }> {
  const file = '/dev/shm/sealift.yaml';
  if (existsSync(file)) throw new Error(`${file} is somebody's`);
  const dir = tempDir('entry');
  const python = join(dir, 'python3');
  writeFileSync(python, `#!/bin/sh\nprintf '%s\\n' "$@" >${dir}/argv; env >${dir}/env\n`);
  chmodSync(python, 0o755);
  try {
    const [program, ...args] = [...entrypoint, ...command];
    await runOk(program!, args, { env: { PATH: `${dir}:/usr/bin:/bin`, ...env } });
    return {
      argv: readFileSync(join(dir, 'argv'), 'utf8').trimEnd().split('\n'),
      file: readFileSync(file, 'utf8'),
      mode: (statSync(file).mode & 0o777).toString(8),
      environment: readFileSync(join(dir, 'env'), 'utf8'),
    };
  } finally {
    rmSync(file, { force: true });
  }
}
