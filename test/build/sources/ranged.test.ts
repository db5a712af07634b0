// SPDX-License-Identifier: Apache-2.0
import type { ServerResponse } from 'node:http';
import { describe, expect, it } from 'vitest';
import { HttpClient } from '../../../src/build/sources/http.ts';
import { rangedSource } from '../../../src/build/sources/ranged.ts';
import { digestOf } from '../../../src/store/digest.ts';
import type { BlobSource } from '../../../src/store/store.ts';
import { failure, fetchBlob, onEnd, readAll, serve, testContext } from './support.ts';

const content = Buffer.from(Array.from({ length: 100_000 }, (_, i) => (i * 31 + (i >> 8)) & 255));
const expected = { digest: digestOf(content), size: content.length };

function sourceOf(url: string, segmentBytes?: number): BlobSource {
  const http = new HttpClient({ attempts: 2, backoffMs: 1, stallMs: 2000 });
  onEnd(() => http.close());
  return rangedSource({
    size: content.length,
    what: 'blob',
    segmentBytes,
    get: (headers, signal) => http.open(new URL(url), { headers, signal, what: 'blob' }),
  });
}

/** Answers one range as a good server does, with what `change` makes of it. */
function range(
  response: ServerResponse,
  header: string | undefined,
  change: { contentRange?: string; length?: number } = {},
): void {
  const [, from = '0', to = ''] = /^bytes=(\d+)-(\d*)$/.exec(header ?? '') ?? [];
  if (header === undefined)
    return void response.writeHead(200, { 'content-length': content.length }).end(content);
  const end = Math.min(
    to === '' ? content.length : Number(to) + 1,
    Number(from) + (change.length ?? content.length),
    content.length,
  );
  const contentRange = change.contentRange ?? `bytes ${from}-${end - 1}/${content.length}`;
  response.writeHead(206, { 'content-range': contentRange }).end(content.subarray(Number(from), end));
}

describe('opened in the middle', () => {
  it('it asks for the rest only', async () => {
    const server = await serve((request, response) => range(response, request.headers.range));
    const { offset, body } = await sourceOf(server.url).open(99_990);
    expect(offset).toBe(99_990);
    expect(await readAll(body)).toEqual(content.subarray(99_990));
    expect(server.seen[0]?.headers.range).toBe('bytes=99990-');
  });

  it('a server without ranges starts over at 0', async () => {
    const server = await serve((_, response) => response.end(content));
    const { offset, body } = await sourceOf(server.url).open(5);
    expect([offset, (await readAll(body)).equals(content)]).toEqual([0, true]);
  });

  it('416 means that the whole is asked for again', async () => {
    const server = await serve((request, response) =>
      request.headers.range === undefined ? response.end(content) : response.writeHead(416).end(),
    );
    const { offset, body } = await sourceOf(server.url).open(5);
    expect([offset, (await readAll(body)).equals(content)]).toEqual([0, true]);
  });

  it.each(['bytes 0-99999/100000', 'bytes 11-99999/100000', 'nonsense', ''])(
    'another range than the one asked for is refused: %s',
    async (contentRange) => {
      const server = await serve((request, response) =>
        range(response, request.headers.range, { contentRange }),
      );
      await failure(sourceOf(server.url).open(10), 'SOURCE_INVALID');
    },
  );

  it.each(['bytes 10-99999/100001', 'bytes 10-100000/*'])(
    'content of another size has changed: %s',
    async (contentRange) => {
      const server = await serve((request, response) =>
        range(response, request.headers.range, { contentRange }),
      );
      await failure(sourceOf(server.url).open(10), 'SOURCE_CHANGED');
    },
  );
});

it('content of another length is refused before it is downloaded', async () => {
  const server = await serve((_, response) =>
    response.writeHead(200, { 'content-length': 7 }).end('changed'),
  );
  expect((await failure(sourceOf(server.url).open(0), 'SOURCE_CHANGED')).message).toContain('7 bytes now');
});

it('content of unknown length that ends too early has changed; a connection that closes has not', async () => {
  const chunked = await serve((_, response) => response.writeHead(200).end('changed'));
  const { body } = await sourceOf(chunked.url).open(0);
  await failure(readAll(body), 'SOURCE_CHANGED');
  const old = await serve((request) => request.socket.end('HTTP/1.0 200 OK\r\n\r\nchanged'));
  const cut = await sourceOf(old.url).open(0);
  await failure(readAll(cut.body), 'NETWORK_ERROR');
});

it('nothing is asked for when there is nothing', async () => {
  const source = rangedSource({ size: 0, what: 'empty', get: () => expect.fail('asked') });
  expect(await readAll((await source.open(0)).body)).toHaveLength(0);
});

describe('into the store', () => {
  it('a download that is cut goes on where it was', async () => {
    const context = await testContext();
    const server = await serve((request, response, n) => {
      if (n > 1) return range(response, request.headers.range);
      response.writeHead(200, { 'content-length': content.length });
      return response.write(content.subarray(0, 40_000), () => setTimeout(() => response.destroy(), 20));
    });
    expect(await fetchBlob(context, expected, sourceOf(server.url))).toEqual(content);
    expect(server.seen.map(({ headers }) => headers.range)).toEqual([undefined, 'bytes=40000-']);
  });

  it('a server that sends less than asked for, again and again, is followed', async () => {
    const context = await testContext();
    const server = await serve((request, response) =>
      range(response, request.headers.range ?? 'bytes=0-', { length: 30_000 }),
    );
    expect(await fetchBlob(context, expected, sourceOf(server.url))).toEqual(content);
    expect(server.seen).toHaveLength(4);
  });

  it('a server that stops sending anything is given up', async () => {
    const context = await testContext();
    const server = await serve((request, response) =>
      request.headers.range === undefined
        ? response
            .writeHead(200, { 'content-length': content.length })
            .write('x', () => setTimeout(() => response.destroy(), 10))
        : response.destroy(),
    );
    await failure(fetchBlob(context, expected, sourceOf(server.url)), 'NETWORK_ERROR');
  });

  it('large content comes in segments, the first alone until it has shown that there are ranges', async () => {
    const context = await testContext();
    const server = await serve((request, response) => range(response, request.headers.range));
    expect(await fetchBlob(context, expected, sourceOf(server.url, 40_000))).toEqual(content);
    const asked = server.seen.map(({ headers }) => headers.range);
    expect(asked[0]).toBe('bytes=0-39999');
    expect(asked.map(String).toSorted((a, b) => (a < b ? -1 : 1))).toEqual([
      'bytes=0-39999',
      'bytes=40000-79999',
      'bytes=80000-',
    ]);
  });

  it('a server that stops honouring ranges sends everything, and what was there is kept', async () => {
    const context = await testContext();
    const server = await serve((request, response, n) =>
      range(response, n === 1 ? request.headers.range : undefined),
    );
    let gained = 0;
    const onBytes = (delta: number): void => void (gained += delta);
    await context.store.add(expected, sourceOf(server.url, 40_000), { onBytes });
    expect(await context.store.readBytes(expected, content.length)).toEqual(content);
    expect(gained).toBe(content.length);
  });

  it('other bytes are refused, and nothing is kept', async () => {
    const context = await testContext();
    const other = Buffer.from(content);
    other[500]! ^= 1;
    const server = await serve((_, response) => response.end(other));
    await failure(fetchBlob(context, expected, sourceOf(server.url)), 'SOURCE_CHANGED');
    expect(await context.store.has(expected)).toBe(false);
  });
});
