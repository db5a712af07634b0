// SPDX-License-Identifier: Apache-2.0
/** Deltas that leave out what they must not, though their signers vouch for them: the reader refuses the form. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Inventory } from '../../src/bundle/inventory.ts';
import { planBundle } from '../../src/bundle/write.ts';
import { parseImageManifest } from '../../src/bundle/oci.ts';
import { canonicalJson } from '../../src/json.ts';
import { digestOf } from '../../src/store/digest.ts';
import { resigned, withInventory } from '../support/forge.ts';
import { split, type Member } from '../support/members.ts';
import { person, policyOf, provenanceOf, sampleBundle, verifyAll } from '../support/sample.ts';
import { tempDir } from '../support/workspace.ts';

const alice = person('alice');
const sample = await sampleBundle();
const { inventory, store } = sample;
const file = inventory.models[0]!.files.find(({ path }) => path === 'model.safetensors')!;
const license = inventory.models[0]!.files.find(({ path }) => path === 'LICENSE')!;
const sorted = [file, license]
  .map(({ digest, size }) => ({ digest, size }))
  .toSorted((a, b) => (a.digest < b.digest ? -1 : 1));
type Omits = NonNullable<Inventory['base']>['omits'];

const planned = (omits: Omits): Promise<unknown> => {
  const delta: Inventory = { ...inventory, base: { name: 'sample', version: '1.0.0', omits } };
  return planBundle(delta, provenanceOf(canonicalJson(delta)), store);
};

it('a delta that is right leaves out what it says, and is accepted', async () => {
  const delta = await sampleBundle({ base: { name: 'sample', version: '1.0.0', omits: sorted } }, store);
  expect(delta.plan.blobs.map(({ digest }) => digest)).not.toContain(file.digest);
  expect(sample.plan.size - delta.plan.size).toBeGreaterThan(file.size);
  const bundle = await verifyAll(await delta.write([alice]), policyOf([alice]));
  expect(bundle.inventory.base?.omits).toEqual(sorted);
});

describe('refused: a delta that leaves out', () => {
  it.each<[string, Omits]>([
    ['what is no blob of it', [{ digest: digestOf('nothing'), size: 7 }]],
    ['a blob of another size', [{ digest: file.digest, size: file.size + 1 }]],
    [
      'the manifest of an image',
      [{ digest: inventory.images[0]!.manifest.digest, size: inventory.images[0]!.manifest.size }],
    ],
    ['one blob twice', [sorted[0]!, sorted[0]!]],
    ['blobs that are not sorted', sorted.toReversed()],
  ])('%s', async (_, omits) => {
    await expect(planned(omits)).rejects.toMatchObject({ code: 'BUNDLE_MALFORMED' });
  });

  it('the config of an image', async () => {
    const { manifest } = inventory.images[0]!;
    const { config } = parseImageManifest(await store.readBytes(manifest, 10_000), 'm', 'BUNDLE_MALFORMED');
    await expect(planned([{ digest: config.digest, size: config.size }])).rejects.toMatchObject({
      code: 'BUNDLE_MALFORMED',
    });
  });

  const forged = async (members: Member[]): Promise<unknown> => {
    const path = join(tempDir('forged'), 'b.sealift.tar');
    writeFileSync(path, resigned(members, alice.key));
    return verifyAll(path, policyOf([alice]));
  };

  it('what its archive carries all the same', async () => {
    const members = split(readFileSync(await sample.write([alice])));
    const base = { name: 'sample', version: '1.0.0', omits: sorted };
    await expect(forged(members)).resolves.toBeDefined();
    await expect(forged(withInventory(members, { ...inventory, base }))).rejects.toMatchObject({
      code: 'BUNDLE_MALFORMED',
    });
  });

  it('a blob of which it says nothing', async () => {
    const delta = await sampleBundle({ base: { name: 'sample', version: '1.0.0', omits: sorted } }, store);
    const members = split(readFileSync(await delta.write([alice])));
    const base = { name: 'sample', version: '1.0.0', omits: sorted.slice(1) };
    for (const claimed of [{ ...inventory, base }, inventory])
      await expect(forged(withInventory(members, claimed))).rejects.toMatchObject({
        code: 'BUNDLE_MALFORMED',
      });
  });
});
