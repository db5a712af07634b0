// SPDX-License-Identifier: Apache-2.0
/** Documents that are small as files and large as what a parser makes of them (THREATS.md T13). */
import { describe, expect, it } from 'vitest';
import { parseLock } from '../../src/build/lockfile.ts';
import { parseManifest } from '../../src/build/manifest.ts';
import { parseInventory } from '../../src/bundle/inventory.ts';
import { parseImageConfig, parseImageManifest } from '../../src/bundle/oci.ts';
import { checkProvenance } from '../../src/bundle/provenance.ts';
import { parseSite } from '../../src/install/site.ts';
import { canonicalJson } from '../../src/json.ts';
import { parseTrustPolicy } from '../../src/trust/policy.ts';
import { hexOf } from '../support/forge.ts';
import { sampleBundle } from '../support/sample.ts';

/** Most processor seconds and bytes that a bomb may cost; an honest document of that size takes as much. */
const SECONDS = 10;
const BYTES = 1024 ** 3;
const MIB = 1024 ** 2;

/** `head`, then as many units as make `size` bytes in all, then `tail`. */
function filled(head: string, unit: string, tail: string, size: number): Buffer {
  const count = Math.floor((size - head.length - tail.length) / unit.length);
  const units = Buffer.alloc(count * unit.length, unit);
  return Buffer.concat([
    Buffer.from(head),
    unit.endsWith(',') ? units.subarray(0, -1) : units,
    Buffer.from(tail),
  ]);
}

/** Refused with this code, within bounds. */
function defused(code: string, read: () => unknown): void {
  const [cpu, rss] = [process.cpuUsage(), process.memoryUsage.rss()];
  expect(read).toThrow(expect.objectContaining({ name: 'SealiftError', code }));
  const { user, system } = process.cpuUsage(cpu);
  expect((user + system) / 1e6, 'processor seconds').toBeLessThan(SECONDS);
  expect(process.memoryUsage.rss() - rss, 'bytes').toBeLessThan(BYTES);
}

describe('a JSON bomb', () => {
  const INVENTORY = '{"apiVersion":"sealift.dev/v1","images":[';
  it.each<[string, () => Buffer]>([
    ['deep in lists', () => filled('', '[', '', 64 * MIB)],
    ['deep in maps', () => filled('', '{"a":', '', 64 * MIB)],
    ['wide, of numbers', () => filled(INVENTORY, '0,', ']}', 64 * MIB)],
    ['wide, of maps', () => filled(INVENTORY, '{},', ']}', 64 * MIB)],
    [
      'wide, of maps, just within the bound',
      () => Buffer.from(`${INVENTORY}${Array(749_990).fill('{}').join()}]}`),
    ],
    ['wide, of members', () => filled('{', '"a":0,', '}', 64 * MIB)],
    ['of one long number', () => filled('{"x":', '9', '}', 64 * MIB)],
    ['of one long string', () => filled('{"name":"', 'x', '"}', 64 * MIB)],
    ['of one long string of escapes', () => filled('{"name":"', '\\u0041', '"}', 64 * MIB)],
    ['of one long key', () => filled('{"', 'k', '":1}', 64 * MIB)],
    ['one byte over the limit', () => filled('{"x":"', 'x', '"}', 64 * MIB + 1)],
  ])('in bundle.json, %s', (_, make) => {
    const bytes = make();
    defused('BUNDLE_MALFORMED', () => parseInventory(bytes));
  });

  it.each<[string, () => Buffer]>([
    ['subjects', () => filled('{"subject":[', '{},', ']}', 64 * MIB)],
    ['a predicate', () => filled('{"predicate":[', '[],', ']}', 64 * MIB)],
  ])('in provenance.json, of %s', (_, make) => {
    const bytes = make();
    defused('BUNDLE_MALFORMED', () => checkProvenance(bytes, Buffer.from('{}')));
  });

  it('in an image manifest, config and a lock', () => {
    const layers = filled('{"schemaVersion":2,"config":{},"layers":[', '{},', ']}', 4 * MIB);
    defused('SOURCE_INVALID', () => parseImageManifest(layers, 'the manifest', 'SOURCE_INVALID'));
    const ids = filled(
      '{"architecture":"a","os":"b","rootfs":{"type":"layers","diff_ids":[',
      '0,',
      ']}}',
      4 * MIB,
    );
    defused('SOURCE_INVALID', () => parseImageConfig(ids, 'the config', 'SOURCE_INVALID'));
    const images = filled('{"images":[', '{},', ']}', 64 * MIB);
    defused('LOCK_INVALID', () => parseLock(images, 'x.lock.json'));
  });

  it('does not keep the largest honest inventory from being read', async () => {
    const { inventory } = await sampleBundle();
    const files = Array.from({ length: 229_000 }, (_, i) => ({
      path: `shard-${String(i).padStart(7, '0')}`,
      digest: `sha256:${hexOf(String(i))}`,
      size: i,
    }));
    const model = { ...inventory.models[0]!, files };
    expect(parseInventory(canonicalJson({ ...inventory, models: [model] })).models[0]!.files).toHaveLength(
      229_000,
    );
  });
});

describe('a YAML bomb', () => {
  const keys = (count: number): string => Array.from({ length: count }, (_, i) => `k${i}: 1\n`).join('');
  it.each<[string, () => string]>([
    ['wide, of numbers', () => filled('signers: [', '0,', ']', MIB).toString()],
    ['wide, of lines', () => filled('signers:\n', '-\n', '', MIB).toString()],
    ['of a hundred thousand keys that nobody knows', () => keys(95_000)],
    ['of a hundred thousand keys inside', () => `bundles:\n${keys(85_000).replace(/^/gm, ' ')}`],
    ['of one key', () => filled('bundles: {', 'a,', '}', MIB).toString()],
    ['deep in lists', () => '['.repeat(MIB)],
    ['deep in lines', () => '- '.repeat(MIB / 2)],
    ['of documents', () => '---\n'.repeat(MIB / 4)],
    ['of directives', () => '%\n'.repeat(MIB / 2)],
    ['of comments', () => '#\n'.repeat(MIB / 2)],
    ['of anchors', () => `x:\n${'- &a 1\n'.repeat(MIB / 8)}`],
    ['one byte over the limit', () => '#'.repeat(MIB + 1)],
  ])('%s', (_, make) => {
    const text = make();
    defused('POLICY_INVALID', () => parseTrustPolicy(text, 'trust.yaml'));
  });

  it('in a site and a manifest', () => {
    defused('SITE_INVALID', () => parseSite(keys(95_000), 'site.yaml'));
    defused('MANIFEST_INVALID', () =>
      parseManifest(`images:\n${keys(85_000).replace(/^/gm, ' ')}`, 'x.yaml'),
    );
  });
});
