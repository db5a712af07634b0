// SPDX-License-Identifier: Apache-2.0
/** OpenAI's own client against a host of the tests. */
import { readFileSync } from 'node:fs';
import https from 'node:https';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import OpenAI from 'openai';
import { HOST_NAME } from './stack.ts';

export const openai = (home: string, port: number | string, apiKey: string): OpenAI =>
  new OpenAI({ baseURL: `https://${HOST_NAME}:${port}/v1`, apiKey, maxRetries: 0, fetch: fetchFrom(home) });

/** A fetch that finds the host of the test and trusts the certificate of its home. */
export function fetchFrom(home: string): typeof fetch {
  const ca = readFileSync(join(home, 'tls/server.crt'));
  return async (input, init) => {
    const url = new URL(input instanceof Request ? input.url : input);
    const headers = Object.fromEntries(new Headers(init?.headers));
    const request = https.request({
      host: '127.0.0.1',
      port: url.port,
      path: url.pathname + url.search,
      method: init?.method ?? 'GET',
      headers: { ...headers, host: url.host },
      servername: url.hostname,
      ca,
    });
    return new Promise((resolve, reject) => {
      request.once('error', reject);
      request.once('response', (answer) => {
        const body = Readable.toWeb(answer) as ReadableStream<Uint8Array>;
        const fields = Object.entries(answer.headers).map(([k, v]): [string, string] => [k, String(v)]);
        resolve(new Response(body, { status: answer.statusCode!, headers: fields }));
      });
      request.end(init?.body as string | undefined);
    });
  };
}
