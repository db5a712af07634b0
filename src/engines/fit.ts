// SPDX-License-Identifier: Apache-2.0
/**
 * Will a model fit into the memory of its GPUs? Weights are known to the byte; the KV cache follows from `config.json`.
 * What an engine needs beside them (graphs, activations, CUDA itself) is an allowance, and said to be one.
 */
import { objectOf } from '../json.ts';

/** Bytes of the KV cache that one token takes over all layers, of all tensor-parallel ranks together. */
export interface KvPerToken {
  /** In layers that look at the whole context. */
  full: number;
  /** In layers that look only at a window, and how many tokens that is. */
  windowed: number;
  window: number;
  /** How it was reckoned, for people. */
  how: string;
}

type Config = Readonly<Record<string, unknown>>;

const number = (config: Config, ...names: string[]): number | undefined =>
  names.map((name) => config[name]).find((value): value is number => typeof value === 'number' && value > 0);

/** Models with pictures keep what is about text in a part of its own. */
const textOf = (config: Config): Config =>
  objectOf(config['text_config']) ?? objectOf(config['llm_config']) ?? config;

/**
 * Two vectors for each KV head and layer (Vaswani et al. 2017; grouped heads: Ainslie et al. 2023), or one latent and a
 * rotary part for each layer (MLA: DeepSeek-V2 2024, §2.1).
 * @param bytes of one number in the cache: 2 for bf16, 1 for fp8
 * @returns undefined when the configuration does not say enough
 */
export function kvPerToken(config: Config, bytes: number): KvPerToken | undefined {
  const text = textOf(config);
  const layers = number(text, 'num_hidden_layers', 'n_layer', 'num_layers');
  if (layers === undefined) return undefined;
  const { full, windowed, window } = layersOf(text, layers);
  const latent = number(text, 'kv_lora_rank');
  if (latent !== undefined) {
    const rope = number(text, 'qk_rope_head_dim') ?? 64;
    const how = `${full} layers x (${latent} + ${rope}) x ${bytes} bytes`;
    return { full: full * (latent + rope) * bytes, windowed: 0, window: 0, how };
  }
  const heads = number(text, 'num_attention_heads', 'n_head');
  const hidden = number(text, 'hidden_size', 'n_embd', 'd_model');
  if (heads === undefined) return undefined;
  const kvHeads = number(text, 'num_key_value_heads', 'num_kv_heads', 'multi_query_group_num') ?? heads;
  const dimension = number(text, 'head_dim') ?? (hidden === undefined ? undefined : hidden / heads);
  if (dimension === undefined) return undefined;
  const one = 2 * kvHeads * dimension * bytes;
  const how = `${full}${windowed > 0 ? ` + ${windowed} windowed` : ''} layers x 2 x ${kvHeads} heads x ${dimension} x ${bytes} bytes`;
  return { full: full * one, windowed: windowed * one, window, how };
}

/** How many layers look at everything, and how many at a window; those with a state of fixed size count as none. */
function layersOf(text: Config, layers: number): { full: number; windowed: number; window: number } {
  const window = number(text, 'sliding_window') ?? 0;
  const types = text['layer_types'];
  if (Array.isArray(types)) {
    const windowed = types.filter(
      (type) => type === 'sliding_attention' || type === 'chunked_attention',
    ).length;
    const full = types.filter((type) => type === 'full_attention' || type === 'attention').length;
    return { full, windowed, window };
  }
  const every = number(text, 'full_attention_interval');
  if (every !== undefined) return { full: Math.floor(layers / every), windowed: 0, window: 0 };
  const pattern = number(text, 'sliding_window_pattern');
  if (pattern !== undefined && window > 0) {
    const full = Math.floor(layers / pattern);
    return { full, windowed: layers - full, window };
  }
  return { full: layers, windowed: 0, window: 0 };
}

/** Bytes of the cache for one sequence of so many tokens. */
export const kvBytes = ({ full, windowed, window }: KvPerToken, tokens: number): number =>
  full * tokens + windowed * Math.min(tokens, window);

/** Longest context of a model, in tokens. */
export const contextOf = (config: Config): number | undefined =>
  number(textOf(config), 'max_position_embeddings', 'n_positions', 'seq_length', 'max_sequence_length');

/** What a service asks of each of its GPUs, in bytes, and what that allows. */
export interface Fit {
  weights: number;
  /** For one sequence at full length; undefined when config.json does not say. */
  kv: number | undefined;
  /** CUDA, graphs, activations: an allowance. */
  allowance: number;
  /** What the engine takes of a GPU's memory. */
  usable: number;
  /** Sequences at full length that can be under way at a time; undefined when unknown. */
  sequences: number | undefined;
  /** `yes`; `no`: not even the weights; `short`: not one sequence at full length. */
  verdict: 'yes' | 'no' | 'short';
}

export interface FitInput {
  /** Bytes of the model's weights. */
  weights: number;
  kv: KvPerToken | undefined;
  /** Tokens of a sequence at full length. */
  context: number | undefined;
  /** Over how many GPUs the model is spread. */
  gpus: number;
  /** Bytes of memory of the smallest of them. */
  memory: number;
  /** Part of the memory that the engine takes, 0 to 1. */
  fraction: number;
}

const GIB = 1024 ** 3;
/** What vLLM and SGLang were reported to take beside weights and cache with CUDA graphs: 1 to 3 GiB for each GPU. */
const ALLOWANCE = 1.5 * GIB;

export function reckon({ weights, kv, context, gpus, memory, fraction }: FitInput): Fit {
  const usable = memory * fraction;
  const ownWeights = weights / gpus;
  const one = kv === undefined || context === undefined ? undefined : kvBytes(kv, context) / gpus;
  const left = usable - ownWeights - ALLOWANCE;
  const sequences = one === undefined ? undefined : Math.max(0, Math.floor(left / one));
  const verdict = left <= 0 ? 'no' : sequences === 0 ? 'short' : 'yes';
  return { weights: ownWeights, kv: one, allowance: ALLOWANCE, usable, sequences, verdict };
}
