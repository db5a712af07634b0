// SPDX-License-Identifier: Apache-2.0
import {
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import { openBundle } from '../../src/bundle/open.ts';
import { repairVolumes } from '../../src/bundle/repair.ts';
import { attachSignature } from '../../src/bundle/slots-file.ts';
import { splitBundle } from '../../src/bundle/split.ts';
import type { Emit } from '../../src/events.ts';
import { digestOf } from '../../src/store/digest.ts';
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

it('parity volumes are listed, no longer than a volume, and the first one is the XOR of all', async () => {
  await sumsHold();
  const xor = Buffer.alloc(SIZE);
  for (const suffix of ALL.slice(0, 5))
    for (const [i, byte] of readFileSync(path(suffix)).entries()) xor[i]! ^= byte;
  expect(readFileSync(path('p01')).equals(xor)).toBe(true);
  // A file system that just takes a volume (FAT32 and 4 GiB - 1) must take parity, too.
  for (const suffix of ['p02', 'p03']) expect(statSync(path(suffix)).size).toBe(SIZE);
});

it('a set of one volume has parity as long as it', async () => {
  const one = join(dir, 'one.tar');
  await splitBundle(whole, { out: one, volumeBytes: 2 ** 40, parity: 2 });
  for (const suffix of ['p01', 'p02'])
    expect(readFileSync(`${one}.${suffix}`).equals(readFileSync(whole))).toBe(suffix === 'p01');
  rmSync(`${one}.001`);
  rmSync(`${one}.p01`);
  expect((await repairVolumes(one, {}, undefined)).rebuilt).toEqual(['one.tar.001', 'one.tar.p01']);
  expect(readFileSync(`${one}.001`).equals(readFileSync(whole))).toBe(true);
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

  it('leaves media as they are when it writes elsewhere, and what it wrote comes before them', async () => {
    const before = readFileSync(path('004'));
    flip('004');
    rmSync(path('001'));
    const other = join(dir, 'other');
    mkdirSync(other);
    const seen = snapshot();
    expect(await repaired(other)).toEqual(['001', '004']);
    expect(snapshot()).toEqual(seen);
    expect(readFileSync(join(other, 'demo.sealift.tar.004')).equals(before)).toBe(true);
    const bundle = await openBundle(join(other, 'demo.sealift.tar.001'), {
      policy: policyOf([alice]),
      now: new Date(),
      media: { folders: [dir] },
    });
    await bundle.verifyContent();
    await bundle.close();
  });

  it('keeps every damaged volume, also one of an earlier repair', async () => {
    for (let n = 0; n < 3; n++) {
      writeFileSync(path('002'), `damaged ${n}`);
      await repaired();
    }
    const kept = ['002.damaged', '002.damaged.2', '002.damaged.3'];
    expect(kept.map((suffix) => readFileSync(path(suffix), 'utf8'))).toEqual([
      'damaged 0',
      'damaged 1',
      'damaged 2',
    ]);
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

  it('refuses a list whose sizes and names do not fit each other', async () => {
    const text = readFileSync(path('volumes'), 'utf8');
    const [, ...lines] = text.split('\n');
    rmSync(path('002'));
    for (const other of [
      lines.join('\n'),
      text.replace(`of ${SIZE} bytes`, `of ${SIZE * 2} bytes`),
      text.replace(`of ${SIZE} bytes`, 'of 1 bytes'),
      text.replace(`of ${SIZE} bytes`, 'of 0 bytes'),
      text.replace(/, \d+ bytes in all/, `, ${2 ** 50} bytes in all`),
      text.replace('.p02', '.p04'),
      text.replace('.003', '.006'),
      `${text}${'0'.repeat(64)}  demo.sealift.tar.p33\n`,
    ]) {
      writeFileSync(path('volumes'), other);
      const before = readdirSync(dir);
      await expect(repaired()).rejects.toMatchObject({ code: 'REPAIR_FAILED' });
      expect(readdirSync(dir)).toEqual(before);
    }
    writeFileSync(path('volumes'), text);
    expect(await repaired()).toEqual(['002']);
  });

  it('refuses volumes that are not as long as the list says, whatever their digests', async () => {
    truncateSync(path('001'), 1000);
    const digest = digestOf(readFileSync(path('001'))).slice(7);
    const text = readFileSync(path('volumes'), 'utf8');
    writeFileSync(path('volumes'), text.replace(/^[0-9a-f]{64}(?= {2}\S+\.001$)/m, digest));
    rmSync(path('002'));
    await expect(repaired()).rejects.toMatchObject({
      code: 'REPAIR_FAILED',
      message: expect.stringContaining(`does not have the ${SIZE} bytes`) as unknown,
    });
  });

  it('does nothing without parity but name what to carry again', async () => {
    const plain = join(dir, 'plain.tar');
    await splitBundle(whole, { out: plain, volumeBytes: SIZE });
    rmSync(`${plain}.001`);
    await expect(repairVolumes(plain, {}, undefined)).rejects.toMatchObject({
      code: 'REPAIR_FAILED',
      message: '1 volume is damaged or missing, and no parity volume is good',
      hint: 'carry again plain.tar.001',
    });
  });

  it('when it is stopped, leaves nothing and goes on later', async () => {
    rmSync(path('003'));
    const before = readdirSync(dir);
    const stop = new AbortController();
    const emit: Emit = (event) => {
      if (event.type === 'stage' && event.name === 'parity') stop.abort();
    };
    await expect(
      repairVolumes(path('001'), {}, undefined, { emit, signal: stop.signal }),
    ).rejects.toMatchObject({ code: 'INTERRUPTED' });
    expect(readdirSync(dir)).toEqual(before);
    expect(await repaired()).toEqual(['003']);
  });

  it('can be split again, from volumes', async () => {
    const other = join(dir, 'again.tar');
    await splitBundle(path('001'), { out: other, volumeBytes: SIZE * 2, parity: 1 });
    const joined = Buffer.concat(['001', '002', '003'].map((n) => readFileSync(`${other}.${n}`)));
    expect(joined.equals(readFileSync(whole))).toBe(true);
  });
});

/** Everything that stands in the folder: names, content, times. */
function snapshot(): object {
  return readdirSync(dir, { withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map(({ name }) => {
      const { mtimeNs, ino } = statSync(join(dir, name), { bigint: true });
      return { name, mtimeNs, ino, digest: digestOf(readFileSync(join(dir, name))) };
    });
}

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

  it('refuses to list damage as if it were right', async () => {
    const json = await keySigner(bob.key).sign(sample.plan.sums);
    for (const suffix of ['001', 'p02']) {
      const good = readFileSync(path(suffix));
      flip(suffix);
      const seen = snapshot();
      await expect(attachSignature(path('001'), json)).rejects.toMatchObject({
        code: 'CONTENT_MISMATCH',
        message: expect.stringContaining(`.${suffix}`) as unknown,
      });
      expect(snapshot()).toEqual(seen);
      writeFileSync(path(suffix), good);
    }
    expect(await attachSignature(path('001'), json)).toBe(1);
  });

  it('killed at any moment, leaves what repair can mend', async () => {
    const old = new Map(['001', 'volumes', ...ALL.slice(5)].map((n) => [n, readFileSync(path(n))]));
    // The order in which beside.ts writes: a kill leaves a beginning of it done.
    const order = ['001', 'volumes', 'p01', 'p02', 'p03'];
    const states: string[][] = [];
    const handle = await open(path('001'));
    await handle.close();
    const sync = vi.spyOn(Object.getPrototypeOf(handle) as FileHandle, 'sync').mockImplementation(() => {
      states.push(order.filter((name) => !readFileSync(path(name)).equals(old.get(name)!)));
      return Promise.resolve();
    });
    await attachSignature(path('001'), await keySigner(bob.key).sign(sample.plan.sums));
    sync.mockRestore();
    expect(states.at(-1)).toEqual(order);
    for (const state of states) expect(state).toEqual(order.slice(0, state.length));
    const signed = readFileSync(path('001'));
    const now = new Map([...old.keys()].map((n) => [n, readFileSync(path(n))]));
    for (let done = 1; done <= order.length; done++) {
      for (const [i, name] of order.entries()) writeFileSync(path(name), (i < done ? now : old).get(name)!);
      await repaired();
      await sumsHold();
      expect(readFileSync(path('001')).equals(done === 1 ? old.get('001')! : signed)).toBe(true);
    }
  });
});
