// SPDX-License-Identifier: Apache-2.0
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { imageSource } from '../../../src/build/sources/index.ts';
import { digestOf, type Expected } from '../../../src/store/digest.ts';
import { serve, testContext, type TestServer } from './support.ts';

const TYPE = 'application/vnd.oci.image.manifest.v1+json';

it('all sources of a command share the bound of what comes at a time, whatever signals their contexts have', async () => {
  const context = await testContext({ network: { connections: 2, segmentBytes: 10_000 } });
  let [busy, busiest] = [0, 0];
  const contents = [1, 2, 3].map((seed) => Buffer.alloc(50_000, seed));
  const work = contents.map(async (content) => {
    const layer = { digest: digestOf(content), size: content.length };
    const manifest = Buffer.from(
      JSON.stringify({ schemaVersion: 2, mediaType: TYPE, config: layer, layers: [] }),
    );
    const server = await registry(manifest, content);
    const locked = { manifest: { mediaType: TYPE, digest: digestOf(manifest), size: manifest.length } };
    const copy = { ...context, signal: new AbortController().signal };
    const image = await imageSource(`${server.host}/a/b:1`, copy, locked).resolve(context.emit);
    await context.store.add(layer, image.blob(layer), { what: 'layer' });
    return layer;
  });
  for (const [i, layer] of (await Promise.all(work)).entries())
    expect(await context.store.readBytes(layer satisfies Expected, 50_000)).toEqual(contents[i]);
  expect(busiest).toBe(2);

  function registry(manifest: Buffer, content: Buffer): Promise<TestServer> {
    return serve(async (request, response) => {
      if (request.url?.includes('/manifests/') === true)
        return response.writeHead(200, { 'content-type': TYPE }).end(manifest);
      busiest = Math.max(busiest, ++busy);
      response.once('close', () => busy--);
      await sleep(10);
      const [, from = '0', to = ''] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
      const end = to === '' ? content.length : Number(to) + 1;
      const range = `bytes ${from}-${end - 1}/${content.length}`;
      return response.writeHead(206, { 'content-range': range }).end(content.subarray(Number(from), end));
    });
  }
});
