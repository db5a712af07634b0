// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { INIT_ENGINES, initManifest } from '../../src/build/init.ts';
import { manifestDigest, manifestJsonSchema, parseManifest } from '../../src/build/manifest.ts';
import { SealiftError } from '../../src/errors.ts';

const folder = new URL('../../manifests/', import.meta.url);
const file = (name: string): string => readFileSync(new URL(name, folder), 'utf8');

/** The manifest of DESIGN §2, word for word. */
const DESIGN = `# yaml-language-server: $schema=./manifest.schema.json
apiVersion: sealift.dev/v1
kind: Bundle
metadata: { name: qwen3-coder, version: 1.4.0 }      # semver; only ever installed upwards
platform: linux/amd64
images:
  engine:  { from: docker.io/vllm/vllm-openai:v0.27.1 }
  gateway: { from: docker.io/library/nginx:1.29-alpine }
models:
  qwen3-coder:
    from: hf:Qwen/Qwen3-Coder-30B-A3B-Instruct@main
    include: ["*.safetensors", "*.json", "tokenizer*", "LICENSE*"]
configs:
  prometheus.yml: ./prometheus.yml
services:
  chat: { engine: vllm, image: engine, model: qwen3-coder, gpus: 2, options: { max-model-len: 8192 } }
gateway: { image: gateway }
`;

function failure(text: string): SealiftError {
  try {
    parseManifest(text, 'm.yaml');
  } catch (error) {
    if (error instanceof SealiftError) return error;
    throw error;
  }
  throw new Error('the manifest was accepted');
}

test('the manifest of the design is read', () => {
  expect(parseManifest(DESIGN, 'm.yaml')).toEqual({
    apiVersion: 'sealift.dev/v1',
    kind: 'Bundle',
    metadata: { name: 'qwen3-coder', version: '1.4.0' },
    platform: 'linux/amd64',
    images: {
      engine: { from: 'docker.io/vllm/vllm-openai:v0.27.1' },
      gateway: { from: 'docker.io/library/nginx:1.29-alpine' },
    },
    models: {
      'qwen3-coder': {
        from: 'hf:Qwen/Qwen3-Coder-30B-A3B-Instruct@main',
        include: ['*.safetensors', '*.json', 'tokenizer*', 'LICENSE*'],
      },
    },
    configs: { 'prometheus.yml': './prometheus.yml' },
    services: {
      chat: {
        engine: 'vllm',
        image: 'engine',
        model: 'qwen3-coder',
        gpus: 2,
        options: { 'max-model-len': 8192 },
      },
    },
    gateway: { image: 'gateway' },
  });
});

test.each(['demo.yaml', 'qwen3-coder.yaml'])('manifests/%s is valid', (name) => {
  const manifest = parseManifest(file(name), name);
  expect(manifest.metadata.name).toBe(name.replace('.yaml', ''));
  expect(manifest.gateway).toEqual({ image: 'gateway' });
});

test.each(INIT_ENGINES)('init writes a commented manifest for %s that parses', (engine) => {
  const text = initManifest(engine);
  expect(parseManifest(text, 'm.yaml').services['chat']?.engine).toBe(engine);
  expect(text.match(/#/g)?.length).toBeGreaterThan(8);
});

test('init names the engines that it knows', () => {
  expect(() => initManifest('vlm')).toThrow(
    expect.objectContaining({ code: 'USAGE', hint: "did you mean 'vllm'?" }),
  );
  expect(() => initManifest('constructor')).toThrow(expect.objectContaining({ hint: 'known engines: vllm' }));
});

test('the checked-in JSON Schema is the one that the code generates', () => {
  expect(file('manifest.schema.json'), 'run `npm run schema`').toBe(manifestJsonSchema());
});

test('the JSON Schema describes every key and uses no regular expression that editors lack', () => {
  const schema = JSON.parse(manifestJsonSchema()) as { properties: Record<string, { description?: string }> };
  for (const [key, value] of Object.entries(schema.properties)) expect(value.description, key).toBeTruthy();
  expect(manifestJsonSchema()).not.toContain('\\\\p{');
});

test.each([
  [
    'service names an unknown image',
    'image: engine,',
    'image: engin,',
    "m.yaml:16:32: services.chat.image: there is no 'engin' under images",
    "did you mean 'engine'?",
  ],
  [
    'service names an unknown model',
    'model: qwen3-coder,',
    'model: llama,',
    "m.yaml:16:47: services.chat.model: there is no 'llama' under models",
    'known models: qwen3-coder',
  ],
  [
    'gateway names an unknown image',
    '{ image: gateway }',
    '{ image: gatway }',
    "m.yaml:17:19: gateway.image: there is no 'gatway' under images",
    "did you mean 'gateway'?",
  ],
  [
    'misspelt key',
    'platform:',
    'platfrom:',
    "m.yaml:5:1: unknown key 'platfrom'",
    "did you mean 'platform'?",
  ],
  [
    'version as a number',
    'version: 1.4.0',
    'version: 1.4',
    "m.yaml:4:41: metadata.version: expected a string, found the number '1.4'",
    'put it in quotes, with three numbers: "1.4.0"',
  ],
  [
    'version that is none',
    'version: 1.4.0',
    'version: v1',
    "m.yaml:4:41: metadata.version: expected a semantic version such as '1.4.0', found 'v1'",
    undefined,
  ],
  [
    'an exporter that the manifest does not carry',
    'gateway: { image: gateway }',
    'gateway: { image: gateway }\nmonitoring: { prometheus: engine, nodeExporter: node }',
    "m.yaml:18:49: monitoring.nodeExporter: there is no 'node' under images",
    'known images: engine, gateway',
  ],
  [
    'another API version',
    'sealift.dev/v1',
    'sealift.dev/v2',
    "m.yaml:2:13: apiVersion: expected 'sealift.dev/v1', found 'sealift.dev/v2'",
    "did you mean 'sealift.dev/v1'?",
  ],
  [
    'empty include',
    'include: ["*.safetensors", "*.json", "tokenizer*", "LICENSE*"]',
    'include: []',
    'm.yaml:12:14: models.qwen3-coder.include: too small: expected array to have >=1 items',
    undefined,
  ],
  [
    'config name that climbs out',
    'prometheus.yml: ./',
    '../prometheus.yml: ./',
    "m.yaml:14:3: key '../prometheus.yml' in configs: expected a relative path without .., control characters or backslashes",
    undefined,
  ],
])('%s', (_, from, to, message, hint) => {
  expect(DESIGN).toContain(from);
  const text = DESIGN.replace(/^# yaml.*\n/, '#\n').replace(from, to);
  const error = failure(text);
  const all = [error.message, ...error.details.map(([, text_]) => text_)];
  expect(error.code).toBe('MANIFEST_INVALID');
  expect(all.join('\n')).toContain(message);
  if (all.length === 1) expect(error.hint).toBe(hint);
});

test('an exporter of GPU metrics wants a service with GPUs', () => {
  const monitored = `${DESIGN}monitoring: { prometheus: engine, dcgmExporter: gateway }\n`;
  expect(parseManifest(monitored, 'm.yaml').monitoring).toEqual({
    prometheus: 'engine',
    dcgmExporter: 'gateway',
  });
  const error = failure(monitored.replace('gpus: 2, ', ''));
  expect(error.message).toBe(
    'm.yaml:18:49: monitoring.dcgmExporter: dcgm-exporter does not start without a GPU, and no service has any',
  );
  expect(error.hint).toBe('give a service gpus, or leave dcgmExporter out');
});

const images = (from: string): string =>
  DESIGN.replace('docker.io/vllm/vllm-openai:v0.27.1', JSON.stringify(from));
const models = (from: string): string =>
  DESIGN.replace('hf:Qwen/Qwen3-Coder-30B-A3B-Instruct@main', JSON.stringify(from));

test.each([
  'docker.io/library/nginx:1.29-alpine',
  'localhost:5000/a/b:tag',
  'ghcr.io/ggml-org/llama.cpp:server-cuda',
  `registry.example/a@sha256:${'a'.repeat(64)}`,
  `registry.example/a:1@sha256:${'a'.repeat(64)}`,
  'docker-daemon:local/image:tag',
  'oci:./layout',
  'oci:/abs/layout:name',
  'oci-archive:./x.tar',
])('an image from %s is accepted', (from) => {
  expect(parseManifest(images(from), 'm').images['engine']).toEqual({ from });
});

test.each([
  'https://docker.io/library/nginx',
  'oci-archve:./x.tar',
  'docker.io/Library/nginx:1',
  'oci:',
  'docker.io/a b:1',
  `docker.io/a@sha256:123`,
  '',
  'oci:./a\u202Eb',
])('an image from %j is refused', (from) => {
  expect(failure(images(from)).message).toContain('m.yaml:7:20: images.engine.from: ');
});

test.each([
  'hf:Qwen/Qwen3@main',
  'hf:gpt2@refs/pr/1',
  'hf:Qwen/Qwen3',
  'hf+https://hub.example/org/name@abc',
  'hf+http://127.0.0.1:8080/org/name@main',
  'file:./weights',
  'file:/data/my weights',
])('a model from %s is accepted', (from) => {
  expect(parseManifest(models(from), 'm').models['qwen3-coder']?.from).toBe(from);
});

test.each([
  'Qwen/Qwen3@main',
  'hf:',
  'hf:a/b/c',
  'file:',
  'hf:a b/c',
  's3://bucket/x',
  'https://huggingface.co/a/b',
])('a model from %j is refused', (from) => {
  expect(failure(models(from)).message).toContain('m.yaml:11:11: models.qwen3-coder.from: expected a model');
});

test('comments, order and form do not change the digest; content does', () => {
  const digest = manifestDigest(parseManifest(DESIGN, 'm'));
  const lines = DESIGN.split('\n').slice(1);
  const reordered = [...lines.slice(2), ...lines.slice(0, 2), '# a comment'].join('\n');
  expect(manifestDigest(parseManifest(reordered, 'm'))).toBe(digest);
  expect(manifestDigest(parseManifest(DESIGN.replace('gpus: 2', 'gpus: 1'), 'm'))).not.toBe(digest);
});

test.each([
  ['models', 'hf+https://user:open-sesame@hub.example/org/name@main'],
  ['models', 'hf+https://user:open/sesame@hub.example/org/name@main'],
  ['images', 'https://user:open-sesame@registry.example/name:1'],
])('a password in an address of %s is refused, and not shown: %s', (kind, from) => {
  const text = `apiVersion: sealift.dev/v1\nkind: Bundle\nmetadata: { name: a, version: 1.0.0 }\nplatform: linux/amd64\n${kind}:\n  x: { from: "${from}" }\n`;
  const thrown = ((): unknown => {
    try {
      return parseManifest(text, 'm.yaml');
    } catch (error) {
      return error;
    }
  })();
  expect(thrown).toMatchObject({ code: 'MANIFEST_INVALID' });
  expect(String(thrown) + JSON.stringify(thrown)).not.toContain('sesame');
  expect(String(thrown)).toContain('must not hold a user or a password');
});

describe('whose signature is demanded', () => {
  const IMAGE = '{ from: docker.io/vllm/vllm-openai:v0.27.1 }';
  const image = (signature: string, from = 'docker.io/vllm/vllm-openai:v0.27.1'): string =>
    DESIGN.replace(IMAGE, `{ from: "${from}", signature: ${signature} }`);
  const model = (signature: string): string =>
    DESIGN.replace('@main\n', `@main\n    signature: ${signature}\n`);
  const IDENTITY =
    'identity: "https://ci.example/x", issuer: "https://issuer.example", trustedRoot: root.json';

  test('each form is read', () => {
    expect(parseManifest(image('{ key: vllm.pub }'), 'm.yaml').images['engine']?.signature).toEqual({
      key: 'vllm.pub',
    });
    expect(parseManifest(image(`{ ${IDENTITY} }`), 'm.yaml').images['engine']?.signature).toMatchObject({
      identity: 'https://ci.example/x',
    });
    const read = parseManifest(model('{ certificateRoot: root.pem, file: skill.oms.sig }'), 'm.yaml');
    expect(read.models['qwen3-coder']?.signature).toEqual({
      certificateRoot: 'root.pem',
      file: 'skill.oms.sig',
    });
    expect(
      parseManifest(DESIGN.replace('@main\n', '@main\n    sign: true\n'), 'm.yaml').models['qwen3-coder']
        ?.sign,
    ).toBe(true);
  });

  test('a demand makes a lock without it stale', () => {
    expect(manifestDigest(parseManifest(image('{ key: a.pub }'), 'm.yaml'))).not.toBe(
      manifestDigest(parseManifest(image('{ key: b.pub }'), 'm.yaml')),
    );
  });

  test.each([
    [
      'both forms',
      image(`{ key: a.pub, ${IDENTITY} }`),
      'm.yaml:7:69: images.engine.signature: expected either key, or identity, issuer, trustedRoot, not both',
    ],
    [
      'no form',
      image('{}'),
      'm.yaml:7:69: images.engine.signature: expected either key, or identity, issuer, trustedRoot',
    ],
    [
      'an identity that anybody may vouch for',
      image('{ identity: a@b.example }'),
      'm.yaml:7:69: images.engine.signature: identity, issuer, trustedRoot belong together: issuer, trustedRoot missing',
    ],
    [
      'an identity outside of ASCII',
      image(`{ identity: "a°b", issuer: x, trustedRoot: y }`),
      "m.yaml:7:81: images.engine.signature.identity: expected printable ASCII without spaces, exactly as the certificate has it, found 'a°b'",
    ],
    [
      'an image of the local engine',
      image('{ key: a.pub }', 'docker-daemon:a:1'),
      'm.yaml:7:52: images.engine.signature: signatures can be looked up in a registry only, and this image is from elsewhere',
    ],
    [
      'an image of a layout',
      image('{ key: a.pub }', 'oci:./layout'),
      'm.yaml:7:47: images.engine.signature: signatures can be looked up in a registry only, and this image is from elsewhere',
    ],
    [
      'a model with both',
      model('{ key: a, certificateRoot: b }'),
      'm.yaml:12:16: models.qwen3-coder.signature: expected either key, or certificateRoot, not both',
    ],
    [
      'a model with neither',
      model('{ file: model.sig }'),
      'm.yaml:12:16: models.qwen3-coder.signature: expected either key, or certificateRoot',
    ],
    [
      'a signature that climbs out',
      model('{ key: a, file: ../model.sig }'),
      'm.yaml:12:32: models.qwen3-coder.signature.file: expected a relative path without .., control characters or backslashes',
    ],
  ])('%s is refused with its place', (_, text, message) => {
    expect(failure(text).message).toBe(message);
  });

  test('a misspelt key is named', () => {
    const error = failure(image('{ kay: a.pub }'));
    expect([error.message, error.hint]).toEqual([expect.stringContaining("'kay'"), "did you mean 'key'?"]);
  });
});
