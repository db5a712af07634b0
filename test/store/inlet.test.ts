// SPDX-License-Identifier: Apache-2.0
/** Content that is hashed and written while it comes. */
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SealiftError } from '../../src/errors.ts';
import { digestOf, type Expected } from '../../src/store/digest.ts';
import type { BlobSource } from '../../src/store/download.ts';
import { Inlet } from '../../src/store/inlet.ts';
import { Store } from '../../src/store/store.ts';
import { TransferError } from '../../src/store/transfer.ts';
import { tempDir } from '../support/workspace.ts';

const dir = tempDir('inlet');
const bytes = randomBytes(9 * 1024 * 1024 + 77);

async function into<T>(names: readonly string[], use: (...fds: number[]) => Promise<T>): Promise<T> {
  const fds = names.map((name) => openSync(join(dir, name), 'w+'));
  try {
    return await use(...fds);
  } finally {
    for (const fd of fds) closeSync(fd);
  }
}

describe('an inlet', () => {
  it('writes everything to all its places, however it comes and wherever they are', async () => {
    const cuts = fc.array(fc.nat(bytes.length), { maxLength: 12 });
    await fc.assert(
      fc.asyncProperty(cuts, fc.nat(9000), fc.nat(700), fc.nat(5000), async (cut, at, header, after) => {
        const before = Buffer.alloc(header, 'h');
        const digest = await into(['one', 'two'], async (one, two) => {
          const inlet = new Inlet([
            { to: [{ fd: one, offset: 0, length: bytes.length }] },
            {
              to: [{ fd: two, offset: at, length: header + bytes.length + (after % 4096) }],
              before,
              after: after % 4096,
            },
          ]);
          const ends = [...cut, bytes.length].toSorted((a, b) => a - b);
          for (const [i, end] of ends.entries()) await inlet.write(bytes.subarray(ends[i - 1] ?? 0, end));
          return inlet.end();
        });
        expect(digest).toBe(digestOf(bytes));
        expect(readFileSync(join(dir, 'one')).equals(bytes)).toBe(true);
        const two = [Buffer.alloc(at), before, bytes, Buffer.alloc(after % 4096)];
        expect(readFileSync(join(dir, 'two')).equals(Buffer.concat(two))).toBe(true);
      }),
      { numRuns: 15 },
    );
  });

  it('lets its bytes be overwritten, and has many beside it', async () => {
    const contents = Array.from({ length: 9 }, (_, i) => Buffer.alloc(5 * 1024 * 1024 + i, `${i}`));
    const names = contents.map((_, i) => `many-${i}`);
    await into(names, async (...fds) => {
      const digests = contents.map(async (content, i) => {
        const inlet = new Inlet([{ to: [{ fd: fds[i]!, offset: 0, length: content.length }] }]);
        const chunk = Buffer.alloc(100_000);
        for (let from = 0; from < content.length; from += chunk.length) {
          const length = content.copy(chunk, 0, from);
          await inlet.write(chunk.subarray(0, length));
          chunk.fill('x');
        }
        return inlet.end();
      });
      expect(await Promise.all(digests)).toEqual(contents.map((content) => digestOf(content)));
    });
    for (const [i, name] of names.entries())
      expect(readFileSync(join(dir, name)).equals(contents[i]!)).toBe(true);
  });

  it('says which place could not be written, and takes no more', async () => {
    await into(['good'], async (good) => {
      const full = openSync('/dev/full', 'w');
      try {
        const length = bytes.length;
        const inlet = new Inlet([
          { to: [{ fd: good, offset: 0, length }] },
          { to: [{ fd: full, offset: 0, length }] },
        ]);
        const failing = (async () => {
          for (let i = 0; i < 100; i++) await inlet.write(bytes);
        })();
        await expect(failing).rejects.toThrow(TransferError);
        await expect(inlet.end()).rejects.toMatchObject({ code: 'ENOSPC', side: 'write' });
        await inlet.drop();
      } finally {
        closeSync(full);
      }
    });
  });

  it('comes to an end when its thread does, and another one is there afterwards', async () => {
    // What is written is to be as long as what comes; a caller who gets that wrong ends the thread.
    const deadly = new Inlet([{ to: [] }]);
    const other = new Inlet([{ to: [] }]);
    await expect(Promise.all([deadly.write(bytes), other.write(bytes)])).rejects.toThrow();
    await Promise.all([deadly.drop(), other.drop()]);
    await expect(deadly.end()).rejects.toThrow();
    await into(['after'], async (fd) => {
      const inlet = new Inlet([{ to: [{ fd, offset: 0, length: 5 }] }]);
      await inlet.write(bytes.subarray(0, 5));
      expect(await inlet.end()).toBe(digestOf(bytes.subarray(0, 5)));
    });
  });

  it('writes nothing after it was dropped', async () => {
    await into(['dropped'], async (fd) => {
      const inlet = new Inlet([{ to: [{ fd, offset: 0, length: bytes.length }] }]);
      await inlet.write(bytes.subarray(0, 3_000_000));
      await inlet.drop();
      const { size } = statSync(join(dir, 'dropped'));
      await sleep(50);
      expect(statSync(join(dir, 'dropped')).size).toBe(size);
      expect(readFileSync(join(dir, 'dropped')).equals(bytes.subarray(0, size))).toBe(true);
    });
  });
});

const expected: Expected = { digest: digestOf(bytes), size: bytes.length };
const SEGMENT = 2_000_000;

interface Far extends BlobSource {
  asked: [from: number, to: number][];
  /** Requests that break off after so many bytes. */
  cuts: number[];
}

/** A far side; without ranges it sends everything from the beginning, whatever it is asked for. */
function far({ cuts = [] as number[], ranges = true, content = bytes } = {}): Far {
  const self: Far = { asked: [], cuts, segmentBytes: SEGMENT, open: (from) => answer(from, content.length) };
  // oxlint-disable-next-line require-await
  async function* send(from: number, to: number): AsyncGenerator<Uint8Array> {
    const end = Math.min(to, from + (self.cuts.shift() ?? Infinity));
    for (let at = from; at < end; at += 65_536)
      yield new Uint8Array(content.subarray(at, Math.min(end, at + 65_536)));
    if (end < to) throw new SealiftError('NETWORK_ERROR', 'cut');
  }
  const answer = (from: number, to: number): ReturnType<BlobSource['open']> => {
    self.asked.push([from, to]);
    const offset = ranges ? from : 0;
    return Promise.resolve({ offset, body: send(offset, to), lasting: true });
  };
  return ranges ? { ...self, openRange: ({ from, to }) => answer(from, to) } : self;
}

describe('a store that is filled in order', () => {
  const fresh = (): Promise<Store> => Store.open(tempDir('flow'), 'cache');
  const arrive = async (store: Store, source: Far): Promise<Buffer> => {
    const path = join(tempDir('beside'), 'bundle');
    writeFileSync(path, '');
    const fd = openSync(path, 'r+');
    try {
      const to = [{ fd, offset: 1024, length: 512 + bytes.length }];
      await store.add(expected, source, { inOrder: true, into: { to, before: Buffer.alloc(512, 'h') } });
    } finally {
      closeSync(fd);
    }
    return readFileSync(path);
  };
  const beside = Buffer.concat([Buffer.alloc(1024), Buffer.alloc(512, 'h'), bytes]);

  it.each<[string, Parameters<typeof far>[0]]>([
    ['in one go', {}],
    ['with cuts', { cuts: [700_000, 0, 1_999_999, 5] }],
    ['from a server that knows no ranges, with cuts', { ranges: false, cuts: [3_000_000, 1_000_000] }],
  ])('%s, has it, and so has the place beside it', async (_, how) => {
    const store = await fresh();
    expect((await arrive(store, far(how))).equals(beside)).toBe(true);
    expect(readFileSync(store.path(expected.digest)).equals(bytes)).toBe(true);
    expect(await store.has(expected)).toBe(true);
  });

  it('asks for one segment after the other, for each byte once', async () => {
    const source = far();
    await arrive(await fresh(), source);
    const ends = Array.from({ length: 5 }, (_, i) => Math.min(bytes.length, (i + 1) * SEGMENT));
    expect(source.asked).toEqual(ends.map((to, i) => [i * SEGMENT, to]));
  });

  it('keeps what has come when it ends, without a journal, and goes on there', async () => {
    const store = await fresh();
    const broken = far({ cuts: [2_000_000, 1_500_000, 0, 0, 0, 0, 0, 0] });
    await expect(arrive(store, broken)).rejects.toMatchObject({ code: 'NETWORK_ERROR' });
    expect(store.arrived(expected)).toBe(3_500_000);
    const source = far();
    expect((await arrive(store, source)).equals(beside)).toBe(true);
    expect(Math.min(...source.asked.map(([from]) => from))).toBe(3_500_000);
  });

  it('refuses other bytes, and keeps none of them', async () => {
    const store = await fresh();
    const content = Buffer.from(bytes);
    content[5_000_000]! ^= 1;
    await expect(arrive(store, far({ content }))).rejects.toMatchObject({ code: 'SOURCE_CHANGED' });
    expect(store.arrived(expected)).toBe(0);
    expect(await store.has(expected)).toBe(false);
  });
});
