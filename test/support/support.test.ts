// SPDX-License-Identifier: Apache-2.0
//
// The fixtures must be right themselves: what they claim to break, and what they claim to leave whole.
import { readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { largeModel, sizeOf, slices, tinyModel } from '../../fixtures/model.ts';
import { startHub } from './hub.ts';
import type { HubFixture } from './hub.ts';
import { assembleImages, pushLayout, tinyImage } from './images.ts';
import { registryUser, startTokenRegistry } from './registry.ts';
import type { RunResult } from './workspace.ts';
import { isAlive, repoRoot, run, startServer, tempDir, waitFor } from './workspace.ts';

describe('the generated model', () => {
  it('is the same each time, and another one for another seed', () => {
    const weights = 'model-00001-of-00002.safetensors';
    expect(tinyModel()).toEqual(tinyModel());
    expect(tinyModel({ seed: 2 }).get(weights)).not.toEqual(tinyModel().get(weights));
  });

  it('gives the same bytes of a large file from whatever offset', () => {
    const source = largeModel({ size: 3 * 2 ** 20 }).get('model.safetensors')?.bytes ?? Buffer.alloc(0);
    const whole = Buffer.concat([...slices(source)]);
    expect(whole.length).toBe(sizeOf(source));
    for (const start of [0, 100, 2 ** 20 - 1, 2 ** 21 + 17]) {
      expect(Buffer.concat([...slices(source, start, start + 5000)])).toEqual(
        whole.subarray(start, start + 5000),
      );
    }
  });
});

describe('the fixture hub', () => {
  const path = 'model-00001-of-00002.safetensors';
  let hub: HubFixture;
  beforeAll(async () => {
    hub = await startHub({ models: [{ name: 'acme/tiny', files: tinyModel() }] });
  });
  afterAll(() => hub.stop());

  const get = (range?: string): Promise<Response> =>
    fetch(`${hub.url}/acme/tiny/resolve/main/${path}`, { headers: range ? { range } : {} });

  it('serves a range, and all of it again where the range is ignored', async () => {
    expect((await (await get('bytes=10-19')).arrayBuffer()).byteLength).toBe(10);
    hub.faults[path] = { ignoreRange: true };
    expect((await get('bytes=10-19')).status).toBe(200);
  });

  it('cuts a transfer as often as asked, then serves it', async () => {
    hub.faults[path] = { cut: { after: 1000, times: 1 } };
    await expect(get().then((answer) => answer.arrayBuffer())).rejects.toThrow();
    expect((await (await get()).arrayBuffer()).byteLength).toBe(
      sizeOf(tinyModel().get(path)?.bytes ?? Buffer.alloc(0)),
    );
  });

  it('sends one wrong bit where asked', async () => {
    hub.faults[path] = { flip: { at: 5000, times: 1 } };
    const [bad, good] = [await (await get()).bytes(), await (await get()).bytes()];
    expect(bad.findIndex((byte, i) => byte !== good[i])).toBe(5000);
  });

  it('moves main with a new commit, and keeps the old one', async () => {
    const before = hub.head('acme/tiny');
    const after = await hub.commit('acme/tiny', tinyModel({ seed: 2 }));
    expect(after).not.toBe(before);
    expect((await fetch(`${hub.url}/api/models/acme/tiny/revision/${before}`)).status).toBe(200);
  });
});

const index = (dir: string): string => readFileSync(join(dir, 'index.json'), 'utf8');

describe('the registry behind tokens', () => {
  it('gives a blob away only for a token, from another host, and that one sees no Authorization', async () => {
    const registry = await startTokenRegistry({ dir: tempDir('registry') });
    const image = tinyImage({ name: 'tiny', payload: 'x'.repeat(100_000), compression: 'none' });
    await pushLayout(
      `${image.dir}:tiny`,
      `${registry.host}/acme/tiny:1`,
      `${registryUser.username}:${registryUser.password}`,
    );
    const digest = image.layers[0]?.digest ?? '';
    const url = `${registry.url}/v2/acme/tiny/blobs/${digest}`;
    expect((await fetch(url)).status).toBe(401);

    const authorization = `Basic ${btoa(`${registryUser.username}:${registryUser.password}`)}`;
    const answer = await fetch(`${registry.url}/token?scope=repository:acme/tiny:pull`, {
      headers: { authorization },
    });
    const { token }: { token: string } = JSON.parse(await answer.text());
    const blob = await (await fetch(url, { headers: { authorization: `Bearer ${token}` } })).bytes();
    expect(blob).toEqual(new Uint8Array(image.layers[0]?.bytes ?? []));
    expect(registry.redirected.map((request) => request.authorization)).toEqual([undefined]);
    expect(registry.served.get(digest)?.bytes).toBe(blob.length);
    await registry.stop();
  });
});

describe('images', () => {
  it('have the same digests each time', async () => {
    expect(tinyImage({ name: 'a', payload: 'x' }).manifest).toEqual(
      tinyImage({ name: 'a', payload: 'x' }).manifest,
    );
    const [first, second] = [await assembleImages(tempDir('one')), await assembleImages(tempDir('two'))];
    expect(index(first.engine)).toBe(index(second.engine));
    expect(index(first.gateway)).toBe(index(second.gateway));
  });
});

/** The stand-in, started by the name of an engine's program. */
function standin(program: string, args: string[], env: Record<string, string> = {}): Promise<RunResult> {
  const link = join(tempDir('standin'), program);
  symlinkSync(join(repoRoot, 'fixtures/engine-standin.py'), link);
  return run('/usr/bin/python3', ['-B', link, ...args], { env: { ...process.env, ...env } });
}

describe('a stand-in refuses what its engine refuses', () => {
  it.each([
    ['vllm', ['serve', '/models/none', '--disable-log-requests'], 2, 'unrecognized arguments'],
    ['vllm', ['serve', '/models/none'], 1, 'config.json'],
    [
      'launch_server.py',
      ['--model-path', '/models/none', '--max-model-len', '1'],
      2,
      'unrecognized arguments',
    ],
    ['launch_server.py', ['--model-path', '/models/none'], 1, 'config.json'],
    ['llama-server', ['-m', '/models/none.gguf', '--api-kee', 'x'], 1, 'invalid argument'],
    ['llama-server', ['-m', '/models/none.gguf', '--port', '0'], 1, 'failed to open GGUF file'],
    ['local-ai', ['some-model'], 1, 'it would fetch'],
    ['local-ai', [], 1, 'AUTOLOAD_GALLERIES is on'],
  ])('%s %j', async (program, args, code, text) => {
    expect(await standin(program, args)).toMatchObject({
      code,
      stderr: expect.stringContaining(text) as unknown,
    });
  });
});

it('ends a server by its process id', async () => {
  const server = startServer('sleep', ['60'], { logFile: join(tempDir('server'), 'log') });
  await waitFor('sleep', () => (isAlive(server.pid) ? true : undefined));
  await server.stop();
  expect(isAlive(server.pid)).toBe(false);
});

it('says what it waited for in vain', async () => {
  await expect(waitFor('nothing', () => undefined, { timeout: 60 })).rejects.toThrow(
    'nothing: not within 60 ms',
  );
});
