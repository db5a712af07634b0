// SPDX-License-Identifier: Apache-2.0
import { createServer, type IncomingMessage, type RequestListener, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, expect } from 'vitest';
import { Credentials } from '../../../src/build/sources/credentials.ts';
import type { SourceContext } from '../../../src/build/sources/source.ts';
import { SealiftError, type ErrorCode } from '../../../src/errors.ts';
import type { SealiftEvent } from '../../../src/events.ts';
import type { Expected } from '../../../src/store/digest.ts';
import { Store, type BlobSource } from '../../../src/store/store.ts';
import { tempDir } from '../../support/workspace.ts';

const cleanups: (() => Promise<unknown> | void)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

/** Runs after the test, also when it fails. */
export const onEnd = (cleanup: () => Promise<unknown> | void): void => void cleanups.push(cleanup);

export interface Seen {
  method: string;
  url: string;
  headers: IncomingMessage['headers'];
}

export interface TestServer {
  url: string;
  host: string;
  seen: Seen[];
}

/** A server whose answers a test writes itself; it notes what it was asked. */
export async function serve(
  handler: (request: IncomingMessage, response: ServerResponse, count: number) => unknown,
  address = '127.0.0.1',
): Promise<TestServer> {
  const seen: Seen[] = [];
  const listener: RequestListener = (request, response) => {
    const { method = '', url = '', headers } = request;
    seen.push({ method, url, headers });
    handler(request, response, seen.length);
  };
  const server = createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, address, resolve));
  onEnd(() => {
    server.closeAllConnections();
    return new Promise((resolve) => server.close(resolve));
  });
  const host = `${address}:${(server.address() as AddressInfo).port}`;
  return { url: `http://${host}`, host, seen };
}

export interface TestContext extends SourceContext {
  events: SealiftEvent[];
}

/** A context with its own store, waits short enough for tests, and everything else as given. */
export async function testContext(changes: Partial<SourceContext> = {}): Promise<TestContext> {
  const events: SealiftEvent[] = [];
  const dir = tempDir('sources');
  return {
    baseDir: dir,
    store: await Store.open(`${dir}/store`),
    platform: 'linux/amd64',
    credentials: new Credentials(),
    mirrors: new Map(),
    plainHttp: new Set(),
    hubUrl: 'http://127.0.0.1:1',
    network: { backoffMs: 1, maxDelayMs: 20, stallMs: 2000, attempts: 4 },
    emit: (event) => events.push(event),
    events,
    ...changes,
  };
}

export async function readAll(body: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of body) chunks.push(chunk);
  return Buffer.concat(chunks);
}

/** Brings a blob into the context's store and gives its bytes. */
export async function fetchBlob(
  { store }: SourceContext,
  expected: Expected,
  source: BlobSource,
): Promise<Buffer> {
  await store.add(expected, source);
  return store.readBytes(expected, Number.MAX_SAFE_INTEGER);
}

/** The SealiftError that some work ends with; anything else fails the test. */
export async function failure(
  work: Promise<unknown> | (() => unknown),
  code: ErrorCode,
): Promise<SealiftError> {
  const error = await (typeof work === 'function' ? (async () => work())() : work).then(
    (value: unknown) => expect.fail(`succeeded with ${String(value)}, expected ${code}`),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof SealiftError)) throw error;
  expect([error.code, error.message]).toEqual([code, error.message]);
  return error;
}

export const retries = (context: TestContext): SealiftEvent[] =>
  context.events.filter(({ type }) => type === 'retry');
