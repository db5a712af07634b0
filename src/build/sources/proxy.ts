// SPDX-License-Identifier: Apache-2.0
/**
 * The proxy variables, read once and strictly: the runtime ignores a proxy that it does not understand, and would
 * go around it without a word. No input or output here.
 */
import { SealiftError } from '../../errors.ts';
import { RETRY_STATUS, TransientError } from './retry.ts';

type Environment = Readonly<Record<string, string | undefined>>;

export interface Proxy {
  /** The variable that names it, as it is written there. */
  variable: string;
  /** With its port, without user and password. */
  host: string;
  /** With user and password: for the agent, never for a message. */
  href: string;
}

export class Proxies {
  readonly #http: Proxy | undefined;
  readonly #https: Proxy | undefined;
  readonly #direct: readonly string[];

  /** @throws {SealiftError} USAGE when a variable names no proxy that can be used */
  constructor(env: Environment = {}) {
    this.#http = readProxy('HTTP_PROXY', env);
    this.#https = readProxy('HTTPS_PROXY', env);
    const direct = env['no_proxy'] || env['NO_PROXY'] || '';
    this.#direct = direct.toLowerCase().match(/[^\s,]+/g) ?? [];
  }

  /** The variables for Node's agents. NO_PROXY is not among them: `for` has decided about it before. */
  get agentEnv(): Record<string, string> {
    return {
      ...(this.#http === undefined ? {} : { HTTP_PROXY: this.#http.href }),
      ...(this.#https === undefined ? {} : { HTTPS_PROXY: this.#https.href }),
    };
  }

  /** The proxy that a request for this address goes through. */
  for({ protocol, hostname, port }: URL): Proxy | undefined {
    const [proxy, usual] = protocol === 'https:' ? [this.#https, '443'] : [this.#http, '80'];
    if (proxy === undefined) return undefined;
    return this.#direct.some((entry) => covers(entry, hostname, port || usual)) ? undefined : proxy;
  }
}

function readProxy(name: string, env: Environment): Proxy | undefined {
  const variable = env[name.toLowerCase()] ? name.toLowerCase() : name;
  const text = env[variable]?.trim();
  if (text === undefined || text === '') return undefined;
  // As curl has it: a proxy without a scheme is an http one.
  const url = URL.parse(text.includes('://') ? text : `http://${text}`);
  if (url === null || !/^https?:$/.test(url.protocol) || url.hostname === '') {
    throw new SealiftError('USAGE', `${variable} does not name a proxy that sealift can use`, {
      hint: `write it as http://HOST:PORT or https://HOST:PORT; other kinds, such as SOCKS, are not supported`,
    });
  }
  const port = url.port || (url.protocol === 'https:' ? '443' : '80');
  return { variable, host: `${url.hostname}:${port}`, href: url.href };
}

/** One entry of NO_PROXY, in the forms that Node documents: `*`, a host, host:port, .domain, *.domain, IPv4-IPv4. */
function covers(entry: string, hostname: string, port: string): boolean {
  if (entry === '*' || entry === hostname || entry === `${hostname}:${port}`) return true;
  if (entry.startsWith('.')) return hostname.endsWith(entry);
  if (entry.startsWith('*.')) return hostname.endsWith(entry.slice(1));
  const [first, last] = entry.split('-').map(ipv4);
  const address = ipv4(hostname);
  return (
    first !== undefined && last !== undefined && address !== undefined && first <= address && address <= last
  );
}

function ipv4(text: string): number | undefined {
  if (!/^\d{1,3}(\.\d{1,3}){3}$/.test(text)) return undefined;
  return text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
}

/** What a proxy answered instead of passing the request on. */
export function proxyRefusal(proxy: Proxy, status: number | undefined, what: string): SealiftError {
  if (status === 407) {
    return new SealiftError('UNAUTHORIZED', `${what}: the proxy ${proxy.host} wants a user and a password`, {
      hint: `put them into ${proxy.variable}: http://USER:PASSWORD@${proxy.host}`,
    });
  }
  const answer = status === undefined ? 'opens no tunnel' : `answered ${status}`;
  const message = `${what}: the proxy ${proxy.host} ${answer}`;
  const hint = `ask who runs the proxy, or see ${proxy.variable} and NO_PROXY`;
  return status === undefined || RETRY_STATUS.has(status)
    ? new TransientError(message, { hint })
    : new SealiftError('NETWORK_ERROR', message, { hint });
}
