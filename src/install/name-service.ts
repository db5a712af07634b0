// SPDX-License-Identifier: Apache-2.0
/**
 * Who answers inside the engines' network when the gateway asks where a service is. Docker has an address for that which
 * is the same in every container. Podman's aardvark-dns listens on the network's own bridge, so that the network
 * is given a range that is known before it is made: what is rendered stays a function of what was signed.
 */
import { createHash } from 'node:crypto';
import type { EngineKind } from './engine-facts.ts';

export interface NameService {
  /** Address of the resolver. */
  resolver: string;
  /** Range that the engines' network must have for that; undefined leaves the choice to the engine. */
  subnet: string | undefined;
}

/**
 * 198.18.0.0/15 is for benchmarks of network devices (RFC 2544), and so routed nowhere; the network that gets a piece of
 * it leads nowhere either. Pieces of 64 addresses, by the digest of the project's name: two bundles on one host meet in
 * one piece once in 2048 times, and then Podman says so.
 */
const RANGE = [198, 18] as const;
const PIECES = 2048;
const PIECE_BITS = 26;

export function nameService(kind: EngineKind, project: string): NameService {
  if (kind === 'docker') return { resolver: '127.0.0.11', subnet: undefined };
  const piece = createHash('sha256').update(project).digest().readUInt16BE(0) % PIECES;
  const first = piece * 2 ** (32 - PIECE_BITS);
  const base = `${RANGE[0]}.${RANGE[1] + (first >> 16)}.${(first >> 8) & 255}`;
  // netavark gives the first address of a range to the bridge.
  return { resolver: `${base}.${(first & 255) + 1}`, subnet: `${base}.${first & 255}/${PIECE_BITS}` };
}
