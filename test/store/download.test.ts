// SPDX-License-Identifier: Apache-2.0
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { SealiftError } from '../../src/errors.ts';
import { digestOf, hexOf } from '../../src/store/digest.ts';
import type { BlobSource } from '../../src/store/download.ts';
import type { Range } from '../../src/store/segments.ts';
import { Store } from '../../src/store/store.ts';
import { Random } from '../support/random.ts';
import { tempDir } from '../support/workspace.ts';

const content = new Random('content of downloads').bytes(100_000);
const expected = { digest: digestOf(content), size: content.length };
const SEGMENT = 10_000;

interface Source extends BlobSource {
  asked: Range[];
  /** From here on it fails, with what has been asked for so far kept on its way. */
  broken: number;
}

/** A source with ranges; a range that begins at or after `broken` is refused for good. */
function source({ broken = Infinity, ranges = true } = {}): Source {
  const self: Source = {
    asked: [],
    broken,
    segmentBytes: SEGMENT,
    open: (offset) => {
      self.asked.push({ from: offset, to: content.length });
      return Promise.resolve({ offset, body: body(offset, content.length) });
    },
    ...(ranges && {
      openRange: async (range: Range) => {
        self.asked.push(range);
        if (range.from >= self.broken) throw new SealiftError('UNAUTHORIZED', 'no more');
        return { offset: range.from, body: body(range.from, range.to) };
      },
    }),
  };
  // oxlint-disable-next-line require-await
  async function* body(from: number, to: number): AsyncGenerator<Uint8Array> {
    for (let at = from; at < to; at += 3000) yield content.subarray(at, Math.min(to, at + 3000));
  }
  return self;
}

const fresh = (): Promise<Store> => Store.open(tempDir('download'), 'cache');
const partialOf = (store: Store): string => join(store.root, 'partial', hexOf(expected.digest));
const total = (ranges: readonly Range[]): number => ranges.reduce((sum, { from, to }) => sum + to - from, 0);

async function whole(store: Store, from: Source): Promise<void> {
  await store.add(expected, from);
  expect(readFileSync(store.path(expected.digest)).equals(content)).toBe(true);
  expect(readdirSync(join(store.root, 'partial'))).toEqual([]);
}

/** A store in which a download has been broken off, with some segments there. */
async function stopped(): Promise<Store> {
  const store = await fresh();
  await expect(store.add(expected, source({ broken: 50_000 }))).rejects.toMatchObject({
    code: 'UNAUTHORIZED',
  });
  expect(store.arrived(expected)).toBeGreaterThan(0);
  return store;
}

describe('a download in segments', () => {
  it('asks for each byte once', async () => {
    const far = source();
    await whole(await fresh(), far);
    expect(far.asked).toHaveLength(10);
    expect(total(far.asked)).toBe(content.length);
  });

  it('asks for no segment, and keeps no journal, when one request is enough', async () => {
    const store = await fresh();
    const far = { ...source(), segmentBytes: content.length };
    await whole(store, far);
    expect(far.asked).toEqual([{ from: 0, to: content.length }]);
  });

  it('goes on from its journal, and asks for nothing that is there', async () => {
    const store = await stopped();
    const there = store.arrived(expected);
    const far = source();
    await whole(store, far);
    expect(total(far.asked)).toBe(content.length - there);
  });

  it('counts what is there, and not the holes', async () => {
    const store = await fresh();
    const partial = partialOf(store);
    writeFileSync(partial, Buffer.alloc(60_000));
    const journal = { version: 1, size: content.length, ranges: [[0, 10], [50_000, 60_000]] }; // prettier-ignore
    writeFileSync(`${partial}.json`, JSON.stringify(journal));
    expect(statSync(partial).size).toBe(60_000);
    expect(store.arrived(expected)).toBe(10_010);
  });

  it('goes on with a source that knows no ranges', async () => {
    const store = await stopped();
    let gained = 0;
    const far = source({ ranges: false });
    await store.add(expected, far, { onBytes: (delta) => void (gained += delta) });
    expect(readFileSync(store.path(expected.digest)).equals(content)).toBe(true);
    expect(gained).toBe(content.length);
    expect(far.asked).toHaveLength(1);
  });

  it('fails with what failed first, when all others have come to rest', async () => {
    const store = await fresh();
    let open = 0;
    const far = source();
    far.openRange = async ({ from, to }, signal) => {
      if (from === 20_000) throw new SealiftError('UNAUTHORIZED', 'first');
      return { offset: from, body: slow(from, to, signal!) };
    };
    async function* slow(from: number, to: number, signal: AbortSignal): AsyncGenerator<Uint8Array> {
      open++;
      try {
        yield content.subarray(from, from + 1);
        if (from > 0 && !signal.aborted)
          await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
        if (signal.aborted) throw new SealiftError('INTERRUPTED', 'stopped');
        yield content.subarray(from + 1, to);
      } finally {
        open--;
      }
    }
    await expect(store.add(expected, far)).rejects.toMatchObject({ message: 'first' });
    expect(open).toBe(0);
  });
});

describe('a partial', () => {
  it('without a journal was written from its start', async () => {
    const store = await fresh();
    writeFileSync(partialOf(store), content.subarray(0, 34_000));
    expect(store.arrived(expected)).toBe(34_000);
    const far = source();
    await whole(store, far);
    expect(Math.min(...far.asked.map(({ from }) => from))).toBe(34_000);
  });

  it.each([
    ['is torn', '{"version":1,"si'],
    ['is empty', ''],
    ['is about another size', JSON.stringify({ version: 1, size: 99, ranges: [[0, 9]] })],
    ['promises more than there is', JSON.stringify({ version: 1, size: 100_000, ranges: [[0, 90_000]] })],
  ])('whose journal %s is started over', async (_, journal) => {
    const store = await fresh();
    writeFileSync(partialOf(store), content.subarray(0, 34_000));
    writeFileSync(`${partialOf(store)}.json`, journal);
    expect(store.arrived(expected)).toBe(0);
    const far = source();
    await whole(store, far);
    expect(total(far.asked)).toBe(content.length);
  });

  it('that is too long is started over', async () => {
    const store = await fresh();
    writeFileSync(partialOf(store), Buffer.concat([content, Buffer.from('x')]));
    await whole(store, source());
  });

  it('whose journal is wrong, as after a power cut, is brought again from the start', async () => {
    const store = await stopped();
    const journal = readFileSync(`${partialOf(store)}.json`);
    writeFileSync(partialOf(store), Buffer.alloc(statSync(partialOf(store)).size));
    writeFileSync(`${partialOf(store)}.json`, journal);
    await whole(store, source());
  });

  it('that has come completely is not asked for', async () => {
    const store = await fresh();
    writeFileSync(partialOf(store), content);
    const far = source();
    await whole(store, far);
    expect(far.asked).toEqual([]);
  });

  it('leaves nothing when its bytes are wrong, also when it had holes', async () => {
    const store = await fresh();
    const liar = source();
    liar.openRange = (range) => {
      // oxlint-disable-next-line require-await
      const zeros = async function* (): AsyncGenerator<Uint8Array> {
        yield Buffer.alloc(range.to - range.from);
      };
      return Promise.resolve({ offset: range.from, body: zeros() });
    };
    await expect(store.add(expected, liar)).rejects.toMatchObject({ code: 'SOURCE_CHANGED' });
    expect(readdirSync(join(store.root, 'partial'))).toEqual([]);
    expect(existsSync(store.path(expected.digest))).toBe(false);
  });
});
