// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { contextOf, kvBytes, kvPerToken, reckon } from '../../src/engines/fit.ts';

const GIB = 1024 ** 3;
const KB = 1000;
const KIB = 1024;

/** What config.json of each model says (Hugging Face), and what was published of its KV cache in 16 bits. */
const PUBLISHED: readonly [
  model: string,
  config: Record<string, unknown>,
  bytesPerToken: number,
  source: string,
][] = [
  [
    'GPT-2 XL',
    { n_layer: 48, n_head: 25, n_embd: 1600, n_positions: 1024 },
    300 * KIB,
    'Raschka, The Big LLM Architecture Comparison: 300 KiB a token',
  ],
  [
    'Llama 3.1 8B',
    { num_hidden_layers: 32, num_attention_heads: 32, num_key_value_heads: 8, hidden_size: 4096 },
    (0.125 * GIB) / 1024,
    'huggingface.co/blog/llama31: 0.125 GB for 1k tokens',
  ],
  [
    'Llama 3.1 70B',
    { num_hidden_layers: 80, num_attention_heads: 64, num_key_value_heads: 8, hidden_size: 8192 },
    (0.313 * GIB) / 1024,
    'huggingface.co/blog/llama31: 0.313 GB for 1k tokens',
  ],
  [
    'Llama 3.1 405B',
    { num_hidden_layers: 126, num_attention_heads: 128, num_key_value_heads: 8, hidden_size: 16384 },
    516.096 * KB,
    'Insights into DeepSeek-V3 (arXiv 2505.09343), table 1',
  ],
  [
    'Qwen2.5 72B',
    {
      num_hidden_layers: 80,
      num_attention_heads: 64,
      num_key_value_heads: 8,
      hidden_size: 8192,
      use_sliding_window: false,
    },
    327.68 * KB,
    'Insights into DeepSeek-V3 (arXiv 2505.09343), table 1',
  ],
  [
    'DeepSeek-V3',
    {
      num_hidden_layers: 61,
      num_attention_heads: 128,
      num_key_value_heads: 128,
      hidden_size: 7168,
      kv_lora_rank: 512,
      qk_rope_head_dim: 64,
    },
    70.272 * KB,
    'Insights into DeepSeek-V3 (arXiv 2505.09343), table 1',
  ],
];

describe('the KV cache', () => {
  it.each(PUBLISHED)('of %s is within 10 %% of what was published', (_, config, published) => {
    const { full } = kvPerToken(config, 2)!;
    expect(Math.abs(full / published - 1)).toBeLessThan(0.1);
  });

  it('is half as large in 8 bits, and known for models that keep their text apart', () => {
    const [, config] = PUBLISHED[1]!;
    expect(kvPerToken(config, 1)!.full).toBe(kvPerToken(config, 2)!.full / 2);
    expect(kvPerToken({ text_config: config }, 2)).toEqual(kvPerToken(config, 2));
    expect(kvPerToken({ ...config, head_dim: 64 }, 2)!.full).toBe(kvPerToken(config, 2)!.full / 2);
    expect(contextOf({ text_config: { max_position_embeddings: 4096 } })).toBe(4096);
  });

  it('does not grow in layers with a window, nor in those with a state', () => {
    const config = {
      num_attention_heads: 8,
      num_key_value_heads: 2,
      head_dim: 128,
      num_hidden_layers: 4,
      sliding_window: 1024,
    };
    const types = ['sliding_attention', 'full_attention', 'linear_attention', 'sliding_attention'];
    const kv = kvPerToken({ ...config, layer_types: types }, 2)!;
    const one = 2 * 2 * 128 * 2;
    expect(kv).toMatchObject({ full: one, windowed: 2 * one, window: 1024 });
    expect(kvBytes(kv, 100_000)).toBe(100_000 * one + 1024 * 2 * one);
    expect(kvBytes(kv, 10)).toBe(10 * 3 * one);
    expect(kvPerToken({ ...config, full_attention_interval: 4 }, 2)).toMatchObject({
      full: one,
      windowed: 0,
    });
    expect(kvPerToken({ ...config, sliding_window_pattern: 4 }, 2)).toMatchObject({
      full: one,
      windowed: 3 * one,
    });
  });

  it('is unknown when config.json does not say enough', () => {
    for (const config of [{}, { num_hidden_layers: 2 }, { num_hidden_layers: 2, num_attention_heads: 4 }])
      expect(kvPerToken(config, 2)).toBeUndefined();
  });
});

describe('the fit', () => {
  const [, llama70] = PUBLISHED[2]!;
  const kv = kvPerToken(llama70, 2);
  const input = { weights: 141e9, kv, context: 131_072, gpus: 4, memory: 80 * GIB, fraction: 0.92 };

  it('of Llama 3.1 70B on four H100 is what people run', () => {
    const fit = reckon(input);
    expect(fit).toMatchObject({ verdict: 'yes', weights: 141e9 / 4, usable: 0.92 * 80 * GIB });
    expect(fit.sequences).toBe(Math.floor((fit.usable - fit.weights - fit.allowance) / fit.kv!));
    expect(fit.sequences).toBe(3);
  });

  it('is none when the weights alone are too large, and short when no request of full length fits', () => {
    expect(reckon({ ...input, gpus: 1 }).verdict).toBe('no');
    expect(reckon({ ...input, gpus: 2, memory: 81 * GIB }).verdict).toBe('short');
    expect(reckon({ ...input, kv: undefined })).toMatchObject({
      verdict: 'yes',
      kv: undefined,
      sequences: undefined,
    });
  });
});
