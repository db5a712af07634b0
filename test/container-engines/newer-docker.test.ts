// SPDX-License-Identifier: Apache-2.0
/** The main job on newer engines and on both kinds of image store, from one bundle made by the built programs. */
import { cpSync, existsSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyAnswer } from '../../fixtures/model.ts';
import { peekBundle, type UnverifiedBundle } from '../../src/bundle/peek.ts';
import { parseImageConfig, parseImageManifest } from '../../src/bundle/oci.ts';
import type { DockerEngine } from '../support/docker.ts';
import { leftIn } from '../support/image-bundle.ts';
import { startNewerDocker, type NewerDockerOptions } from '../support/newer-docker.ts';
import {
  engineFlags,
  HOST_NAME,
  makeKeys,
  provisionHome,
  sealift,
  startStaging,
  type Keys,
} from '../support/stack.ts';
import { succeed } from '../support/succeed.ts';
import { freePort, repoRoot, run, runOk, tempDir, type RunResult } from '../support/workspace.ts';

const work = tempDir('engines');
const bundle = join(work, 'demo.sealift.tar');
let keys: Keys;
let said: UnverifiedBundle;

beforeAll(async () => {
  const staging = await startStaging(join(work, 'staging'));
  keys = await makeKeys(work);
  cpSync(join(repoRoot, 'manifests/demo.yaml'), join(work, 'demo.yaml'));
  await succeed(sealift(['lock', 'demo.yaml', ...staging.flags], { cwd: work }));
  const build = ['build', 'demo.yaml', '-o', bundle, ...keys.flags, ...staging.flags];
  await succeed(sealift(build, { cwd: work }));
  await staging.stop();
  said = await peekBundle(bundle);
});

type Image = { ref: string; manifest: string; config: string; diffIds: string[] };

/** Digests as skopeo and tar read them from the bundle, without this project's reader of bundles. */
async function signedImages(): Promise<Image[]> {
  const blob = async (digest: string): Promise<Buffer> =>
    Buffer.from(await runOk('tar', ['-xOf', bundle, `blobs/sha256/${digest.slice('sha256:'.length)}`]));
  const read = async ({ ref, manifest: { digest } }: (typeof said.inventory.images)[0]): Promise<Image> => {
    const { config } = parseImageManifest(await blob(digest), ref, 'BUNDLE_MALFORMED');
    const { diffIds } = parseImageConfig(await blob(config.digest), ref, 'BUNDLE_MALFORMED');
    return { ref, manifest: digest, config: config.digest, diffIds };
  };
  return Promise.all(said.inventory.images.map(read));
}

const rows: [version: string, suite: NewerDockerOptions['suite'], store: NewerDockerOptions['store']][] = [
  ['26', 'trixie', 'classic'],
  ['26', 'trixie', 'containerd'],
  ['28', 'sid', 'classic'],
  ['28', 'sid', 'containerd'],
];

describe.each(rows)('Docker %s (%s), %s store:', (version, suite, store) => {
  const home = join(work, `${suite}-${store}`);
  let engine: DockerEngine;
  let port: number;
  let images: Image[];

  const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);
  const lines = async (...args: string[]): Promise<string[]> =>
    (await docker(...args)).split('\n').filter(Boolean);
  const inside = (...args: string[]): Promise<RunResult> =>
    sealift([...args, '--home', home, ...engineFlags(engine)], {
      cwd: work,
      side: 'inside',
      env: { ...process.env, ...engine.composeEnv },
    });
  const expectedId = (image: Image): string => (store === 'classic' ? image.config : image.manifest);

  /** What the engine itself says, asked by Debian's docker command. */
  async function expectSigned(): Promise<void> {
    for (const image of images) {
      const format = '{{.Id}} {{json .RootFS.Layers}}';
      const seen = (await docker('image', 'inspect', '--format', format, image.ref)).trim();
      expect(seen).toBe(`${expectedId(image)} ${JSON.stringify(image.diffIds)}`);
    }
  }

  beforeAll(async () => {
    engine = await startNewerDocker({ suite, store, dir: join(work, `engine-${suite}-${store}`) });
    images = await signedImages();
    port = await freePort();
    await provisionHome(home, [readFileSync(keys.public, 'utf8')], port);
  });

  afterAll(async () => {
    await engine?.stop();
  });

  it('is that engine', async () => {
    expect(await docker('version', '--format', '{{.Server.Version}}')).toMatch(new RegExp(`^${version}\\.`));
    const status = await docker('info', '--format', '{{json .DriverStatus}}');
    expect(status.includes('io.containerd.snapshotter.v1')).toBe(store === 'containerd');
  });

  it('docker load takes the bundle as it is', async () => {
    await docker('load', '--input', bundle);
    await expectSigned();
    await docker('create', '--name', 'loaded', images[0]!.ref, 'true');
    await docker('rm', 'loaded');
    // By their IDs: a containerd store may hold the model as an image too, under a name that it does not find again.
    const ids = await lines('images', '--all', '--no-trunc', '--quiet');
    await docker('image', 'rm', '--force', ...new Set(ids));
    expect(await lines('images', '--all', '--quiet')).toEqual([]);
  });

  it('install proves, starts and asks the model', async () => {
    const answer = JSON.parse(await succeed(inside('install', bundle, '--yes', '--json'))) as object;
    expect(answer).toMatchObject({ schema: expect.stringContaining('sealift/') as string });
    await expectSigned();
    const statement = JSON.parse(readFileSync(join(home, 'current/receipt.json'), 'utf8')) as {
      predicate: {
        sealift_receipt: {
          engine: { version: string; store: string };
          images: { ref: string; id: string }[];
          smoke: { answer: string }[];
        };
      };
    };
    const receipt = statement.predicate.sealift_receipt;
    expect(receipt.engine.store).toBe(store);
    expect(receipt.images.map(({ ref, id }) => [ref, id])).toEqual(images.map((i) => [i.ref, expectedId(i)]));
    expect(receipt.smoke.map((s) => s.answer)).toEqual([expect.stringContaining(tinyAnswer)]);
  });

  it('every service is healthy, and runs the image that was proved', async () => {
    const ids = await lines('ps', '--all', '--quiet');
    const format = '{{.Image}} {{.State.Health.Status}}';
    const states = await Promise.all(ids.map((id) => lines('inspect', '--format', format, id)));
    expect(states.flat().toSorted()).toEqual(images.map((i) => `${expectedId(i)} healthy`).toSorted());
  });

  it('answers a request from outside through https', async () => {
    const key = readFileSync(join(home, 'secrets/api-keys'), 'utf8').trim().split(/\s+/).at(-1)!;
    const config = `header = "Authorization: Bearer ${key}"\nheader = "Content-Type: application/json"\n`;
    const body = JSON.stringify({ model: 'tiny-chat', messages: [{ role: 'user', content: 'hello' }] });
    const trust = ['--cacert', join(home, 'tls/server.crt'), '--resolve', `${HOST_NAME}:${port}:127.0.0.1`];
    const args = ['--silent', '--show-error', '--fail', '--max-time', '20', ...trust, '--config', '-'];
    const url = `https://${HOST_NAME}:${port}/v1/chat/completions`;
    const { code, stdout, stderr } = await run('curl', [...args, '--data', body, url], { input: config });
    expect(code, stderr).toBe(0);
    const { choices } = JSON.parse(stdout) as { choices: { message: { content: string } }[] };
    expect(choices[0]!.message.content).toContain(tinyAnswer);
    expect((await run('curl', [...args, '--data', body, url])).code).toBe(22); // without the key
  });

  it('status tells what runs, and no drift; a second install changes nothing', async () => {
    const before = await lines('ps', '--no-trunc', '--quiet');
    await succeed(inside('install', bundle, '--yes'));
    expect(await lines('ps', '--no-trunc', '--quiet')).toEqual(before);
    expect(await succeed(inside('status'))).toContain('1.0.0');
    const status = JSON.parse(await succeed(inside('status', '--json', '--exit-code'))) as object;
    expect(status).toMatchObject({ schema: 'sealift/status/v1' });
  });

  it('uninstall leaves nothing', async () => {
    await succeed(inside('uninstall', '--yes'));
    expect(await lines('ps', '--all', '--quiet')).toEqual([]);
    expect(await lines('images', '--all', '--quiet')).toEqual([]);
    expect(await lines('volume', 'ls', '--quiet')).toEqual([]);
    const networks = await lines('network', 'ls', '--format', '{{.Name}}');
    expect(networks.toSorted()).toEqual(['bridge', 'host', 'none']);
    expect(leftIn(home)).toEqual([]);
    expect(readdirSync(home)).toEqual(expect.arrayContaining(['site.yaml', 'tls', 'trust.yaml']));
    expect(existsSync(join(home, 'models', 'tiny-chat'))).toBe(false);
  });
});
