// SPDX-License-Identifier: Apache-2.0
import { SealiftError } from '../../errors.ts';
import { printable } from '../../text.ts';
import type { BlobSource, Opened } from '../../store/download.ts';
import type { Range } from '../../store/segments.ts';
import type { HttpResponse } from './http.ts';
import { TransientError } from './retry.ts';
import { Validators } from './validators.ts';

export interface RangedOptions {
  /** Sends one GET with these headers. Statuses other than 200, 206 and 416 must be thrown. */
  get(headers: Record<string, string>, signal: AbortSignal | undefined): Promise<HttpResponse>;
  /** Size of the whole content in bytes. */
  size: number;
  /** Bytes of one request; by default the store chooses. */
  segmentBytes?: number | undefined;
  what: string;
}

/**
 * Content over HTTP that can be opened in the middle (RFC 9110 §14). Servers that ignore Range start over at 0;
 * servers that answer another range than the one asked for are refused, since their bytes would land in the
 * wrong place.
 */
export function rangedSource(options: RangedOptions): BlobSource {
  const { size, segmentBytes } = options;
  const validators = new Validators(options.what);
  const get: Get = (headers, signal) => validators.unchanged(() => options.get(headers, signal));
  return {
    open: (offset, signal) => openFrom(offset, options, get, signal),
    openRange: (range, signal) => openRange(range, options, get, signal),
    ...(segmentBytes === undefined ? {} : { segmentBytes }),
    // An empty file needs no request; a range of nothing cannot even be asked for.
    ...(size === 0 ? { open: () => Promise.resolve({ offset: 0, body: nothing() }) } : {}),
  };
}

type Get = RangedOptions['get'];

async function openFrom(
  offset: number,
  options: RangedOptions,
  get: Get,
  signal: AbortSignal | undefined,
): Promise<Opened> {
  const range = offset === 0 ? undefined : { from: offset, to: options.size };
  const response = await get(rangeHeader(range, options), signal);
  if (response.status === 416 && range !== undefined) {
    response.discard();
    return wholeContent(await get({}, signal), options);
  }
  if (response.status !== 206) return wholeContent(response, options);
  checkContentRange(response, range ?? { from: 0, to: options.size }, options);
  return { offset, body: toTheEnd(response, offset, options), lasting: true };
}

/** @returns undefined when the server sends everything, or refuses ranges */
async function openRange(
  range: Range,
  options: RangedOptions,
  get: Get,
  signal: AbortSignal | undefined,
): Promise<Opened | undefined> {
  const response = await get(rangeHeader(range, options), signal);
  if (response.status === 206) {
    checkContentRange(response, range, options);
    return { offset: range.from, body: response.body, lasting: true };
  }
  response.discard();
  if (response.status !== 416) checkWhole(response, options);
  return undefined;
}

/** The end of the content is left open, as most servers know it from clients that resume. */
function rangeHeader(range: Range | undefined, { size }: RangedOptions): Record<string, string> {
  if (range === undefined) return {};
  return { range: `bytes=${range.from}-${range.to === size ? '' : range.to - 1}` };
}

function wholeContent(response: HttpResponse, options: RangedOptions): Opened {
  try {
    checkWhole(response, options);
  } catch (error) {
    response.discard(); // known before a byte is read: do not download 50 GB to find out
    throw error;
  }
  return { offset: 0, body: toTheEnd(response, 0, options), lasting: true };
}

function checkWhole({ status, headers }: HttpResponse, { size, what }: RangedOptions): void {
  const length = headers['content-length'];
  if (status !== 200) throw new SealiftError('SOURCE_INVALID', `${what}: unexpected status ${status}`);
  if (length !== undefined && Number(length) !== size) throw otherSize(what, Number(length), size);
}

function checkContentRange(response: HttpResponse, { from, to }: Range, options: RangedOptions): void {
  const { size, what } = options;
  const header = response.headers['content-range'] ?? '';
  const match = /^bytes (\d+)-(\d+)\/(\d+|\*)$/.exec(header);
  const [first, last] = [Number(match?.[1]), Number(match?.[2])];
  const sizeNow = match?.[3] === '*' ? Math.max(size, last + 1) : Number(match?.[3]);
  if (match !== null && first === from && last >= from && last < to && sizeNow === size) return;
  response.discard();
  if (match !== null && sizeNow !== size) throw otherSize(what, sizeNow, size);
  const asked = `asked for bytes ${from} to ${to - 1} of ${size}`;
  throw new SealiftError('SOURCE_INVALID', `${what}: ${asked}, was sent '${printable(header, 80)}'`);
}

function otherSize(what: string, now: number, size: number): SealiftError {
  return new SealiftError('SOURCE_CHANGED', `${what} is ${now} bytes now, not ${size}`, {
    hint: 'if the change is meant, run `sealift lock`, review what it prints, then build again',
  });
}

/**
 * A body that ends too early is a network failure, so that whoever reads asks again at the place reached. Only the end
 * of a chunked one is the server's word that this is all: HTTP would show if it had been cut.
 */
async function* toTheEnd(
  { body, status, headers }: HttpResponse,
  offset: number,
  { what, size }: RangedOptions,
): AsyncGenerator<Uint8Array> {
  let at = offset;
  for await (const chunk of body) {
    at += chunk.length;
    yield chunk;
  }
  if (at >= size) return;
  if (status === 200 && headers['transfer-encoding'] === 'chunked') throw otherSize(what, at, size);
  throw new TransientError(`${what}: ended at byte ${at} of ${size}`);
}

// oxlint-disable-next-line require-await
async function* nothing(): AsyncGenerator<Uint8Array> {}
