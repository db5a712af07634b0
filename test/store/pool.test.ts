// SPDX-License-Identifier: Apache-2.0
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Abandoned, CONCURRENCY, inParallel } from '../../src/store/pool.ts';

const numbers = Array.from({ length: 20 }, (_, i) => i);

test('results keep the order of the items, and no more than four run at a time', async () => {
  let running = 0;
  let most = 0;
  const results = await inParallel(numbers, undefined, async (n) => {
    most = Math.max(most, ++running);
    await sleep((20 - n) % 7);
    running--;
    return n * 2;
  });
  expect(results).toEqual(numbers.map((n) => n * 2));
  expect(most).toBe(CONCURRENCY);
});

test('the first failure stops those that run, starts no other, and is thrown when all have come to rest', async () => {
  const started: number[] = [];
  const reasons: unknown[] = [];
  let resting = 0;
  const work = async (n: number, signal: AbortSignal): Promise<void> => {
    started.push(n);
    if (n === 2) throw new Error('second');
    try {
      await sleep(60_000, undefined, { signal });
    } finally {
      await sleep(5);
      reasons.push(signal.reason);
      resting++;
    }
  };
  await expect(inParallel(numbers, undefined, work)).rejects.toThrow('second');
  expect(reasons).toEqual([0, 1, 3].map(() => expect.any(Abandoned) as unknown));
  expect(started).toEqual([0, 1, 2, 3]);
  expect(resting).toBe(3);
});

test("the caller's signal reaches the work", async () => {
  const caller = new AbortController();
  const working = inParallel([1], caller.signal, (_, signal) => sleep(60_000, undefined, { signal }));
  caller.abort();
  await expect(working).rejects.toThrow(expect.objectContaining({ name: 'AbortError' }));
});

test('nothing to do is done', async () => {
  expect(await inParallel([], undefined, () => Promise.reject(new Error('never')))).toEqual([]);
});
