// SPDX-License-Identifier: Apache-2.0
/** The whole life of a stack on a real Podman: the same code, Compose on Podman's socket. */
import { readFileSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { tinyAnswer, tinyModel } from '../../fixtures/model.ts';
import { readApiKeys, changeApiKey } from '../../src/install/api-keys.ts';
import type { Home } from '../../src/install/home.ts';
import { readJournal } from '../../src/install/journal.ts';
import { reload } from '../../src/install/reload.ts';
import { planRollback } from '../../src/install/rollback.ts';
import { readStatus } from '../../src/install/status.ts';
import { borrowLayers } from '../../src/install/base.ts';
import { EngineClient } from '../../src/install/engine-client.ts';
import { uninstall } from '../../src/install/uninstall.ts';
import { engineRequest } from '../support/docker.ts';
import { assembleImages, tinyImage, type Layouts } from '../support/images.ts';
import { startPodman, type PodmanEngine } from '../support/podman.ts';
import { run, runOk, tempDir, waitFor } from '../support/workspace.ts';
import {
  auditLines,
  type BundleSpec,
  CHAT,
  chatQuestion,
  installer,
  type Installer,
  makeBundle,
  makeHome,
  policy,
  type RigBundle,
  stackImages,
} from './rig.ts';

const CHAT_CONTAINER = 'sealift-demo-chat-1';

let engine: PodmanEngine;
let layouts: Layouts;
let home: Home;
let port: number;
let me: Installer;

beforeAll(async () => {
  const work = tempDir('podman');
  layouts = await assembleImages(join(work, 'images'));
  engine = await startPodman({ dir: work });
  ({ home, port } = await makeHome());
  me = installer(home, engine.socket);
}, 120_000);

afterAll(async () => {
  await engine?.stop();
}, 60_000);

const bundleOf = (version: string, more: Partial<BundleSpec['more']> = {}): Promise<RigBundle> =>
  makeBundle({
    version,
    images: stackImages(layouts),
    model: version === '1.0.0' ? tinyModel() : tinyModel({ answer: `I am ${version}.` }),
    more: { ...CHAT, ...more },
  });

const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);

/** What a client of the host gets; the last line is the status. */
async function ask(more: object = {}, token?: string): Promise<string> {
  const key = token ?? (await readApiKeys(home.apiKeysFile))![0]!.key;
  return (await run(...engine.inside('curl', ...chatQuestion(home, port, key, more)))).stdout;
}

const findings = (): Promise<string[]> => auditLines(home, engine.socket);

it('serves through https and nginx, whole and as a stream, to whoever has a key', async () => {
  const receipt = await me.install(await bundleOf('1.0.0'));
  expect(receipt.smoke[0]!.answer).toContain(tinyAnswer);
  expect(await ask()).toContain(tinyAnswer);
  expect(await readFile(home.path('current/RUNBOOK.md'), 'utf8')).toContain(
    'podman logs --since 1h sealift-demo-chat-1',
  );
  const stream = await ask({ stream: true });
  expect(stream.match(/^data: /gm)!.length).toBeGreaterThan(5);
  expect(stream).toContain('data: [DONE]');
  expect(await ask({}, '')).toMatch(/\n401$/);
  expect(await ask({}, 'sk-0000000000000000000000000000')).toMatch(/\n401$/);
});

it('does nothing when it is installed already', async () => {
  const ids = await docker('ps', '--quiet', '--no-trunc');
  const before = await readFile(home.path('current/receipt.json'), 'utf8');
  await me.install(await bundleOf('1.0.0'));
  expect(await readFile(home.path('current/receipt.json'), 'utf8')).toBe(before);
  expect(await docker('ps', '--quiet', '--no-trunc')).toBe(ids);
  expect((await readStatus({ home, socket: engine.socket })).drift).toEqual([]);
});

it('takes layers that are packed with zstd, and gives all back to a delta', async () => {
  const name = 'packed';
  const layout = tinyImage({ name, payload: 'zstd\n', compression: 'zstd', shared: true }).dir;
  const rig = await makeBundle({ name, images: [{ name, ref: 'docker.io/library/packed:1', layout }] });
  const other = installer((await makeHome()).home, engine.socket);
  await other.install(rig);
  const bundle = await rig.open();
  const { layers, diffIds, config } = bundle.images[0]!;
  const wanted = layers.map((layer, i) => ({ layer, diffId: diffIds[i]!, from: config.digest }));
  const client = await EngineClient.connect(engine.socket);
  const held = await borrowLayers(client, wanted, tempDir('borrowed'), undefined);
  expect([...held.keys()].toSorted()).toEqual(layers.map(({ digest }) => digest).toSorted());
  await bundle.close();
  await uninstall(other.input);
});

it('gives engines a network that leads nowhere, and no rights', async () => {
  // A way out of the host, so that nothing but the network's kind keeps packets in.
  await runOk(...engine.inside('ip', 'route', 'add', 'default', 'dev', 'lo'));
  const connect = 'import socket; socket.create_connection(("192.0.2.1", 80), 3)';
  const tried = await run('docker', ['-H', engine.host, 'exec', CHAT_CONTAINER, 'python3', '-c', connect]);
  expect(tried.stdout + tried.stderr).toContain('Network is unreachable');
  const status = await docker('exec', CHAT_CONTAINER, 'cat', '/proc/self/status');
  expect(status).toMatch(/^CapBnd:\s+0+$/m);
  expect(status).toMatch(/^NoNewPrivs:\s+1$/m);
});

it('lets a key in and out by a reload, without a restart', async () => {
  const ids = await docker('ps', '--quiet', '--no-trunc');
  await changeApiKey(home.apiKeysFile, 'add', 'team-b');
  const key = (await readApiKeys(home.apiKeysFile))!.find(({ name }) => name === 'team-b')!.key;
  await reload({ home, socket: engine.socket, now: new Date() });
  expect(await ask({}, key)).toMatch(/\n200$/);
  await changeApiKey(home.apiKeysFile, 'remove', 'team-b');
  await reload({ home, socket: engine.socket, now: new Date() });
  expect(await ask({}, key)).toMatch(/\n401$/);
  expect(await docker('ps', '--quiet', '--no-trunc')).toBe(ids);
});

it('answers again after an engine was killed', async () => {
  const pid = (await docker('inspect', '--format', '{{.State.Pid}}', CHAT_CONTAINER)).trim();
  process.kill(Number(pid), 'SIGKILL');
  expect(await ask()).toMatch(/\n50[234]$/);
  await waitFor('an answer', async () => ((await ask()).endsWith('\n200') ? true : undefined));
  expect((await docker('inspect', '--format', '{{.State.Pid}}', CHAT_CONTAINER)).trim()).not.toBe(pid);
});

it('audits: nothing on a host that is as it was signed, and each thing that is not', async () => {
  expect(await findings()).toEqual([]);
  const conf = home.path('current/gateway/nginx.conf');
  const before = readFileSync(conf);
  writeFileSync(conf, before.toString().replace('return 404', 'return 200'));
  expect(await findings()).toEqual([
    expect.stringContaining('gateway/nginx.conf: is not what bundle'),
    expect.stringContaining('the gateway has not read its files'),
  ]);
  writeFileSync(conf, before);
  await runAnother();
  const found = await findings();
  for (const problem of [
    'other arguments: ["-c","import time; time.sleep(1e6)"], not',
    'other entry point: ["python3"], not ["vllm","serve"]',
    'added capabilities: ["NET_ADMIN"]',
    'it may gain privileges',
    'it runs as user 0:0, not 2000:0',
    'it has another mount: /etc on /host (writable)',
    'it lacks the mount of',
    'it has a variable EVIL that was not asked for',
    'variable VLLM_API_KEY is not what',
    'other networks',
    'it shares the pid namespace',
  ])
    expect(found).toContainEqual(expect.stringContaining(problem));
}, 60_000);

/** Another container under the name and labels of the engine. */
async function runAnother(): Promise<void> {
  const inspected = JSON.parse(await docker('inspect', CHAT_CONTAINER)) as [
    { Image: string; Config: { Labels: Record<string, string> } },
  ];
  const { Image, Config } = inspected[0];
  const labels = Object.entries(Config.Labels).flatMap(([name, value]) => ['--label', `${name}=${value}`]);
  await docker('rm', '--force', CHAT_CONTAINER);
  const rights = ['--user', '0:0', '--pid', 'host', '--cap-drop', 'ALL', '--cap-add', 'NET_ADMIN'];
  const more = ['--env', 'EVIL=1', '--volume', '/etc:/host', '--entrypoint', 'python3'];
  const program = [Image, '-c', 'import time; time.sleep(1e6)'];
  await docker('run', '--detach', '--name', CHAT_CONTAINER, ...labels, ...rights, ...more, ...program);
}

it('repairs that, and replaces the release with its successor', async () => {
  const receipt = await me.install(await bundleOf('1.1.0'));
  expect(receipt.smoke[0]!.answer).toContain('I am 1.1.0.');
  expect(await ask()).toContain('I am 1.1.0.');
  expect(await findings()).toEqual([]);
}, 60_000);

it('returns to what ran when a successor does not start', async () => {
  const services = [{ ...CHAT.services![0]!, options: { 'no-such-flag': true } }];
  await expect(me.install(await bundleOf('1.2.0', { services }))).rejects.toMatchObject({
    code: 'SERVICE_UNHEALTHY',
  });
  expect(await home.current()).toBe('demo-1.1.0');
  expect(await readJournal(home)).toBeUndefined();
  expect(await ask()).toContain('I am 1.1.0.');
}, 60_000);

it('goes back', async () => {
  const plan = await planRollback({ ...me.input, policy, judged: new Date(), reason: 'ticket 311' });
  await plan.apply({ emit: () => undefined });
  expect(await home.current()).toBe('demo-1.0.0');
  expect(await ask()).toContain(tinyAnswer);
  expect(await findings()).toEqual([]);
}, 60_000);

it('leaves nothing when it is uninstalled', async () => {
  await uninstall({ ...me.input, release: 'demo-1.1.0' });
  expect(await ask()).toContain(tinyAnswer);
  await uninstall(me.input);
  const list = async (path: string): Promise<unknown> =>
    JSON.parse((await engineRequest(engine.socket, 'GET', path)).body);
  expect(await list('/containers/json?all=1')).toEqual([]);
  expect(await list('/images/json?all=1')).toEqual([]);
  expect(await list('/networks')).toMatchObject([{ Name: 'bridge' }]);
}, 60_000);
