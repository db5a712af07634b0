// SPDX-License-Identifier: Apache-2.0
/**
 * Each engine's row against a stand-in that takes that engine's command line and behaves as it does: carried, installed
 * and asked through the gateway by OpenAI's own client.
 */
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import https from 'node:https';
import { dirname, join } from 'node:path';
import { Readable } from 'node:stream';
import OpenAI from 'openai';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { slices, tinyAnswer, tinyGguf, tinyModel } from '../../fixtures/model.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { assembleEngine, assembleImages, STAND_INS, type StandIn } from '../support/images.ts';
import { engineFlags, HOST_NAME, makeKeys, provisionHome, sealift, type Keys } from '../support/stack.ts';
import { succeed } from '../support/succeed.ts';
import { freePort, runOk, tempDir, type RunResult } from '../support/workspace.ts';

const work = tempDir('engines');
/** What a bundle asks of each engine: an image's tag, the model's folder, and options of its own. */
const ASKED: Record<StandIn, { tag: string; model: string; options: string }> = {
  vllm: { tag: 'vllm/vllm-openai:v0.27.1', model: 'safetensors', options: 'max-model-len: 2048' },
  sglang: { tag: 'lmsysorg/sglang:v0.5.21', model: 'safetensors', options: 'context-length: 2048' },
  'llama-cpp': { tag: 'ggml-org/llama.cpp:server-b6510', model: 'gguf', options: 'ctx-size: 2048' },
  localai: { tag: 'localai/localai:v4.9.0', model: 'gguf', options: 'context-size: 2048' },
};

let keys: Keys;
let engine: DockerEngine;

beforeAll(async () => {
  keys = await makeKeys(work);
  const { gateway } = await assembleImages(join(work, 'images'));
  expect(gateway).toBe(join(work, 'images/gateway'));
  for (const [path, { bytes }] of tinyModel()) {
    const file = join(work, 'safetensors', path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, Buffer.concat([...slices(bytes)]));
  }
  mkdirSync(join(work, 'gguf'));
  writeFileSync(join(work, 'gguf/tiny-Q4_K_M.gguf'), tinyGguf());
  engine = await startDocker({ dir: join(work, 'engine') });
});

afterAll(async () => engine?.stop());

function manifestFor(name: StandIn, more = ''): string {
  const { tag, model, options } = ASKED[name];
  return `apiVersion: sealift.dev/v1
kind: Bundle
metadata: { name: ${name}, version: 1.0.0 }
platform: linux/amd64
images:
  engine: { from: 'oci:./${name}', as: 'docker.io/${tag}' }
  gateway: { from: 'oci:./images/gateway', as: 'docker.io/library/nginx:1.29-alpine' }
models: { tiny: { from: 'file:./${model}' } }
services:
  chat: { engine: ${name}, image: engine, model: tiny, options: { ${options}${more} } }
gateway: { image: gateway }
`;
}

async function bundleOf(name: StandIn): Promise<string> {
  await assembleEngine(join(work, name), name);
  writeFileSync(join(work, `${name}.yaml`), manifestFor(name));
  const store = ['--store', 'store'];
  await succeed(sealift(['lock', `${name}.yaml`, ...store], { cwd: work }));
  const out = `${name}.sealift.tar`;
  await succeed(sealift(['build', `${name}.yaml`, '-o', out, ...keys.flags, ...store], { cwd: work }));
  return out;
}

describe.each(STAND_INS)('%s', (name) => {
  const home = join(work, `home-${name}`);
  let port: number;
  let key: string;
  const inside = (...args: string[]): Promise<RunResult> =>
    sealift([...args, '--home', home, '--yes', ...engineFlags(engine)], {
      cwd: work,
      side: 'inside',
      env: { ...process.env, ...engine.composeEnv },
    });
  const client = (apiKey = key): OpenAI =>
    new OpenAI({ baseURL: `https://${HOST_NAME}:${port}/v1`, apiKey, maxRetries: 0, fetch: fetchFrom(home) });
  const messages = [{ role: 'user' as const, content: 'hello' }];

  beforeAll(async () => {
    port = await freePort();
    await provisionHome(home, [readFileSync(keys.public, 'utf8')], port);
    await succeed(inside('install', await bundleOf(name)));
    key = readFileSync(join(home, 'secrets/api-keys'), 'utf8').trim().split(/\s+/).at(-1)!;
  }, 120_000);

  afterAll(async () => {
    await succeed(inside('uninstall'));
    rmSync(home, { recursive: true, force: true });
  });

  it('answers, and streams', async () => {
    const whole = await client().chat.completions.create({ model: 'tiny', messages });
    expect(whole.choices[0]!.message.content).toContain(tinyAnswer);
    const parts: string[] = [];
    const stream = await client().chat.completions.create({ model: 'tiny', messages, stream: true });
    for await (const { choices } of stream) parts.push(choices[0]?.delta.content ?? '');
    expect(parts.length).toBeGreaterThan(3);
    expect(parts.join('')).toContain(tinyAnswer);
  });

  it('lists its model, and embeds', async () => {
    const models = await client().models.list();
    expect(models.data.map(({ id }) => id)).toEqual(['tiny']);
    const { data } = await client().embeddings.create({
      model: 'tiny',
      input: 'hello',
      encoding_format: 'float',
    });
    expect(data[0]!.embedding).toHaveLength(8);
  });

  it('asks for a key, and has no paths but its API', async () => {
    await expect(client('sk-wrong-wrong-wrong-wrong').models.list()).rejects.toMatchObject({ status: 401 });
    const get = fetchFrom(home);
    const at = (path: string): Promise<Response> =>
      get(`https://${HOST_NAME}:${port}${path}`, { headers: { authorization: `Bearer ${key}` } });
    expect((await at('/health')).status).toBe(200);
    for (const path of ['/tokenize', '/props', '/server_info', '/models/apply'])
      expect((await at(path)).status).toBe(404);
  });

  it('has no key in its arguments, and none but its own in its environment', async () => {
    const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);
    const id = (await docker('ps', '-q', '--filter', 'label=com.docker.compose.service=chat')).trim();
    const processes = await docker('top', id, '-eo', 'pid,args');
    const secret = /=([0-9a-f]{64})/.exec(readFileSync(join(home, 'current/secrets/chat.env'), 'utf8'))![1]!;
    expect(processes).not.toContain(secret);
    expect(processes).not.toContain(key);
  });
});

describe('at the staging box', () => {
  it.each<[string, StandIn, (manifest: string) => string, string]>([
    [
      'a model in the wrong form',
      'vllm',
      (text) => text.replace('file:./safetensors', 'file:./gguf'),
      'vLLM does not serve gguf',
    ],
    [
      'an option that is gone',
      'vllm',
      () => manifestFor('vllm', ', disable-log-requests: true'),
      '--disable-log-requests is gone from vLLM since 0.12',
    ],
    [
      'a drafter that is not carried',
      'vllm',
      () => manifestFor('vllm', `, speculative-config: '{"model":"org/draft"}'`),
      "names 'org/draft', which is no carried model",
    ],
  ])('%s is found', async (_, name, change, message) => {
    writeFileSync(join(work, 'bad.yaml'), change(manifestFor(name)));
    const store = ['--store', 'store'];
    await succeed(sealift(['lock', 'bad.yaml', ...store], { cwd: work }));
    const built = await sealift(['build', 'bad.yaml', '-o', 'bad.tar', ...keys.flags, ...store], {
      cwd: work,
    });
    expect(built.code).toBe(2);
    expect(built.stderr).toContain(message);
    expect(built.stderr).toContain('SERVICE_UNFIT');
  });
});

/** A fetch that finds the host of the test and trusts the certificate of its home. */
function fetchFrom(home: string): typeof fetch {
  const ca = readFileSync(join(home, 'tls/server.crt'));
  return async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input);
    const headers = Object.fromEntries(new Headers(init?.headers));
    const request = https.request({
      host: '127.0.0.1',
      port: url.port,
      path: url.pathname + url.search,
      method: init?.method ?? 'GET',
      headers: { ...headers, host: url.host },
      servername: url.hostname,
      ca,
    });
    return new Promise((resolve, reject) => {
      request.once('error', reject);
      request.once('response', (answer) => {
        const body = Readable.toWeb(answer) as ReadableStream<Uint8Array>;
        const fields = Object.entries(answer.headers).map(([k, v]): [string, string] => [k, String(v)]);
        resolve(new Response(body, { status: answer.statusCode!, headers: fields }));
      });
      request.end(init?.body as string | undefined);
    });
  };
}
