// SPDX-License-Identifier: Apache-2.0
/** Bundles of every format version that was ever written are read forever (FORMAT.md §10). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { sampleBundle, verifyAll } from '../support/sample.ts';
import { repoRoot } from '../support/workspace.ts';

const golden = (name: string): string => join(repoRoot, 'fixtures/golden', name);

it.each([['v1', 'sha256:671c008e0a50a90dcda6ac45343204f1d609afc4134b035a31938422025176d3']])(
  'reads the golden bundle of format %s',
  async (version, digest) => {
    const policy = parseTrustPolicy(readFileSync(golden(`${version}.trust.yaml`), 'utf8'), 'trust.yaml');
    const bundle = await verifyAll(golden(`${version}.sealift.tar`), policy);
    expect(bundle.digest).toBe(digest);
    expect(bundle.inventory.models[0]!.files.map((file) => file.path)).toContain('notes/naïve #1 (草稿).txt');
  },
);

it('still writes the bytes of the golden bundle, slots aside', async () => {
  const { plan } = await sampleBundle();
  const bytes = readFileSync(golden('v1.sealift.tar'));
  expect(bytes.subarray(512, 512 + plan.sums.length).equals(plan.sums)).toBe(true);
  expect(bytes.length).toBe(plan.size);
});
