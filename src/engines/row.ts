// SPDX-License-Identifier: Apache-2.0
/** What an engine's row says. Rows are data and arithmetic: nothing here reads a file or asks a host. */
import type { Inventory, InventoryModel } from '../bundle/inventory.ts';
import { SealiftError } from '../errors.ts';
import type { OptionTable } from './options.ts';

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

/** A model's folder in a container, read-only. */
export interface ModelMount {
  model: string;
  target: string;
}

/** A file that the engine is configured by, read-only. It holds no secret. */
export interface ConfigFile {
  target: string;
  content: string;
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
  /** Replaces the image's entry point, for images that have none of their own. */
  entrypoint?: readonly string[];
  /** Arguments after the entry point. */
  command: readonly string[];
  env: Readonly<Record<string, string>>;
  /** Variable that carries the key between gateway and engine; it is set from a file at 0600. */
  keyVariable: string;
  /** The service's own model first, then those that its options name. */
  models: readonly ModelMount[];
  files: readonly ConfigFile[];
  /** Where the bundle's configs are mounted, read-only; undefined when it has none. */
  configsTarget: string | undefined;
  port: number;
  healthPath: string;
  metricsPath: string;
  /** Program that succeeds inside the container when the service is ready. No spaces in its words: Podman's API splits them there. */
  healthCommand: readonly string[];
  readyTimeoutSeconds: number;
  /** Bytes of /dev/shm; undefined leaves the container engine's default of 64 MiB. */
  shmBytes: number | undefined;
  /** Of each replica. */
  gpus: number;
  /** How many of it run side by side, at least one. */
  replicas: number;
  /** uid and gid that the service runs as. */
  user: { uid: number; gid: number };
  caches: readonly Cache[];
  /** What the gateway lets through, and nothing else. */
  apiPaths: readonly ApiPath[];
  /** What a service is asked to see whether it works. */
  purpose: 'chat' | 'embeddings';
}

/** What a row may look at besides the service itself. */
export interface Surroundings {
  /** The service's model. */
  model: InventoryModel;
  /** Names of all models of the bundle. */
  models: readonly string[];
  /** Names of its configs, such as `tiktoken/o200k_base.tiktoken`. */
  configs: readonly string[];
}

/** Names of an engine's own metrics; undefined where it has none of that kind. */
export interface Metrics {
  /** Histogram of seconds to the first token, without `_bucket`. */
  firstToken?: string;
  /** Gauge of requests that wait. */
  waiting?: string;
  /** Gauge of requests under way. */
  running?: string;
  /** Gauge of how much of the KV cache is taken, 0 to 1. */
  cache?: string;
  /** Counter of tokens that were said. */
  generated?: string;
  /** Counter of tokens that were read. */
  prompted?: string;
}

/** What an engine calls the options that decide how much memory it needs. */
export interface MemoryOptions {
  /** Tokens of the longest sequence. */
  context: string;
  /** Part of each GPU's memory that it takes, and what it takes when nobody says. */
  fraction: string | undefined;
  defaultFraction: number;
  /** Kind of numbers in the KV cache. */
  kvType: string | undefined;
  /** Options that leave a part of the weights outside of the GPUs. */
  offload: readonly string[];
}

export interface EngineRow {
  /** How people call it. */
  title: string;
  /** Options that sealift sets itself and a bundle may not. */
  reserved: readonly string[];
  options: OptionTable;
  memory: MemoryOptions;
  metrics: Metrics;
  /** Forms of weights that it serves. */
  formats: readonly ModelFormat[];
  service(spec: ServiceSpec, around: Surroundings): Service;
}

export type ModelFormat = 'safetensors' | 'gguf';

/** Where a model's folder is mounted in every engine. */
export const modelTarget = (model: string): string => `/models/${model}`;

/** Where the bundle's configs are mounted in every engine, for options such as `chat-template: /configs/chat.jinja`. */
const CONFIGS = '/configs';

/** Vocabularies that openai-harmony would fetch (hub-and-engines.md part 3, row 1). */
export const vocabularies = ({ configs }: Surroundings): Record<string, string> =>
  configs.some((name) => name.startsWith('tiktoken/'))
    ? { TIKTOKEN_ENCODINGS_BASE: `${CONFIGS}/tiktoken` }
    : {};

/** What the rows of all engines have in common. */
export function common(
  spec: ServiceSpec,
  { models, configs }: Surroundings,
): Pick<
  Service,
  | 'name'
  | 'engine'
  | 'image'
  | 'model'
  | 'servedModel'
  | 'models'
  | 'files'
  | 'configsTarget'
  | 'gpus'
  | 'replicas'
  | 'user'
  | 'caches'
> {
  const { name, engine, image, model, gpus } = spec;
  return {
    name,
    engine,
    image,
    model,
    servedModel: model,
    models: [model, ...otherModels(spec, models)].map((m) => ({ model: m, target: modelTarget(m) })),
    files: [],
    configsTarget: configs.length > 0 ? CONFIGS : undefined,
    gpus,
    replicas: spec.replicas ?? 1,
    user: { uid: 2000, gid: 0 },
    caches: [{ target: '/cache' }],
  };
}

/**
 * Models that options name by the path that they will have, such as `/models/drafter`: draft models, adapters,
 * tokenizers. They are mounted beside the service's own.
 */
export function otherModels(spec: ServiceSpec, models: readonly string[]): string[] {
  const text = JSON.stringify(spec.options);
  return models.filter(
    (name) =>
      name !== spec.model && new RegExp(`/models/${name.replaceAll('.', '\\.')}(?![\\w.-])`).test(text),
  );
}

export const GIB = 1024 ** 3;

/** Hugging Face libraries must not try the hub (hub-and-engines.md §2.2, part 3 rows 4 and 9). */
export const OFFLINE = {
  HF_HUB_OFFLINE: '1',
  TRANSFORMERS_OFFLINE: '1',
  HF_DATASETS_OFFLINE: '1',
  HF_HUB_DISABLE_TELEMETRY: '1',
  DO_NOT_TRACK: '1',
};

/** Everything that Python engines write goes to the cache; HOME and USER keep getpwuid() out of it. */
export const pythonHome = (user: string): Record<string, string> => ({
  HOME: '/cache',
  USER: user,
  XDG_CACHE_HOME: '/cache',
  HF_HOME: '/cache/huggingface',
  TRITON_CACHE_DIR: '/cache/triton',
  TORCHINDUCTOR_CACHE_DIR: '/cache/torchinductor',
});

/**
 * python3 is in every image that serves with Python; curl is not. http.client, unlike urllib, heeds no proxy
 * variables. (exit takes a number: False is 0.)
 */
export const pythonGet = (port: number, path: string): string[] => [
  'python3',
  '-c',
  `c=__import__("http.client").client.HTTPConnection("127.0.0.1",${port},timeout=4);c.request("GET","${path}");exit(c.getresponse().status!=200)`,
];

export const curlGet = (port: number, path: string): string[] => [
  'curl',
  '-q',
  '--silent',
  '--fail',
  '--noproxy',
  '*',
  '--output',
  '/dev/null',
  `http://127.0.0.1:${port}${path}`,
];

export const OPENAI_PATHS: readonly ApiPath[] = [
  { path: '/v1/chat/completions', method: 'POST' },
  { path: '/v1/completions', method: 'POST' },
  { path: '/v1/embeddings', method: 'POST' },
  { path: '/v1/models', method: 'GET' },
];

/** Weights of hundreds of gigabytes are read at the speed of a disk, and kernels compiled after that. */
export const READY_SECONDS = 1800;

/** Workers of one engine exchange through shared memory: queues, and NCCL. A limit, not a reservation. */
export const sharedMemory = (gpus: number): number | undefined => (gpus > 1 ? 16 * GIB : undefined);

/** The service's options, with all its GPUs for one copy of the model unless the bundle says how, by one of `ways`. */
export function withParallel(
  { gpus, options }: ServiceSpec,
  ways: readonly string[],
): ServiceSpec['options'] {
  const said = ways.some((option) => option in options);
  return gpus > 1 && !said ? { 'tensor-parallel-size': gpus, ...options } : options;
}

/** Options in the order in which the manifest has them. `negation` turns a flag off; without one, false leaves it out. */
export function commandLine(options: ServiceSpec['options'], negation?: 'no-'): string[] {
  return Object.entries(options).flatMap(([name, value]) => {
    if (value === true) return [`--${name}`];
    if (value === false) return negation === undefined ? [] : [`--${negation}${name}`];
    const text = String(value);
    // A value that starts with a dash would be taken for a flag.
    return text.startsWith('-') ? [`--${name}=${text}`] : [`--${name}`, text];
  });
}

/** @throws {SealiftError} SERVICE_UNSUPPORTED */
export function unsupported(spec: ServiceSpec, why: string, hint?: string): never {
  throw new SealiftError(
    'SERVICE_UNSUPPORTED',
    `service ${spec.name}: ${why}`,
    hint === undefined ? {} : { hint },
  );
}
