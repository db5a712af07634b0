// SPDX-License-Identifier: Apache-2.0
import {
  closeSync,
  copyFileSync,
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
import { setTimeout as sleep } from 'node:timers/promises';
import * as fc from 'fast-check';
import { beforeEach, describe, expect, it } from 'vitest';
import { openBundle, type VerifiedBundle } from '../../src/bundle/open.ts';
import { attachSignature } from '../../src/bundle/slots-file.ts';
import { splitBundle } from '../../src/bundle/split.ts';
import {
  diagnose,
  formatList,
  openSource,
  parseList,
  VolumeSet,
  type Media,
} from '../../src/bundle/volumes.ts';
import { digestOf } from '../../src/store/digest.ts';
import { Store } from '../../src/store/store.ts';
import { transfer } from '../../src/store/transfer.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { flipBit } from '../support/flips.ts';
import { person, policyOf, sampleBundle } from '../support/sample.ts';
import { run, tempDir } from '../support/workspace.ts';

const alice = person('alice');
const bob = person('bob');
const policy = policyOf([alice]);
const small = await sampleBundle();
// Large enough that the signature slots fit into a fifth of it.
const file = { path: 'model.safetensors', ...(await small.store.addBytes(Buffer.alloc(900_001, 'weights'))) };
const model = { ...small.inventory.models[0]!, files: [file] };
const sample = await sampleBundle({ models: [model] }, small.store);
const whole = await sample.write([alice]);
const bytes = readFileSync(whole);
/** Five volumes, the last one shorter; the slots fit into the first. */
const SIZE = Math.ceil(bytes.length / 5) + 1000;

let dir: string;
let base: string;
const volume = (n: number): string => `${base}.00${n}`;
const COUNT = Math.ceil(bytes.length / SIZE);

beforeEach(async () => {
  dir = tempDir('volumes');
  base = join(dir, 'demo.sealift.tar');
  expect(await splitBundle(whole, { out: base, volumeBytes: SIZE })).toBe(COUNT);
});

const opened = (media?: Media): Promise<VerifiedBundle> =>
  openBundle(volume(1), { policy, now: new Date(), ...(media && { media }) });

async function verified(media?: Media): Promise<number> {
  const bundle = await opened(media);
  try {
    return (await bundle.verifyContent()).blobs;
  } finally {
    await bundle.close();
  }
}

function flip(path: string, position: number): void {
  const fd = openSync(path, 'r+');
  flipBit(fd, { region: '', position, bit: 3 });
  closeSync(fd);
}

describe('splitting', () => {
  it('cuts the same bytes, and lists them as sha256sum does', async () => {
    const parts = Array.from({ length: COUNT }, (_, i) => readFileSync(volume(i + 1)));
    expect(Buffer.concat(parts).equals(bytes)).toBe(true);
    expect(parts.slice(0, -1).every((part) => part.length === SIZE)).toBe(true);
    const checked = await run('sha256sum', ['--strict', '--check', 'demo.sealift.tar.volumes'], { cwd: dir });
    expect(checked).toMatchObject({ code: 0 });
    expect(checked.stdout.match(/: OK$/gm)).toHaveLength(COUNT);
  });

  it('leaves the bundle as it is, and what is there', async () => {
    expect(readFileSync(whole).equals(bytes)).toBe(true);
    await expect(splitBundle(whole, { out: base, volumeBytes: SIZE })).rejects.toMatchObject({
      code: 'FILE_EXISTS',
    });
  });

  it('wants volumes that hold the signatures, and not more than 999', async () => {
    const out = join(dir, 'small');
    for (const volumeBytes of [1, 1000, 100_000])
      await expect(splitBundle(whole, { out, volumeBytes })).rejects.toMatchObject({ code: 'USAGE' });
  });

  it('of what is no bundle is refused, and leaves nothing', async () => {
    const junk = join(dir, 'junk');
    writeFileSync(junk, 'x'.repeat(10_000));
    await expect(splitBundle(junk, { out: join(dir, 'o'), volumeBytes: 5000 })).rejects.toMatchObject({
      code: 'NOT_A_BUNDLE',
    });
  });
});

describe('reading where they are', () => {
  it('one folder, or several', async () => {
    const blobs = await verified();
    const other = join(dir, 'other');
    mkdirSync(other);
    for (const n of [2, 4]) renameSync(volume(n), join(other, basename(volume(n))));
    expect(await verified({ folders: [other] })).toBe(blobs);
    await expect(verified()).rejects.toMatchObject({
      code: 'BUNDLE_INCOMPLETE',
      details: [
        ['missing', 'demo.sealift.tar.002'],
        ['missing', 'demo.sealift.tar.004'],
      ],
    });
  });

  it('without the list', async () => {
    rmSync(`${base}.volumes`);
    await verified();
    renameSync(volume(2), join(dir, 'gone'));
    await expect(verified()).rejects.toMatchObject({
      code: 'BUNDLE_INCOMPLETE',
      details: [['missing', 'demo.sealift.tar.002']],
    });
  });

  it('any bytes, as in the file that was cut', async () => {
    const source = await openSource(volume(1));
    await fc.assert(
      fc.asyncProperty(fc.nat(bytes.length - 1), fc.nat(3 * SIZE), async (position, length) => {
        const size = Math.min(length, bytes.length - position);
        const target = Buffer.alloc(size);
        await source.readInto(target, position);
        expect(target.equals(bytes.subarray(position, position + size))).toBe(true);
        const from = (await source.stretches(position, size))!;
        expect(await transfer({ from })).toBe(digestOf(target));
      }),
    );
    await expect(source.readInto(Buffer.alloc(2), bytes.length - 1)).rejects.toMatchObject({
      code: 'BUNDLE_INCOMPLETE',
    });
    await source.close();
  });

  it('one medium after another: each is asked for when its bytes are needed', async () => {
    const drive = join(dir, 'drive');
    const shelf = join(dir, 'shelf');
    for (const folder of [drive, shelf]) mkdirSync(folder);
    for (let n = 1; n <= COUNT; n++) renameSync(volume(n), join(shelf, basename(volume(n))));
    copyFileSync(`${base}.volumes`, join(drive, 'demo.sealift.tar.volumes'));
    const asked: string[] = [];
    const ask = (names: readonly string[]): Promise<void> => {
      asked.push(...names);
      for (let n = 1; n <= COUNT; n++) rmSync(join(drive, basename(volume(n))), { force: true });
      for (const name of names) copyFileSync(join(shelf, name), join(drive, name));
      return Promise.resolve();
    };
    const bundle = await openBundle(join(drive, 'demo.sealift.tar.001'), {
      policy,
      now: new Date(),
      media: { ask },
    });
    expect(await bundle.isAtHand()).toBe(false);
    await bundle.verifyContent();
    const out = join(dir, 'copied');
    const fd = openSync(out, 'w+');
    await bundle.copy(file, [{ fd, offset: 0, length: file.size }]);
    closeSync(fd);
    expect(digestOf(readFileSync(out))).toBe(file.digest);
    writeFileSync(join(drive, 'demo.sealift.tar.001'), 'too short');
    await expect(bundle.isAtHand()).rejects.toMatchObject({ code: 'BUNDLE_INCOMPLETE' });
    await bundle.close();
    expect(new Set(asked).size).toBe(COUNT);
    expect(asked[0]).toBe('demo.sealift.tar.001');
  });

  it('copies that are begun together ask for one medium at a time, and read none that was taken out', async () => {
    const parts = Array.from({ length: 12 }, (_, i) => Buffer.alloc(70_000 + i, `part ${i}`));
    const files = await Promise.all(
      parts.map(async (part, i) => ({
        path: `${i}`.padStart(2, '0'),
        ...(await small.store.addBytes(part)),
      })),
    );
    const many = await sampleBundle({ models: [{ ...model, files }] }, small.store);
    const [drive, shelf] = [join(dir, 'drive'), join(dir, 'shelf')];
    for (const folder of [drive, shelf]) mkdirSync(folder);
    await splitBundle(await many.write([alice]), { out: join(shelf, 'many.tar'), volumeBytes: 200_000 });
    copyFileSync(join(shelf, 'many.tar.volumes'), join(drive, 'many.tar.volumes'));
    let asking = 0;
    const ask = async ([name]: readonly string[]): Promise<void> => {
      expect(++asking).toBe(1);
      for (const old of readdirSync(drive)) if (!old.endsWith('.volumes')) rmSync(join(drive, old));
      await sleep(20);
      copyFileSync(join(shelf, name!), join(drive, name!));
      asking--;
    };
    const bundle = await openBundle(join(drive, 'many.tar.001'), { policy, now: new Date(), media: { ask } });
    const store = await Store.open(join(dir, 'store'));
    await store.place(files, (blob, to, signal) => bundle.copy(blob, to, { signal }));
    await bundle.close();
    for (const { digest } of files) expect(digestOf(readFileSync(store.path(digest)))).toBe(digest);
  });

  it('are at hand when no medium has to be asked for', async () => {
    const bundle = await openBundle(volume(1), { policy, now: new Date() });
    expect(await bundle.isAtHand()).toBe(true);
    await bundle.close();
  });

  it('opens a volume once for all who want it at the same time', async () => {
    const source = await openSource(volume(1));
    const asked = Array.from({ length: 20 }, () => source.stretches(10, 10));
    const fds = (await Promise.all(asked)).map((stretches) => stretches![0]!.fd);
    expect(new Set(fds).size).toBe(1);
    await source.close();
  });

  it('a volume of another size is named', async () => {
    truncateSync(volume(3), SIZE - 1);
    await expect(verified()).rejects.toMatchObject({
      code: 'BUNDLE_INCOMPLETE',
      message: expect.stringContaining('.003 has ') as unknown,
    });
  });
});

describe('what is wrong', () => {
  const findings = async (): Promise<string[][]> =>
    (await diagnose(await VolumeSet.of(base, {}))).map(({ name, problem }) => [name.slice(-3), problem]);

  it('is named for every volume in one run', async () => {
    expect(await findings()).toEqual([]);
    flip(volume(2), 1234);
    flip(volume(4), statSync(volume(4)).size - 1);
    rmSync(volume(3));
    expect(await findings()).toEqual([
      ['002', 'damaged'],
      ['003', 'missing'],
      ['004', 'damaged'],
    ]);
  });

  it('makes no verdict: a list that lies changes nothing', async () => {
    const text = readFileSync(`${base}.volumes`, 'utf8');
    writeFileSync(`${base}.volumes`, text.replace(/^[0-9a-f]{64}/gm, '0'.repeat(64)));
    await verified();
    flip(volume(2), 77);
    const honest = digestOf(readFileSync(volume(2))).slice(7);
    writeFileSync(`${base}.volumes`, text.replace(/^[0-9a-f]{64}(?= {2}\S+002$)/m, honest));
    await expect(verified()).rejects.toMatchObject({
      code: expect.stringMatching(/^(CONTENT_MISMATCH|BUNDLE_MALFORMED)$/) as unknown,
    });
    writeFileSync(`${base}.volumes`, text.replace(/\d+ bytes in all/, `${2 ** 40} bytes in all`));
    await expect(verified()).rejects.toMatchObject({ code: 'BUNDLE_INCOMPLETE' });
  });
});

describe('signing', () => {
  it('fills a slot of the first volume, and keeps the list true', async () => {
    const json = await keySigner(bob.key).sign(sample.plan.sums);
    expect(await attachSignature(volume(1), json)).toBe(1);
    const both = await openBundle(volume(1), { policy: policyOf([alice, bob], 2), now: new Date() });
    expect(both.verdict.accepted).toHaveLength(2);
    await both.close();
    expect(
      await run('sha256sum', ['--strict', '--check', 'demo.sealift.tar.volumes'], { cwd: dir }),
    ).toMatchObject({ code: 0 });
  });
});

it('the list is read as it was written, and nothing else in it counts', () => {
  const digests = new Map([
    ['a.001', digestOf('1')],
    ['a.002', digestOf('2')],
  ]);
  const text = formatList({ volumeBytes: 10, totalBytes: 15, digests });
  expect(parseList(text)).toEqual({ volumeBytes: 10, totalBytes: 15, digests });
  expect(parseList(`hello\n${text}../x\n`).digests).toEqual(digests);
  expect(parseList(`${'0'.repeat(64)}  ../../etc/passwd\n`).digests.size).toBe(0);
});
