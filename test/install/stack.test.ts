// SPDX-License-Identifier: Apache-2.0
/** The whole of an install on a real engine: services, gateway, smoke test, upgrade, return, uninstall. */
import { readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { tinyAnswer, tinyModel } from '../../fixtures/model.ts';
import { EngineClient } from '../../src/install/engine-client.ts';
import { servicesOf } from '../../src/engines/index.ts';
import type { Home } from '../../src/install/home.ts';
import { readJournal } from '../../src/install/journal.ts';
import { changeApiKey, readApiKeys } from '../../src/install/api-keys.ts';
import { readInstalled } from '../../src/install/kept-bundle.ts';
import { reload, type ReloadReport } from '../../src/install/reload.ts';
import { parseSite } from '../../src/install/site.ts';
import { smokeTest } from '../../src/install/smoke.ts';
import { readStatus } from '../../src/install/status.ts';
import { uninstall } from '../../src/install/uninstall.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { assembleImages, type Layouts } from '../support/images.ts';
import { HOST_NAME, makeCertificate } from '../support/stack.ts';
import { run, runOk, tempDir, type RunResult } from '../support/workspace.ts';
import {
  type BundleSpec,
  CHAT,
  installer,
  type Installer,
  makeBundle,
  makeHome,
  type RigBundle,
  siteText,
  stackImages,
} from './rig.ts';

let engine: DockerEngine;
let layouts: Layouts;
let home: Home;
let port: number;
let me: Installer;
let key: string;

beforeAll(async () => {
  const work = tempDir('stack');
  layouts = await assembleImages(join(work, 'images'));
  engine = await startDocker({ dir: join(work, 'engine') });
  ({ home, port } = await makeHome());
  me = installer(home, engine.socket);
}, 120_000);

afterAll(async () => {
  await engine?.stop();
}, 60_000);

const stackBundle = (spec: Partial<BundleSpec> = {}): Promise<RigBundle> =>
  makeBundle({
    images: stackImages(layouts),
    more: CHAT,
    ...spec,
  });

const otherBundle = (version = '1.0.0'): Promise<RigBundle> =>
  makeBundle({ name: 'other', version, images: [], model: tinyModel({ seed: 9 }) });

const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);

/** What a client of the host gets; the last line is the status. */
function ask(path: string, ...more: string[]): Promise<RunResult> {
  const url = `https://${HOST_NAME}:${port}${path}`;
  const trust = ['--cacert', home.path('tls/server.crt'), '--resolve', `${HOST_NAME}:${port}:127.0.0.1`];
  return run('curl', ['-sS', ...trust, '-w', '\n%{http_code}', ...more, url]);
}

const chat = async (more: object = {}, token = key): Promise<string> => {
  const body = JSON.stringify({ model: 'tiny', messages: [{ role: 'user', content: 'hello' }], ...more });
  return (
    await ask(
      '/v1/chat/completions',
      '-H',
      `Authorization: Bearer ${token}`,
      '-H',
      'Content-Type: application/json',
      '-d',
      body,
    )
  ).stdout;
};

it('starts the services and lets a model answer through https and nginx', async () => {
  const receipt = await me.install(await stackBundle());
  expect(receipt.smoke).toEqual([
    { service: 'chat', model: 'tiny', answer: expect.stringContaining(tinyAnswer) as string },
  ]);
  expect(receipt.gateway).toMatchObject({ url: `https://${HOST_NAME}:${port}`, project: 'sealift-demo' });
  key = (await readApiKeys(home.apiKeysFile))![0]!.key;
  expect(await chat()).toContain(tinyAnswer);
  expect(await readStatus({ home, socket: engine.socket })).toMatchObject({
    drift: [],
    unfinished: undefined,
  });
}, 90_000);

it('streams tokens as they come', async () => {
  const answer = await chat({ stream: true });
  expect(answer.match(/^data: /gm)!.length).toBeGreaterThan(5);
  expect(answer).toContain('data: [DONE]');
});

it.each([
  ['/v1/models', 'no key', [], '401'],
  ['/v1/models', 'a wrong key', ['-H', 'Authorization: Bearer sk-0000000000000000000000000000'], '401'],
  ['/health', 'no key', [], '200'],
  ['/metrics', 'no network that may', [], '403'],
  ['/pause', 'no such path', [], '404'],
  ['/v1/chat/completions', 'the wrong method', ['-X', 'PUT'], '401'],
])('answers %s with %s as JSON', async (path, _, more, status) => {
  const { stdout } = await ask(path, ...more);
  expect(stdout.split('\n').at(-1)).toBe(status);
  if (status !== '200') expect(JSON.parse(stdout.slice(0, -4))).toHaveProperty('error.message');
});

it('compares keys with their case', async () => {
  expect((await chat({}, key)).split('\n').at(-1)).toBe('200');
  expect((await chat({}, key.toUpperCase())).split('\n').at(-1)).toBe('401');
});

const reloadNow = (): Promise<ReloadReport> => reload({ home, socket: engine.socket, now: new Date() });
const startedAt = (name: string): Promise<string> =>
  docker('inspect', '--format', '{{.State.StartedAt}} {{.RestartCount}}', name);
const statusOf = async (token: string): Promise<string> => (await chat({}, token)).split('\n').at(-1)!;
const keyOf = async (name: string): Promise<string | undefined> =>
  (await readApiKeys(home.apiKeysFile))!.find((k) => k.name === name)?.key;

it('lets keys in and out without a restart of anything, while an answer goes on', async () => {
  const containers = ['sealift-demo-chat-1', 'sealift-demo-gateway-1'];
  const before = await Promise.all(containers.map(startedAt));
  const long = chat({ stream: true });
  await changeApiKey(home.apiKeysFile, 'add', 'team-b');
  const other = (await keyOf('team-b'))!;
  expect(await statusOf(other)).toBe('401');
  expect(await reloadNow()).toMatchObject({
    release: 'demo-1.0.0',
    changed: ['secrets/gateway/api-keys.conf'],
    keys: ['default', 'team-b'],
  });
  expect([await statusOf(other), await statusOf(key)]).toEqual(['200', '200']);
  await changeApiKey(home.apiKeysFile, 'rotate', 'team-b');
  await reloadNow();
  expect([await statusOf(other), await statusOf((await keyOf('team-b'))!)]).toEqual(['401', '200']);
  await changeApiKey(home.apiKeysFile, 'remove', 'team-b');
  await reloadNow();
  expect(await reloadNow()).toMatchObject({ changed: [] });
  expect(await long).toContain('data: [DONE]');
  expect(await Promise.all(containers.map(startedAt))).toEqual(before);
  expect(await readFile(home.path('current/secrets/gateway/api-keys.conf'), 'utf8')).not.toContain(
    key.slice(8),
  );
}, 60_000);

it('takes a new certificate by a reload, and goes on with the old one when nginx refuses the new', async () => {
  const pair = ['tls/server.crt', 'tls/server.key'].map((name) => home.path(name));
  await makeCertificate(pair[0]!, pair[1]!);
  expect((await chat()).split('\n').at(-1)).toBe('000'); // curl trusts the new one, the gateway shows the old one
  expect((await reloadNow()).changed).toEqual(['secrets/gateway/tls.crt', 'secrets/gateway/tls.key']);
  expect(await statusOf(key)).toBe('200');
  // A chain that nginx does not take, behind a certificate that is good.
  const good = readFileSync(pair[0]!);
  writeFileSync(pair[0]!, `${good.toString()}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n`);
  await expect(reloadNow()).rejects.toMatchObject({ code: 'GATEWAY_REFUSED' });
  writeFileSync(pair[0]!, good);
  expect(await statusOf(key)).toBe('200');
  expect((await reloadNow()).changed).toEqual([]);
}, 60_000);

it('answers a flood with 429, by key and by address, and tells when to come again', async () => {
  const few = '{ requestsPerMinute: 1, burst: 3 }';
  const flood = async (...more: string[]): Promise<string[]> => {
    const answers: string[] = [];
    for (let i = 0; i < 6; i++) answers.push((await ask('/v1/models', ...more)).stdout.split('\n').at(-1)!);
    return answers;
  };
  const mine = ['-H', `Authorization: Bearer ${key}`];
  writeFileSync(home.siteFile, siteText(port, `limits: { perKey: ${few} }\n`));
  expect((await reloadNow()).changed).toEqual(['gateway/nginx.conf']);
  // nginx still counts the last request before the reload, or does not.
  expect(await flood(...mine)).toEqual(['200', '200', '200', expect.stringMatching(/200|429/), '429', '429']);
  const { stdout } = await ask('/v1/models', ...mine, '-i');
  expect(stdout).toMatch(/retry-after: 5/i);
  expect(stdout).toContain('"rate_limit_error"');
  writeFileSync(home.siteFile, siteText(port, `limits: { perAddress: ${few} }\n`));
  await reloadNow();
  const strangers = await flood(); // all that came before from this address counts, too
  expect(strangers.at(-1)).toBe('429');
  for (const answer of strangers) expect(answer).toMatch(/401|429/);
  expect(await flood(...mine)).not.toContain('200'); // whoever floods without a key does not get in with one either
  writeFileSync(home.siteFile, siteText(port, 'limits: { bodyMiB: 1 }\n'));
  await reloadNow();
  const large = home.path('large.json');
  writeFileSync(large, Buffer.alloc(1_100_000, ' '));
  expect((await ask('/v1/completions', ...mine, '--data-binary', `@${large}`)).stdout).toMatch(/413$/);
  rmSync(large);
  writeFileSync(home.siteFile, siteText(port));
  await reloadNow();
}, 60_000);

it('a reload says when containers would have to be made anew, and changes nothing', async () => {
  writeFileSync(home.siteFile, siteText(port + 1));
  await expect(reloadNow()).rejects.toMatchObject({ code: 'INSTALL_NEEDED' });
  writeFileSync(home.siteFile, siteText(port));
  expect((await reloadNow()).changed).toEqual([]);
});

it('keeps what was signed, and knows when it was changed', async () => {
  const { receipt } = await readInstalled(home);
  const folder = home.bundleFolder(receipt.bundle.digest);
  const digest = await runOk('sha256sum', [join(folder, 'SHA256SUMS')]);
  expect(`sha256:${digest.slice(0, 64)}`).toBe(receipt.bundle.digest);
  const inventory = join(folder, 'bundle.json');
  const before = readFileSync(inventory);
  writeFileSync(inventory, before.toString().replace('"chat"', '"chaT"'));
  await expect(readInstalled(home)).rejects.toMatchObject({ code: 'IO_ERROR' });
  writeFileSync(inventory, before);
});

it('shows no secret to whoever may look at files, processes or logs', async () => {
  const engineKey = /=([0-9a-f]{64})/.exec(
    await readFile(home.path('current/secrets/chat.env'), 'utf8'),
  )![1]!;
  const shown = [
    await docker('logs', 'sealift-demo-gateway-1'),
    await docker('logs', 'sealift-demo-chat-1'),
    await docker('exec', 'sealift-demo-chat-1', 'cat', '/proc/1/cmdline'),
    await readFile(home.path('current/compose.yaml'), 'utf8'),
    await readFile(home.path('current/gateway/nginx.conf'), 'utf8'),
    await readFile(home.path('current/receipt.json'), 'utf8'),
    JSON.stringify(me.events),
  ].join('\n');
  expect(shown).not.toContain(key);
  expect(shown).not.toContain(engineKey);
  expect(shown).toContain('"key":"default"'); // the access log names the key
  expect(shown).not.toContain('hello');
});

it('gives engines no way out, and the gateway few rights', async () => {
  const inspect = async (name: string, format: string): Promise<string> =>
    (await docker('inspect', '--format', format, name)).trim();
  expect(
    await inspect('sealift-demo-chat-1', '{{range $n, $_ := .NetworkSettings.Networks}}{{$n}} {{end}}'),
  ).toBe('sealift-demo_engines');
  expect(
    (await docker('network', 'inspect', '--format', '{{.Internal}}', 'sealift-demo_engines')).trim(),
  ).toBe('true');
  expect(await inspect('sealift-demo-chat-1', '{{.Config.User}} {{.HostConfig.CapDrop}}')).toBe(
    '2000:0 [ALL]',
  );
  expect(
    await inspect(
      'sealift-demo-gateway-1',
      '{{.HostConfig.ReadonlyRootfs}} {{.HostConfig.CapAdd}} {{.HostConfig.SecurityOpt}}',
    ),
  ).toBe('true [CHOWN SETGID SETUID] [no-new-privileges:true]');
  const statuses = await docker('exec', 'sealift-demo-gateway-1', 'sh', '-c', 'cat /proc/[0-9]*/status');
  const users = [...statuses.matchAll(/^Name:\s+nginx$[^]*?^Uid:\s+(\d+)/gm)].map((m) => m[1]);
  expect(users.toSorted((a, b) => Number(a) - Number(b))).toEqual(['0', ...users.slice(1).map(() => '101')]); // the master, then its workers
  expect(users.length).toBeGreaterThan(1);
});

it('the smoke test demands the very certificate of site.yaml', async () => {
  const client = await EngineClient.connect(engine.socket);
  const opened = await (await stackBundle()).open();
  const services = servicesOf(opened.inventory);
  const site = parseSite(siteText(port), 'site.yaml');
  const tls = { publicKeyPin: Buffer.alloc(32).toString('base64') };
  const input = {
    engine: client,
    project: 'sealift-demo',
    services,
    site,
    tls,
    apiKey: { name: 'default', key },
  };
  await expect(smokeTest(input)).rejects.toMatchObject({
    code: 'SMOKE_TEST_FAILED',
    message: expect.stringContaining('curl') as string,
  });
  await opened.close();
});

it('replaces the release with its successor', async () => {
  const next = await stackBundle({
    version: '1.1.0',
    model: tinyModel({ answer: 'I am the next one.' }),
    more: { ...CHAT },
  });
  const receipt = await me.install(next);
  expect(receipt.smoke[0]!.answer).toContain('I am the next one.');
  expect(await home.current()).toBe('demo-1.1.0');
  expect(await home.releases()).toEqual(['demo-1.0.0', 'demo-1.1.0']);
  expect(await chat()).toContain('I am the next one.');
}, 90_000);

it('returns to the release before when its successor does not start', async () => {
  const more = { ...CHAT, services: [{ ...CHAT.services![0]!, options: { 'no-such-flag': true } }] };
  const broken = await stackBundle({ version: '1.2.0', more, model: tinyModel({ seed: 5 }) });
  const error = await me.install(broken).catch((e: unknown) => e as Error & { details: [string, string][] });
  expect(error).toMatchObject({ code: 'SERVICE_UNHEALTHY' });
  expect(JSON.stringify((error as { details: unknown }).details)).toContain('no-such-flag');
  expect(await home.current()).toBe('demo-1.1.0');
  expect(await home.releases()).toEqual(['demo-1.0.0', 'demo-1.1.0']);
  expect((await home.installed()).get('demo')?.version).toBe('1.1.0');
  expect(await readJournal(home)).toBeUndefined();
  await expect.poll(() => chat(), { timeout: 20_000, interval: 500 }).toContain('I am the next one.');
}, 120_000);

it('returns to it also when `current` names a release of another bundle', async () => {
  await me.install(await otherBundle());
  expect(await home.current()).toBe('other-1.0.0');
  const more = { ...CHAT, services: [{ ...CHAT.services![0]!, options: { 'no-such-flag': true } }] };
  const broken = await stackBundle({ version: '1.2.0', more, model: tinyModel({ seed: 5 }) });
  const opened = await broken.open();
  expect((await me.plan(opened)).replaces).toBe('demo-1.1.0');
  await opened.close();
  await expect(me.install(broken)).rejects.toMatchObject({ code: 'SERVICE_UNHEALTHY' });
  expect(await home.current()).toBe('other-1.0.0');
  await expect.poll(() => chat(), { timeout: 20_000, interval: 500 }).toContain('I am the next one.');
}, 120_000);

it('a new certificate takes effect when the same bundle is installed again; a bad one changes nothing', async () => {
  const same = await stackBundle({ version: '1.1.0', model: tinyModel({ answer: 'I am the next one.' }) });
  await makeCertificate(home.path('tls/server.crt'), home.path('tls/server.key'));
  expect((await chat()).split('\n').at(-1)).toBe('000'); // curl trusts the new one, the gateway shows the old one
  const receipt = await me.install(same);
  expect(receipt.steps.filter((s) => s.outcome === 'done').map((s) => s.id.split(':')[0])).toEqual([
    'files',
    'service',
    'smoke',
    'current',
  ]);
  expect(await chat()).toContain('I am the next one.');
}, 90_000);

it('keeps the folder of the running release when writing a new one fails', async () => {
  const pair = ['tls/server.crt', 'tls/server.key'].map((name) => home.path(name));
  const before = pair.map((file) => readFileSync(file));
  const cache = home.path('caches/demo/chat-0');
  await makeCertificate(pair[0]!, pair[1]!);
  renameSync(cache, `${cache}.away`);
  writeFileSync(cache, 'in the way');
  const same = await stackBundle({ version: '1.1.0', model: tinyModel({ answer: 'I am the next one.' }) });
  await expect(me.install(same)).rejects.toMatchObject({ code: 'IO_ERROR' });
  rmSync(cache);
  renameSync(`${cache}.away`, cache);
  for (const [i, file] of pair.entries()) writeFileSync(file, before[i]!);
  expect(await readStatus({ home, socket: engine.socket })).toMatchObject({
    drift: [],
    unfinished: undefined,
  });
  expect(await readFile(home.path('releases/demo-1.1.0/compose.yaml'), 'utf8')).toContain('demo-1.1.0');
}, 60_000);

it('says how what runs differs from the receipt', async () => {
  await docker('stop', '--time', '0', 'sealift-demo-chat-1');
  const { drift } = await readStatus({ home, socket: engine.socket });
  expect(drift).toEqual(['service chat is exited']);
});

it('repairs what was stopped', async () => {
  const same = await stackBundle({ version: '1.1.0', model: tinyModel({ answer: 'I am the next one.' }) });
  const receipt = await me.install(same);
  expect(receipt.steps.filter((s) => s.outcome === 'done').map((s) => s.id.split(':')[0])).toEqual([
    'service',
    'smoke',
    'current',
  ]);
}, 90_000);

it('replaces a container that has not all of its networks: Compose, broken off, leaves such ones and takes them for right', async () => {
  const same = await stackBundle({ version: '1.1.0', model: tinyModel({ answer: 'I am the next one.' }) });
  const of = (name: string): Promise<string> => docker('inspect', '-f', '{{.Id}}', `sealift-demo-${name}-1`);
  const before = { chat: await of('chat'), gateway: await of('gateway') };
  await docker('network', 'disconnect', 'sealift-demo_engines', 'sealift-demo-gateway-1');
  expect((await readStatus({ home, socket: engine.socket })).drift).toEqual([]);
  const receipt = await me.install(same);
  expect(receipt.steps.filter((s) => s.outcome === 'done').map((s) => s.id.split(':')[0])).toEqual([
    'service',
    'smoke',
    'current',
  ]);
  expect(await of('chat')).toBe(before.chat);
  expect(await of('gateway')).not.toBe(before.gateway);
}, 120_000);

it('refuses a port that another program holds, and not the one that it holds itself', async () => {
  const { createServer } = await import('node:net');
  const server = createServer();
  const taken = await new Promise<number>((done) =>
    server.listen(0, '127.0.0.1', () => done((server.address() as { port: number }).port)),
  );
  writeFileSync(home.siteFile, siteText(taken));
  await expect(me.install(await stackBundle({ version: '1.3.0' }))).rejects.toMatchObject({
    code: 'PORT_TAKEN',
  });
  await new Promise((done) => server.close(done));
  writeFileSync(home.siteFile, siteText(port));
});

it('leaves nothing running and nothing placed when it is uninstalled', async () => {
  await uninstall({ ...me.input, release: 'demo-1.0.0' });
  expect(await chat()).toContain('I am the next one.');
  // What runs goes with its release, also when `current` names another one.
  const other = await otherBundle('1.0.1');
  await me.install(other);
  expect(await home.current()).toBe('other-1.0.1');
  await uninstall({ ...me.input, release: 'demo-1.1.0' });
  expect(await docker('ps', '--all', '--quiet')).toBe('');
  expect(await home.current()).toBe('other-1.0.1');
  await uninstall(me.input);
  await uninstall({ ...me.input, release: 'other-1.0.0' });
  expect(await docker('images', '--all', '--quiet')).toBe('');
  expect(await docker('network', 'ls', '--filter', 'label=com.docker.compose.project', '--quiet')).toBe('');
  expect((await runOk('find', [home.root, '-type', 'f'])).trim().split('\n').toSorted()).toEqual(
    [
      'installed.json',
      'secrets/api-keys',
      'site.yaml',
      'tls/server.crt',
      'tls/server.key',
      'trust-state.json',
      'trust.yaml',
      'trust/1.yaml',
    ].map((name) => home.path(name)),
  );
}, 60_000);
