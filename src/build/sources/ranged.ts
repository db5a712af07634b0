// SPDX-License-Identifier: Apache-2.0
import { SealiftError } from '../../errors.ts';
import { printable } from '../../text.ts';
import type { BlobSource } from '../../store/store.ts';
import type { HttpResponse } from './http.ts';
import { TransientError } from './retry.ts';

export interface RangedOptions {
  /** Sends one GET with these headers. Statuses other than 200, 206 and 416 must be thrown. */
  get(headers: Record<string, string>, signal: AbortSignal | undefined): Promise<HttpResponse>;
  /** Size of the whole content in bytes. */
  size: number;
  /** Ask for at most this many bytes at a time. The hub's CDN refuses to send more than 50 GB in one answer. */
  partBytes?: number;
  what: string;
}

/**
 * Content over HTTP that can be opened in the middle (RFC 9110 §14). Servers that ignore Range start over at 0;
 * servers that answer another range than the one asked for are refused, since their bytes would land in the
 * wrong place.
 */
export function rangedSource(options: RangedOptions): BlobSource {
  return {
    async open(offset, signal) {
      if (options.size === 0) return { offset: 0, body: nothing() };
      const first = await openPart(offset, options, signal);
      return { offset: first.offset, body: parts(first, options, signal) };
    },
    openRange: (from, to, signal) => openRange(from, to, options, signal),
  };
}

/** Exactly one range; undefined from a server that sends everything instead. */
async function openRange(
  from: number,
  to: number,
  options: RangedOptions,
  signal: AbortSignal | undefined,
): Promise<AsyncIterable<Uint8Array> | undefined> {
  const response = await options.get({ range: `bytes=${from}-${to - 1}` }, signal);
  if (response.status === 206) {
    checkContentRange(response, from, options);
    return response.body;
  }
  if (response.status !== 416) wholeContent(response, options);
  response.discard();
  return undefined;
}

interface Part {
  offset: number;
  body: AsyncIterable<Uint8Array>;
  /** The server says that this is all there is, and HTTP would show if it had been cut. */
  whole: boolean;
}

async function openPart(
  offset: number,
  options: RangedOptions,
  signal: AbortSignal | undefined,
): Promise<Part> {
  const headers = rangeHeader(offset, options);
  const response = await options.get(headers, signal);
  if (response.status === 416 && headers['range'] !== undefined) {
    response.discard();
    const whole = await options.get({}, signal);
    return wholeContent(whole, options);
  }
  if (response.status !== 206) return wholeContent(response, options);
  checkContentRange(response, offset, options);
  return { offset, body: response.body, whole: false };
}

function rangeHeader(offset: number, { size, partBytes }: RangedOptions): Record<string, string> {
  if (partBytes !== undefined && size - offset > partBytes) {
    return { range: `bytes=${offset}-${offset + partBytes - 1}` };
  }
  return offset === 0 ? {} : { range: `bytes=${offset}-` };
}

function wholeContent(response: HttpResponse, { size, what }: RangedOptions): Part {
  const length = response.headers['content-length'];
  if (response.status !== 200) {
    response.discard();
    throw new SealiftError('SOURCE_INVALID', `${what}: unexpected status ${response.status}`);
  }
  if (length !== undefined && Number(length) !== size) {
    response.discard(); // known before a byte is read: do not download 50 GB to find out
    throw new SealiftError('SOURCE_CHANGED', `${what} is ${length} bytes now, not ${size}`);
  }
  return { offset: 0, body: response.body, whole: response.headers['transfer-encoding'] === 'chunked' };
}

function checkContentRange(response: HttpResponse, offset: number, { size, what }: RangedOptions): void {
  const header = response.headers['content-range'] ?? '';
  const match = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(header);
  const problem = describeRange(match, offset, size);
  if (problem === undefined) return;
  response.discard();
  const shown = printable(header, 80);
  const code = problem === 'size' ? 'SOURCE_CHANGED' : 'SOURCE_INVALID';
  throw new SealiftError(code, `${what}: asked for bytes from ${offset} of ${size}, was sent '${shown}'`);
}

function describeRange(
  match: RegExpExecArray | null,
  offset: number,
  size: number,
): 'form' | 'size' | undefined {
  if (match === null || Number(match[1]) !== offset || Number(match[2]) < offset) return 'form';
  const total = match[3] === '*' ? size : Number(match[3]);
  return total !== size || Number(match[2]) >= size ? 'size' : undefined;
}

/**
 * The rest of the content, part by part. A part that ends too early is a network failure, so that whoever reads
 * asks again at the place reached; so is a server that stops honouring ranges between two parts.
 */
async function* parts(
  first: Part,
  options: RangedOptions,
  signal: AbortSignal | undefined,
): AsyncGenerator<Uint8Array> {
  let part = first;
  let at = part.offset;
  for (;;) {
    const before = at;
    for await (const chunk of part.body) {
      at += chunk.length;
      yield chunk;
    }
    if (at >= options.size) return;
    if (part.whole) throw shorter(options, at);
    if (at === before || options.partBytes === undefined) throw endedEarly(options, at);
    part = await openPart(at, options, signal);
    if (part.offset !== at) throw endedEarly(options, at);
  }
}

function shorter({ what, size }: RangedOptions, at: number): SealiftError {
  return new SealiftError('SOURCE_CHANGED', `${what} is ${at} bytes now, not ${size}`);
}

function endedEarly({ what, size }: RangedOptions, at: number): TransientError {
  return new TransientError(`${what}: ended at byte ${at} of ${size}`);
}

// oxlint-disable-next-line require-await
async function* nothing(): AsyncGenerator<Uint8Array> {}
