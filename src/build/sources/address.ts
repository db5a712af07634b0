// SPDX-License-Identifier: Apache-2.0
/** Addresses and failures of the network, in words. No input or output here. */
import { SealiftError } from '../../errors.ts';
import { proxyRefusal, type Proxy } from './proxy.ts';
import { isTransientErrno, TransientError } from './retry.ts';

/** Host and path. Queries are left out: signed URLs and tokens live there. */
export function describeUrl(url: URL): string {
  return `${url.host}${url.pathname}`.replace(/[^\x21-\x7e]/g, '?').slice(0, 300);
}

/** An address as a person wrote it, perhaps wrongly, for messages: what may be a user and a password is left out. */
export function withoutUserinfo(text: string): string {
  return text
    .replace(/^([a-z][a-z0-9+.-]*:\/\/)?.*@/is, '$1…@')
    .replace(/[^\x20-\x7e…]/g, '?')
    .slice(0, 300);
}

/** `localhost` and its sub-domains (RFC 6761 §6.3), 127.0.0.0/8 and ::1, in the form that URL gives them. */
export function isLoopback(hostname: string): boolean {
  return /^(localhost|.+\.localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(hostname);
}

/** Nothing, or hardly anything, came for `stallMs` milliseconds. */
export function stallError(stallMs: number, came = 'no data'): Error {
  return Object.assign(new Error(`${came} for ${stallMs / 1000} s`), { code: 'ETIMEDOUT' });
}

/** What a socket reports, with what was being done; TransientError when another try may help. */
export function networkError(cause: Error, url: URL, what: string, proxy?: Proxy): SealiftError {
  if (cause instanceof SealiftError) return cause;
  const { code, statusCode }: { code?: string; statusCode?: number } = cause as NodeJS.ErrnoException;
  // The runtime's own message quotes the proxy's address.
  if (proxy !== undefined && code === 'ERR_PROXY_TUNNEL') return proxyRefusal(proxy, statusCode, what);
  const through = proxy === undefined ? '' : ` through the proxy ${proxy.host}`;
  const message = `${what}: ${describeUrl(url)}${through}: ${cause.message || code || 'the connection broke'}`;
  if (isTransientErrno(code) || /socket hang up|aborted/.test(cause.message)) {
    return new TransientError(message, { cause });
  }
  return new SealiftError('NETWORK_ERROR', message, { cause, ...hintFor(code, proxy) });
}

function hintFor(code: string | undefined, proxy: Proxy | undefined): { hint?: string } {
  if (code === 'ENOTFOUND') {
    return { hint: `check the spelling of the host name, and ${proxy?.variable ?? 'the proxy variables'}` };
  }
  if (!/CERT|SELF_SIGNED|ISSUER/.test(code ?? '')) return {};
  return { hint: 'if the server has a certificate of your own authority, name it in NODE_EXTRA_CA_CERTS' };
}
