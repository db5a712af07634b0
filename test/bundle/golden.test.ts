// SPDX-License-Identifier: Apache-2.0
/** Bundles of every format version that was ever written are read forever (FORMAT.md §10). */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { sampleBundle, verifyAll } from '../support/sample.ts';
import { repoRoot } from '../support/workspace.ts';

const golden = (name: string): string => join(repoRoot, 'fixtures/golden', name);

it.each([
  ['v1', 'sha256:671c008e0a50a90dcda6ac45343204f1d609afc4134b035a31938422025176d3'],
  // With a channel, and signed by a key and by an identity whose certificate ran out ten minutes later.
  ['v1-identity', 'sha256:b74d26ca85646dff8472ab7ceff11e3b2b3682f9da2fd223431481f7ad29db39'],
])('reads the golden bundle of format %s, also years later', async (version, digest) => {
  const policy = parseTrustPolicy(readFileSync(golden(`${version}.trust.yaml`), 'utf8'), 'trust.yaml');
  for (const now of [new Date('2026-11-26T12:00:00Z'), new Date('2046-11-26T12:00:00Z')]) {
    const bundle = await verifyAll(golden(`${version}.sealift.tar`), policy, { now });
    expect(bundle.digest).toBe(digest);
    expect(bundle.inventory.models[0]!.files.map((file) => file.path)).toContain('notes/naïve #1 (草稿).txt');
  }
});

it('still writes the bytes of the golden bundle, slots aside', async () => {
  const { plan } = await sampleBundle();
  const bytes = readFileSync(golden('v1.sealift.tar'));
  expect(bytes.subarray(512, 512 + plan.sums.length).equals(plan.sums)).toBe(true);
  expect(bytes.length).toBe(plan.size);
});
