// SPDX-License-Identifier: Apache-2.0
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { HttpClient, type HttpResponse } from '../../../src/build/sources/http.ts';
import { Traffic } from '../../../src/build/sources/traffic.ts';
import { onEnd, readAll, serve } from './support.ts';

/** What has happened so far, without waiting for anything that has not. */
async function isDone(work: Promise<unknown>): Promise<boolean> {
  return Promise.race([work.then(() => true), sleep(20, false)]);
}

describe('places', () => {
  it('are given in the order in which they were asked for', async () => {
    const traffic = new Traffic(1);
    const order: number[] = [];
    const first = await traffic.enter('a.example', undefined);
    const others = [1, 2, 3].map(async (n) => {
      const leave = await traffic.enter('a.example', undefined);
      order.push(n);
      leave();
    });
    expect(await isDone(Promise.race(others))).toBe(false);
    first();
    first(); // twice is once
    await Promise.all(others);
    expect(order).toEqual([1, 2, 3]);
    const again = await traffic.enter('a.example', undefined);
    expect(await isDone(traffic.enter('a.example', undefined))).toBe(false);
    again();
  });

  it('are not kept for whoever has given up', async () => {
    const traffic = new Traffic(1);
    const leave = await traffic.enter('a.example', undefined);
    const controller = new AbortController();
    const waiting = traffic.enter('a.example', controller.signal);
    const next = traffic.enter('a.example', undefined);
    controller.abort(new Error('enough'));
    await expect(waiting).rejects.toThrow('enough');
    await expect(traffic.enter('a.example', controller.signal)).rejects.toThrow('enough');
    leave();
    expect(await isDone(next)).toBe(true);
  });
});

describe('a pause', () => {
  it('is for one host, as long as the longest that was asked for', async () => {
    const traffic = new Traffic(1);
    traffic.pause('busy.example', 200);
    traffic.pause('busy.example', 1);
    const before = performance.now();
    await traffic.clear('other.example', undefined);
    expect(performance.now() - before).toBeLessThan(150);
    await traffic.clear('busy.example', undefined);
    expect(performance.now() - before).toBeGreaterThanOrEqual(195);
  });

  it('ends when the work is interrupted', async () => {
    const traffic = new Traffic(1);
    traffic.pause('busy.example', 100_000);
    const controller = new AbortController();
    const waiting = traffic.clear('busy.example', controller.signal);
    controller.abort();
    expect(await isDone(waiting)).toBe(true);
  });
});

describe('a client', () => {
  const limited = (connections: number): HttpClient => {
    const http = new HttpClient({ connections, attempts: 3, backoffMs: 1, maxDelayMs: 5 });
    onEnd(() => http.close());
    return http;
  };

  it.each([
    ['read', (response: HttpResponse) => readAll(response.body)],
    ['discarded', (response: HttpResponse) => Promise.resolve(response.discard())],
    [
      'broken off by the reader',
      async (response: HttpResponse) => {
        for await (const _ of response.body) break;
      },
    ],
  ])('has the place of an answer back when it was %s', async (_, end) => {
    const http = limited(1);
    const server = await serve((__, response) => response.end(Buffer.alloc(1_000_000)));
    const ask = (): Promise<HttpResponse> => http.open(new URL(server.url), { what: 'thing' });
    const first = await ask();
    const second = ask();
    expect(await isDone(second)).toBe(false);
    await end(first);
    (await second).discard();
  });

  it.each([503, 302])('has the place of a request back that ends with %i', async (status) => {
    const http = limited(1);
    const bad = await serve((_, response) => response.writeHead(status, { location: '/' }).end());
    const good = await serve((_, response) => response.end('fine'));
    await expect(http.open(new URL(bad.url), { what: 'thing' })).rejects.toThrow('thing');
    const answer = await http.open(new URL(good.url), { what: 'thing' });
    expect((await readAll(answer.body)).toString()).toBe('fine');
  });

  it('asks others while a host that wants peace keeps nobody else waiting', async () => {
    const http = new HttpClient({ connections: 1, backoffMs: 1, maxDelayMs: 60_000 });
    onEnd(() => http.close());
    const busy = await serve((_, response) => response.writeHead(429, { 'retry-after': '60' }).end());
    const good = await serve((_, response) => response.end('fine'));
    const controller = new AbortController();
    const { signal } = controller;
    const refused = [1, 2, 3].map(() => http.open(new URL(busy.url), { what: 'thing', signal }));
    const settled = Promise.allSettled(refused);
    while (busy.seen.length === 0) await sleep(2);
    const answer = await http.open(new URL(good.url), { what: 'other' });
    expect((await readAll(answer.body)).toString()).toBe('fine');
    await sleep(50);
    expect(busy.seen).toHaveLength(1);
    controller.abort();
    expect((await settled).map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
  });
});
