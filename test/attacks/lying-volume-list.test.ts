// SPDX-License-Identifier: Apache-2.0
/**
 * List and parity lie on the medium and nobody has signed them. Whoever holds the medium chooses the names that `repair`
 * reads, and what stands under the names that it writes (THREATS.md T31).
 */
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { beforeEach, expect, it } from 'vitest';
import { openBundle } from '../../src/bundle/open.ts';
import { repairVolumes } from '../../src/bundle/repair.ts';
import { splitBundle } from '../../src/bundle/split.ts';
import { digestOf } from '../../src/store/digest.ts';
import { person, policyOf, sampleBundle } from '../support/sample.ts';
import { tempDir } from '../support/workspace.ts';

const alice = person('alice');
const small = await sampleBundle();
const file = { path: 'model.safetensors', ...(await small.store.addBytes(Buffer.alloc(900_001, 'weights'))) };
const sample = await sampleBundle(
  { models: [{ ...small.inventory.models[0]!, files: [file] }] },
  small.store,
);
const whole = await sample.write([alice]);

let home: string;
let medium: string;
let first: string;
const list = (): string => join(medium, 'demo.tar.volumes');

beforeEach(async () => {
  home = tempDir('victim');
  medium = join(home, 'medium');
  mkdirSync(medium);
  writeFileSync(join(home, 'precious'), 'precious');
  first = join(medium, 'demo.tar.001');
  const volumeBytes = Math.ceil(statSync(whole).size / 3);
  await splitBundle(whole, { out: join(medium, 'demo.tar'), volumeBytes, parity: 1 });
});

/** Everything beside the medium. */
const untouched = (): void => {
  expect(readdirSync(home).toSorted()).toEqual(['medium', 'precious']);
  expect(readFileSync(join(home, 'precious'), 'utf8')).toBe('precious');
};

it.each(['..', '.', '../precious', '/etc/passwd', 'precious', 'demo.tar.0002'])(
  'a list that calls a volume %j makes no file of that name',
  async (name) => {
    // With the digest of what will come out, so that only the name is wrong.
    writeFileSync(list(), readFileSync(list(), 'utf8').replace('demo.tar.002', name));
    rmSync(join(medium, 'demo.tar.002'));
    const before = readdirSync(medium);
    await expect(repairVolumes(first, {}, undefined)).rejects.toMatchObject({ code: 'REPAIR_FAILED' });
    expect(readdirSync(medium)).toEqual(before);
    untouched();
  },
);

it('a link under a temporary name is not written through', async () => {
  const lost = join(medium, 'demo.tar.002');
  const content = readFileSync(lost);
  rmSync(lost);
  symlinkSync(join(home, 'precious'), `${lost}.partial`);
  expect((await repairVolumes(first, {}, undefined)).rebuilt).toEqual(['demo.tar.002']);
  expect(readFileSync(lost).equals(content)).toBe(true);
  untouched();
});

it('a link under the name of a volume is put aside, not followed', async () => {
  const lost = join(medium, 'demo.tar.002');
  rmSync(lost);
  symlinkSync(join(home, 'precious'), lost);
  await repairVolumes(first, {}, undefined);
  expect(statSync(lost).size).toBeGreaterThan(8);
  expect(existsSync(`${lost}.damaged`)).toBe(true);
  untouched();
});

it('list and parity that fit each other bring in nothing that is not signed', async () => {
  const forged = readFileSync(join(medium, 'demo.tar.002'));
  forged[forged.length - 600]! ^= 1;
  const parity = readFileSync(join(medium, 'demo.tar.p01'));
  parity[forged.length - 600]! ^= 1;
  writeFileSync(join(medium, 'demo.tar.p01'), parity);
  const text = readFileSync(list(), 'utf8');
  const listed = (name: string, digest: string): [RegExp, string] => [
    new RegExp(`^[0-9a-f]{64}(?= {2}demo\\.tar\\.${name}$)`, 'm'),
    digest.slice(7),
  ];
  writeFileSync(
    list(),
    text.replace(...listed('002', digestOf(forged))).replace(...listed('p01', digestOf(parity))),
  );
  rmSync(join(medium, 'demo.tar.002'));
  expect((await repairVolumes(first, {}, undefined)).rebuilt).toEqual(['demo.tar.002']);
  const bundle = await openBundle(first, { policy: policyOf([alice]), now: new Date() });
  await expect(bundle.verifyContent()).rejects.toMatchObject({ code: 'CONTENT_MISMATCH' });
  await bundle.close();
});
