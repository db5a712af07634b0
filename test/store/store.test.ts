// SPDX-License-Identifier: Apache-2.0
import { randomBytes } from 'node:crypto';
import { readdir, writeFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { SealiftError } from '../../src/errors.ts';
import { digestOf, hexOf } from '../../src/store/digest.ts';
import { Store, type BlobSource } from '../../src/store/store.ts';
import { tempDir } from '../support/workspace.ts';

const content = Buffer.from('weights '.repeat(10_000));
const expected = { digest: digestOf(content), size: content.length };

/** A source that serves `bytes`, cutting each of the first answers after the given number of bytes. */
function source(
  bytes: Buffer,
  cuts: number[] = [],
  ranges = true,
): BlobSource & { opened: number[]; served: number } {
  const self = {
    opened: [] as number[],
    served: 0,
    async open(asked: number) {
      self.opened.push(asked);
      const offset = ranges ? asked : 0;
      const cut = cuts.shift();
      const part = bytes.subarray(offset, cut === undefined ? undefined : offset + cut);
      async function* body(): AsyncGenerator<Uint8Array> {
        for (let i = 0; i < part.length; i += 1000) {
          self.served += Math.min(1000, part.length - i);
          yield part.subarray(i, i + 1000);
        }
        if (cut !== undefined) throw new SealiftError('NETWORK_ERROR', 'cut');
      }
      return { offset, body: body() };
    },
  };
  return self;
}

const fresh = (): Promise<Store> => Store.open(tempDir('store'));
const leftovers = (store: Store): Promise<string[]> => readdir(join(store.root, 'partial'));

describe('Store.add', () => {
  it('keeps what matches, under its digest', async () => {
    const store = await fresh();
    await store.add(expected, source(content));
    expect(await readFile(store.path(expected.digest))).toEqual(content);
    expect(await store.has(expected)).toBe(true);
    expect(await store.has({ ...expected, size: 1 })).toBe(false);
    expect(await leftovers(store)).toEqual([]);
  });

  it('goes on where a cut connection stopped, serving no byte twice', async () => {
    const store = await fresh();
    const far = source(content, [30_000, 12_345]);
    await store.add(expected, far);
    expect(far.opened).toEqual([0, 30_000, 42_345]);
    expect(far.served).toBe(content.length);
  });

  it('starts over when the far side ignores ranges, and counts bytes honestly', async () => {
    const store = await fresh();
    let counted = 0;
    await store.add(expected, source(content, [30_000], false), { onBytes: (delta) => (counted += delta) });
    expect(counted).toBe(content.length);
    expect(await readFile(store.path(expected.digest))).toEqual(content);
  });

  it('gives up when nothing comes, keeps the partial, and a later run goes on from it', async () => {
    const store = await fresh();
    const dead = source(content, [50_000, 0, 0, 0, 0, 0, 0]);
    await expect(store.add(expected, dead)).rejects.toMatchObject({ code: 'NETWORK_ERROR' });
    const later = source(content);
    await (await Store.open(store.root)).add(expected, later);
    expect(later.opened).toEqual([50_000]);
  });

  it.each([
    ['a flipped bit', Buffer.concat([content.subarray(0, -1), Buffer.from([content.at(-1)! ^ 1])])],
    ['more bytes', Buffer.concat([content, Buffer.from('x')])],
  ])('refuses %s and keeps nothing', async (_, bytes) => {
    const store = await fresh();
    await expect(store.add(expected, source(bytes))).rejects.toMatchObject({ code: 'SOURCE_CHANGED' });
    expect(await leftovers(store)).toEqual([]);
    expect(await store.has(expected)).toBe(false);
  });

  it('does not blame the source for a partial that a power cut tore', async () => {
    const store = await fresh();
    await writeFile(join(store.root, 'partial', hexOf(expected.digest)), Buffer.alloc(40_000));
    await store.add(expected, source(content));
    expect(await readFile(store.path(expected.digest))).toEqual(content);
  });

  it('brings a blob once for two who want it at the same time', async () => {
    const store = await fresh();
    const far = source(content);
    await Promise.all([store.add(expected, far), store.add(expected, far)]);
    expect(far.opened).toEqual([0]);
  });
});

describe('Store, other ways in and out', () => {
  it('stores empty content', async () => {
    const store = await fresh();
    const empty = await store.addBytes(new Uint8Array());
    expect(empty).toEqual({ digest: digestOf(''), size: 0 });
    expect(await store.readBytes(empty, 10)).toEqual(Buffer.alloc(0));
  });

  it('bounds content whose digest is not known', async () => {
    const store = await fresh();
    const { body } = await source(content).open(0);
    await expect(store.addStream(body, { maxBytes: 1000 })).rejects.toMatchObject({ code: 'SOURCE_INVALID' });
    expect(await leftovers(store)).toEqual([]);
  });

  it('takes much content of which only the digest is not known, through a thread', async () => {
    const store = await fresh();
    const big = randomBytes(9 * 1024 * 1024 + 77);
    const { body } = await source(big).open(0);
    let told = 0;
    const onBytes = (delta: number): void => void (told += delta);
    const added = await store.addStream(body, { expectedBytes: 5 * 1024 * 1024, onBytes });
    expect(added).toEqual({ digest: digestOf(big), size: big.length });
    expect((await readFile(store.path(added.digest))).equals(big)).toBe(true);
    expect(told).toBe(big.length);
    expect(await leftovers(store)).toEqual([]);
  });

  it('leaves nothing of much content that breaks off, or is too much', async () => {
    const store = await fresh();
    const big = randomBytes(9 * 1024 * 1024);
    const expectedBytes = big.length;
    const broken = await source(big, [6_000_000]).open(0);
    await expect(store.addStream(broken.body, { expectedBytes })).rejects.toMatchObject({
      code: 'NETWORK_ERROR',
    });
    const { body } = await source(big).open(0);
    const refused = store.addStream(body, { expectedBytes, maxBytes: big.length - 1 });
    await expect(refused).rejects.toMatchObject({ code: 'SOURCE_INVALID' });
    const stop = new AbortController();
    const onBytes = (): void => stop.abort(new SealiftError('INTERRUPTED', 'interrupted'));
    const { body: endless } = await source(big).open(0);
    const stopped = store.addStream(endless, { expectedBytes, onBytes, signal: stop.signal });
    await expect(stopped).rejects.toMatchObject({ code: 'INTERRUPTED' });
    expect(await leftovers(store)).toEqual([]);
  });

  it('notices that its own copy has rotted', async () => {
    const store = await fresh();
    const blob = await store.addBytes(Buffer.from('a config'));
    await writeFile(store.path(blob.digest), 'another!');
    await expect(store.readBytes(blob, 100)).rejects.toMatchObject({ code: 'STORE_DAMAGED' });
  });
});
