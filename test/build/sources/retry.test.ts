// SPDX-License-Identifier: Apache-2.0
import { expect, it } from 'vitest';
import { delayBefore, retryAfterMs } from '../../../src/build/sources/retry.ts';

const now = Date.parse('2026-11-23T12:00:00Z');

it.each([
  [{ 'retry-after': '7' }, 7000],
  [{ 'retry-after': 'Mon, 23 Nov 2026 12:00:30 GMT' }, 30_000],
  [{ 'retry-after': 'Mon, 23 Nov 2026 11:00:00 GMT' }, 0],
  [{ 'retry-after': 'soon' }, undefined],
  [{ ratelimit: '"api";r=0;t=55' }, 55_000],
  [{ 'retry-after': '7', ratelimit: '"api";r=0;t=55' }, 7000],
  [{}, undefined],
])('%j asks for %s ms', (headers, expected) => {
  expect(retryAfterMs(headers, now)).toBe(expected);
});

it('waits double, with jitter, within the cap, and as long as asked', () => {
  const backoff = { firstMs: 100, capMs: 1000 };
  for (let i = 0; i < 50; i++) {
    expect(delayBefore(1, undefined, backoff)).toBeGreaterThanOrEqual(50);
    expect(delayBefore(1, undefined, backoff)).toBeLessThanOrEqual(100);
    expect(delayBefore(3, undefined, backoff)).toBeGreaterThanOrEqual(200);
    expect(delayBefore(9, undefined, backoff)).toBe(1000);
    expect(delayBefore(1, 700, backoff)).toBe(700);
    expect(delayBefore(1, 5000, backoff)).toBe(1000);
  }
});
