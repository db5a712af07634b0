// SPDX-License-Identifier: Apache-2.0
/** The body of an answer: read with a limit on silence, read whole with a limit on size, or let go of. */
import type { IncomingMessage } from 'node:http';
import { SealiftError } from '../../errors.ts';
import { networkError, stallError } from './address.ts';
import type { HttpRequest, HttpResponse } from './http.ts';

/** An unread answer is drained for this long, in milliseconds, so that its connection can be used again. */
const DRAIN_MS = 2000;
/** Longer ones are not worth their connection. */
const DRAIN_BYTES = 256 * 1024;

/** Fewer bytes than this while we wait for as long as silence may last are silence, too: a telephone line has more. */
const TRICKLE_BYTES = 16 * 1024;

/** The clock runs only while we wait, so a slow disk is not a stall. */
export async function* bodyOf(
  message: IncomingMessage,
  stallMs: number,
  url: URL,
  request: HttpRequest,
): AsyncGenerator<Buffer> {
  const chunks = message[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  const abort = (): unknown => message.destroy(new Error('aborted'));
  request.signal?.addEventListener('abort', abort, { once: true });
  let [waitedMs, bytes] = [0, 0];
  try {
    for (;;) {
      throwIfAborted(request);
      const clock = setTimeout(() => message.destroy(stallError(stallMs)), stallMs);
      const begun = performance.now();
      const next = await chunks.next().finally(() => clearTimeout(clock));
      if (next.done === true) return;
      waitedMs += performance.now() - begun;
      bytes += next.value.length;
      yield next.value;
      if (waitedMs < stallMs || message.complete) continue;
      if (bytes < TRICKLE_BYTES) throw stallError(stallMs, `only ${bytes} bytes`);
      [waitedMs, bytes] = [0, 0];
    }
  } catch (cause) {
    throwIfAborted(request);
    throw networkError(cause as Error, url, request.what);
  } finally {
    request.signal?.removeEventListener('abort', abort);
    if (!message.complete) message.destroy();
  }
}

/**
 * Reads a whole body.
 * @throws {SealiftError} SOURCE_INVALID when it has more than `maxBytes` bytes
 */
export async function readBounded(response: HttpResponse, maxBytes: number, what: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response.body) {
    size += chunk.length;
    if (size > maxBytes) {
      throw new SealiftError('SOURCE_INVALID', `${what}: the answer has more than ${maxBytes} bytes`);
    }
    chunks.push(chunk);
  }
  return Buffer.concat(chunks);
}

/** Lets go of an answer nobody reads: what is short is read to its end, the rest is cut off. */
export function drain(message: IncomingMessage): void {
  message.on('error', () => {});
  if (Number(message.headers['content-length'] ?? 0) > DRAIN_BYTES) {
    message.destroy();
    return;
  }
  const timer = setTimeout(() => message.destroy(), DRAIN_MS);
  timer.unref();
  message.once('close', () => clearTimeout(timer));
  message.resume();
}

/** @throws {SealiftError} INTERRUPTED, or what the signal was aborted with */
export function throwIfAborted({ signal, what }: HttpRequest): void {
  if (signal?.aborted !== true) return;
  if (signal.reason instanceof SealiftError) throw signal.reason;
  throw new SealiftError('INTERRUPTED', `${what}: interrupted`, { cause: signal.reason });
}
