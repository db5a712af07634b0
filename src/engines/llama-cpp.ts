// SPDX-License-Identifier: Apache-2.0
import { ggufFiles, modelFile } from './gguf.ts';
import { options } from './options.ts';
import {
  commandLine,
  common,
  curlGet,
  modelTarget,
  OPENAI_PATHS,
  READY_SECONDS,
  type EngineRow,
  type ServiceSpec,
  type Surroundings,
} from './row.ts';

const PORT = 8080;

/**
 * llama.cpp's server, builds from b6000 on (hub-and-engines.md §2.1, §2.4). The image's entry point is
 * ["/app/llama-server"], and its own health check asks a port that no longer is the default one. It answers 503 to
 * /health while it loads, and asks for the key on /metrics, too.
 */
export const llamaCpp: EngineRow = {
  title: 'llama.cpp',
  formats: ['gguf'],
  memory: {
    context: 'ctx-size',
    fraction: undefined,
    defaultFraction: 1,
    kvType: 'cache-type-k',
    offload: ['n-gpu-layers', 'gpu-layers', 'n-cpu-moe', 'cpu-moe', 'override-tensor', 'no-kv-offload'],
  },
  metrics: {
    waiting: 'llamacpp:requests_deferred',
    running: 'llamacpp:requests_processing',
    cache: 'llamacpp:kv_cache_usage_ratio',
    generated: 'llamacpp:tokens_predicted_total',
    prompted: 'llamacpp:prompt_tokens_total',
  },
  reserved: [
    'host',
    'port',
    'alias',
    'api-key',
    'api-key-file',
    'api-prefix',
    'metrics',
    'offline',
    'model-url',
    'docker-repo',
    'hf-repo',
    'hf-file',
    'hf-token',
    'tools',
    'agent',
    'ui-mcp-proxy',
    'ssl-key-file',
    'ssl-cert-file',
    'path',
    'slot-save-path',
  ],
  options: options(
    `batch-size cache-ram cache-reuse cache-type-k cache-type-v chat-template chat-template-file chat-template-kwargs
     check-tensors cont-batching context-shift control-vector cpu-mask cpu-moe cpu-range cpu-strict ctx-checkpoints
     ctx-size defrag-thold device draft-max draft-min draft-p-min dry-allowed-length dry-base dry-multiplier
     embd-normalize embedding embeddings fit fit-ctx fit-target flash-attn frequency-penalty gpu-layers grammar
     grammar-file image-max-tokens image-min-tokens jinja json-schema json-schema-file keep kv-offload kv-unified
     load-mode log-colors log-disable log-prefix log-timestamps log-verbosity lora lora-init-without-apply lora-scaled
     main-gpu min-p mlock mmap mmproj mmproj-offload model model-draft n-cpu-moe n-gpu-layers n-gpu-layers-draft n-predict
     no-context-shift no-host no-jinja no-kv-offload no-mmap no-mmproj no-mmproj-offload no-op-offload no-perf
     no-repack no-slots no-warmup numa op-offload override-kv override-tensor parallel poll pooling predict prefill-assistant
     presence-penalty prio props reasoning-budget reasoning-format repack repeat-last-n repeat-penalty rerank reranking
     reverse-prompt rope-freq-base rope-freq-scale rope-scale rope-scaling samplers seed sleep-idle-seconds
     slot-prompt-similarity slots spec-type special split-mode spm-infill swa-full temp temperature tensor-split threads
     threads-batch threads-http timeout top-k top-nsigma top-p typical ubatch-size verbose verbosity warmup xtc-probability
     xtc-threshold yarn-attn-factor yarn-beta-fast yarn-beta-slow yarn-ext-factor yarn-orig-ctx`,
  ),
  service(spec, around) {
    const { model: _, mmproj, ...given } = spec.options;
    const file = modelFile(spec, around);
    const projector = typeof mmproj === 'string' ? mmproj : onlyProjector(spec, around);
    const inFolder = (path: string): string => `${modelTarget(spec.model)}/${path}`;
    return {
      ...common(spec, around),
      command: [
        '--model',
        inFolder(file),
        ...(projector === undefined ? [] : ['--mmproj', inFolder(projector)]),
        '--alias',
        spec.model,
        '--host',
        '0.0.0.0',
        '--port',
        String(PORT),
        '--metrics',
        '--offline',
        ...commandLine(given, 'no-'),
      ],
      env: { HOME: '/cache', LLAMA_CACHE: '/cache/llama.cpp' },
      keyVariable: 'LLAMA_API_KEY',
      port: PORT,
      healthPath: '/health',
      metricsPath: '/metrics',
      healthCommand: curlGet(PORT, '/health'),
      readyTimeoutSeconds: READY_SECONDS,
      shmBytes: undefined,
      apiPaths: [...OPENAI_PATHS, { path: '/v1/rerank', method: 'POST' }],
      purpose: ['embedding', 'embeddings'].some((option) => spec.options[option] === true)
        ? 'embeddings'
        : 'chat',
    };
  },
};

function onlyProjector(spec: ServiceSpec, { model }: Surroundings): string | undefined {
  const { projectors } = ggufFiles(model.files);
  return spec.options['no-mmproj'] === true || projectors.length !== 1 ? undefined : projectors[0];
}
