// SPDX-License-Identifier: Apache-2.0
import { expect, it } from 'vitest';
import { ENGINES } from '../../src/engines/index.ts';
import { checkOption, isBefore, releaseOf } from '../../src/engines/options.ts';

it.each([
  ['docker.io/vllm/vllm-openai:v0.27.1', '0.27.1'],
  ['docker.io/lmsysorg/sglang:v0.5.19-cu129-amd64', '0.5.19'],
  ['ghcr.io/ggml-org/llama.cpp:server-cuda13-b6510', '6510'],
  ['ghcr.io/ggml-org/llama.cpp:server-cuda13', undefined],
  ['quay.io/go-skynet/local-ai:v4.9.0-gpu-nvidia-cuda-13', '4.9.0'],
  ['registry.example:5000/vllm', undefined],
  ['registry.example:5000/vllm:latest', undefined],
  [`docker.io/vllm/vllm-openai:v0.27.1@sha256:${'0'.repeat(64)}`, '0.27.1'],
])('the release of %s is %s', (ref, release) => {
  expect(releaseOf(ref)).toBe(release);
});

it.each([
  ['0.9', '0.10', true],
  ['0.10', '0.9', false],
  ['0.12', '0.12.0', false],
  ['0.12.0', '0.12', false],
  ['0.12', '0.12.1', true],
  ['1', '0.99', false],
])('%s before %s: %s', (a, b, before) => {
  expect(isBefore(a, b)).toBe(before);
});

const table = { old: { until: '0.12', instead: 'new' }, new: { since: '0.12' }, steady: {} };

it.each([
  ['steady', '0.1', undefined],
  ['old', '0.11.9', undefined],
  ['old', '0.12', '--old is gone from vLLM since 0.12, and the image is 0.12'],
  ['new', '0.12', undefined],
  ['new', '0.11', '--new came to vLLM with 0.12, and the image is 0.11'],
  ['old', undefined, undefined],
])('%s in %s: %s', (name, release, message) => {
  const problem = checkOption(name, table, 'vLLM', release);
  expect(problem?.message).toBe(message);
  if (message !== undefined) expect(problem?.severity).toBe('error');
});

it('what is not known may be new: a warning, with the nearest name', () => {
  expect(checkOption('max-model-length', ENGINES['vllm']!.options, 'vLLM', '0.27.1')).toEqual({
    severity: 'warning',
    message: '--max-model-length is no option of vLLM that sealift knows',
    hint: "did you mean 'max-model-len'?",
  });
  expect(checkOption('constructor', table, 'vLLM', '1')?.severity).toBe('warning');
});
