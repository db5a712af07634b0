// SPDX-License-Identifier: Apache-2.0
/** A file large enough for segments of their real size, from the hub through its CDN. What networks do: faults.test.ts. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeEach, expect, it } from 'vitest';
import { largeModel, slices } from '../../../fixtures/model.ts';
import { HttpClient } from '../../../src/build/sources/http.ts';
import { rangedSource } from '../../../src/build/sources/ranged.ts';
import { Hasher } from '../../../src/store/digest.ts';
import { Store } from '../../../src/store/store.ts';
import { startHub } from '../../support/hub.ts';
import { tempDir } from '../../support/workspace.ts';

const MIB = 2 ** 20;
const NAME = 'model.safetensors';
const files = largeModel({ size: 80 * MIB });
const { bytes } = files.get(NAME)!;
const hasher = new Hasher();
for (const piece of slices(bytes)) hasher.update(piece);
const expected = { size: hasher.size, digest: hasher.digest() };

const hub = await startHub({ models: [{ name: 'big/model', files }] });
const client = new HttpClient({ stallMs: 5000 });
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

it('a server that ignores ranges is read in one stream', async () => {
  hub.faults = { [NAME]: { ignoreRange: true } };
  await arrives();
});

it('what has come is kept when it is stopped, and no range of it is asked for again', async () => {
  hub.faults = { [NAME]: { rate: 20 * MIB } };
  const stop = new AbortController();
  const stopped = arrives(stop.signal);
  setTimeout(() => stop.abort(), 1200);
  await expect(stopped).rejects.toBeDefined();
  const kept = store.arrived(expected);
  expect(kept).toBeGreaterThan(10 * MIB);
  expect(kept).toBeLessThan(expected.size);
  hub.faults = {};
  const before = served().bytes;
  store = await Store.open(store.root);
  await arrives();
  expect(served().bytes - before).toBe(expected.size - kept);
});
