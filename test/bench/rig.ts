// SPDX-License-Identifier: Apache-2.0
/** What every job of the bench stands on: data, a hub and a registry on the loopback, keys, and two engines. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { startHub, type HubFixture } from '../support/hub.ts';
import { startRegistry, type Registry } from '../support/registry.ts';
import { engineFlags, makeKeys, PROGRAM, provisionHome, type Keys } from '../support/stack.ts';
import { freePort, runOk } from '../support/workspace.ts';
import { startCdn } from './cdn.ts';
import { hubFiles, makeImage, makeWeights, shardNames } from './data.ts';
import { measure, type Cost } from './measure.ts';

export const GIB = 1024 ** 3;
export const IMAGE = 'docker.io/bench/noise:1';

export interface Rig {
  work: string;
  /** Bytes of the model and of all layers of the image. */
  weightBytes: number;
  shards: string[];
  hub: HubFixture;
  registry: Registry;
  keys: Keys;
  /** The staging side's engine holds the image; the enclave's is empty. */
  staging: DockerEngine;
  enclave: DockerEngine;
  /** Flags that lead to hub and registry. */
  network: string[];
  stop(): Promise<void>;
}

/** @param gib GiB of weights and layers together; an eighth of it are layers. The blobs have 1 GiB where there is enough */
export async function makeRig(work: string, gib: number): Promise<Rig> {
  const imageBytes = Math.floor((gib * GIB) / 8);
  const shardBytes = Math.min(GIB, (gib * GIB) / 4);
  const count = Math.max(1, Math.round((gib * GIB - imageBytes) / shardBytes));
  makeWeights(join(work, 'weights'), count, shardBytes);
  makeImage(join(work, 'image'), [1, 2], Math.floor(imageBytes / 2));
  const shards = shardNames(count);
  const cdn = await startCdn(join(work, 'cdn'), join(work, 'weights'));
  const hub = await startHub({
    models: [{ name: 'bench/weights', files: hubFiles(join(work, 'weights'), shards) }],
  });
  hub.cdn = cdn.url;
  const registry = await startRegistry({ dir: join(work, 'registry') });
  await runOk('skopeo', [
    'copy',
    '--quiet',
    '--dest-tls-verify=false',
    `oci:${join(work, 'image')}`,
    `docker://${registry.host}/bench/noise:1`,
  ]);
  const staging = await startDocker({ dir: join(work, 'staging') });
  const archive = join(work, 'image.tar');
  await runOk('skopeo', [
    'copy',
    '--quiet',
    `oci:${join(work, 'image')}`,
    `docker-archive:${archive}:${IMAGE}`,
  ]);
  await runOk('docker', ['-H', staging.host, 'load', '--quiet', '--input', archive]);
  const enclave = await startDocker({ dir: join(work, 'enclave') });
  const keys = await makeKeys(work);
  await freshHome(work, 'home', keys);
  return {
    work,
    weightBytes: count * shardBytes,
    shards,
    hub,
    registry,
    keys,
    staging,
    enclave,
    network: ['--mirror', `docker.io=${registry.url}`, '--hub', hub.url],
    stop: async () => {
      await enclave.stop();
      await staging.stop();
      await registry.stop();
      await cdn.stop();
      await hub.stop();
    },
  };
}

export async function freshHome(work: string, name: string, keys: Pick<Keys, 'public'>): Promise<void> {
  await provisionHome(join(work, name), [readFileSync(keys.public, 'utf8')], await freePort());
}

export function writeManifest(
  work: string,
  name: string,
  sources: { image?: string; model?: string },
  version = '1.0.0',
): void {
  const { image, model } = sources;
  const lines = [
    'apiVersion: sealift.dev/v1',
    'kind: Bundle',
    `metadata: { name: bench, version: ${version} }`,
    'platform: linux/amd64',
    ...(image === undefined
      ? []
      : [`images: { noise: { from: '${image}'${image.startsWith('oci:') ? `, as: '${IMAGE}'` : ''} } }`]),
    ...(model === undefined ? [] : [`models: { weights: { from: '${model}' } }`]),
    '',
  ];
  writeFileSync(join(work, `${name}.yaml`), lines.join('\n'));
}

/** Runs the built program of one side and measures it. */
export const sealift = (
  rig: Pick<Rig, 'work'>,
  side: keyof typeof PROGRAM,
  args: readonly string[],
  env?: NodeJS.ProcessEnv,
): Promise<Cost> => measure([process.execPath, PROGRAM[side], ...args], rig.work, env);

export function install(rig: Rig, bundle: string, home = 'home'): Promise<Cost> {
  const args = ['install', bundle, '--home', home, '--yes', ...engineFlags(rig.enclave)];
  return sealift(rig, 'inside', args, { ...process.env, ...rig.enclave.composeEnv });
}

export async function uninstall(rig: Rig, home = 'home'): Promise<void> {
  const args = ['uninstall', '--home', home, '--yes', ...engineFlags(rig.enclave)];
  await sealift(rig, 'inside', args, { ...process.env, ...rig.enclave.composeEnv });
}
