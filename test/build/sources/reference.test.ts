// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import {
  apiHost,
  describeReference,
  fullName,
  parseReference,
} from '../../../src/build/sources/reference.ts';
import { ImageRef } from '../../../src/bundle/inventory.ts';
import { failure } from './support.ts';

const digest = `sha256:${'a'.repeat(64)}`;

describe('a reference', () => {
  it.each([
    ['nginx', 'docker.io/library/nginx:latest'],
    ['nginx:1.29-alpine', 'docker.io/library/nginx:1.29-alpine'],
    ['vllm/vllm-openai:v0.27.1', 'docker.io/vllm/vllm-openai:v0.27.1'],
    ['docker.io/nginx', 'docker.io/library/nginx:latest'],
    ['index.docker.io/a/b:c', 'docker.io/a/b:c'],
    ['localhost/a:b', 'localhost/a:b'],
    ['localhost:5000/a', 'localhost:5000/a:latest'],
    ['ghcr.io/ggml-org/llama.cpp:server-cuda', 'ghcr.io/ggml-org/llama.cpp:server-cuda'],
    ['Registry.Example/a__b/c-d:T_1.2', 'registry.example/a__b/c-d:T_1.2'],
  ])('%s is %s', (text, full) => {
    expect(fullName(parseReference(text))).toBe(full);
    expect(ImageRef.safeParse(full).success).toBe(true);
  });

  it('by digest alone has no name; with a tag it keeps both', () => {
    const bare = parseReference(`ghcr.io/a/b@${digest}`);
    expect([bare.tag, bare.digest, fullName(bare)]).toEqual([undefined, digest, undefined]);
    expect(describeReference(parseReference(`a/b:c@${digest}`))).toBe(`docker.io/a/b:c@${digest}`);
  });

  it.each([
    '',
    ':',
    '/',
    'a b',
    'UPPER/case',
    'a/../b',
    'a//b',
    '-a/b',
    'a:b:c',
    'a@sha256:12',
    'a@md5:x',
    `a:${'t'.repeat(129)}`,
    'http://a/b',
    '[::1]:5000/a',
    'a/b:\u202e',
  ])('is not %j', async (text) => {
    await failure(() => parseReference(text), 'MANIFEST_INVALID');
  });

  it("Docker Hub's API has another host than its name says", () => {
    expect([apiHost('docker.io'), apiHost('ghcr.io')]).toEqual(['registry-1.docker.io', 'ghcr.io']);
  });
});
