// SPDX-License-Identifier: Apache-2.0
/**
 * Inference engines, one row each. A row turns a service of the inventory into a `Service`, which a target
 * (Compose) renders; nothing else in sealift knows an engine. To add an engine, add a row.
 */
import type { Inventory } from '../bundle/inventory.ts';
import { SealiftError } from '../errors.ts';

export type ServiceSpec = Inventory['services'][number];

export interface ApiPath {
  path: string;
  /** The only method that the gateway lets through. */
  method: 'GET' | 'POST';
}

/** A folder that outlives the container, for what an engine compiles at its first start. */
export interface Cache {
  target: string;
}

/** A service, independent of the target that runs it. */
export interface Service {
  name: string;
  engine: string;
  /** Key of the image in the inventory. */
  image: string;
  model: string;
  /** Name by which clients ask for the model. */
  servedModel: string;
  /** Arguments after the image's entry point. */
  command: readonly string[];
  env: Readonly<Record<string, string>>;
  /** Variable that carries the key between gateway and engine; it is set from a file at 0600. */
  keyVariable: string;
  /** Where the model's folder is mounted, read-only. */
  modelTarget: string;
  port: number;
  healthPath: string;
  metricsPath: string;
  /** Program that succeeds inside the container when the service is ready. */
  healthCommand: readonly string[];
  readyTimeoutSeconds: number;
  /** Bytes of /dev/shm; undefined leaves the engine's default of 64 MiB. */
  shmBytes: number | undefined;
  gpus: number;
  /** uid and gid that the service runs as. */
  user: { uid: number; gid: number };
  caches: readonly Cache[];
  /** What the gateway lets through, and nothing else. */
  apiPaths: readonly ApiPath[];
}

export interface EngineRow {
  /** Options that sealift sets itself and a bundle may not. */
  reserved: readonly string[];
  service(spec: ServiceSpec): Service;
}

const OPENAI_PATHS: readonly ApiPath[] = [
  { path: '/v1/chat/completions', method: 'POST' },
  { path: '/v1/completions', method: 'POST' },
  { path: '/v1/embeddings', method: 'POST' },
  { path: '/v1/models', method: 'GET' },
];

const GIB = 1024 ** 3;

/** Hugging Face libraries must not try the hub (hub-and-engines.md §2.2, part 3 rows 4 and 9). */
const OFFLINE = {
  HF_HUB_OFFLINE: '1',
  TRANSFORMERS_OFFLINE: '1',
  HF_DATASETS_OFFLINE: '1',
  HF_HUB_DISABLE_TELEMETRY: '1',
  DO_NOT_TRACK: '1',
};

/**
 * python3 is in every image that serves with Python; curl is not. http.client, unlike urllib, heeds no proxy
 * variables. (exit takes a number: False is 0.)
 */
const pythonGet = (port: number, path: string): string[] => [
  'python3',
  '-c',
  `import http.client as h; c = h.HTTPConnection("127.0.0.1", ${port}, timeout=4); c.request("GET", "${path}"); exit(c.getresponse().status != 200)`,
];

const VLLM_READY_SECONDS = 1800;

/** hub-and-engines.md §2.1, §2.2: the image's entry point is ["vllm","serve"], so the command starts with the model. */
const vllm: EngineRow = {
  reserved: [
    'model',
    'host',
    'port',
    'uds',
    'served-model-name',
    'api-key',
    'ssl-keyfile',
    'ssl-certfile',
    'root-path',
    'config',
  ],
  service(spec) {
    const modelTarget = `/models/${spec.model}`;
    const parallel = ['tensor-parallel-size', 'pipeline-parallel-size', 'data-parallel-size'].some(
      (o) => o in spec.options,
    );
    const options =
      spec.gpus > 1 && !parallel ? { 'tensor-parallel-size': spec.gpus, ...spec.options } : spec.options;
    return {
      ...common(spec, modelTarget),
      command: [
        modelTarget,
        '--host',
        '0.0.0.0',
        '--port',
        '8000',
        '--served-model-name',
        spec.model,
        ...commandLine(options),
      ],
      env: {
        ...OFFLINE,
        VLLM_NO_USAGE_STATS: '1',
        // vLLM's own limit of 600 s is too short for large models on slow disks.
        VLLM_ENGINE_READY_TIMEOUT_S: String(VLLM_READY_SECONDS),
        FLASHINFER_NO_DOWNLOAD: '1',
        // Everything that is written goes to the cache; HOME and USER keep getpwuid() out of it.
        HOME: '/cache',
        USER: 'vllm',
        XDG_CACHE_HOME: '/cache',
        HF_HOME: '/cache/huggingface',
        VLLM_CACHE_ROOT: '/cache/vllm',
        VLLM_CONFIG_ROOT: '/cache/vllm-config',
        TRITON_CACHE_DIR: '/cache/triton',
        TORCHINDUCTOR_CACHE_DIR: '/cache/torchinductor',
      },
      keyVariable: 'VLLM_API_KEY',
      port: 8000,
      healthPath: '/health',
      metricsPath: '/metrics',
      healthCommand: pythonGet(8000, '/health'),
      readyTimeoutSeconds: VLLM_READY_SECONDS,
      // vLLM's queues between workers, and NCCL. A limit, not a reservation.
      shmBytes: spec.gpus > 1 ? 16 * GIB : undefined,
      user: { uid: 2000, gid: 0 },
      caches: [{ target: '/cache' }],
      apiPaths: OPENAI_PATHS,
    };
  },
};

export const ENGINES: Readonly<Record<string, EngineRow>> = { vllm };

const common = (
  spec: ServiceSpec,
  modelTarget: string,
): Pick<Service, 'name' | 'engine' | 'image' | 'model' | 'servedModel' | 'modelTarget' | 'gpus'> => ({
  name: spec.name,
  engine: spec.engine,
  image: spec.image,
  model: spec.model,
  servedModel: spec.model,
  modelTarget,
  gpus: spec.gpus,
});

/** `true` is a bare flag and `false` its negation; a value that starts with a dash would be taken for a flag. */
function commandLine(options: ServiceSpec['options']): string[] {
  return Object.entries(options).flatMap(([name, value]) => {
    if (value === true) return [`--${name}`];
    if (value === false) return [`--no-${name}`];
    const text = String(value);
    return text.startsWith('-') ? [`--${name}=${text}`] : [`--${name}`, text];
  });
}

/**
 * The services of a bundle by the rows of their engines.
 * @throws {SealiftError} SERVICE_UNSUPPORTED
 */
export function servicesOf(
  inventory: Inventory,
  rows: Readonly<Record<string, EngineRow>> = ENGINES,
): Service[] {
  if (inventory.services.length > 0 && inventory.gateway === undefined) {
    throw new SealiftError(
      'SERVICE_UNSUPPORTED',
      'the bundle has services but no gateway, so nobody could reach them',
    );
  }
  return inventory.services.map((spec) => {
    const row = Object.hasOwn(rows, spec.engine) ? rows[spec.engine] : undefined;
    if (row === undefined) {
      throw new SealiftError(
        'SERVICE_UNSUPPORTED',
        `service ${spec.name} needs the engine '${spec.engine}', which this sealift does not know`,
        {
          hint: `it knows: ${Object.keys(rows).sort().join(', ')}`,
        },
      );
    }
    const taken = row.reserved.find((option) => option in spec.options);
    if (taken !== undefined) {
      throw new SealiftError(
        'SERVICE_UNSUPPORTED',
        `service ${spec.name} sets the option '${taken}', which sealift sets itself`,
        {
          hint: 'take it out of the manifest',
        },
      );
    }
    return row.service(spec);
  });
}
