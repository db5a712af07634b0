// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { initManifest } from '../../src/build/init.ts';
import { parseManifest } from '../../src/build/manifest.ts';
import { SITE_TEMPLATE, TRUST_TEMPLATE } from '../../src/cli/templates.ts';
import { parseSite } from '../../src/install/site.ts';
import { generateKeyPair } from '../../src/trust/private-keys.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { repoRoot } from '../support/workspace.ts';

/** The comments that hold alternatives, switched on. */
const uncommented = (text: string): string => text.replace(/^( *)# (?=( *)[a-zA-Z0-9]+:( |$))/gm, '$1');

it('the site template is a site', () => {
  expect(parseSite(SITE_TEMPLATE, 'site.yaml').hostName).toBe('llm.example.org');
  const full = parseSite(uncommented(SITE_TEMPLATE).replace('#   allow', '  allow'), 'site.yaml');
  expect(full).toMatchObject({ apiKeys: 'api-keys', metrics: { allow: ['10.0.0.0/8'] } });
});

it('the trust template is a policy as soon as the public key is pasted', () => {
  const { publicKeyPem, fingerprint } = generateKeyPair('secret');
  const indented = publicKeyPem.trim().replace(/^/gm, '      ').trimStart();
  const text = TRUST_TEMPLATE.replace(/-----BEGIN[\s\S]*?KEY-----\n[\s\S]*?END PUBLIC KEY-----/, indented);
  expect(parseTrustPolicy(text, 'trust.yaml')).toMatchObject({
    threshold: 1,
    signers: [{ name: 'release-team', fingerprint }],
  });
  expect(() => parseTrustPolicy(TRUST_TEMPLATE, 'trust.yaml')).toThrow('trust.yaml');
});

it('README, `sealift init` and manifests/ start from one manifest, apart from its version', () => {
  const read = (file: string): string => readFileSync(join(repoRoot, file), 'utf8');
  const [, block] = /^```yaml\n(.*?)^```/ms.exec(read('README.md'))!;
  const example = parseManifest(read('manifests/qwen3-coder.yaml'), 'qwen3-coder.yaml');
  expect(parseManifest(block!, 'README.md')).toEqual(example);
  const metadata = { ...example.metadata, version: '1.0.0' };
  expect(parseManifest(initManifest('vllm'), 'init.yaml')).toEqual({ ...example, metadata });
});
