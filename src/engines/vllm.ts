// SPDX-License-Identifier: Apache-2.0
import { options } from './options.ts';
import {
  commandLine,
  common,
  modelTarget,
  OFFLINE,
  OPENAI_PATHS,
  pythonGet,
  pythonHome,
  READY_SECONDS,
  sharedMemory,
  vocabularies,
  withParallel,
  type EngineRow,
} from './row.ts';

const PORT = 8000;

/** Options that say how the GPUs are used. */
const PARALLEL = ['tensor-parallel-size', 'pipeline-parallel-size', 'data-parallel-size'];

/**
 * vLLM 0.11 and later (hub-and-engines.md §2.1, §2.2). The image's entry point is ["vllm","serve"], so the command
 * starts with the model. The key is in VLLM_API_KEY; it guards /v1 alone, the gateway everything.
 */
export const vllm: EngineRow = {
  title: 'vLLM',
  formats: ['safetensors'],
  memory: {
    context: 'max-model-len',
    fraction: 'gpu-memory-utilization',
    defaultFraction: 0.92,
    kvType: 'kv-cache-dtype',
    offload: ['cpu-offload-gb'],
  },
  metrics: {
    firstToken: 'vllm:time_to_first_token_seconds',
    waiting: 'vllm:num_requests_waiting',
    running: 'vllm:num_requests_running',
    cache: 'vllm:kv_cache_usage_perc',
    generated: 'vllm:generation_tokens_total',
    prompted: 'vllm:prompt_tokens_total',
  },
  reserved: [
    'model',
    'model-tag',
    'host',
    'port',
    'uds',
    'served-model-name',
    'api-key',
    'ssl-keyfile',
    'ssl-certfile',
    'root-path',
    'config',
    'download-dir',
  ],
  options: options(
    `allowed-local-media-path allowed-media-domains async-scheduling attention-backend block-size chat-template
     chat-template-content-format code-revision compilation-config convert cpu-offload-gb cudagraph-capture-sizes
     data-parallel-backend data-parallel-size dcp-comm-backend decode-context-parallel-size default-chat-template-kwargs
     disable-access-log-for-endpoints disable-cascade-attn disable-custom-all-reduce disable-fastapi-docs
     disable-hybrid-kv-cache-manager disable-log-stats disable-sliding-window disable-uvicorn-access-log
     distributed-executor-backend dtype enable-auto-tool-choice enable-chunked-prefill enable-dbo enable-eplb
     enable-expert-parallel enable-force-include-usage enable-log-requests enable-lora enable-prefix-caching
     enable-prompt-tokens-details enable-server-load-tracking enable-sleep-mode enforce-eager eplb-config
     exclude-tools-when-tool-choice-none generation-config gpu-memory-utilization h11-max-header-count hf-config-path
     hf-overrides ignore-patterns interleave-mm-strings kv-cache-dtype kv-cache-memory-bytes kv-events-config
     kv-offloading-backend kv-offloading-size kv-sharing-fast-prefill kv-transfer-config language-model-only
     limit-mm-per-prompt load-format logits-processors logprobs-mode long-prefill-token-threshold lora-dtype lora-modules
     mamba-cache-dtype mamba-ssm-cache-dtype max-cpu-loras max-log-len max-logprobs max-long-partial-prefills max-lora-rank
     max-loras max-model-len max-num-batched-tokens max-num-partial-prefills max-num-seqs max-parallel-loading-workers
     media-io-kwargs mm-encoder-tp-mode mm-processor-cache-gb mm-processor-kwargs model-impl model-loader-extra-config
     num-gpu-blocks-override optimization-level otlp-traces-endpoint override-generation-config
     pipeline-parallel-size pooler-config prefix-caching-hash-algo profiler-config quantization ray-workers-use-nsight
     reasoning-parser reasoning-parser-plugin response-role return-tokens-as-token-ids revision rope-scaling rope-theta
     runner safetensors-load-strategy scheduler-cls scheduling-policy seed show-hidden-metrics-for-version
     skip-mm-profiling skip-tokenizer-init speculative-config structured-outputs-config tensor-parallel-size tokenizer
     tokenizer-mode tokenizer-revision tool-call-parser tool-parser-plugin tool-server trust-remote-code
     trust-request-chat-template use-tqdm-on-load uvicorn-log-level worker-cls worker-extension-cls`,
    {
      'disable-log-requests': { until: '0.12', instead: 'nothing: requests are not logged unless asked for' },
      'swap-space': { until: '0.12', instead: 'kv-offloading-size' },
      'use-v2-block-manager': { until: '0.11' },
      'guided-decoding-backend': { until: '0.12', instead: 'structured-outputs-config' },
      task: { until: '0.14', instead: 'runner and convert' },
      'speculative-model': { until: '0.9', instead: 'speculative-config' },
      'num-speculative-tokens': { until: '0.9', instead: 'speculative-config' },
    },
  ),
  service(spec, around) {
    return {
      ...common(spec, around),
      command: [
        modelTarget(spec.model),
        '--host',
        '0.0.0.0',
        '--port',
        String(PORT),
        '--served-model-name',
        spec.model,
        ...commandLine(withParallel(spec, PARALLEL), 'no-'),
      ],
      env: {
        ...OFFLINE,
        ...pythonHome('vllm'),
        ...vocabularies(around),
        VLLM_NO_USAGE_STATS: '1',
        // vLLM's own limit of 600 s is too short for large models on slow disks.
        VLLM_ENGINE_READY_TIMEOUT_S: String(READY_SECONDS),
        FLASHINFER_NO_DOWNLOAD: '1',
        VLLM_CACHE_ROOT: '/cache/vllm',
        VLLM_CONFIG_ROOT: '/cache/vllm-config',
      },
      keyVariable: 'VLLM_API_KEY',
      port: PORT,
      healthPath: '/health',
      metricsPath: '/metrics',
      healthCommand: pythonGet(PORT, '/health'),
      readyTimeoutSeconds: READY_SECONDS,
      shmBytes: sharedMemory(spec.gpus),
      apiPaths: [...OPENAI_PATHS, { path: '/v1/responses', method: 'POST' }],
      purpose:
        spec.options['runner'] === 'pooling' || spec.options['task'] === 'embed' ? 'embeddings' : 'chat',
    };
  },
};
