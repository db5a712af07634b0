// SPDX-License-Identifier: Apache-2.0
import { readFileSync } from 'node:fs';
import { createServer, type RequestListener } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { getCACertificates, setDefaultCACertificates } from 'node:tls';
import { describe, expect, it } from 'vitest';
import { describeUrl, isLoopback } from '../../../src/build/sources/address.ts';
import { HttpClient, type HttpOptions, type HttpRequest } from '../../../src/build/sources/http.ts';
import { Proxies } from '../../../src/build/sources/proxy.ts';
import type { SealiftEvent } from '../../../src/events.ts';
import { runOk, tempDir } from '../../support/workspace.ts';
import { failure, onEnd, readAll, serve } from './support.ts';

function client(options: HttpOptions = {}): HttpClient & { events: SealiftEvent[] } {
  const events: SealiftEvent[] = [];
  const made = new HttpClient({
    backoffMs: 1,
    maxDelayMs: 20,
    stallMs: 1000,
    attempts: 4,
    emit: (e) => events.push(e),
    ...options,
  });
  onEnd(() => made.close());
  return Object.assign(made, { events });
}

const get = (
  http: HttpClient,
  url: string,
  request: Partial<HttpRequest> = {},
): ReturnType<HttpClient['bytes']> => http.bytes(new URL(url), { what: 'thing', ...request }, 1000);

describe('an answer', () => {
  it('comes as it is sent: no compression is asked for, none is undone', async () => {
    const server = await serve((_, response) =>
      response.writeHead(200, { 'content-encoding': 'gzip' }).end('raw'),
    );
    const answer = await get(client(), server.url);
    expect(answer.bytes.toString()).toBe('raw');
    expect(server.seen[0]?.headers['accept-encoding']).toBe('identity');
  });

  it('with more bytes than allowed is refused', async () => {
    const server = await serve((_, response) => response.end(Buffer.alloc(1001)));
    const error = await failure(get(client(), server.url), 'SOURCE_INVALID');
    expect(error.message).toContain('more than 1000 bytes');
  });

  it('with a status that is no accident is returned, not retried', async () => {
    const server = await serve((_, response) => response.writeHead(404).end());
    expect((await get(client(), server.url)).status).toBe(404);
    expect(server.seen).toHaveLength(1);
  });
});

describe('a retry', () => {
  it.each([408, 429, 500, 502, 503, 504])('follows status %i, and is announced', async (status) => {
    const http = client();
    const server = await serve((_, response, n) => response.writeHead(n < 3 ? status : 200).end('done'));
    expect((await get(http, `${server.url}/x?token=secret`)).bytes.toString()).toBe('done');
    expect(http.events).toHaveLength(2);
    expect(http.events[0]).toMatchObject({ what: 'thing', reason: `${server.host}/x answered ${status}` });
    expect(JSON.stringify(http.events)).not.toContain('secret');
  });

  it('waits as long as Retry-After says', async () => {
    const http = client({ maxDelayMs: 10_000 });
    const server = await serve((_, response, n) =>
      response.writeHead(n === 1 ? 429 : 200, { 'retry-after': '1' }).end(),
    );
    const before = performance.now();
    await get(http, server.url);
    expect(performance.now() - before).toBeGreaterThan(950);
    expect(http.events).toMatchObject([{ type: 'retry', delayMs: 1000 }]);
  });

  it('takes no longer than the cap, whatever Retry-After says', async () => {
    const http = client();
    const server = await serve((_, response, n) =>
      response.writeHead(n === 1 ? 503 : 200, { 'retry-after': '86400' }).end(),
    );
    await get(http, server.url);
    expect(http.events).toMatchObject([{ type: 'retry', delayMs: 20 }]);
  });

  it('follows a connection that breaks before the head or in the body of a document', async () => {
    const http = client();
    const server = await serve((request, response, n) => {
      if (n === 1) return request.destroy();
      response.writeHead(200, { 'content-length': 4 });
      if (n === 3) return response.end('done');
      return response.write('do', () => setTimeout(() => response.destroy(), 10));
    });
    expect((await get(http, server.url)).bytes.toString()).toBe('done');
    expect(http.events).toHaveLength(2);
  });

  it('ends after the last attempt with NETWORK_ERROR', async () => {
    const server = await serve((_, response) => response.writeHead(503).end());
    const error = await failure(get(client(), `${server.url}/path?sig=1`), 'NETWORK_ERROR');
    expect(error.message).toBe(`thing: ${server.host}/path answered 503`);
    expect(server.seen).toHaveLength(4);
  });

  it('stops when the work is interrupted', async () => {
    const controller = new AbortController();
    const server = await serve((_, response) => {
      response.writeHead(503, { 'retry-after': '100' }).end();
      setTimeout(() => controller.abort(), 20);
    });
    const http = client({ maxDelayMs: 100_000 });
    await failure(get(http, server.url, { signal: controller.signal }), 'INTERRUPTED');
    expect(server.seen).toHaveLength(1);
  });
});

describe('silence', () => {
  it('before the head is a failure', async () => {
    const server = await serve(() => {});
    const error = await failure(get(client({ stallMs: 40, attempts: 2 }), server.url), 'NETWORK_ERROR');
    expect(error.message).toContain('no data for 0.04 s');
    expect(server.seen).toHaveLength(2);
  });

  it('in the body is a failure', async () => {
    const server = await serve((_, response) =>
      response.writeHead(200, { 'content-length': 10 }).write('12345'),
    );
    const response = await client({ stallMs: 40 }).open(new URL(server.url), { what: 'thing' });
    const error = await failure(readAll(response.body), 'NETWORK_ERROR');
    expect(error.message).toContain('no data');
  });

  it('broken by a few bytes now and then is silence all the same', async () => {
    const server = await serve((_, response) => {
      response.writeHead(200, { 'content-length': 1000 });
      const timer = setInterval(() => response.write('x'), 10);
      response.once('close', () => clearInterval(timer));
    });
    const response = await client({ stallMs: 300 }).open(new URL(server.url), { what: 'thing' });
    const error = await failure(readAll(response.body), 'NETWORK_ERROR');
    expect(error.message).toMatch(/only \d+ bytes for 0.3 s/);
  });

  it('of the reader is none', async () => {
    const server = await serve((_, response) => response.end(Buffer.alloc(300_000)));
    const response = await client({ stallMs: 40 }).open(new URL(server.url), { what: 'thing' });
    let size = 0;
    for await (const chunk of response.body) {
      if (size === 0) await new Promise((resolve) => setTimeout(resolve, 150));
      size += chunk.length;
    }
    expect(size).toBe(300_000);
  });
});

it('an interruption ends a body at once', async () => {
  const controller = new AbortController();
  const server = await serve((_, response) =>
    response.writeHead(200, { 'content-length': 10 }).write('12345'),
  );
  const { signal } = controller;
  const response = await client({ stallMs: 20_000 }).open(new URL(server.url), { what: 'thing', signal });
  const chunks = response.body[Symbol.asyncIterator]();
  expect(String((await chunks.next()).value)).toBe('12345');
  setTimeout(() => controller.abort(), 20);
  await failure(chunks.next(), 'INTERRUPTED');
});

describe('a redirect', () => {
  it('to another origin loses the credentials, and does not get them back', async () => {
    const last = await serve((_, response) => response.end('there'));
    const other = await serve(
      (_, response) => response.writeHead(302, { location: last.url }).end(),
      '127.0.0.2',
    );
    const first = await serve((_, response) => response.writeHead(307, { location: `${other.url}/x` }).end());
    const headers = { Authorization: 'Bearer secret', cookie: 'a=b', range: 'bytes=1-' };
    expect((await get(client(), first.url, { headers })).bytes.toString()).toBe('there');
    expect(first.seen[0]?.headers).toMatchObject({ authorization: 'Bearer secret', cookie: 'a=b' });
    for (const { seen } of [other, last]) {
      expect(seen[0]?.headers).not.toHaveProperty('authorization');
      expect(seen[0]?.headers).not.toHaveProperty('cookie');
      expect(seen[0]?.headers).toHaveProperty('range', 'bytes=1-');
    }
  });

  it('to another port of the same host loses them too', async () => {
    const other = await serve((_, response) => response.end());
    const first = await serve((_, response) => response.writeHead(301, { location: other.url }).end());
    await get(client(), first.url, { headers: { authorization: 'x' } });
    expect(other.seen[0]?.headers).not.toHaveProperty('authorization');
  });

  it('within an origin keeps them, relative addresses included', async () => {
    const server = await serve((_, response, n) =>
      n === 1 ? response.writeHead(308, { location: '../b?q=1' }).end() : response.end(),
    );
    const { url } = await get(client(), `${server.url}/a/a`, { headers: { authorization: 'x' } });
    expect(url.href).toBe(`${server.url}/b?q=1`);
    expect(server.seen[1]?.headers['authorization']).toBe('x');
  });

  it('in a circle ends', async () => {
    const server = await serve(({ url }, response) =>
      response.writeHead(302, { location: url === '/a' ? '/b' : '/a' }).end(),
    );
    expect((await failure(get(client(), `${server.url}/a`), 'SOURCE_INVALID')).message).toContain(
      'in a circle',
    );
    expect(server.seen).toHaveLength(2);
  });

  it('after redirect ends', async () => {
    const server = await serve((_, response, n) => response.writeHead(302, { location: `/${n}` }).end());
    expect((await failure(get(client(), server.url), 'SOURCE_INVALID')).message).toContain(
      'more than 10 redirects',
    );
  });

  it('never takes name and password from the server', async () => {
    const server: Awaited<ReturnType<typeof serve>> = await serve((_, response, n) =>
      n === 1
        ? response.writeHead(302, { location: `http://user:pass@${server.host}/x` }).end()
        : response.end(),
    );
    await get(client(), server.url);
    expect(server.seen[1]?.headers).not.toHaveProperty('authorization');
  });
});

describe('without TLS', () => {
  it('only loopback and named hosts are spoken to', async () => {
    const error = await failure(get(client(), 'http://registry.example/x'), 'SOURCE_INVALID');
    expect(error.hint).toContain('--plain-http registry.example');
    await failure(get(client(), 'ftp://127.0.0.1/x'), 'SOURCE_INVALID');
  });

  it('a named host is reached, through a proxy if there is one; loopback is not', async () => {
    const target = await serve((_, response) => response.end('direct'));
    const proxy = await serve((_, response) => response.end('proxied'));
    const http = client({ plainHttp: new Set(['registry.example']), proxyEnv: { HTTP_PROXY: proxy.url } });
    expect((await get(http, 'http://registry.example/x')).bytes.toString()).toBe('proxied');
    expect(proxy.seen[0]?.url).toBe('http://registry.example/x');
    expect((await get(http, target.url)).bytes.toString()).toBe('direct');
  });

  it('a redirect from a host elsewhere to this host is refused', async () => {
    const target = await serve((_, response) => response.end('internal'));
    const proxy = await serve((_, response) => response.writeHead(302, { location: target.url }).end());
    const http = client({ plainHttp: new Set(['registry.example']), proxyEnv: { http_proxy: proxy.url } });
    await failure(get(http, 'http://registry.example/x'), 'SOURCE_INVALID');
    expect(target.seen).toHaveLength(0);
  });

  it('tells loopback from names that only look like it', () => {
    expect(['localhost', 'a.localhost', '127.0.0.1', '127.9.9.9', '[::1]'].every(isLoopback)).toBe(true);
    expect(
      ['localhost.example', '127.0.0.1.example', '128.0.0.1', '10.0.0.1', '[::2]'].some(isLoopback),
    ).toBe(false);
  });
});

describe('https', () => {
  const listening = async (handler: RequestListener): Promise<string> => {
    const dir = tempDir('tls');
    const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')];
    const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost,IP:127.0.0.1'];
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1'];
    await runOk('openssl', [
      'req',
      '-x509',
      '-nodes',
      '-days',
      '2',
      ...curve,
      '-keyout',
      key,
      '-out',
      cert,
      ...subject,
    ]);
    const server = createTlsServer({ key: readFileSync(key), cert: readFileSync(cert) }, handler);
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const before = getCACertificates('default');
    onEnd(() => {
      setDefaultCACertificates(before);
      server.closeAllConnections();
      server.close();
    });
    setDefaultCACertificates([...before, readFileSync(cert, 'utf8')]);
    return `https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  };

  it('is spoken, and not left for plain http elsewhere', async () => {
    const url = await listening(({ url: path }, response) => {
      if (path !== '/leave') return response.end('safe');
      return response.writeHead(302, { location: 'http://registry.example/x' }).end();
    });
    expect((await get(client(), url)).bytes.toString()).toBe('safe');
    const error = await failure(get(client(), `${url}/leave`), 'SOURCE_INVALID');
    expect(error.message).toContain('registry.example/x is not https');
  });

  it('of an unknown authority is refused at once, and a hint says what to do', async () => {
    const url = await listening((_, response) => response.end());
    setDefaultCACertificates([]);
    const http = client();
    const error = await failure(get(http, url), 'NETWORK_ERROR');
    expect(error.hint).toContain('NODE_EXTRA_CA_CERTS');
    expect(http.events).toEqual([]);
  });

  it('is verified even where NODE_TLS_REJECT_UNAUTHORIZED=0 is set', async () => {
    const url = await listening((_, response) => response.end());
    setDefaultCACertificates([]);
    process.env['NODE_TLS_REJECT_UNAUTHORIZED'] = '0';
    onEnd(() => void delete process.env['NODE_TLS_REJECT_UNAUTHORIZED']);
    expect((await failure(get(client(), url), 'NETWORK_ERROR')).message).toContain('certificate');
  });

  it('goes through a proxy by CONNECT', async () => {
    const asked: string[] = [];
    const refusing = createServer();
    refusing.on('connect', (request, socket) => {
      asked.push(request.url ?? '');
      socket.end('HTTP/1.1 403 Forbidden\r\n\r\n');
    });
    await new Promise<void>((resolve) => refusing.listen(0, '127.0.0.1', resolve));
    onEnd(() => void refusing.close());
    const { port } = refusing.address() as AddressInfo;
    const http = client({
      attempts: 1,
      proxyEnv: { HTTPS_PROXY: `http://127.0.0.1:${port}`, NO_PROXY: 'none.example' },
    });
    const error = await failure(get(http, 'https://registry.example/x'), 'NETWORK_ERROR');
    expect(error.message).toBe(`thing: the proxy 127.0.0.1:${port} answered 403`);
    expect(asked).toEqual(['registry.example:443']);
  });
});

describe('asFetch', () => {
  it('gives libraries a Response, with headers for the address and a look at every answer', async () => {
    const server = await serve((_, response) =>
      response
        .writeHead(403, { 'content-type': 'application/json', 'x-error-code': 'GatedRepo' })
        .end('{"error":"no"}'),
    );
    const codes: unknown[] = [];
    const fetch = client().asFetch({
      what: 'model',
      maxBytes: 100,
      headers: (url) => ({ authorization: `for ${url.host}` }),
      check: ({ headers }) => codes.push(headers['x-error-code']),
    });
    const response = await fetch(`${server.url}/x`, { headers: { accept: 'application/json' } });
    expect([response.status, response.ok, await response.json()]).toEqual([403, false, { error: 'no' }]);
    expect(codes).toEqual(['GatedRepo']);
    expect(server.seen[0]?.headers).toMatchObject({
      accept: 'application/json',
      authorization: `for ${server.host}`,
    });
  });
});

it('addresses in messages have no query and no control characters', () => {
  expect(describeUrl(new URL('https://user:pw@h.example:8443/a%20b?sig=secret#x'))).toBe(
    'h.example:8443/a%20b',
  );
});

describe('a proxy', () => {
  it('that wants a password says so, by its name and without the one it was given', async () => {
    const proxy = await serve((_, response) => response.writeHead(407).end());
    const tunnels = createServer().on('connect', (_, socket) =>
      socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n'),
    );
    await new Promise<void>((resolve) => tunnels.listen(0, '127.0.0.1', resolve));
    onEnd(() => void tunnels.close());
    const tunnel = `127.0.0.1:${(tunnels.address() as AddressInfo).port}`;
    const proxyEnv = { http_proxy: `user:sesame@${proxy.host}`, HTTPS_PROXY: `http://user:sesame@${tunnel}` };
    const http = client({ plainHttp: new Set(['r.example']), proxyEnv });
    const plain = await failure(get(http, 'http://r.example/x'), 'UNAUTHORIZED');
    expect([plain.message, plain.hint]).toEqual([
      `thing: the proxy ${proxy.host} wants a user and a password`,
      `put them into http_proxy: http://USER:PASSWORD@${proxy.host}`,
    ]);
    const tls = await failure(get(http, 'https://r.example/x'), 'UNAUTHORIZED');
    expect(tls.message).toContain(`the proxy ${tunnel} wants`);
    expect(JSON.stringify([plain, tls]) + plain + tls).not.toContain('sesame');
  });

  it('that cannot be reached is named', async () => {
    const http = client({ attempts: 1, proxyEnv: { HTTPS_PROXY: '127.0.0.1:1' } });
    const error = await failure(get(http, 'https://r.example/x'), 'NETWORK_ERROR');
    expect(error.message).toContain('r.example/x through the proxy 127.0.0.1:1: ');
  });

  it.each(['socks5://user:sesame@127.0.0.1:1080', 'http://user:sesame@', 'http://user:se sa@me:x'])(
    'that cannot be used is refused, not gone around: %s',
    async (text) => {
      const error = await failure(() => client({ proxyEnv: { https_proxy: text } }), 'USAGE');
      expect(error.message).toContain('https_proxy');
      expect(String(error) + JSON.stringify(error)).not.toMatch(/sesame|se sa/);
    },
  );

  it.each([
    ['*', true],
    ['r.example', true],
    ['other, r.example:443', true],
    ['r.example:8443', false],
    ['.example', true],
    ['*.example', true],
    ['ample', false],
    ['', false],
  ])('is left out by NO_PROXY=%j: %s', (entries, direct) => {
    const proxies = new Proxies({ HTTPS_PROXY: 'p:3128', NO_PROXY: entries });
    expect(proxies.for(new URL('https://R.example/x')) === undefined).toBe(direct);
  });

  it('is left out for a range of addresses', () => {
    const proxies = new Proxies({ HTTP_PROXY: 'p:3128', no_proxy: '10.0.0.1-10.0.1.0' });
    expect(proxies.for(new URL('http://10.0.0.200/'))).toBeUndefined();
    expect(proxies.for(new URL('http://10.0.1.1/'))?.host).toBe('p:3128');
  });
});
