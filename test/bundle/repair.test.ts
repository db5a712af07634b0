// SPDX-License-Identifier: Apache-2.0
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { beforeEach, describe, expect, it } from 'vitest';
import { openBundle } from '../../src/bundle/open.ts';
import { repairVolumes } from '../../src/bundle/repair.ts';
import { attachSignature } from '../../src/bundle/slots-file.ts';
import { splitBundle } from '../../src/bundle/split.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { flipBit } from '../support/flips.ts';
import { person, policyOf, sampleBundle } from '../support/sample.ts';
import { run, tempDir } from '../support/workspace.ts';

const alice = person('alice');
const bob = person('bob');
const small = await sampleBundle();
const file = { path: 'model.safetensors', ...(await small.store.addBytes(Buffer.alloc(900_001, 'weights'))) };
const sample = await sampleBundle(
  { models: [{ ...small.inventory.models[0]!, files: [file] }] },
  small.store,
);
const whole = await sample.write([alice]);
const SIZE = Math.ceil(statSync(whole).size / 5) + 1000;
const PARITY = 3;

let dir: string;
let base: string;
const path = (suffix: string): string => `${base}.${suffix}`;

beforeEach(async () => {
  dir = tempDir('repair');
  base = join(dir, 'demo.sealift.tar');
  await splitBundle(whole, { out: base, volumeBytes: SIZE, parity: PARITY });
});

const ALL = ['001', '002', '003', '004', '005', 'p01', 'p02', 'p03'];
const contents = (): Buffer[] => ALL.map((suffix) => readFileSync(path(suffix)));

function flip(suffix: string): void {
  const fd = openSync(path(suffix), 'r+');
  flipBit(fd, { region: '', position: Math.floor(statSync(path(suffix)).size / 3), bit: 1 });
  closeSync(fd);
}

const repaired = async (output?: string): Promise<string[]> =>
  (await repairVolumes(path('001'), {}, output)).rebuilt.map((name) => name.slice(-3)).toSorted();

const sumsHold = async (): Promise<void> =>
  expect(
    await run('sha256sum', ['--strict', '--quiet', '--check', 'demo.sealift.tar.volumes'], { cwd: dir }),
  ).toMatchObject({ code: 0 });

it('parity volumes are listed, and the first one is the XOR of all', async () => {
  await sumsHold();
  const xor = Buffer.alloc(SIZE);
  for (const suffix of ALL.slice(0, 5))
    for (const [i, byte] of readFileSync(path(suffix)).entries()) xor[i]! ^= byte;
  expect(readFileSync(path('p01')).subarray(4096).equals(xor)).toBe(true);
  expect(JSON.parse(readFileSync(path('p02')).subarray(0, 4096).toString())).toEqual({
    schema: 'sealift/parity/v1',
    volumes: 5,
    parity: PARITY,
    index: 2,
    volumeBytes: SIZE,
    totalBytes: statSync(whole).size,
  });
});

describe('repair', () => {
  it.each([
    [['001']],
    [['005']],
    [['p02']],
    [['001', '005', 'p01']],
    [['002', '003', '004']],
    [['001', 'p01', 'p03']],
    [['p01', 'p02', 'p03']],
  ])('brings back %j, lost or damaged', async (lost) => {
    const before = contents();
    for (const [i, suffix] of lost.entries())
      if (i % 2 === 0) rmSync(path(suffix));
      else flip(suffix);
    expect(await repaired()).toEqual(lost);
    expect(contents().map((bytes, i) => bytes.equals(before[i]!))).toEqual(ALL.map(() => true));
    expect(existsSync(path(`${lost[1] ?? 'none'}.damaged`))).toBe(lost.length > 1);
    await sumsHold();
    expect(await repaired()).toEqual([]);
  });

  it('takes a volume that was cut, or has grown, for damaged', async () => {
    const before = contents();
    truncateSync(path('002'), 10);
    writeFileSync(path('003'), 'x', { flag: 'a' });
    expect(await repaired()).toEqual(['002', '003']);
    expect(contents().every((bytes, i) => bytes.equals(before[i]!))).toBe(true);
  });

  it('leaves media as they are when it writes elsewhere', async () => {
    const before = readFileSync(path('004'));
    flip('004');
    const damaged = readFileSync(path('004'));
    const other = join(dir, 'other');
    mkdirSync(other);
    chmodSync(dir, 0o555);
    expect(await repaired(other)).toEqual(['004']);
    chmodSync(dir, 0o755);
    expect(readFileSync(path('004')).equals(damaged)).toBe(true);
    expect(readFileSync(join(other, 'demo.sealift.tar.004')).equals(before)).toBe(true);
    rmSync(path('004'));
    const bundle = await openBundle(path('001'), {
      policy: policyOf([alice]),
      now: new Date(),
      media: { folders: [other] },
    });
    await bundle.verifyContent();
    await bundle.close();
  });

  it('says how many to carry again, and which, when more are lost', async () => {
    for (const suffix of ['001', '002', '003']) rmSync(path(suffix));
    flip('p03');
    flip('p01');
    await expect(repaired()).rejects.toMatchObject({
      code: 'REPAIR_FAILED',
      message: '3 volumes are damaged or missing, and 1 parity volume is good',
      hint: 'carry again any 2 of: demo.sealift.tar.001, demo.sealift.tar.002, demo.sealift.tar.003',
    });
    for (const suffix of ['p01', 'p02', 'p03']) rmSync(path(suffix));
    await expect(repaired()).rejects.toMatchObject({
      message: '3 volumes are damaged or missing, and no parity volume is good',
      hint: 'carry again all of: demo.sealift.tar.001, demo.sealift.tar.002, demo.sealift.tar.003',
    });
    rmSync(path('volumes'));
    await expect(repaired()).rejects.toMatchObject({
      code: 'REPAIR_FAILED',
      message: expect.stringContaining('there is no') as unknown,
    });
  });

  it('writes nothing under a name that is not what the list names', async () => {
    const text = readFileSync(path('volumes'), 'utf8');
    writeFileSync(path('volumes'), text.replace(/^[0-9a-f]{64}(?= {2}\S+\.002$)/m, 'a'.repeat(64)));
    const before = readdirSync(dir).toSorted();
    await expect(repaired()).rejects.toMatchObject({
      code: 'REPAIR_FAILED',
      message: expect.stringContaining('.002 was rebuilt, and is not') as unknown,
    });
    expect(readdirSync(dir).toSorted()).toEqual(before);
  });

  it('refuses parity of something else', async () => {
    const header = readFileSync(path('p01'));
    for (const change of [
      { volumes: 4 },
      { volumeBytes: SIZE * 2 },
      { totalBytes: 2 ** 50 },
      { parity: 2 },
      { more: 1 },
    ]) {
      const json = { ...(JSON.parse(header.subarray(0, 4096).toString()) as object), ...change };
      Buffer.from(JSON.stringify(json).padStart(4096)).copy(header);
      for (const suffix of ['p02', 'p03']) renameSync(path(suffix), join(dir, 'x'));
      writeFileSync(path('p01'), header);
      await relist();
      rmSync(path('003'), { force: true });
      await expect(repaired()).rejects.toMatchObject({ code: 'REPAIR_FAILED' });
      await splitAgain();
    }
  });

  /** A list that fits what is there, as somebody who owns the media would write it. */
  async function relist(): Promise<void> {
    const { stdout } = await run('sh', ['-c', 'sha256sum demo.sealift.tar.0?? demo.sealift.tar.p??'], {
      cwd: dir,
    });
    writeFileSync(path('volumes'), readFileSync(path('volumes'), 'utf8').split('\n')[0] + '\n' + stdout);
  }

  async function splitAgain(): Promise<void> {
    for (const name of readdirSync(dir)) rmSync(join(dir, name));
    await splitBundle(whole, { out: base, volumeBytes: SIZE, parity: PARITY });
  }
});

describe('signing in place', () => {
  it('changes parity by the difference, so that the signature comes back too', async () => {
    await attachSignature(path('001'), await keySigner(bob.key).sign(sample.plan.sums));
    await sumsHold();
    const before = readFileSync(path('001'));
    for (const suffix of ['001', '004', 'p01']) rmSync(path(suffix));
    await repaired();
    expect(readFileSync(path('001')).equals(before)).toBe(true);
    const both = await openBundle(path('001'), { policy: policyOf([alice, bob], 2), now: new Date() });
    await both.verifyContent();
    await both.close();
  });

  it('is refused when the parity is elsewhere', async () => {
    rmSync(path('p02'));
    const before = readFileSync(path('001'));
    const json = await keySigner(bob.key).sign(sample.plan.sums);
    await expect(attachSignature(path('001'), json)).rejects.toMatchObject({
      code: 'FILE_MISSING',
      message: expect.stringContaining(`${basename(base)}.p02 is not beside`) as unknown,
    });
    expect(readFileSync(path('001')).equals(before)).toBe(true);
  });
});
