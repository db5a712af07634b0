// SPDX-License-Identifier: Apache-2.0
/** Every manifest of manifests/ is locked and built, with stand-ins for what it names. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { buildBundle } from '../../src/build/build.ts';
import { resolveLock } from '../../src/build/lock.ts';
import { parseManifest } from '../../src/build/manifest.ts';
import { ENGINES, servicesOf } from '../../src/engines/index.ts';
import { peekBundle } from '../../src/bundle/peek.ts';
import { tinyImage } from '../support/images.ts';
import { repoRoot, tempDir } from '../support/workspace.ts';
import { bench, COMMIT, FakeWorld, NOW } from './fakes.ts';

const folder = join(repoRoot, 'manifests');
const files = readdirSync(folder).filter((name) => name.endsWith('.yaml'));

const SAFETENSORS = {
  'model-00001-of-00001.safetensors': 'weights',
  'model.safetensors.index.json': '{"weight_map":{"a":"model-00001-of-00001.safetensors"}}',
  'config.json': '{"model_type":"x","max_position_embeddings":1048576}',
  'tokenizer.json': '{}',
  'merges.txt': 'a b',
  'chat_template.jinja': '{{ x }}',
  'modeling.py': 'pass',
  'README.md': 'a model card',
  LICENSE: 'free',
};
/** Files that a model for an engine has, in more forms than one; a manifest chooses among them. */
const WEIGHTS: Record<string, Record<string, string>> = {
  vllm: SAFETENSORS,
  sglang: SAFETENSORS,
  'llama-cpp': { 'Qwen3-4B-Q4_K_M.gguf': 'weights', 'Qwen3-4B-Q8_0.gguf': 'more', LICENSE: 'free' },
  localai: {
    'Qwen2.5-VL-7B-Instruct-Q4_K_M.gguf': 'weights that see',
    'mmproj-Qwen2.5-VL-7B-Instruct-Q8_0.gguf': 'eyes',
    'mmproj-Qwen2.5-VL-7B-Instruct-f16.gguf': 'better eyes',
    LICENSE: 'free',
  },
};

it.each(files)('%s', async (file) => {
  const manifest = parseManifest(readFileSync(join(folder, file), 'utf8'), file);
  const world = new FakeWorld();
  for (const [name, { from, as }] of Object.entries(manifest.images))
    world.images.set(from, {
      image: tinyImage({ name, payload: name, architecture: 'amd64' }),
      ref: as ?? from,
    });
  for (const { engine, model } of Object.values(manifest.services)) {
    const own = Object.entries(WEIGHTS[engine]!).map(([path, text]) => [
      path,
      path.endsWith('.json') ? text : text + model,
    ]);
    world.models.set(manifest.models[model]!.from, {
      revision: COMMIT,
      license: 'free',
      files: Object.fromEntries(own) as Record<string, string>,
      lfs: [],
    });
  }
  const site = await bench();
  const { context } = site;
  const { sources } = world;
  const lock = await resolveLock(manifest, context, undefined, NOW, sources);
  const out = join(tempDir('out'), 'bundle.tar');
  const { emit } = context;
  await buildBundle({ manifest, lock, context, out, signers: [], emit, sources });
  expect(site.warnings()).toEqual([]);
  const { inventory } = await peekBundle(out);
  expect(servicesOf(inventory)).toHaveLength(Object.keys(manifest.services).length);
});

it('there is one for each engine', () => {
  const engines = files.flatMap((file) =>
    Object.values(parseManifest(readFileSync(join(folder, file), 'utf8'), file).services).map(
      ({ engine }) => engine,
    ),
  );
  expect([...new Set(engines)].toSorted()).toEqual(Object.keys(ENGINES).toSorted());
});
