// SPDX-License-Identifier: Apache-2.0
/** The traps that people have stepped into, each by its rule. */
import { describe, expect, it } from 'vitest';
import { ENGINES } from '../../src/engines/index.ts';
import { checkModel, isLookedInto, type Carried } from '../../src/engines/model.ts';
import type { Finding } from '../../src/engines/options.ts';
import { digestOf } from '../../src/store/digest.ts';

/** A model that every rule is content with. */
const SOUND = {
  'config.json': { model_type: 'qwen3', max_position_embeddings: 4096 },
  'model.safetensors': '',
  'tokenizer.json': '',
  'tokenizer_config.json': { chat_template: '{{ x }}' },
};

interface Case {
  engine?: string;
  files?: Record<string, unknown>;
  options?: Record<string, string | number | boolean>;
  carried?: Partial<Carried>;
  purpose?: 'chat' | 'embeddings';
}

function check({
  engine = 'vllm',
  files = SOUND,
  options = {},
  carried = {},
  purpose = 'chat',
}: Case): Finding[] {
  const spec = { name: 'chat', engine, image: 'engine', model: 'tiny', gpus: 0, options };
  const paths = Object.keys(files).map((path) => ({ path, digest: digestOf(path), size: 1 }));
  const json = (path: string): Record<string, unknown> | undefined =>
    isLookedInto(path) ? (files[path] as Record<string, unknown> | undefined) : undefined;
  return checkModel(
    ENGINES[engine]!,
    spec,
    purpose,
    { files: paths, json },
    { models: ['tiny', 'draft'], configs: [], ...carried },
  );
}

const without = (...names: string[]): Record<string, unknown> =>
  Object.fromEntries(Object.entries(SOUND).filter(([name]) => !names.includes(name)));

it.each(['vllm', 'sglang', 'localai'])('a sound model has nothing against it on %s', (engine) => {
  expect(check({ engine })).toEqual([]);
});

it('a sound GGUF has nothing against it on llama-cpp', () => {
  expect(check({ engine: 'llama-cpp', files: { 'tiny-Q4_K_M.gguf': '' } })).toEqual([]);
});

describe('what an engine cannot serve', () => {
  it.each<[string, Case, Finding['severity'], string]>([
    ['GGUF on vLLM', { files: { 'a.gguf': '' } }, 'error', 'vLLM does not serve gguf'],
    ['safetensors on llama.cpp', { engine: 'llama-cpp' }, 'error', 'llama.cpp does not serve safetensors'],
    ['no weights', { files: without('model.safetensors') }, 'error', 'it has no weights'],
    [
      'pickles',
      { files: { ...without('model.safetensors'), 'pytorch_model.bin': '' } },
      'warning',
      'its weights are pickles (pytorch_model.bin), which run code when they are loaded',
    ],
    ['no config', { files: without('config.json') }, 'error', 'it has no config.json'],
    ['no tokenizer', { files: without('tokenizer.json') }, 'error', 'it has no tokenizer'],
    [
      'no chat template',
      { files: { ...SOUND, 'tokenizer_config.json': {} } },
      'warning',
      'it has no chat template, so chat requests will be refused',
    ],
    [
      'a shard of an index that was left out',
      {
        files: {
          ...SOUND,
          'model.safetensors.index.json': {
            weight_map: { a: 'model.safetensors', b: 'model-2.safetensors' },
          },
        },
      },
      'error',
      'model.safetensors.index.json names model-2.safetensors, not carried',
    ],
    [
      'an index that is none',
      { files: { ...SOUND, 'model.safetensors.index.json': {} } },
      'error',
      'model.safetensors.index.json has no weight_map: the download it came from was broken',
    ],
    [
      'a shard of a GGUF that was left out',
      { engine: 'llama-cpp', files: { 'x-00001-of-00003.gguf': '', 'x-00003-of-00003.gguf': '' } },
      'error',
      'x-00002-of-00003.gguf is not carried',
    ],
    [
      'a context that the model does not have',
      { options: { 'max-model-len': 8192 } },
      'error',
      'a context of 8192 tokens is asked for, and the model has 4096',
    ],
    [
      'an unknown quantization',
      { files: { ...SOUND, 'config.json': { quantization_config: { quant_method: 'magic' } } } },
      'warning',
      "its quantization 'magic' is none that sealift knows the engine to load",
    ],
    [
      'code of another repository',
      {
        options: { 'trust-remote-code': true },
        files: { ...SOUND, 'config.json': { auto_map: { AutoConfig: 'org/code--configuration.Config' } } },
      },
      'error',
      'its auto_map takes code from another repository, org/code',
    ],
    [
      'code that was left out',
      {
        options: { 'trust-remote-code': true },
        files: {
          ...SOUND,
          'tokenizer_config.json': { chat_template: 'x', auto_map: { AutoTokenizer: ['tok.Tok', null] } },
        },
      },
      'error',
      'its auto_map names tok.py, not carried',
    ],
    [
      'a vocabulary that is fetched at the first request',
      { files: { ...SOUND, 'config.json': { model_type: 'gpt_oss' } } },
      'error',
      'gpt-oss needs the vocabulary o200k_base at its first request, and configs has no tiktoken/o200k_base.tiktoken',
    ],
    [
      'a drafter at a hub',
      { options: { 'speculative-config': '{"model":"org/draft","method":"eagle3"}' } },
      'error',
      "the option speculative-config names 'org/draft', which is no carried model",
    ],
    [
      'a drafter that is not carried',
      { engine: 'sglang', options: { 'speculative-draft-model-path': '/models/other' } },
      'error',
      "the option speculative-draft-model-path names /models/other, and the bundle has no model 'other'",
    ],
    [
      'an adapter at a hub',
      { options: { 'lora-modules': 'sql=/models/draft law=org/law' } },
      'error',
      "the option lora-modules names 'org/law', which is no carried model",
    ],
  ])('%s', (_, given, severity, message) => {
    expect(check(given)).toEqual([expect.objectContaining({ severity, message })]);
  });
});

describe('what is not held against a model', () => {
  it.each<[string, Case]>([
    [
      "Mistral's own form",
      { files: { 'params.json': '', 'consolidated.safetensors': '', 'tekken.json': '' } },
    ],
    [
      'a template of its own',
      { files: { ...SOUND, 'tokenizer_config.json': {}, 'chat_template.jinja': '' } },
    ],
    ['no template when it embeds', { purpose: 'embeddings', files: without('tokenizer_config.json') }],
    [
      'a tokenizer elsewhere',
      { options: { tokenizer: '/models/draft' }, files: without('tokenizer.json', 'tokenizer_config.json') },
    ],
    ['code that nobody runs', { files: { ...SOUND, 'config.json': { auto_map: { A: 'a/b--c.D' } } } }],
    ['FP8', { files: { ...SOUND, 'config.json': { quantization_config: { quant_method: 'fp8' } } } }],
    [
      'guessing without a drafter',
      { options: { 'speculative-config': '{"model":"ngram","method":"ngram"}' } },
    ],
    ['a carried drafter', { options: { 'speculative-config': '{"model":"/models/draft"}' } }],
    [
      'gpt-oss with its vocabulary',
      {
        files: { ...SOUND, 'config.json': { model_type: 'gpt_oss' } },
        carried: {
          configs: [
            {
              name: 'tiktoken/o200k_base.tiktoken',
              digest: 'sha256:446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d',
            },
          ],
        },
      },
    ],
    [
      'a longer context with scaled positions',
      {
        options: { 'max-model-len': 8192 },
        files: { ...SOUND, 'config.json': { max_position_embeddings: 4096, rope_scaling: {} } },
      },
    ],
  ])('%s', (_, given) => {
    expect(check(given)).toEqual([]);
  });
});
