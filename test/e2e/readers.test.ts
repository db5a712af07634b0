// SPDX-License-Identifier: Apache-2.0
/** Other people's tools read the bundle as it is (FORMAT.md §1.1, §5). */
import { cpSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { peekBundle, type UnverifiedBundle } from '../../src/bundle/peek.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { makeKeys, sealift, startStaging, type Staging } from '../support/stack.ts';
import { repoRoot, run, runOk, tempDir } from '../support/workspace.ts';

const work = tempDir('readers');
const bundle = join(work, 'demo.sealift.tar');
let staging: Staging;
let engine: DockerEngine;
let said: UnverifiedBundle;

beforeAll(async () => {
  staging = await startStaging(join(work, 'staging'));
  const keys = await makeKeys(work);
  cpSync(join(repoRoot, 'manifests/demo.yaml'), join(work, 'demo.yaml'));
  for (const args of [
    ['lock', 'demo.yaml'],
    ['build', 'demo.yaml', '-o', bundle, ...keys.flags],
  ]) {
    const result = await sealift([...args, ...staging.flags], { cwd: work });
    expect(result, result.stderr).toMatchObject({ code: 0 });
  }
  said = await peekBundle(bundle);
  engine = await startDocker({ dir: join(work, 'engine') });
});

afterAll(async () => {
  await engine?.stop();
  await staging?.stop();
});

describe('a bundle is read by', () => {
  it('skopeo inspect, each image by its reference', async () => {
    for (const image of said.inventory.images) {
      const seen = JSON.parse(await runOk('skopeo', ['inspect', `oci-archive:${bundle}:${image.ref}`])) as {
        Digest: string;
      };
      expect(seen.Digest).toBe(image.manifest.digest);
    }
  });

  it('skopeo copy, a model as an OCI artifact whose layers are the files', async () => {
    const model = said.inventory.models[0]!;
    const dir = join(work, 'model');
    const from = `oci-archive:${bundle}:models/${model.name}:${said.inventory.version}`;
    await runOk('skopeo', ['copy', '--quiet', from, `dir:${dir}`]);
    for (const file of model.files) {
      expect(readFileSync(join(dir, file.digest.slice('sha256:'.length))).length, file.path).toBe(file.size);
    }
  });

  it('docker load (20.10)', async () => {
    const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);
    expect(await docker('version', '--format', '{{.Server.Version}}')).toMatch(/^20\.10\./);
    const loaded = await docker('load', '-i', bundle);
    for (const image of said.inventory.images) {
      expect(loaded).toContain(image.ref.replace('docker.io/', '').replace('library/', ''));
      await docker('image', 'inspect', image.ref);
      await docker('rmi', image.ref);
    }
  });

  it('podman load', async () => {
    // Short names: podman takes a --runroot of 50 characters at most.
    const storage = [
      '--root',
      join(work, 'p/root'),
      '--runroot',
      join(work, 'p/run'),
      '--storage-driver',
      'vfs',
    ];
    const loaded = await run('podman', [...storage, 'load', '-i', bundle], {
      env: { ...process.env, HOME: work },
    });
    expect(loaded, loaded.stderr).toMatchObject({ code: 0 });
    for (const image of said.inventory.images) expect(loaded.stdout).toContain(image.ref);
  });
});
