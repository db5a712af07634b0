// SPDX-License-Identifier: Apache-2.0
/** What an engine would stumble over inside, found at the staging box. test/e2e/enclave runs the engines. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { assembleEngine, type StandIn } from '../support/images.ts';
import { layOut, manifestFor } from '../support/engine-bundles.ts';
import { makeKeys, sealift, type Keys } from '../support/stack.ts';
import { succeed } from '../support/succeed.ts';
import { tempDir } from '../support/workspace.ts';

const work = tempDir('engines');
let keys: Keys;

beforeAll(async () => {
  keys = await makeKeys(work);
  await layOut(work);
  await assembleEngine(join(work, 'vllm'), 'vllm');
});

describe('at the staging box', () => {
  it.each<[string, StandIn, (manifest: string) => string, string]>([
    [
      'a model in the wrong form',
      'vllm',
      (text) => text.replace('file:./safetensors', 'file:./gguf'),
      'vLLM does not serve gguf',
    ],
    [
      'an option that is gone',
      'vllm',
      () => manifestFor('vllm', ', disable-log-requests: true'),
      '--disable-log-requests is gone from vLLM since 0.12',
    ],
    [
      'a drafter that is not carried',
      'vllm',
      () => manifestFor('vllm', `, speculative-config: '{"model":"org/draft"}'`),
      "names 'org/draft', which is no carried model",
    ],
  ])('%s is found', async (_, name, change, message) => {
    writeFileSync(join(work, 'bad.yaml'), change(manifestFor(name)));
    const store = ['--store', 'store'];
    await succeed(sealift(['lock', 'bad.yaml', ...store], { cwd: work }));
    const built = await sealift(['build', 'bad.yaml', '-o', 'bad.tar', ...keys.flags, ...store], {
      cwd: work,
    });
    expect(built.code).toBe(2);
    expect(built.stderr).toContain(message);
    expect(built.stderr).toContain('SERVICE_UNFIT');
  });
});
