// SPDX-License-Identifier: Apache-2.0
/** The main job by the built programs: manifest, lock, bundle, verify, install, an answer through https and nginx. */
import { cpSync, existsSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyAnswer } from '../../fixtures/model.ts';
import { peekBundle } from '../../src/bundle/peek.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import {
  engineFlags,
  HOST_NAME,
  makeKeys,
  PROGRAM,
  provisionHome,
  sealift,
  startStaging,
  type Keys,
  type Staging,
} from '../support/stack.ts';
import { succeed } from '../support/succeed.ts';
import { freePort, repoRoot, run, runOk, tempDir, type RunResult } from '../support/workspace.ts';

const work = tempDir('path');
const bundle = join(work, 'demo.sealift.tar');
const home = join(work, 'enclave');
let staging: Staging;
let keys: Keys;
let engine: DockerEngine;
let port: number;

const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);
const env = (): NodeJS.ProcessEnv => ({ ...process.env, ...engine.composeEnv });
const inside = (args: string[]): Promise<RunResult> =>
  sealift([...args, '--home', home, ...engineFlags(engine)], { cwd: work, side: 'inside', env: env() });

beforeAll(async () => {
  staging = await startStaging(join(work, 'staging'));
  keys = await makeKeys(work);
  cpSync(join(repoRoot, 'manifests/demo.yaml'), join(work, 'demo.yaml'));
  await succeed(sealift(['lock', 'demo.yaml', ...staging.flags], { cwd: work }));
  await succeed(
    sealift(['build', 'demo.yaml', '-o', bundle, ...keys.flags, ...staging.flags], { cwd: work }),
  );
  engine = await startDocker({ dir: join(work, 'engine') });
  port = await freePort();
  await provisionHome(home, [readFileSync(keys.public, 'utf8')], port);
});

afterAll(async () => {
  await engine?.stop();
  await staging?.stop();
});

/** A request from outside the containers; gives the status and the body. */
async function request(
  path: string,
  key: string | undefined,
  body?: object,
): Promise<{ status: number; text: string }> {
  const config = [
    `header = "Content-Type: application/json"`,
    ...(key === undefined ? [] : [`header = "Authorization: Bearer ${key}"`]),
  ];
  const data = body === undefined ? [] : ['--data', JSON.stringify(body)];
  const trust = ['--cacert', join(home, 'tls/server.crt'), '--resolve', `${HOST_NAME}:${port}:127.0.0.1`];
  const args = [
    '--silent',
    '--show-error',
    '--max-time',
    '20',
    '--write-out',
    '\n%{http_code}',
    ...trust,
    '--config',
    '-',
    ...data,
  ];
  const { stdout, stderr } = await run('curl', [...args, `https://${HOST_NAME}:${port}${path}`], {
    input: config.join('\n'),
  });
  const at = stdout.lastIndexOf('\n');
  expect(stderr).toBe('');
  return { status: Number(stdout.slice(at + 1)), text: stdout.slice(0, at) };
}

const apiKey = (): string => readFileSync(join(home, 'secrets/api-keys'), 'utf8').trim().split(/\s+/).at(-1)!;
const chat = { model: 'tiny-chat', messages: [{ role: 'user', content: 'hello' }] };

describe('two builds of one lock', () => {
  it('in two folders with two stores are the same from bundle.json on', async () => {
    const other = tempDir('again');
    for (const file of ['demo.yaml', 'demo.lock.json']) cpSync(join(work, file), join(other, file));
    const flags = [...staging.flags.slice(0, -1), join(other, 'store')];
    await succeed(sealift(['build', 'demo.yaml', '-o', 'b.tar', ...keys.flags, ...flags], { cwd: other }));
    const [a, b] = [readFileSync(bundle), readFileSync(join(other, 'b.tar'))];
    const start = a.indexOf('bundle.json\0');
    expect(a.subarray(start).equals(b.subarray(start))).toBe(true);
    expect((await peekBundle(bundle)).digest).toBe((await peekBundle(join(other, 'b.tar'))).digest);
  });
});

describe('verify', () => {
  it('prints who signed and that every byte was read, opening no socket and in no network', async () => {
    const trace = join(work, 'verify.strace');
    const args = ['verify', bundle, '--policy', join(home, 'trust.yaml'), '--json'];
    const strace = ['strace', '-f', '-e', 'trace=socket,connect', '-o', trace];
    const out = await succeed(run('unshare', ['-n', ...strace, process.execPath, PROGRAM.inside, ...args]));
    expect(JSON.parse(out)).toMatchObject({ schema: 'sealift/verify/v1' });
    expect(readFileSync(trace, 'utf8')).not.toMatch(/socket\(/);
  });
});

describe('install', () => {
  it('asks first: without a terminal and without --yes it refuses, and nothing happens', async () => {
    const { code, stderr } = await inside(['install', bundle]);
    expect(code).toBe(2);
    expect(stderr).toContain('--yes');
    expect(existsSync(join(home, 'releases'))).toBe(false);
  });

  it('shows the plan in a dry run, and does nothing', async () => {
    expect(await succeed(inside(['install', bundle, '--dry-run']))).toContain(
      'docker.io/vllm/vllm-openai:v0.27.1',
    );
    expect(await docker('images', '-q')).toBe('');
  });

  it('installs with no network but unix sockets, in an empty network namespace', async () => {
    const trace = join(work, 'install.strace');
    const args = ['install', bundle, '--home', home, ...engineFlags(engine), '--yes'];
    const strace = ['strace', '-f', '-e', 'trace=socket,connect', '-o', trace];
    await succeed(
      run('unshare', ['-n', ...strace, process.execPath, PROGRAM.inside, ...args], { cwd: work, env: env() }),
    );
    const calls = readFileSync(trace, 'utf8').split('\n');
    expect(calls.some((call) => call.includes('socket(AF_UNIX'))).toBe(true);
    expect(calls.filter((call) => /socket\((?!AF_UNIX)/.test(call))).toEqual([]);
    expect(calls.filter((call) => /connect\(\d+, \{sa_family=(?!AF_UNIX)/.test(call))).toEqual([]);
  });

  it('runs the images by the identity that was proved', async () => {
    const wanted = (await peekBundle(bundle)).inventory.images;
    for (const image of wanted)
      expect(await docker('image', 'inspect', '--format', '{{.Id}}', image.ref)).toMatch(/^sha256:/);
    const running = (await docker('ps', '--format', '{{.Image}}')).trim().split('\n');
    expect(running.length).toBe(2);
  });

  it('places every weight once: model files are hard links into the store', async () => {
    const [model] = (await peekBundle(bundle)).inventory.models;
    const folder = join(home, 'models', model!.name);
    const [revision] = readdirSync(folder);
    for (const file of model!.files) {
      const placed = statSync(join(folder, revision!, file.path));
      expect(placed.ino, file.path).toBe(statSync(join(home, 'blobs/sha256', file.digest.slice(7))).ino);
    }
  });
});

describe('the running stack', () => {
  it('answers a chat request through https and nginx with a key', async () => {
    const { status, text } = await request('/v1/chat/completions', apiKey(), chat);
    expect(status).toBe(200);
    expect(
      (JSON.parse(text) as { choices: { message: { content: string } }[] }).choices[0]!.message.content,
    ).toContain(tinyAnswer);
  });

  it('streams', async () => {
    const { status, text } = await request('/v1/chat/completions', apiKey(), { ...chat, stream: true });
    expect(status).toBe(200);
    expect(text.match(/^data: /gm)!.length).toBeGreaterThan(2);
    expect(text.trimEnd()).toMatch(/data: \[DONE\]$/);
  });

  it.each([
    ['no key', '/v1/chat/completions', undefined, 401],
    ['a wrong key', '/v1/chat/completions', 'sk-wrong', 401],
    ['no key, but health', '/health', undefined, 200],
    ['a path that is not on the list', '/tokenize', 'own', 404],
    ['metrics from a network that is not allowed', '/metrics', 'own', 403],
  ])('answers %s rightly', async (_, path, key, status) => {
    const body = path.startsWith('/v1') || path === '/tokenize' ? chat : undefined;
    expect((await request(path, key === 'own' ? apiKey() : key, body)).status).toBe(status);
  });

  it('is told by status', async () => {
    expect(await succeed(inside(['status']))).toContain('demo');
    expect(JSON.parse(await succeed(inside(['status', '--json'])))).toMatchObject({
      schema: 'sealift/status/v1',
    });
  });

  it('keeps secrets out of argv, environment listings of others, logs and readable files', async () => {
    const key = apiKey();
    for (const id of (await docker('ps', '-q')).trim().split('\n')) {
      expect(await docker('inspect', '--format', '{{json .Config.Cmd}} {{json .Args}}', id)).not.toContain(
        key,
      );
      expect(await docker('logs', id)).not.toContain(key);
    }
    expect(statSync(join(home, 'secrets/api-keys')).mode & 0o077).toBe(0);
    const leaks = await run('grep', ['-rl', '--exclude-dir=secrets', key, home]);
    for (const file of leaks.stdout.split('\n').filter(Boolean))
      expect(statSync(file).mode & 0o077, file).toBe(0);
  });

  it('installed twice, changes nothing', async () => {
    const before = await docker('ps', '--no-trunc', '-q');
    await succeed(inside(['install', bundle, '--yes']));
    expect(await docker('ps', '--no-trunc', '-q')).toBe(before);
  });
});

describe('what comes next', () => {
  async function rebuilt(version: string, edit: (yaml: string) => string = (yaml) => yaml): Promise<string> {
    const dir = tempDir('next');
    const yaml = readFileSync(join(work, 'demo.yaml'), 'utf8').replace(
      'version: 1.0.0',
      `version: ${version}`,
    );
    writeFileSync(join(dir, 'demo.yaml'), edit(yaml));
    await succeed(sealift(['lock', 'demo.yaml', ...staging.flags], { cwd: dir }));
    await succeed(
      sealift(['build', 'demo.yaml', '-o', 'b.tar', ...keys.flags, ...staging.flags], { cwd: dir }),
    );
    return join(dir, 'b.tar');
  }

  it('refuses an older version, and the same version with other content', async () => {
    const older = await inside(['install', await rebuilt('0.9.0'), '--yes']);
    expect(older.code).toBe(14);
    const other = await inside([
      'install',
      await rebuilt('1.0.0', (y) => y.replace('max-model-len: 2048', 'max-model-len: 1024')),
      '--yes',
    ]);
    expect(other.code).toBe(14);
    expect((await request('/v1/chat/completions', apiKey(), chat)).status).toBe(200);
  });

  it('upgrades', async () => {
    await succeed(inside(['install', await rebuilt('1.1.0'), '--yes']));
    expect(await succeed(inside(['status']))).toContain('1.1.0');
    expect((await request('/v1/chat/completions', apiKey(), chat)).status).toBe(200);
  });

  it('comes back to the running release when the new one does not start', async () => {
    const broken = await rebuilt('1.2.0', (yaml) => yaml.replace('max-model-len: 2048', 'no-such-flag: 1'));
    const result = await inside(['install', broken, '--yes']);
    expect(result.code, result.stderr).toBe(21);
    expect(result.stderr).toContain('no-such-flag');
    expect(await succeed(inside(['status']))).toContain('1.1.0');
    expect((await request('/v1/chat/completions', apiKey(), chat)).status).toBe(200);
  });

  it('takes only an unfinished install back when uninstall names no release, and the rest goes on running', async () => {
    const journal = {
      schema: 'sealift/journal/v1',
      bundle: `sha256:${'0'.repeat(64)}`,
      release: 'demo-1.9.0',
      startedAt: new Date().toISOString(),
      entries: [],
    };
    writeFileSync(join(home, 'journal.json'), JSON.stringify(journal));
    const said = await succeed(inside(['uninstall', '--yes']));
    expect(said).toContain('unfinished install of demo-1.9.0');
    expect(said).toContain('demo-1.1.0, which is installed');
    expect((await request('/v1/chat/completions', apiKey(), chat)).status).toBe(200);
  });

  it('uninstalls what it placed, and keeps what the site brought', async () => {
    await succeed(inside(['uninstall', '--yes']));
    expect(await docker('ps', '-aq')).toBe('');
    await succeed(inside(['uninstall', '--yes', '--release', 'demo-1.0.0']));
    expect(await docker('images', '-q')).toBe('');
    expect((await docker('network', 'ls', '--format', '{{.Name}}')).trim().split('\n').sort()).toEqual([
      'bridge',
      'host',
      'none',
    ]);
    expect(existsSync(join(home, 'models', 'tiny-chat'))).toBe(false);
    expect(readdirSync(join(home, 'blobs/sha256'))).toEqual([]);
    for (const kept of ['trust.yaml', 'site.yaml', 'tls/server.key'])
      expect(existsSync(join(home, kept)), kept).toBe(true);
  });
});
