// SPDX-License-Identifier: Apache-2.0
import { stringify } from 'yaml';
import { modelFile } from './gguf.ts';
import { options } from './options.ts';
import {
  common,
  curlGet,
  OPENAI_PATHS,
  READY_SECONDS,
  type EngineRow,
  type ServiceSpec,
  type Surroundings,
} from './row.ts';

const PORT = 8080;
const CONFIG = '/etc/sealift/models.yaml';

/**
 * LocalAI 4 (hub-and-engines.md §2.1, §2.5): a front for backends, which its image does not hold. The image that is
 * carried must have its backends in /var/lib/local-ai/backends, where LocalAI looks for those of the system. A model is
 * described by a file; galleries, agents and everything else that would look for a network is off.
 */
export const localai: EngineRow = {
  title: 'LocalAI',
  formats: ['gguf', 'safetensors'],
  memory: {
    context: 'context-size',
    fraction: undefined,
    defaultFraction: 0.9,
    kvType: undefined,
    offload: ['gpu-layers', 'low-vram'],
  },
  metrics: {},
  reserved: ['name', 'parameters', 'download-files', 'known-usecases'],
  options: options(
    `backend batch context-size cuda diffusers-pipeline embeddings f16 flash-attention gpu-layers gpu-memory-utilization
     grammar low-vram main-gpu max-model-len mlock mmap mmproj model no-mulmat-q numa quantization reranking rope-scaling
     seed step swap-space tensor-parallel-size tensor-split threads trust-remote-code type`,
  ),
  service(spec, around) {
    return {
      ...common(spec, around),
      command: [],
      files: [{ target: CONFIG, content: modelConfig(spec, around) }],
      env: {
        HOME: '/cache',
        LOCALAI_ADDRESS: `:${PORT}`,
        LOCALAI_MODELS_PATH: '/models',
        LOCALAI_MODELS_CONFIG_FILE: CONFIG,
        LOCALAI_BACKENDS_PATH: '/cache/backends',
        LOCALAI_BACKENDS_SYSTEM_PATH: '/var/lib/local-ai/backends',
        LOCALAI_CONFIG_DIR: '/cache/configuration',
        LOCALAI_GENERATED_CONTENT_PATH: '/cache/generated',
        LOCALAI_UPLOAD_PATH: '/cache/upload',
        LOCALAI_LOAD_TO_MEMORY: spec.model,
        LOCALAI_GALLERIES: '[]',
        LOCALAI_BACKEND_GALLERIES: '[]',
        LOCALAI_AUTOLOAD_GALLERIES: 'false',
        LOCALAI_AUTOLOAD_BACKEND_GALLERIES: 'false',
        LOCALAI_DISABLE_GALLERY_ENDPOINT: 'true',
        LOCALAI_DISABLE_AGENTS: 'true',
        LOCALAI_DISABLE_WEBUI: 'true',
        LOCALAI_DISABLE_RUNTIME_SETTINGS: 'true',
        LOCALAI_SUBTLE_KEY_COMPARISON: 'true',
        LOCALAI_VRAM_WARM_LIMIT: '0',
        DO_NOT_TRACK: '1',
      },
      keyVariable: 'LOCALAI_API_KEY',
      port: PORT,
      healthPath: '/readyz',
      metricsPath: '/metrics',
      healthCommand: curlGet(PORT, '/readyz'),
      readyTimeoutSeconds: READY_SECONDS,
      shmBytes: undefined,
      apiPaths: [
        ...OPENAI_PATHS,
        { path: '/v1/images/generations', method: 'POST' },
        { path: '/v1/audio/speech', method: 'POST' },
        { path: '/v1/audio/transcriptions', method: 'POST' },
        { path: '/v1/rerank', method: 'POST' },
      ],
      purpose: spec.options['embeddings'] === true ? 'embeddings' : 'chat',
    };
  },
};

/** LocalAI's own description of a model; paths are relative to /models. */
function modelConfig(spec: ServiceSpec, around: Surroundings): string {
  const { model: _, mmproj, ...given } = spec.options;
  const named = Object.entries(given).map(([name, value]) => [name.replaceAll('-', '_'), value] as const);
  const isGguf = around.model.files.some(({ path }) => path.toLowerCase().endsWith('.gguf'));
  const config = {
    name: spec.model,
    backend: isGguf ? 'llama-cpp' : 'transformers',
    ...Object.fromEntries(named),
    ...(typeof mmproj === 'string' ? { mmproj: `${spec.model}/${mmproj}` } : {}),
    parameters: { model: isGguf ? `${spec.model}/${modelFile(spec, around)}` : spec.model },
  };
  return stringify([config], { lineWidth: 0 });
}
