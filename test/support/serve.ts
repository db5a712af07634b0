// SPDX-License-Identifier: Apache-2.0
//
// Shared by the fixture hub and the fixture registry: serving bytes over HTTP with ranges, counting what
// went out, and everything that goes wrong on a real network, when a test asks for it.
import { createServer } from 'node:http';
import type { IncomingMessage, OutgoingHttpHeaders, RequestListener, ServerResponse } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

/** What goes wrong with the answers for one key. A test changes these at any time; `times` counts down. */
export type Fault = {
  /** Answer with this status instead, so many times; Retry-After in seconds if given. */
  refuse?: { status: number; times: number; retryAfter?: number };
  /** Close the connection after so many bytes of the body, so many times. */
  cut?: { after: number; times: number };
  /** Send nothing more after so many bytes and keep the connection open, so many times. */
  stall?: { after: number; times: number };
  /** Flip one bit of the byte at this offset of the file. Every time, or so many times. */
  flip?: { at: number; times?: number };
  /** Answer 200 with everything although a range was asked for. */
  ignoreRange?: boolean;
  /** Bytes a second, for tests that interrupt a transfer. */
  rate?: number;
};

/** Faults by key (each server says what its keys are); `*` holds for every key without one of its own. */
export type Faults = Record<string, Fault>;

/** What was sent for one key. A HEAD, a refusal and a redirect count as requests without bytes. */
export type Served = { requests: number; bytes: number; ranges: string[] };

/** Bytes that can be read from any offset. */
export type Readable = {
  size: number;
  read(start: number, end: number): AsyncIterable<Buffer> | Iterable<Buffer>;
};

/** The fault for a key. */
export const faultFor = (faults: Faults, key: string): Fault => faults[key] ?? faults['*'] ?? {};

/** Counts by key, made on first use. */
export function servedFor(counts: Map<string, Served>, key: string): Served {
  const served = counts.get(key) ?? { requests: 0, bytes: 0, ranges: [] };
  counts.set(key, served);
  return served;
}

/** Whether this answer is one of those that fail: counts down. */
export function takes(limit: { times?: number } | undefined): boolean {
  if (limit === undefined || (limit.times !== undefined && limit.times <= 0)) return false;
  if (limit.times !== undefined) limit.times--;
  return true;
}

/** Sends the refusal that the fault asks for, if it does. */
export function refused(response: ServerResponse, fault: Fault): boolean {
  const refuse = fault.refuse;
  if (!refuse || !takes(refuse)) return false;
  const headers = refuse.retryAfter === undefined ? {} : { 'retry-after': String(refuse.retryAfter) };
  response
    .writeHead(refuse.status, { 'content-type': 'text/plain', ...headers })
    .end('as the test asked for\n');
  return true;
}

export type Answer = { source: Readable; headers: OutgoingHttpHeaders; fault: Fault; served: Served };

/** Answers GET and HEAD with the bytes, whole or the one range asked for, and with the fault. */
export async function serveBytes(
  request: IncomingMessage,
  response: ServerResponse,
  answer: Answer,
): Promise<void> {
  const { source, fault, served } = answer;
  const asked = request.headers.range;
  if (asked) served.ranges.push(asked);
  const range = asked && !fault.ignoreRange ? parseRange(asked, source.size) : undefined;
  if (range === 'outside') {
    response.writeHead(416, { 'content-range': `bytes */${source.size}` }).end();
    return;
  }
  const [start, end] = range ?? [0, source.size];
  const partial = range ? { 'content-range': `bytes ${start}-${end - 1}/${source.size}` } : {};
  const ranges = fault.ignoreRange ? {} : { 'accept-ranges': 'bytes' };
  response.writeHead(range ? 206 : 200, {
    ...answer.headers,
    ...ranges,
    ...partial,
    'content-length': end - start,
  });
  if (request.method === 'HEAD') response.end();
  else await sendBody(response, answer, start, end);
}

/** First byte and the one after the last; undefined for what is no range of bytes at all. */
function parseRange(header: string, size: number): [number, number] | 'outside' | undefined {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header);
  if (!match || (match[1] === '' && match[2] === '')) return undefined;
  const suffix = match[1] === '';
  const start = suffix ? Math.max(0, size - Number(match[2])) : Number(match[1]);
  const end = suffix || match[2] === '' ? size : Math.min(Number(match[2]) + 1, size);
  return start >= end ? 'outside' : [start, end];
}

async function sendBody(response: ServerResponse, answer: Answer, start: number, end: number): Promise<void> {
  const { fault, served, source } = answer;
  const cut = takes(fault.cut) ? fault.cut?.after : undefined;
  const stall = takes(fault.stall) ? fault.stall?.after : undefined;
  const flip = takes(fault.flip) ? fault.flip?.at : undefined;
  const stop = Math.min(start + (cut ?? stall ?? Infinity), end);
  let at = start;
  for await (const chunk of paced(source.read(start, stop), fault.rate)) {
    const sent = flip === undefined ? chunk : flipped(chunk, flip - at);
    if (!(await write(response, sent))) return; // The client has gone.
    served.bytes += chunk.length;
    at += chunk.length;
  }
  if (stop === end && cut === undefined && stall === undefined) response.end();
  else if (cut !== undefined) await hangUp(response);
}

/** The chunks, at `rate` bytes a second in small pieces if there is one. */
async function* paced(
  chunks: AsyncIterable<Buffer> | Iterable<Buffer>,
  rate?: number,
): AsyncGenerator<Buffer> {
  for await (const chunk of chunks) {
    const step = rate ? Math.max(1, Math.floor(rate / 20)) : chunk.length;
    for (let at = 0; at < chunk.length; at += step) {
      yield chunk.subarray(at, at + step);
      if (rate) await sleep(50);
    }
  }
}

function flipped(chunk: Buffer, at: number): Buffer {
  if (at < 0 || at >= chunk.length) return chunk;
  const copy = Buffer.from(chunk);
  copy.writeUInt8(copy.readUInt8(at) ^ 1, at);
  return copy;
}

/** Waits for a slow reader. False when the connection was closed. */
async function write(response: ServerResponse, chunk: Buffer): Promise<boolean> {
  if (response.destroyed) return false;
  if (response.write(chunk)) return true;
  return new Promise((done) => {
    const drained = (): void => {
      response.off('close', closed);
      done(true);
    };
    const closed = (): void => {
      response.off('drain', drained);
      done(false);
    };
    response.once('drain', drained).once('close', closed);
  });
}

/** What was written must leave the machine first: destroying at once would throw away the sent bytes too. */
async function hangUp(response: ServerResponse): Promise<void> {
  await sleep(30);
  response.destroy();
}

export type Listening = { port: number; close(): Promise<void> };

/** An HTTP server on a free port of a loopback address. What the handler throws becomes a 500. */
export function listen(
  address: string,
  handler: (request: IncomingMessage, response: ServerResponse) => unknown,
): Promise<Listening> {
  const guarded: RequestListener = (request, response) => {
    new Promise((done) => done(handler(request, response))).catch((error: unknown) => {
      if (!response.headersSent) response.writeHead(500);
      response.end(String(error));
    });
  };
  const server = createServer(guarded);
  return new Promise((done, fail) => {
    server.once('error', fail);
    server.listen(0, address, () => {
      const bound = server.address();
      const port = typeof bound === 'object' && bound ? bound.port : 0;
      done({ port, close: () => closeServer(server) });
    });
  });
}

function closeServer(server: ReturnType<typeof createServer>): Promise<void> {
  return new Promise((done) => {
    server.close(() => done());
    server.closeAllConnections();
  });
}

/** The whole body of a request. */
export async function bodyOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks);
}
