// SPDX-License-Identifier: Apache-2.0
/** What a bad network does to a download in segments: each time it ends right, or is refused with its own code. */
import { readdirSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { HttpClient, type NetworkOptions } from '../../../src/build/sources/http.ts';
import { rangedSource } from '../../../src/build/sources/ranged.ts';
import type { ErrorCode, SealiftError } from '../../../src/errors.ts';
import type { SealiftEvent } from '../../../src/events.ts';
import { digestOf } from '../../../src/store/digest.ts';
import { Store } from '../../../src/store/store.ts';
import { Random } from '../../support/random.ts';
import { tempDir } from '../../support/workspace.ts';
import { failure, onEnd, serve, type TestServer } from './support.ts';

const content = new Random('content of the faults').bytes(300_000);
const expected = { digest: digestOf(content), size: content.length };
const SEGMENT = 40_000;

/** How one answer differs from that of a good server. */
interface Change {
  status?: number;
  headers?: Record<string, string>;
  /** Everything, whatever was asked for. */
  whole?: boolean;
  /** Content that is there now. */
  content?: Buffer;
  /** Bytes of the range that are sent and announced. */
  length?: number;
  /** The connection is closed after so many bytes of the body. */
  cut?: number;
  /** Silence after so many. */
  stall?: number;
}

type Fault = (asked: { from: number; to: number; count: number }) => Change | undefined;

interface FarSide extends TestServer {
  /** Most requests that were under way together. */
  busiest: number;
  bytes: number;
}

async function farSide(fault: Fault = () => undefined, delayMs = 0): Promise<FarSide> {
  let busy = 0;
  const answer = async (request: IncomingMessage, response: ServerResponse, count: number): Promise<void> => {
    side.busiest = Math.max(side.busiest, ++busy);
    response.once('close', () => busy--);
    const [, from = '0', to = ''] = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '') ?? [];
    const asked = { from: Number(from), to: to === '' ? content.length : Number(to) + 1 };
    const change = fault({ ...asked, count }) ?? {};
    if (delayMs > 0) await sleep(delayMs);
    await send(response, request.headers.range !== undefined, asked, change);
  };
  const side: FarSide = Object.assign(
    await serve((request, response, count) => void answer(request, response, count)),
    { busiest: 0, bytes: 0 },
  );
  return side;

  async function send(
    response: ServerResponse,
    ranged: boolean,
    asked: { from: number; to: number },
    change: Change,
  ): Promise<void> {
    if (change.status !== undefined) return void response.writeHead(change.status, change.headers).end();
    const now = change.content ?? content;
    const partial = ranged && change.whole !== true;
    const [from, end] = partial ? [asked.from, Math.min(asked.to, now.length)] : [0, now.length];
    const to = Math.min(end, from + (change.length ?? Infinity));
    const range = partial ? { 'content-range': `bytes ${from}-${to - 1}/${now.length}` } : {};
    const named = change.headers?.['last-modified'] === undefined ? { etag: '"one"' } : {};
    const headers = { ...named, 'content-length': String(to - from), ...range, ...change.headers };
    response.writeHead(partial ? 206 : 200, headers);
    const sent = now.subarray(from, Math.min(to, from + (change.cut ?? change.stall ?? Infinity)));
    side.bytes += sent.length;
    await new Promise((done) => void response.write(sent, done));
    if (change.stall !== undefined) return;
    if (change.cut === undefined) return void response.end();
    await sleep(10); // what was written must leave the machine first
    response.destroy();
  }
}

interface Here {
  store: Store;
  events: SealiftEvent[];
  gained: number;
  fetch(side: TestServer, signal?: AbortSignal): Promise<void>;
  /** Ends with an error that has the code; nothing wrong has got a name. */
  refuse(side: TestServer, code: ErrorCode): Promise<SealiftError>;
  /** Ends with the right content, and with nothing beside it. */
  survive(side: TestServer): Promise<void>;
}

const filesOf = (store: Store, folder: string): string[] => readdirSync(join(store.root, folder));

async function here(network: NetworkOptions = {}, root = tempDir('faults')): Promise<Here> {
  const events: SealiftEvent[] = [];
  const options = { attempts: 4, backoffMs: 1, maxDelayMs: 20, stallMs: 2000, ...network };
  const http = new HttpClient({ ...options, emit: (event) => events.push(event) });
  onEnd(() => http.close());
  const store = await Store.open(root, 'cache');
  const self: Here = {
    store,
    events,
    gained: 0,
    async fetch(side, signal) {
      const source = rangedSource({
        size: content.length,
        segmentBytes: SEGMENT,
        what: 'weights',
        get: (headers, stop) => http.open(new URL(side.url), { headers, signal: stop, what: 'weights' }),
      });
      const onBytes = (delta: number): void => void (self.gained += delta);
      await store.add(expected, source, { onBytes, what: 'weights', signal });
    },
    async refuse(side, code) {
      const error = await failure(self.fetch(side), code);
      expect(filesOf(store, 'blobs/sha256')).toEqual([]);
      expect(error.message).not.toContain('\n');
      return error;
    },
    async survive(side) {
      const before = self.gained;
      await self.fetch(side);
      expect(await store.readBytes(expected, content.length)).toEqual(content);
      expect(filesOf(store, 'partial')).toEqual([]);
      expect(self.gained - before).toBe(content.length);
    },
  };
  return self;
}

describe('a good server', () => {
  it('is asked for each byte once, by several requests at a time, and never by more than allowed', async () => {
    const side = await farSide(undefined, 150);
    await (await here()).survive(side);
    expect(side.bytes).toBe(content.length);
    expect(side.busiest).toBe(6);
    const narrow = await farSide(undefined, 150);
    await (await here({ connections: 2 })).survive(narrow);
    expect(narrow.busiest).toBe(2);
  });
});

describe('a bad network', () => {
  it.each([1, 2, 3, 4, 5])('resets connections at random places (%i)', async (seed) => {
    const random = new Random('resets', seed);
    const side = await farSide(({ from, to }) =>
      random.chance(0.5) ? { cut: 1 + random.int(to - from - 1) } : undefined,
    );
    await (await here()).survive(side);
    expect(side.seen.length).toBeGreaterThan(8);
    expect(side.bytes, 'no byte that arrived is asked for again').toBeLessThan(content.length * 1.2);
  });

  it('sends less than it was asked for', async () => {
    const random = new Random('short reads');
    const side = await farSide(({ to, from }) => ({ length: 1 + random.int(Math.min(30_000, to - from)) }));
    await (await here()).survive(side);
    expect(side.bytes).toBe(content.length);
  });

  it('falls silent in the middle: the connection is dropped, and the rest is asked for', async () => {
    const side = await farSide(({ count }) => (count % 3 === 0 ? { stall: 10_000 } : undefined));
    await (await here({ stallMs: 150 })).survive(side);
    const rest = side.seen.filter(({ headers }) => /^bytes=\d*[1-9]0000-/.test(headers.range ?? ''));
    expect(rest.length).toBeGreaterThan(0);
    expect(side.bytes).toBe(content.length);
  });

  it('stays silent: given up with NETWORK_ERROR, and what has come is kept', async () => {
    const side = await farSide(({ from }) => (from >= 4 * SEGMENT ? { stall: 0 } : undefined));
    const where = await here({ stallMs: 100 });
    const error = await where.refuse(side, 'NETWORK_ERROR');
    expect(error.message).toContain('no data for 0.1 s');
    const kept = where.store.arrived(expected);
    expect(kept).toBeGreaterThanOrEqual(SEGMENT);
    const good = await farSide();
    await (await here({}, where.store.root)).survive(good);
    expect(good.bytes).toBe(content.length - kept);
  });
});

describe('an overloaded server', () => {
  it.each([1, 2, 3])('answers 429, 500 and 503 in storms (%i)', async (seed) => {
    const random = new Random('storms', seed);
    const side = await farSide(() => {
      if (random.chance(0.6)) return undefined;
      const headers = random.chance(0.5) ? { 'retry-after': '1' } : {};
      return { status: random.pick([429, 500, 502, 503, 504]), headers };
    });
    const where = await here({ attempts: 12 });
    await where.survive(side);
    expect(side.bytes).toBe(content.length);
    expect(where.events.some(({ type }) => type === 'retry')).toBe(true);
  });

  it('says when to come back: until then nobody asks that host for anything', async () => {
    const times: number[] = [];
    const side = await farSide(({ count }) => {
      times.push(performance.now());
      return count === 3 ? { status: 429, headers: { 'retry-after': '1' } } : undefined;
    }, 60);
    await (await here({ maxDelayMs: 5000, connections: 2 })).survive(side);
    // The other connection may have asked once or twice more before the refusal was heard.
    const refused = times[2]!;
    expect(times.filter((time) => time > refused && time < refused + 950).length).toBeLessThan(3);
    expect(times.length).toBe(9);
  });

  it('that never recovers is given up, and what has come is kept', async () => {
    const side = await farSide(({ from }) => (from >= 3 * SEGMENT ? { status: 503 } : undefined));
    const where = await here();
    await where.refuse(side, 'NETWORK_ERROR');
    expect(where.store.arrived(expected)).toBeGreaterThanOrEqual(SEGMENT);
  });
});

describe('a server that does not know ranges', () => {
  it('sends everything once', async () => {
    const side = await farSide(() => ({ whole: true }));
    await (await here()).survive(side);
    expect(side.seen.map(({ headers }) => headers.range)).toEqual([`bytes=0-${SEGMENT - 1}`, undefined]);
  });

  it('refuses them', async () => {
    const side = await farSide(({ to }) => (to < content.length ? { status: 416 } : undefined));
    await (await here()).survive(side);
  });

  it('stops honouring them in the middle: what has come is kept', async () => {
    const side = await farSide(({ count }) => (count > 4 ? { whole: true } : undefined));
    await (await here()).survive(side);
  });

  it('is cut again and again, until one answer gets through', async () => {
    const side = await farSide(({ count }) => ({
      whole: true,
      ...(count < 5 ? { cut: count * 50_000 } : {}),
    }));
    await (await here()).survive(side);
  });
});

describe('a far side that has changed', () => {
  const other = Buffer.from(content).fill(7, 100_000);

  it('sends wrong bytes once: refused, nothing is kept, and the next run is right', async () => {
    let lies = 1;
    const side = await farSide(({ from }) =>
      from === 80_000 && lies-- > 0 ? { content: other } : undefined,
    );
    const where = await here();
    await where.refuse(side, 'SOURCE_CHANGED');
    expect(filesOf(where.store, 'partial')).toEqual([]);
    await where.survive(side);
  });

  it('sent wrong bytes to a run that was stopped: they are found, and everything is brought again', async () => {
    const where = await here();
    const bad = await farSide(({ from }) => (from >= 200_000 ? { status: 404 } : { content: other }));
    await failure(where.fetch(bad), 'SOURCE_INVALID');
    expect(where.store.arrived(expected)).toBeGreaterThan(0);
    await where.fetch(await farSide());
    expect(await where.store.readBytes(expected, content.length)).toEqual(content);
  });

  it('has another size in the middle: known from the head of one answer', async () => {
    const grown = Buffer.concat([content, Buffer.from('more')]);
    const side = await farSide(({ count }) => (count > 3 ? { content: grown } : undefined));
    const error = await (await here()).refuse(side, 'SOURCE_CHANGED');
    expect(error.message).toBe(`weights is ${grown.length} bytes now, not ${content.length}`);
    expect(side.bytes).toBeLessThan(content.length * 2);
  });

  it.each([
    ['ETag', { etag: '"one"' }, { etag: '"two"' }],
    [
      'Last-Modified',
      { 'last-modified': 'Mon, 02 Nov 2026 10:00:00 GMT' },
      { 'last-modified': 'Tue, 03 Nov 2026 10:00:00 GMT' },
    ],
  ])('has another %s in the middle: one line says so', async (_, before, now) => {
    const side = await farSide(({ count }) => ({ headers: count > 3 ? now : before }));
    const error = await (await here()).refuse(side, 'SOURCE_CHANGED');
    expect(error.message).toBe('weights has changed while it was being downloaded');
    expect(error.details.map(([name]) => name)).toEqual(['before', 'now']);
  });

  it('has several copies with ETags of their own: their bytes are the same, and are taken', async () => {
    const side = await farSide(({ count }) => ({ headers: { etag: count % 2 === 0 ? '"one"' : '"two"' } }));
    await (await here()).survive(side);
  });
});

describe('a server that breaks its own protocol', () => {
  it('leads in a circle', async () => {
    const side = await serve((_, response, count) =>
      response.writeHead(302, { location: `/${count % 2}` }).end(),
    );
    const where = await here();
    const error = await where.refuse(side, 'SOURCE_INVALID');
    expect(error.message).toContain('redirects in a circle');
    expect(side.seen.length).toBeLessThan(12);
  });

  it.each([
    ['another range', (from: number) => `bytes ${from + 1}-${from + SEGMENT}/${content.length}`],
    [
      'a range past the one asked for',
      (from: number) => `bytes ${from}-${content.length - 1}/${content.length}`,
    ],
    ['nonsense', () => 'a few bytes'],
    ['nothing', () => ''],
  ])('answers with %s: refused, and what has come is kept', async (_, range) => {
    const side = await farSide(({ from, count }) =>
      count > 3 ? { headers: { 'content-range': range(from) } } : undefined,
    );
    const where = await here({ connections: 1 });
    const error = await where.refuse(side, 'SOURCE_INVALID');
    expect(error.message).toContain('asked for bytes');
    expect(where.store.arrived(expected)).toBe(3 * SEGMENT);
  });
});

it('a download that is stopped goes on where it was', async () => {
  const controller = new AbortController();
  const where = await here();
  const side = await farSide(({ count }) => {
    if (count < 6) return undefined;
    setTimeout(() => controller.abort(), 10);
    return { stall: 5000 };
  });
  await expect(where.fetch(side, controller.signal)).rejects.toMatchObject({ code: 'INTERRUPTED' });
  const kept = where.store.arrived(expected);
  expect(kept).toBeGreaterThan(SEGMENT);
  const good = await farSide();
  await where.fetch(good);
  expect(good.bytes).toBe(content.length - kept);
  expect(await where.store.readBytes(expected, content.length)).toEqual(content);
});
