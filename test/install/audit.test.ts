// SPDX-License-Identifier: Apache-2.0
/** What the audit finds on a real engine: everything that is not as it was signed, proved or rendered. */
import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { tinyModel } from '../../fixtures/model.ts';
import { audit } from '../../src/install/audit.ts';
import type { Home } from '../../src/install/home.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { assembleImages } from '../support/images.ts';
import { runOk, tempDir } from '../support/workspace.ts';
import { auditLines, CHAT, installer, makeBundle, makeHome, policy, stackImages } from './rig.ts';

let engine: DockerEngine;
let home: Home;

beforeAll(async () => {
  const work = tempDir('audit');
  const layouts = await assembleImages(join(work, 'images'));
  engine = await startDocker({ dir: join(work, 'engine') });
  ({ home } = await makeHome());
  const images = stackImages(layouts);
  await installer(home, engine.socket).install(await makeBundle({ images, more: CHAT }));
}, 120_000);

afterAll(async () => {
  await engine?.stop();
}, 60_000);

const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);

const auditNow = (): Promise<string[]> => auditLines(home, engine.socket);
const weights = 'model-00001-of-00002.safetensors';
const model = (): string => home.path('models/tiny', 'c'.repeat(40));
const changed = async (file: string, change: (bytes: Buffer) => void): Promise<void> => {
  const bytes = readFileSync(file);
  change(bytes);
  chmodSync(file, 0o644);
  writeFileSync(file, bytes);
  chmodSync(file, 0o444);
  await Promise.resolve();
};

it('finds nothing on a host that is as it was signed', async () => {
  const report = await audit({ home, socket: engine.socket, policy, now: new Date() });
  expect(report).toMatchObject({ findings: [], containers: 2, images: 2 });
  expect(report.files).toBe(tinyModel().size + 1);
});

it('finds a flipped byte in a placed weight', async () => {
  const flip = (): Promise<void> => changed(join(model(), weights), (bytes) => (bytes[100_000]! ^= 1));
  await flip();
  expect(await auditNow()).toEqual([expect.stringContaining(`${weights}: has other content: sha256:`)]);
  await flip();
});

it('finds a file that is gone, one that is too much, a link, and one that can be written', async () => {
  const [config, readme] = ['config.json', 'README.md'].map((name) => join(model(), name));
  renameSync(config!, `${config}.away`);
  symlinkSync('/etc/passwd', config!);
  chmodSync(readme!, 0o666);
  mkdirSync(home.path('models/stranger/abc'), { recursive: true });
  expect((await auditNow()).toSorted((a, b) => (a < b ? -1 : 1))).toEqual([
    'file models/stranger/abc: belongs to no release',
    expect.stringMatching(/README.md: is writable \(mode 666\)$/),
    expect.stringMatching(/config.json.away: was not placed by any bundle$/),
    expect.stringMatching(/config.json: is not a regular file any more$/),
  ]);
  rmSync(home.path('models/stranger'), { recursive: true });
  chmodSync(readme!, 0o444);
  rmSync(config!);
  renameSync(`${config}.away`, config!);
  expect(await auditNow()).toEqual([]);
});

it('finds an edited nginx.conf, and a secret that others can read', async () => {
  const conf = home.path('current/gateway/nginx.conf');
  const env = home.path('current/secrets/chat.env');
  const before = readFileSync(conf);
  writeFileSync(conf, before.toString().replace('return 404', 'return 200'));
  chmodSync(env, 0o644);
  expect(await auditNow()).toEqual([
    expect.stringContaining('gateway/nginx.conf: is not what bundle'),
    expect.stringContaining('chat.env: can be read by others'),
    expect.stringContaining('the gateway has not read its files'),
  ]);
  writeFileSync(conf, before);
  chmodSync(env, 0o600);
  expect(await auditNow()).toEqual([]);
});

it('finds a replaced image tag', async () => {
  const ref = 'docker.io/vllm/vllm-openai:v0.27.1';
  const gateway = 'docker.io/library/nginx:1.29-alpine';
  const id = (await docker('image', 'inspect', '--format', '{{.Id}}', ref)).trim();
  await docker('tag', gateway, ref);
  expect(await auditNow()).toEqual([expect.stringMatching(/now stands on sha256:\w+, not on the proved/)]);
  await docker('tag', id, ref);
  expect(await auditNow()).toEqual([]);
});

it('finds a stopped container, and one that nobody asked for', async () => {
  await docker('stop', '--time', '0', 'sealift-demo-chat-1');
  await docker(
    'create',
    '--name',
    'intruder',
    '--label',
    'com.docker.compose.project=sealift-demo',
    '--label',
    'com.docker.compose.service=spy',
    'docker.io/library/nginx:1.29-alpine',
  );
  expect(await auditNow()).toEqual([
    'container sealift-demo-chat-1: it ended with status 0',
    'container intruder: belongs to the project, and the release does not know it',
  ]);
  await docker('rm', '-f', 'intruder');
  await docker('start', 'sealift-demo-chat-1');
  await expect.poll(auditNow, { timeout: 30_000, interval: 500 }).toEqual([]);
});

it('finds a container with other arguments, rights and mounts under the same name and labels', async () => {
  const format = '{{json .Config.Labels}}';
  const labels = JSON.parse(await docker('inspect', '--format', format, 'sealift-demo-chat-1')) as Record<
    string,
    string
  >;
  const image = (await docker('inspect', '--format', '{{.Image}}', 'sealift-demo-chat-1')).trim();
  await docker('rename', 'sealift-demo-chat-1', 'kept');
  await docker('stop', '--time', '0', 'kept');
  const flags = Object.entries(labels).flatMap(([k, v]) => ['--label', `${k}=${v}`]);
  const extra = ['--privileged', '-v', '/etc:/host', '-e', 'SPY=1', '--network', 'host'];
  await docker(
    'create',
    '--name',
    'sealift-demo-chat-1',
    ...flags,
    ...extra,
    image,
    '/models/tiny',
    '--enable-log-requests',
  );
  const found = (await auditNow()).filter((line) => !line.startsWith('container kept')).join('\n');
  for (const problem of [
    'other arguments: ["/models/tiny","--enable-log-requests"]',
    'container chat: has 2 containers: kept, sealift-demo-chat-1',
    'other networks',
    'it is privileged',
    'shares the network namespace of the host',
    'it has another mount: /etc on /host (writable)',
    'it has a variable SPY that was not asked for',
    'variable VLLM_API_KEY is not what it was started with',
    'may gain privileges',
    'it kept the capabilities that every container gets',
  ])
    expect(found).toContain(problem);
  await docker('rm', '-f', 'sealift-demo-chat-1');
  await docker('rename', 'kept', 'sealift-demo-chat-1');
  await docker('start', 'sealift-demo-chat-1');
  await expect.poll(auditNow, { timeout: 30_000, interval: 500 }).toEqual([]);
}, 60_000);

it('judges signatures by the policy of today, and what was kept of the bundle by its digest', async () => {
  const judgedBy = async (other: Partial<typeof policy>): Promise<string[]> => {
    const input = { home, socket: engine.socket, policy: { ...policy, ...other }, now: new Date() };
    return (await audit(input)).findings.map(({ what, problem }) => `${what}: ${problem}`);
  };
  const revokedKeys = new Set(policy.signers.map(({ fingerprint }) => fingerprint!));
  expect(await judgedBy({ revokedKeys })).toEqual([
    expect.stringMatching(/^bundle: would not be accepted today: .*revoked/),
  ]);
  expect(await judgedBy({ minVersions: new Map([['demo', '1.0.1']]) })).toEqual([
    expect.stringMatching(/^bundle: would not be accepted today: .*1\.0\.1/),
  ]);
});
