// SPDX-License-Identifier: Apache-2.0
/** What each engine's row makes of a service. */
import { parse } from 'yaml';
import { describe, expect, it } from 'vitest';
import { ENGINES, servicesOf, type Service } from '../../src/engines/index.ts';
import { commandOf, inventoryOf, modelOf } from './samples.ts';

const service = (
  engine: string,
  more: object = {},
  files: readonly string[] = ['model.safetensors'],
): Service =>
  servicesOf(
    inventoryOf(
      [{ name: 'chat', engine, image: 'engine', model: 'tiny', ...more }],
      [modelOf('tiny', files)],
    ),
  )[0]!;

const failing = (run: () => unknown): unknown => {
  try {
    run();
  } catch (error) {
    return error;
  }
  return undefined;
};

describe.each(Object.keys(ENGINES))('the row of %s', (engine) => {
  const files = ENGINES[engine]!.formats.includes('safetensors') ? ['model.safetensors'] : ['model.gguf'];

  it('runs as a user of its own, and writes to its cache alone', () => {
    const { user, caches, env } = service(engine, {}, files);
    expect(user.uid).toBeGreaterThan(0);
    expect(caches).toEqual([{ target: '/cache' }]);
    expect(env['HOME']).toBe('/cache');
  });

  it('has its key in no argument, and in no variable that compose.yaml shows', () => {
    const { command, entrypoint = [], env, keyVariable } = service(engine, {}, files);
    expect([...entrypoint, ...command].join(' ')).not.toMatch(/--api-key/);
    expect(Object.keys(env)).not.toContain(keyVariable);
  });

  it('serves the model under its name, and lets only its API through', () => {
    const { servedModel, models, apiPaths, port } = service(engine, {}, files);
    expect(servedModel).toBe('tiny');
    expect(models).toEqual([{ model: 'tiny', target: '/models/tiny' }]);
    expect(apiPaths.map(({ path }) => path)).toContain('/v1/chat/completions');
    expect(apiPaths.every(({ path }) => path.startsWith('/v1/'))).toBe(true);
    expect(port).toBeGreaterThan(1023);
  });

  it('lets a bundle set none of its own options', () => {
    for (const option of ENGINES[engine]!.reserved)
      expect(failing(() => service(engine, { options: { [option]: 'x' } }, files))).toMatchObject({
        code: 'SERVICE_UNSUPPORTED',
      });
  });

  it('knows no option both as its own and as the bundle’s', () => {
    const { reserved, options } = ENGINES[engine]!;
    expect(reserved.filter((option) => option in options)).toEqual([]);
  });
});

describe('vLLM', () => {
  const args = (options: object, gpus = 0): readonly string[] => service('vllm', { gpus, options }).command;

  it('gets the model first, then its own options, then those of the bundle', () => {
    const options = {
      'max-model-len': 8192,
      'enable-auto-tool-choice': true,
      'enable-prefix-caching': false,
      seed: -1,
    };
    expect(args(options).join(' ')).toBe(
      '/models/tiny --host 0.0.0.0 --port 8000 --served-model-name tiny ' +
        '--max-model-len 8192 --enable-auto-tool-choice --no-enable-prefix-caching --seed=-1',
    );
  });

  it('uses all GPUs of the service, unless the bundle says how', () => {
    expect(args({}, 4).join(' ')).toContain('--tensor-parallel-size 4');
    expect(args({}, 1).join(' ')).not.toContain('parallel');
    expect(args({ 'pipeline-parallel-size': 4 }, 4).join(' ')).not.toContain('tensor-parallel');
    expect(service('vllm', { gpus: 2 }).shmBytes).toBeGreaterThan(2 ** 30);
  });

  it('stays off the hub', () => {
    expect(service('vllm').env).toMatchObject({
      HF_HUB_OFFLINE: '1',
      TRANSFORMERS_OFFLINE: '1',
      VLLM_NO_USAGE_STATS: '1',
    });
  });

  it('embeds when it is told to pool', () => {
    expect(service('vllm', { options: { runner: 'pooling' } }).purpose).toBe('embeddings');
    expect(service('vllm').purpose).toBe('chat');
  });

  it('gets the other models that its options name, and no more', () => {
    const [chat] = servicesOf(
      inventoryOf(
        [
          {
            name: 'chat',
            engine: 'vllm',
            image: 'engine',
            model: 'tiny',
            options: { 'speculative-config': '{"model":"/models/draft","num_speculative_tokens":3}' },
          },
        ],
        ['draft', 'draft-2', 'other', 'tiny'].map((name) => modelOf(name, ['model.safetensors'])),
      ),
    );
    expect(chat!.models.map(({ model }) => model)).toEqual(['tiny', 'draft']);
  });
});

describe('SGLang', () => {
  it('is started by a shell that puts the key into memory', async () => {
    const { entrypoint, command } = service('sglang', { gpus: 2, options: { 'context-length': 4096 } });
    expect(command.join(' ')).toBe(
      '--model-path /models/tiny --host 0.0.0.0 --port 30000 --served-model-name tiny --enable-metrics ' +
        '--tensor-parallel-size 2 --context-length 4096',
    );
    const key = 'k'.repeat(64);
    const { argv, file, mode, environment } = await commandOf(entrypoint!, command, { SEALIFT_KEY: key });
    expect(argv).toEqual(['-m', 'sglang.launch_server', '--config', '/dev/shm/sealift.yaml', ...command]);
    expect(file).toBe(`api-key: ${key}\n`);
    expect(mode).toBe('600');
    expect(environment).not.toContain(key);
  });

  it.each(['tp', 'tp-size', 'dp-size', 'pp-size'])(
    'leaves the GPUs to the bundle when it sets %s',
    (option) => {
      const command = service('sglang', { gpus: 2, options: { [option]: 2 } }).command.join(' ');
      expect(command).not.toContain('tensor-parallel');
    },
  );

  it('has no negated flags: what is false is left out', () => {
    const { command } = service('sglang', { options: { 'disable-radix-cache': false } });
    expect(command.join(' ')).not.toContain('radix');
  });
});

describe('llama.cpp', () => {
  const gguf = (files: readonly string[], options: object = {}): string =>
    service('llama-cpp', { options }, files).command.join(' ');

  it('gets the only file that can be served, and the projector beside it', () => {
    expect(gguf(['README.md', 'mmproj-F16.gguf', 'q4/tiny-Q4_K_M.gguf'])).toBe(
      '--model /models/tiny/q4/tiny-Q4_K_M.gguf --mmproj /models/tiny/mmproj-F16.gguf --alias tiny ' +
        '--host 0.0.0.0 --port 8080 --metrics --offline',
    );
  });

  it('gets the first of several shards', () => {
    const shards = [1, 2, 3].map((n) => `tiny-0000${n}-of-00003.gguf`);
    expect(gguf(shards)).toContain('--model /models/tiny/tiny-00001-of-00003.gguf');
  });

  it('gets the file that the bundle names', () => {
    expect(gguf(['a.gguf', 'b.gguf'], { model: 'b.gguf', 'ctx-size': 4096 })).toContain(
      '--model /models/tiny/b.gguf --alias tiny --host 0.0.0.0 --port 8080 --metrics --offline --ctx-size 4096',
    );
  });

  it.each([
    [['a.gguf', 'b.gguf'], {}, "name one with the option 'model', or carry only one: a.gguf, b.gguf"],
    [['a.gguf'], { model: 'c.gguf' }, 'it has: a.gguf'],
  ])('of %j with %j is refused, with what there is', (files, options, hint) => {
    expect(failing(() => gguf(files, options))).toMatchObject({ code: 'SERVICE_UNSUPPORTED', hint });
  });

  it('is not asked to serve what it does not', () => {
    expect(failing(() => gguf(['model.safetensors']))).toMatchObject({ code: 'SERVICE_UNSUPPORTED' });
  });
});

describe('LocalAI', () => {
  const config = (files: readonly string[], options: object = {}): unknown =>
    parse(service('localai', { options }, files).files[0]!.content);

  it('gets a description of the model', () => {
    expect(config(['tiny.gguf'], { 'context-size': 4096, f16: true })).toEqual([
      {
        name: 'tiny',
        backend: 'llama-cpp',
        context_size: 4096,
        f16: true,
        parameters: { model: 'tiny/tiny.gguf' },
      },
    ]);
    expect(config(['model.safetensors'], { backend: 'vllm' })).toEqual([
      { name: 'tiny', backend: 'vllm', parameters: { model: 'tiny' } },
    ]);
  });

  it('has every gallery off', () => {
    expect(service('localai').env).toMatchObject({
      LOCALAI_AUTOLOAD_GALLERIES: 'false',
      LOCALAI_AUTOLOAD_BACKEND_GALLERIES: 'false',
      LOCALAI_GALLERIES: '[]',
      LOCALAI_BACKEND_GALLERIES: '[]',
      LOCALAI_DISABLE_AGENTS: 'true',
    });
  });
});

describe('services that cannot be run', () => {
  const chat = { name: 'chat', engine: 'vllm', image: 'engine', model: 'tiny' };
  const tiny = [modelOf('tiny', ['model.safetensors'])];

  it('name the rows there are', () => {
    expect(failing(() => service('tgi'))).toMatchObject({
      code: 'SERVICE_UNSUPPORTED',
      message: expect.stringContaining("'tgi'") as unknown,
      hint: 'it knows: llama-cpp, localai, sglang, vllm',
    });
    expect(failing(() => service('constructor'))).toMatchObject({ code: 'SERVICE_UNSUPPORTED' });
  });

  it('are refused without a gateway, and without their model', () => {
    expect(failing(() => servicesOf({ ...inventoryOf([chat], tiny), gateway: undefined }))).toMatchObject({
      code: 'SERVICE_UNSUPPORTED',
    });
    expect(failing(() => servicesOf(inventoryOf([chat], [])))).toMatchObject({ code: 'SERVICE_UNSUPPORTED' });
  });

  it('a new engine needs only a row', () => {
    const row = { ...ENGINES['vllm']!, service: () => ({ ...service('vllm'), engine: 'other', port: 9 }) };
    const other = inventoryOf([{ ...chat, engine: 'other' }], tiny);
    expect(servicesOf(other, { other: row })[0]).toMatchObject({ engine: 'other', port: 9 });
  });
});
