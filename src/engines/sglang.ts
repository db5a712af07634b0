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

const PORT = 30_000;

/** Options that say how the GPUs are used. */
const PARALLEL = [
  'tensor-parallel-size',
  'tp-size',
  'tp',
  'pipeline-parallel-size',
  'pp-size',
  'data-parallel-size',
  'dp-size',
  'dp',
];

/**
 * SGLang takes its key as an argument, which every process of the host can read, or in a file of arguments
 * (`--config`). So a shell, whose printf is no program of its own, makes that file in the container's memory.
 */
const START =
  'umask 077 && printf "api-key: %s\\n" "$SEALIFT_KEY" >/dev/shm/sealift.yaml && unset SEALIFT_KEY && exec python3 -m sglang.launch_server --config /dev/shm/sealift.yaml "$@"';

/**
 * SGLang 0.5 and later (hub-and-engines.md §2.1, §2.3). Its image has no entry point that serves. It listens on the
 * loopback and without metrics unless told otherwise.
 */
export const sglang: EngineRow = {
  title: 'SGLang',
  formats: ['safetensors'],
  memory: {
    context: 'context-length',
    fraction: 'mem-fraction-static',
    defaultFraction: 0.88,
    kvType: 'kv-cache-dtype',
    offload: ['cpu-offload-gb'],
  },
  metrics: {
    firstToken: 'sglang:time_to_first_token_seconds',
    waiting: 'sglang:num_queue_reqs',
    running: 'sglang:num_running_reqs',
    cache: 'sglang:token_usage',
    generated: 'sglang:generation_tokens_total',
    prompted: 'sglang:prompt_tokens_total',
  },
  reserved: [
    'model-path',
    'model',
    'host',
    'port',
    'served-model-name',
    'api-key',
    'admin-api-key',
    'config',
    'enable-metrics',
    'ssl-keyfile',
    'ssl-certfile',
    'nccl-port',
    'fastapi-root-path',
    'download-dir',
  ],
  options: options(
    `allow-auto-truncate attention-backend base-gpu-id chat-template chunked-prefill-size completion-template
     constrained-json-whitespace-pattern context-length cpu-offload-gb cuda-graph-bs cuda-graph-max-bs
     data-parallel-size decode-attention-backend decode-log-interval device disable-chunked-prefix-cache
     disable-cuda-graph disable-cuda-graph-padding disable-custom-all-reduce disable-fast-image-processor
     disable-overlap-schedule disable-radix-cache disaggregation-mode dist-timeout dp-size dtype enable-cache-report
     enable-deterministic-inference enable-dp-attention enable-dp-lm-head enable-eplb enable-hierarchical-cache
     enable-lora enable-memory-saver enable-mixed-chunk enable-mscclpp enable-multimodal enable-nan-detection
     enable-p2p-check enable-request-time-stats-logging enable-symm-mem enable-tokenizer-batch-encode
     enable-torch-compile enable-two-batch-overlap ep-size expert-parallel-size file-storage-path grammar-backend
     hicache-mem-layout hicache-ratio hicache-size hicache-write-policy is-embedding json-model-override-args
     keep-mm-feature-on-device kv-cache-dtype load-balance-method load-format log-level log-level-http log-requests
     log-requests-level lora-backend lora-paths lora-target-modules max-lora-rank max-loras-per-batch
     max-mamba-cache-size max-prefill-tokens max-queued-requests max-running-requests max-total-tokens
     mem-fraction-static mm-attention-backend mm-max-concurrent-calls mm-per-request-timeout model-impl
     model-loader-extra-config moe-a2a-backend moe-dense-tp-size moe-runner-backend num-continuous-decode-steps
     num-reserved-decode-tokens page-size pipeline-parallel-size pp-size preferred-sampling-params
     prefill-attention-backend prefill-max-requests quantization quantization-param-path radix-eviction-policy
     random-seed reasoning-parser revision sampling-backend sampling-defaults schedule-conservativeness schedule-policy
     skip-server-warmup skip-tokenizer-init sleep-on-idle speculative-accept-threshold-acc
     speculative-accept-threshold-single speculative-algorithm speculative-attention-mode speculative-draft-model-path
     speculative-draft-model-revision speculative-eagle-topk speculative-num-draft-tokens speculative-num-steps
     speculative-token-map stream-interval stream-output swa-full-tokens-ratio tensor-parallel-size tokenizer-metrics
     tokenizer-mode tokenizer-path tokenizer-worker-num tool-call-parser tool-server torch-compile-max-bs
     torchao-config tp-size triton-attention-num-kv-splits trust-remote-code warmups watchdog-timeout weight-loader-prefetch-num-threads
     weight-version`,
    {
      tp: {},
      dp: {},
      'enable-ep-moe': { until: '0.5', instead: 'ep-size' },
      'enable-deepep-moe': { until: '0.5', instead: 'moe-a2a-backend deepep' },
      'enable-flashinfer-mla': { until: '0.5', instead: 'attention-backend' },
    },
  ),
  service(spec, around) {
    return {
      ...common(spec, around),
      entrypoint: ['/bin/sh', '-c', START, 'sglang'],
      command: [
        '--model-path',
        modelTarget(spec.model),
        '--host',
        '0.0.0.0',
        '--port',
        String(PORT),
        '--served-model-name',
        spec.model,
        '--enable-metrics',
        ...commandLine(withParallel(spec, PARALLEL)),
      ],
      env: {
        ...OFFLINE,
        ...pythonHome('sglang'),
        ...vocabularies(around),
        SGLANG_CACHE_DIR: '/cache/sglang',
        SGLANG_DG_CACHE_DIR: '/cache/deep-gemm',
        FLASHINFER_WORKSPACE_BASE: '/cache',
      },
      keyVariable: 'SEALIFT_KEY',
      port: PORT,
      healthPath: '/health',
      metricsPath: '/metrics',
      healthCommand: pythonGet(PORT, '/health'),
      readyTimeoutSeconds: READY_SECONDS,
      shmBytes: sharedMemory(spec.gpus),
      apiPaths: OPENAI_PATHS,
      purpose: spec.options['is-embedding'] === true ? 'embeddings' : 'chat',
    };
  },
};
