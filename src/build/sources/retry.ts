// SPDX-License-Identifier: Apache-2.0
/** When to ask again, and after how long. No input or output here. */
import { SealiftError, type ErrorOptions } from '../../errors.ts';

/** What crane retries (facts: 408, 429 and the 5xx that gateways make). Other statuses are answers. */
export const RETRY_STATUS: ReadonlySet<number> = new Set([408, 429, 500, 502, 503, 504]);

/** Socket errors after which the same request may well succeed. Unknown hosts and bad certificates are not among them. */
const RETRY_ERRNO: ReadonlySet<string> = new Set([
  'ECONNRESET',
  'ECONNREFUSED',
  'ECONNABORTED',
  'EPIPE',
  'ETIMEDOUT',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'EAI_AGAIN',
  'HPE_INVALID_EOF_STATE',
  'ERR_STREAM_PREMATURE_CLOSE',
]);

/** A NETWORK_ERROR that is worth another try. */
export class TransientError extends SealiftError {
  /** What the server asked for, in milliseconds. */
  readonly retryAfterMs: number | undefined;
  /** Host that asked to be left in peace for a while, by all requests. */
  readonly busyHost: string | undefined;

  constructor(
    message: string,
    options: ErrorOptions & Pick<Partial<TransientError>, 'retryAfterMs' | 'busyHost'> = {},
  ) {
    super('NETWORK_ERROR', message, options);
    this.retryAfterMs = options.retryAfterMs;
    this.busyHost = options.busyHost;
  }
}

/** A failure's message for a `retry` event, which says beside it what is being done. */
export const reasonOf = (message: string, what: string): string =>
  message.startsWith(what) ? message.slice(what.length).replace(/^:? +/, '') : message;

export const isTransientErrno = (code: unknown): boolean => typeof code === 'string' && RETRY_ERRNO.has(code);

/**
 * The wait that an answer asks for, in milliseconds: Retry-After in seconds or as a date (RFC 9110 §10.2.3), or
 * the `t=` of the hub's RateLimit header.
 */
export function retryAfterMs(
  headers: Record<string, string | string[] | undefined>,
  now: number,
): number | undefined {
  const value = String(headers['retry-after'] ?? '').trim();
  if (/^\d+$/.test(value)) return Number(value) * 1000;
  const date = value === '' ? Number.NaN : Date.parse(value);
  if (!Number.isNaN(date)) return Math.max(0, date - now);
  const reset = /;\s*t=(\d+)/.exec(String(headers['ratelimit'] ?? ''))?.[1];
  return reset === undefined ? undefined : Number(reset) * 1000;
}

/** Bounds of the wait between two tries, in milliseconds. */
export interface Backoff {
  firstMs: number;
  capMs: number;
}

/**
 * The wait before try `attempt + 1`: doubles each time, with "equal jitter" (half fixed, half random) so that
 * parallel downloads do not come back in step; never less than the server asked for, never more than the cap.
 */
export function delayBefore(attempt: number, asked: number | undefined, { firstMs, capMs }: Backoff): number {
  const exponential = firstMs * 2 ** (attempt - 1);
  const jittered = exponential / 2 + Math.random() * (exponential / 2);
  return Math.round(Math.min(capMs, Math.max(jittered, asked ?? 0)));
}
