// SPDX-License-Identifier: Apache-2.0
/** A bundle for each engine, with a stand-in that takes that engine's command line and behaves as it does. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { slices, tinyGguf, tinyModel } from '../../fixtures/model.ts';
import { assembleEngine, assembleImages, type StandIn } from './images.ts';
import { sealift, type Keys } from './stack.ts';
import { succeed } from './succeed.ts';

/** What a bundle asks of each engine: an image's tag, the model's folder, and options of its own. */
const ASKED: Record<StandIn, { tag: string; model: string; options: string }> = {
  vllm: { tag: 'vllm/vllm-openai:v0.27.1', model: 'safetensors', options: 'max-model-len: 2048' },
  sglang: { tag: 'lmsysorg/sglang:v0.5.21', model: 'safetensors', options: 'context-length: 2048' },
  'llama-cpp': { tag: 'ggml-org/llama.cpp:server-b6510', model: 'gguf', options: 'ctx-size: 2048' },
  localai: { tag: 'localai/localai:v4.9.0', model: 'gguf', options: 'context-size: 2048' },
};

/** What all of the bundles are made from, in a folder. */
export async function layOut(work: string): Promise<void> {
  await assembleImages(join(work, 'images'));
  for (const [path, { bytes }] of tinyModel()) {
    const file = join(work, 'safetensors', path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, Buffer.concat([...slices(bytes)]));
  }
  mkdirSync(join(work, 'gguf'));
  writeFileSync(join(work, 'gguf/tiny-Q4_K_M.gguf'), tinyGguf());
}

export function manifestFor(name: StandIn, more = ''): string {
  const { tag, model, options } = ASKED[name];
  return `apiVersion: sealift.dev/v1
kind: Bundle
metadata: { name: ${name}, version: 1.0.0 }
platform: linux/amd64
images:
  engine: { from: 'oci:./${name}', as: 'docker.io/${tag}' }
  gateway: { from: 'oci:./images/gateway', as: 'docker.io/library/nginx:1.29-alpine' }
models: { tiny: { from: 'file:./${model}' } }
services:
  chat: { engine: ${name}, image: engine, model: tiny, options: { ${options}${more} } }
gateway: { image: gateway }
`;
}

/** Locks and builds the bundle of an engine. @param more of the command line of build */
export async function buildFor(
  work: string,
  name: StandIn,
  keys: Keys,
  more: readonly string[],
): Promise<void> {
  await assembleEngine(join(work, name), name);
  writeFileSync(join(work, `${name}.yaml`), manifestFor(name));
  const store = ['--store', 'store'];
  await succeed(sealift(['lock', `${name}.yaml`, ...store], { cwd: work }));
  await succeed(sealift(['build', `${name}.yaml`, ...more, ...keys.flags, ...store], { cwd: work }));
}
