// SPDX-License-Identifier: Apache-2.0
/**
 * What an engine would stumble over in a model's folder, found where there is still a network to mend it. Each rule is
 * a trap that people have stepped into (hub-and-engines.md part 3); the numbers are its rows.
 */
import type { ModelFile } from '../bundle/inventory.ts';
import { objectOf } from '../json.ts';
import type { Digest } from '../store/digest.ts';
import { ggufFiles } from './gguf.ts';
import type { Finding } from './options.ts';
import type { EngineRow, Service, ServiceSpec } from './row.ts';

export interface ModelFolder {
  files: readonly ModelFile[];
  /** What is in a JSON file of the folder that `isLookedInto` names; undefined when there is none, or it is no object. */
  json: (path: string) => Readonly<Record<string, unknown>> | undefined;
}

export interface Carried {
  models: readonly string[];
  configs: readonly { name: string; digest: Digest }[];
}

const INDEX = /^[^/]+\.safetensors\.index\.json$/;
const DOCUMENTS: ReadonlySet<string> = new Set([
  'config.json',
  'tokenizer_config.json',
  'processor_config.json',
]);

/** Files whose content the rules ask for. */
export const isLookedInto = (path: string): boolean => DOCUMENTS.has(path) || INDEX.test(path);

/** A vocabulary that openai-harmony fetches at the first request, and compares with this digest (row 1). */
const HARMONY = {
  name: 'tiktoken/o200k_base.tiktoken',
  digest: 'sha256:446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d',
};

/** Quantizations by their `quant_method` in config.json that vLLM and SGLang both load from safetensors. */
const QUANTIZATIONS: ReadonlySet<string> = new Set(
  `awq gptq fp8 fbgemm_fp8 compressed-tensors modelopt modelopt_fp4 modelopt_mixed mxfp4 bitsandbytes quark torchao
   auto-round w8a8_int8 w8a8_fp8 blockwise_int8 moe_wna16 petit_nvfp4 experts_int8 gptq_marlin awq_marlin`.split(
    /\s+/,
  ),
);

/** Options whose value is a model or a part of one: a path, or else the engine asks a hub for it (row 21). */
const MODEL_OPTIONS = [
  'tokenizer',
  'tokenizer-path',
  'hf-config-path',
  'speculative-draft-model-path',
  'speculative-config',
  'lora-modules',
  'lora-paths',
  'model-draft',
  'lora',
];

/** @param spec the service that is to serve the model; `purpose` is what its row makes of it */
export function checkModel(
  row: EngineRow,
  spec: ServiceSpec,
  purpose: Service['purpose'],
  folder: ModelFolder,
  carried: Carried,
): Finding[] {
  const paths = folder.files.map(({ path }) => path);
  const there = new Set(paths);
  const has = (pattern: RegExp): boolean => paths.some((path) => pattern.test(path));
  const isGguf = has(/\.gguf$/i) && !has(/\.safetensors$/);
  const findings = [...weightFindings(row, paths, has), ...optionFindings(spec, carried)];
  if (isGguf) return [...findings, ...ggufFindings(folder)];
  return [
    ...findings,
    ...indexFindings(folder, there),
    ...configFindings(spec, folder, has),
    ...tokenizerFindings(spec, purpose, folder, has),
    ...codeFindings(spec, folder, there),
    ...vocabularyFindings(folder, carried),
  ];
}

const finding =
  (severity: Finding['severity']) =>
  (message: string, hint?: string): Finding => ({ severity, message, ...(hint && { hint }) });
const error = finding('error');
const warning = finding('warning');

function weightFindings(
  { formats, title }: EngineRow,
  paths: readonly string[],
  has: (pattern: RegExp) => boolean,
): Finding[] {
  const found = [
    ...(has(/\.safetensors$/) ? (['safetensors'] as const) : []),
    ...(has(/\.gguf$/i) ? (['gguf'] as const) : []),
  ];
  if (found.some((format) => formats.includes(format))) return [];
  if (found.length > 0)
    return [
      error(
        `${title} does not serve ${found.join(' and ')}`,
        `it serves ${formats.join(' and ')}; ${found[0] === 'gguf' ? 'llama-cpp serves GGUF' : 'vllm and sglang serve safetensors'}`,
      ),
    ];
  const pickled = paths.find((path) => /\.(bin|pt|pth|ckpt)$/.test(path));
  if (pickled === undefined) return [error('it has no weights', 'look at include and exclude of the model')];
  return [
    warning(
      `its weights are pickles (${pickled}), which run code when they are loaded`,
      'carry a revision in safetensors',
    ),
  ];
}

function ggufFindings({ files }: ModelFolder): Finding[] {
  const { missing } = ggufFiles(files);
  return missing.length === 0
    ? []
    : [
        error(
          `${some(missing)} ${missing.length === 1 ? 'is' : 'are'} not carried`,
          'look at include and exclude',
        ),
      ];
}

/** Every shard that an index names must come along. */
function indexFindings({ json }: ModelFolder, paths: ReadonlySet<string>): Finding[] {
  return [...paths]
    .filter((path) => INDEX.test(path))
    .flatMap((index) => {
      const map = json(index)?.['weight_map'];
      if (typeof map !== 'object' || map === null)
        return [error(`${index} has no weight_map: the download it came from was broken`)];
      const shards = new Set(Object.values(map).filter((shard) => typeof shard === 'string'));
      const missing = [...shards].filter((shard) => !paths.has(shard));
      return missing.length === 0
        ? []
        : [error(`${index} names ${some(missing)}, not carried`, 'look at include and exclude of the model')];
    });
}

function configFindings(
  spec: ServiceSpec,
  { json }: ModelFolder,
  has: (pattern: RegExp) => boolean,
): Finding[] {
  const config = json('config.json');
  if (config === undefined) {
    if (has(/^params\.json$/)) return []; // Mistral's own form
    return [error('it has no config.json', 'every engine reads it: look at include and exclude')]; // row 8
  }
  const findings: Finding[] = [];
  const method = objectOf(config['quantization_config'])?.['quant_method'];
  if (typeof method === 'string' && !QUANTIZATIONS.has(method))
    findings.push(warning(`its quantization '${method}' is none that sealift knows the engine to load`));
  const longest = config['max_position_embeddings'];
  const asked = spec.options['max-model-len'] ?? spec.options['context-length'];
  if (
    typeof longest === 'number' &&
    typeof asked === 'number' &&
    asked > longest &&
    !('rope_scaling' in config)
  )
    findings.push(error(`a context of ${asked} tokens is asked for, and the model has ${longest}`));
  return findings;
}

const TOKENIZER =
  /^(tokenizer\.json|tokenizer\.model(\.v\d+)?|tekken\.json|vocab\.json|spiece\.model|[^/]+\.tiktoken)$/;

function tokenizerFindings(
  spec: ServiceSpec,
  purpose: Service['purpose'],
  { json }: ModelFolder,
  has: (pattern: RegExp) => boolean,
): Finding[] {
  const { options } = spec;
  if ('tokenizer' in options || 'tokenizer-path' in options || options['skip-tokenizer-init'] === true)
    return [];
  if (!has(TOKENIZER))
    return [
      error('it has no tokenizer', "carry 'tokenizer*' and what belongs to it: look at include and exclude"),
    ];
  const template =
    'chat-template' in options ||
    has(/^(chat_template\.(jinja|json)|additional_chat_templates\/.+|tekken\.json)$/) ||
    json('tokenizer_config.json')?.['chat_template'] !== undefined;
  if (purpose !== 'chat' || template) return [];
  return [warning('it has no chat template, so chat requests will be refused', "carry 'chat_template*'")]; // row 7
}

/** Code that a configuration names: of the folder, or of another repository, which nobody can fetch inside (row 9). */
function codeFindings(
  { options }: ServiceSpec,
  { json }: ModelFolder,
  paths: ReadonlySet<string>,
): Finding[] {
  if (options['trust-remote-code'] !== true) return [];
  const named = [...DOCUMENTS].flatMap((document) =>
    Object.values(objectOf(json(document)?.['auto_map']) ?? {})
      .flat()
      .filter((entry) => typeof entry === 'string'),
  );
  const findings = new Map<string, Finding>();
  for (const entry of named) {
    const [repo, code = repo!] = entry.includes('--') ? entry.split('--') : [undefined, entry];
    const file = `${code.split('.')[0]}.py`;
    if (repo !== undefined)
      findings.set(
        repo,
        error(
          `its auto_map takes code from another repository, ${repo}`,
          'put its files into a folder with the model, take the part before -- out of auto_map, and carry that folder',
        ),
      );
    else if (!paths.has(file))
      findings.set(file, error(`its auto_map names ${file}, not carried`, "include '*.py'"));
  }
  return [...findings.values()];
}

function vocabularyFindings({ json }: ModelFolder, { configs }: Carried): Finding[] {
  if (json('config.json')?.['model_type'] !== 'gpt_oss') return [];
  const carried = configs.find(({ name }) => name === HARMONY.name);
  if (carried?.digest === HARMONY.digest) return [];
  const why = carried === undefined ? `configs has no ${HARMONY.name}` : `${HARMONY.name} is another file`;
  return [
    error(
      `gpt-oss needs the vocabulary o200k_base at its first request, and ${why}`,
      `add it under configs: ${HARMONY.name}: ./o200k_base.tiktoken (${HARMONY.digest})`,
    ),
  ];
}

function optionFindings(spec: ServiceSpec, { models }: Carried): Finding[] {
  return MODEL_OPTIONS.flatMap((option) => {
    const value = spec.options[option];
    return value === undefined
      ? []
      : namesIn(String(value)).flatMap((name) => nameFinding(option, name, models));
  });
}

/** Models in the value of an option: a path or a name, `NAME=PATH`, or JSON with `model`, `path` or a list of these. */
function namesIn(value: string): string[] {
  const json = tryJson(value);
  if (json !== undefined)
    return [json].flat().flatMap((one) => {
      const { model, path } = objectOf(one) ?? {};
      return [model, path].filter((name) => typeof name === 'string');
    });
  return value
    .split(/[\s,]+/)
    .filter((part) => part !== '')
    .map((part) => part.slice(part.indexOf('=') + 1));
}

function nameFinding(option: string, name: string, models: readonly string[]): Finding[] {
  const carried = /^\/models\/([^/]+)/.exec(name)?.[1];
  if (carried !== undefined && models.includes(carried)) return [];
  // An engine may call its own way of guessing by a name that is no model.
  if (option === 'speculative-config' && /^(ngram|suffix|eagle|mtp|medusa)\w*$/.test(name)) return [];
  const hint = `carry it under models, and name it by its path: /models/NAME`;
  return [
    error(
      carried === undefined
        ? `the option ${option} names '${name}', which is no carried model`
        : `the option ${option} names ${name}, and the bundle has no model '${carried}'`,
      hint,
    ),
  ];
}

function tryJson(text: string): unknown {
  if (!/^\s*[{[]/.test(text)) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

const some = (names: readonly string[]): string =>
  names.length <= 3 ? names.join(', ') : `${names.slice(0, 3).join(', ')} and ${names.length - 3} more`;
