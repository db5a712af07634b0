// SPDX-License-Identifier: Apache-2.0
/** A large file from a real server, in several ranges at a time, with everything that networks do to it. */
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, it } from 'vitest';
import { largeModel, slices } from '../../../fixtures/model.ts';
import { HttpClient } from '../../../src/build/sources/http.ts';
import { rangedSource } from '../../../src/build/sources/ranged.ts';
import { Hasher, hexOf } from '../../../src/store/digest.ts';
import { Store } from '../../../src/store/store.ts';
import { startHub } from '../../support/hub.ts';
import { tempDir } from '../../support/workspace.ts';

const MIB = 2 ** 20;
const NAME = 'model.safetensors';
const files = largeModel({ size: 150 * MIB });
const { bytes } = files.get(NAME)!;
const hasher = new Hasher();
for (const piece of slices(bytes)) hasher.update(piece);
const expected = { size: hasher.size, digest: hasher.digest() };

const hub = await startHub({ models: [{ name: 'big/model', files }] });
const client = new HttpClient({ stallMs: 400, backoffMs: 5, maxDelayMs: 1500 });
afterAll(async () => {
  client.close();
  await hub.stop();
});

const url = new URL(`${hub.url}/big/model/resolve/main/${NAME}`);
const source = rangedSource({
  get: (headers, signal) => client.open(url, { headers, signal, what: NAME }),
  size: expected.size,
  what: NAME,
});

let store: Store;
const partial = (): string => join(store.root, 'partial', hexOf(expected.digest));
const served = (): { bytes: number; ranges: string[] } => hub.served.get(NAME) ?? { bytes: 0, ranges: [] };

beforeEach(async () => {
  store = await Store.open(tempDir('segments'));
  hub.faults = {};
  hub.served.clear();
});

async function arrives(signal?: AbortSignal): Promise<void> {
  let counted = 0;
  await store.add(expected, source, {
    what: NAME,
    onBytes: (delta) => (counted += delta),
    ...(signal && { signal }),
  });
  expect(await store.has(expected)).toBe(true);
  expect(counted).toBe(expected.size);
  expect(readdirSync(join(store.root, 'partial'))).toEqual([]);
}

it('comes in ranges, each byte once', async () => {
  await arrives();
  expect(served().bytes).toBe(expected.size);
  expect(new Set(served().ranges).size).toBe(Math.ceil(expected.size / (32 * MIB)));
});

it.each([1, 2, 3])('connections that are cut at random places: the rest is asked for (%i)', async (seed) => {
  hub.faults = { [NAME]: { cut: { after: ((seed * 7_654_321) % 20) * MIB + 13, times: 8 } } };
  await arrives();
  expect(served().bytes).toBeLessThan(expected.size + 8 * MIB);
});

it('a storm of 429, 500 and 503 is waited out, as long as Retry-After says', async () => {
  for (const status of [429, 500, 503]) {
    store = await Store.open(tempDir('segments'));
    hub.faults = { [NAME]: { refuse: { status, times: 5, retryAfter: 1 } } };
    const before = performance.now();
    await arrives();
    expect(performance.now() - before).toBeGreaterThan(900);
  }
});

it('a connection that falls silent is dropped, and asked again', async () => {
  hub.faults = { [NAME]: { stall: { after: 3 * MIB, times: 3 } } };
  await arrives();
});

it('a server that ignores ranges is read in one stream', async () => {
  hub.faults = { [NAME]: { ignoreRange: true } };
  await arrives();
});

it('wrong bytes are refused and nothing is kept; the next run has it right', async () => {
  hub.faults = { [NAME]: { flip: { at: 70 * MIB } } };
  await expect(arrives()).rejects.toMatchObject({
    code: 'SOURCE_CHANGED',
    message: `${NAME}: the source sends other bytes than the lock says`,
  });
  expect(existsSync(partial())).toBe(false);
  expect(existsSync(`${partial()}.ranges`)).toBe(false);
  hub.faults = {};
  await arrives();
});

it('a file that has another size now is refused in one line', async () => {
  const other = rangedSource({
    get: (headers, signal) => client.open(url, { headers, signal, what: NAME }),
    size: expected.size + 1,
    what: NAME,
  });
  await expect(
    store.add({ ...expected, size: expected.size + 1 }, other, { what: NAME }),
  ).rejects.toMatchObject({
    code: 'SOURCE_CHANGED',
  });
});

it('what has come is kept when it is stopped, and no range of it is asked for again', async () => {
  hub.faults = { [NAME]: { rate: 40 * MIB } };
  const stop = new AbortController();
  const stopped = arrives(stop.signal);
  setTimeout(() => stop.abort(), 1200);
  await expect(stopped).rejects.toBeDefined();
  const kept = await store.arrived(expected);
  expect(kept).toBeGreaterThan(10 * MIB);
  expect(kept).toBeLessThan(expected.size);
  hub.faults = {};
  const before = served().bytes;
  store = await Store.open(store.root);
  await arrives();
  expect(served().bytes - before).toBe(expected.size - kept);
});

it('notes that lie cost a download, and nothing else', async () => {
  writeFileSync(partial(), Buffer.alloc(100 * MIB));
  writeFileSync(`${partial()}.ranges`, JSON.stringify({ size: expected.size, ranges: [[10, 100 * MIB]] }));
  let counted = 0;
  await store.add(expected, source, { what: NAME, onBytes: (delta) => (counted += delta) });
  expect(await store.has(expected)).toBe(true);
  expect(counted).toBe(expected.size);
});
