// SPDX-License-Identifier: Apache-2.0
import pLimit from 'p-limit';

/** Transfers at a time. More do not help: the link is full with four, and registries start to throttle. */
export const CONCURRENCY = 4;

/** The reason of a signal: another one of the items failed. */
export class Abandoned extends Error {
  override readonly name = 'AbortError';

  constructor() {
    super('given up, because something else failed');
  }
}

/**
 * Runs `work` over all items, some at a time, and gives the results in the items' order. The first failure stops
 * the others through their signal; it is thrown once all have come to rest, so that nothing writes afterwards.
 */
export async function inParallel<T, R>(
  items: readonly T[],
  signal: AbortSignal | undefined,
  work: (item: T, signal: AbortSignal) => Promise<R>,
  atOnce = CONCURRENCY,
): Promise<R[]> {
  const failed = new AbortController();
  const both = signal ? AbortSignal.any([signal, failed.signal]) : failed.signal;
  const limit = pLimit(atOnce);
  let first: { error: unknown } | undefined;
  const one = async (item: T): Promise<R> => {
    try {
      both.throwIfAborted();
      return await work(item, both);
    } catch (error) {
      first ??= { error };
      failed.abort(new Abandoned());
      throw error;
    }
  };
  const settled = await Promise.allSettled(items.map((item) => limit(() => one(item))));
  if (first) throw first.error;
  return settled.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : []));
}
