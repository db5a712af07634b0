// SPDX-License-Identifier: Apache-2.0
/** An older bundle, properly signed, on a host that has a newer one (THREATS.md T11). */
import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { digestOf, type Digest } from '../../src/store/digest.ts';
import { MemorySource, openMemory } from '../support/memory.ts';
import { person, policyOf, sampleBundle } from '../support/sample.ts';

const alice = person('alice');
const policy = policyOf([alice]);
const now = new Date('2026-11-23T12:00:00Z');

/** Each before the next (Semantic Versioning 2.0.0 §11, whose own example is in the middle). */
const ORDER = [
  '0.0.0-0',
  '0.0.0',
  '0.0.9',
  '0.0.10',
  '0.9.0',
  '0.10.0',
  '1.0.0-0',
  '1.0.0-9',
  '1.0.0-10',
  '1.0.0-9007199254740992',
  '1.0.0-9007199254740993',
  '1.0.0--',
  '1.0.0--1',
  '1.0.0-1a',
  '1.0.0-A',
  '1.0.0-alpha',
  '1.0.0-alpha.1',
  '1.0.0-alpha.1.0',
  '1.0.0-alpha.beta',
  '1.0.0-beta',
  '1.0.0-beta.2',
  '1.0.0-beta.11',
  '1.0.0-rc.1',
  '1.0.0-rc.1.x',
  '1.0.0',
  '1.0.1-0',
  '1.0.1',
  '2.0.0-a-b',
  '2.0.0',
  '10.0.0',
  '999999999.0.0',
];

const archives = await Promise.all(
  ORDER.map(async (version) => readFileSync(await (await sampleBundle({ version })).write([alice]))),
);

/** What a host says that has `version` installed, with the content of `digest`. */
async function offer(archive: Buffer, version: string, digest: Digest, more = ''): Promise<string> {
  const options = {
    policy: more === '' ? policy : policyOf([alice], 1, more),
    now,
    installed: () => ({ version, digest }),
  };
  return openMemory(new MemorySource(archive), options).then(
    () => 'accepted',
    (error: { code: string }) => error.code,
  );
}

it('is refused, by every rule of semantic versions', async () => {
  for (const [i, archive] of archives.entries())
    for (const [j, version] of ORDER.entries()) {
      if (Math.abs(i - j) > 3) continue;
      const outcome = await offer(archive, version, digestOf('other content'));
      expect(outcome, `${ORDER[i]} on ${version}`).toBe(i > j ? 'accepted' : 'VERSION_REFUSED');
    }
});

it('of the same version is accepted only with the same content', async () => {
  const archive = archives[4]!;
  const sums = archive.subarray(512, 512 + Number.parseInt(archive.toString('latin1', 124, 135), 8));
  expect(await offer(archive, ORDER[4]!, digestOf(sums))).toBe('accepted');
  expect(await offer(archive, ORDER[4]!, digestOf('other'))).toBe('VERSION_REFUSED');
  // Leading zeros are no other version.
  expect(await offer(archives[8]!, '1.0.0-010', digestOf('other'))).toBe('VERSION_REFUSED');
  expect(await offer(archives[8]!, '1.0.0-09', digestOf('other'))).toBe('accepted');
});

it('is refused by the lowest version of the policy, whatever is installed', async () => {
  const lowest = (version: string): string => `bundles: { sample: { minVersion: ${version} } }\n`;
  expect(await offer(archives[4]!, '0.0.0-0', digestOf('x'), lowest('0.9.0'))).toBe('accepted');
  expect(await offer(archives[4]!, '0.0.0-0', digestOf('x'), lowest('0.9.1-0'))).toBe('VERSION_REFUSED');
});
