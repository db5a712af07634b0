// SPDX-License-Identifier: Apache-2.0
/**
 * The only network code of sealift. On node:http rather than fetch: fetch asks for gzip and unpacks it silently
 * (digests are over the bytes as they are), follows redirects on its own, and negotiates HTTP/2 with windows of
 * 256 KiB, which crawls over long distances.
 *
 * Rules: TLS, except to loopback and to hosts that the user named. Redirects by hand; credentials never follow
 * to another origin. Every wait has an end (a stall is a failure), every document a largest size.
 */
import http, { type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import https from 'node:https';
import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { SealiftError } from '../../errors.ts';
import { silent, type Emit } from '../../events.ts';
import { giveBack } from '../../store/memory.ts';
import { describeUrl, isLoopback, networkError, stallError } from './address.ts';
import { bodyOf, drain, readBounded, throwIfAborted } from './body.ts';
import { Proxies, proxyRefusal, type Proxy } from './proxy.ts';
import { delayBefore, reasonOf, RETRY_STATUS, retryAfterMs, TransientError } from './retry.ts';
import { Traffic } from './traffic.ts';

const MAX_REDIRECTS = 10;
const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);
const DEFAULT_HEADERS = { 'user-agent': 'sealift', accept: '*/*', 'accept-encoding': 'identity' };
/** Headers that belong to one origin only. */
const CREDENTIALS: ReadonlySet<string> = new Set(['authorization', 'cookie', 'proxy-authorization']);

export interface NetworkOptions {
  /** HTTP_PROXY, HTTPS_PROXY and NO_PROXY in either case; lower case wins. */
  proxyEnv?: Readonly<Record<string, string | undefined>>;
  /** No byte for this many milliseconds is a failure. Default 60 s. */
  stallMs?: number;
  /** Tries of one request. Default 6; 10 for content, which takes hours, and outlives a router that starts again. */
  attempts?: number;
  /** First wait between tries, in milliseconds; doubles. Default 500. */
  backoffMs?: number;
  /** Longest wait between tries, in milliseconds, whatever a server asks for. Default 120 s. */
  maxDelayMs?: number;
  /** Contents that come at a time, from all hosts together. Default 6. */
  connections?: number;
  /** Bytes of large content that are asked for at a time; by default it depends on its size. */
  segmentBytes?: number;
}

export interface HttpOptions extends NetworkOptions {
  plainHttp?: ReadonlySet<string>;
  emit?: Emit;
}

export interface HttpRequest {
  method?: 'GET' | 'HEAD' | 'POST';
  headers?: Record<string, string>;
  body?: string;
  signal?: AbortSignal | undefined;
  /** What is being fetched, for messages and `retry` events. */
  what: string;
}

/** The head of an answer. */
export interface HttpHead {
  status: number;
  headers: IncomingHttpHeaders;
  /** After redirects. */
  url: URL;
}

export interface HttpResponse extends HttpHead {
  /** Fails with NETWORK_ERROR when it breaks off or stalls. To be read once, or discarded. */
  body: AsyncIterable<Buffer>;
  discard(): void;
}

export interface HttpDocument extends HttpHead {
  bytes: Buffer;
}

export interface FetchOptions {
  headers?: (url: URL) => Record<string, string>;
  /** Sees every answer first; what it throws is what the caller of fetch gets. */
  check?: (answer: HttpDocument) => void;
  /** Largest answer in bytes. */
  maxBytes: number;
  signal?: AbortSignal | undefined;
  what: string;
}

export class HttpClient {
  readonly #plainHttp: ReadonlySet<string>;
  readonly #emit: Emit;
  readonly #stallMs: number;
  readonly #attempts: { document: number; content: number };
  readonly #backoff: { firstMs: number; capMs: number };
  readonly #proxies: Proxies;
  readonly #traffic: Traffic;
  readonly #agents: Record<'http:' | 'https:', { direct: http.Agent; proxied: http.Agent }>;

  /** @throws {SealiftError} USAGE when a proxy variable cannot be used */
  constructor(options: HttpOptions = {}) {
    this.#plainHttp = options.plainHttp ?? new Set();
    this.#emit = options.emit ?? silent;
    this.#stallMs = options.stallMs ?? 60_000;
    this.#attempts = { document: options.attempts ?? 6, content: options.attempts ?? 10 };
    this.#backoff = { firstMs: options.backoffMs ?? 500, capMs: options.maxDelayMs ?? 120_000 };
    this.#proxies = new Proxies(options.proxyEnv);
    this.#traffic = new Traffic(options.connections ?? 6);
    // Said aloud because NODE_TLS_REJECT_UNAUTHORIZED=0 changes what Node does when nothing is said.
    const direct = { keepAlive: true, rejectUnauthorized: true };
    const proxied = { ...direct, proxyEnv: this.#proxies.agentEnv };
    this.#agents = {
      'http:': { direct: new http.Agent(direct), proxied: new http.Agent(proxied) },
      'https:': { direct: new https.Agent(direct), proxied: new https.Agent(proxied) },
    };
  }

  /**
   * Sends a request, follows redirects and retries until there is an answer. Any status that is not worth a
   * retry is returned for the caller to judge. Waits while as many others are on their way as may be at a time; the
   * place is taken until the body has been read to its end or discarded.
   * @throws {SealiftError} NETWORK_ERROR, SOURCE_INVALID (redirects, plain http), INTERRUPTED
   */
  open(url: URL, request: HttpRequest): Promise<HttpResponse> {
    return this.#retrying(request, this.#attempts.content, async () => {
      const leave = await this.#traffic.enter(url.host, request.signal);
      return this.#follow(url, request, leave).catch((error: unknown) => {
        leave();
        throw error;
      });
    });
  }

  /**
   * The same for a small document, body included.
   * @throws {SealiftError} also SOURCE_INVALID when it has more than `maxBytes` bytes
   */
  bytes(url: URL, request: HttpRequest, maxBytes: number): Promise<HttpDocument> {
    return this.#retrying(request, this.#attempts.document, async () => {
      const response = await this.#follow(url, request);
      const { status, headers, url: final } = response;
      return { status, headers, url: final, bytes: await readBounded(response, maxBytes, request.what) };
    });
  }

  /** A fetch of this transport, for libraries that take one. Answers are read whole. */
  asFetch(options: FetchOptions): typeof fetch {
    return async (input, init) => {
      const url = new URL(typeof input === 'object' && 'url' in input ? input.url : String(input));
      const headers = { ...Object.fromEntries(new Headers(init?.headers)), ...options.headers?.(url) };
      const { what, signal, maxBytes } = options;
      const answer = await this.bytes(url, { headers, signal, what }, maxBytes);
      options.check?.(answer);
      const body = [204, 205, 304].includes(answer.status) ? null : new Uint8Array(answer.bytes);
      return new Response(body, { status: answer.status, headers: flatHeaders(answer.headers) });
    };
  }

  /** Ends idle connections. Requests that are under way go on. */
  close(): void {
    for (const { direct, proxied } of Object.values(this.#agents)) {
      direct.destroy();
      proxied.destroy();
    }
  }

  /** True if this host may be spoken to without TLS. */
  allowsPlain(url: URL): boolean {
    return isLoopback(url.hostname) || this.#plainHttp.has(url.host) || this.#plainHttp.has(url.hostname);
  }

  async #retrying<T>(request: HttpRequest, attempts: number, once: () => Promise<T>): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      throwIfAborted(request);
      try {
        return await once();
      } catch (thrown) {
        throwIfAborted(request);
        if (!(thrown instanceof TransientError) || attempt >= attempts) throw thrown;
        const delayMs = delayBefore(attempt, thrown.retryAfterMs, this.#backoff);
        if (thrown.busyHost !== undefined) this.#traffic.pause(thrown.busyHost, delayMs);
        this.#emit({
          type: 'retry',
          what: request.what,
          reason: reasonOf(thrown.message, request.what),
          delayMs,
        });
        await sleep(delayMs, undefined, request.signal ? { signal: request.signal } : {}).catch(() => {});
      }
    }
  }

  /** @param done called when the answer's body has come, or will not come any more */
  async #follow(start: URL, request: HttpRequest, done?: () => void): Promise<HttpResponse> {
    let url = start;
    let headers: Record<string, string> = { ...DEFAULT_HEADERS, ...request.headers };
    const seen = new Set<string>();
    for (;;) {
      this.#assertAllowed(url, start, request);
      seen.add(url.href);
      await this.#traffic.clear(url.host, request.signal);
      throwIfAborted(request);
      const message = await this.#exchange(url, headers, request);
      const next = redirectTarget(message, url, request);
      if (next === undefined) {
        if (done) message.once('close', done);
        return this.#answer(message, url, request);
      }
      drain(message);
      if (seen.has(next.href) || seen.size > MAX_REDIRECTS) throw redirectError(request, next, seen.size);
      if (next.origin !== url.origin) headers = withoutCredentials(headers);
      url = next;
    }
  }

  #assertAllowed(url: URL, start: URL, request: HttpRequest): void {
    if (url.protocol === 'https:') return;
    // A public server must not steer us to services of this host, so loopback only counts when we started there.
    const named = this.#plainHttp.has(url.host) || this.#plainHttp.has(url.hostname);
    const local = isLoopback(url.hostname) && isLoopback(start.hostname);
    if (url.protocol === 'http:' && (named || local)) return;
    throw new SealiftError('SOURCE_INVALID', `${request.what}: ${describeUrl(url)} is not https`, {
      hint: `if ${url.host} is meant to be spoken to without TLS, name it with --plain-http ${url.host}`,
    });
  }

  /** One request and the head of its answer. */
  #exchange(url: URL, headers: Record<string, string>, request: HttpRequest): Promise<IncomingMessage> {
    return new Promise((resolve, reject) => {
      const { signal, method = 'GET' } = request;
      const module = url.protocol === 'https:' ? https : http;
      const pair = this.#agents[url.protocol as 'http:' | 'https:'];
      const proxy = this.#proxyFor(url);
      const agent = proxy === undefined ? pair.direct : pair.proxied;
      const outgoing = module.request(url, { method, headers, agent, rejectUnauthorized: true });
      outgoing.once('socket', giveBackWhatIsParsed);
      const stalled = setTimeout(() => outgoing.destroy(stallError(this.#stallMs)), this.#stallMs);
      const abort = (): unknown => outgoing.destroy(new Error('aborted'));
      signal?.addEventListener('abort', abort, { once: true });
      const settle = (): void => {
        clearTimeout(stalled);
        signal?.removeEventListener('abort', abort);
      };
      outgoing.once('response', (message) => {
        settle();
        resolve(message);
      });
      // Stays attached: a connection that breaks after the head reports here as well as in the body.
      outgoing.on('error', (cause) => {
        settle();
        reject(networkError(cause, url, request.what, proxy));
      });
      outgoing.end(request.body);
    });
  }

  /** Go's clients never send loopback through a proxy; users with a proxy set rely on that. */
  #proxyFor(url: URL): Proxy | undefined {
    return isLoopback(url.hostname) ? undefined : this.#proxies.for(url);
  }

  #answer(message: IncomingMessage, url: URL, request: HttpRequest): HttpResponse {
    const status = message.statusCode ?? 0;
    const proxy = url.protocol === 'http:' ? this.#proxyFor(url) : undefined;
    if (status === 407 && proxy !== undefined) {
      drain(message);
      throw proxyRefusal(proxy, status, request.what);
    }
    if (RETRY_STATUS.has(status)) {
      drain(message);
      const asked = retryAfterMs(message.headers, Date.now());
      const busy = status === 429 || asked !== undefined;
      // At once, before somebody takes the place of this request; for longer when it is known how long it waits.
      if (busy) this.#traffic.pause(url.host, delayBefore(1, asked, this.#backoff));
      throw new TransientError(`${request.what}: ${describeUrl(url)} answered ${status}`, {
        retryAfterMs: asked,
        busyHost: busy ? url.host : undefined,
        ...(status === 429
          ? { hint: 'the server limits how often it may be asked: log in, or try later' }
          : {}),
      });
    }
    const body = bodyOf(message, this.#stallMs, url, request);
    return { status, headers: message.headers, url, body, discard: () => drain(message) };
  }
}

/**
 * node:http copies what it makes of a socket's bytes. It has set up its own listener when it tells of the socket, so this
 * one comes after it, also on a connection that has been used before.
 */
function giveBackWhatIsParsed(socket: Socket): void {
  socket.off('data', giveBack);
  socket.on('data', giveBack);
}

function redirectTarget(message: IncomingMessage, url: URL, request: HttpRequest): URL | undefined {
  const { statusCode = 0, headers } = message;
  if (!REDIRECTS.has(statusCode) || headers.location === undefined) return undefined;
  const next = URL.parse(headers.location, url);
  if (next === null || request.body !== undefined) {
    drain(message);
    throw new SealiftError(
      'SOURCE_INVALID',
      `${request.what}: ${describeUrl(url)} redirects in a way that is not followed`,
    );
  }
  // A server must not make us send names and passwords of its own choosing.
  next.username = '';
  next.password = '';
  next.hash = '';
  return next;
}

function redirectError(request: HttpRequest, next: URL, count: number): SealiftError {
  const reason = count > MAX_REDIRECTS ? `more than ${MAX_REDIRECTS} redirects` : 'redirects in a circle';
  return new SealiftError('SOURCE_INVALID', `${request.what}: ${reason}, at ${describeUrl(next)}`);
}

function withoutCredentials(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !CREDENTIALS.has(name.toLowerCase())));
}

function flatHeaders(headers: IncomingHttpHeaders): Headers {
  const flat = new Headers();
  for (const [name, value] of Object.entries(headers)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== undefined) flat.append(name, one);
  }
  return flat;
}
