// SPDX-License-Identifier: Apache-2.0
/** Who listens on a TCP port of this host, read from /proc (proc(5), net/tcp) so that no socket is opened. */
import { readFile } from 'node:fs/promises';
import { isIPv6 } from 'node:net';

const LISTEN = '0A';

/** Addresses on which something listens on `port`. */
export async function listeners(port: number): Promise<string[]> {
  const tables = await Promise.all(
    ['/proc/net/tcp', '/proc/net/tcp6'].map((file) => readFile(file, 'utf8').catch(() => '')),
  );
  return parseListeners(tables.join('\n'), port);
}

/** @param table content of /proc/net/tcp and tcp6 */
export function parseListeners(table: string, port: number): string[] {
  const found = [...table.matchAll(/^\s*\d+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) \S+ ([0-9A-F]{2}) /gm)];
  return found
    .filter(([, , p, state]) => state === LISTEN && Number.parseInt(p!, 16) === port)
    .map(([, address]) => addressOf(address!));
}

/** The kernel prints addresses as 32-bit words in the byte order of the host; all ours are little-endian. */
function addressOf(hex: string): string {
  const bytes = hex.match(/.{8}/g)!.flatMap((word) => word.match(/../g)!.reverse());
  if (bytes.length === 4) return bytes.map((b) => Number.parseInt(b, 16)).join('.');
  return bytes
    .map((b, i) => (i % 2 === 1 ? `${bytes[i - 1]}${b}` : ''))
    .filter(Boolean)
    .join(':')
    .toLowerCase();
}

const isWildcard = (address: string): boolean => /^[0:.]+$/.test(address);

/** True when two listeners on one port would get in each other's way. */
export function overlaps(a: string, b: string): boolean {
  const plain = (address: string): string => address.replace(/^0000:0000:0000:0000:0000:ffff:/, '');
  if (isWildcard(a) || isWildcard(b)) return true;
  if (isIPv6(a) !== isIPv6(b) && plain(a) === a && plain(b) === b) return false;
  return plain(a) === plain(b);
}

/** The first port that a user without rights may open (ip-sysctl, ip_unprivileged_port_start). */
export async function firstUnprivilegedPort(): Promise<number> {
  const text = await readFile('/proc/sys/net/ipv4/ip_unprivileged_port_start', 'utf8').catch(() => '1024');
  return Number(text);
}
