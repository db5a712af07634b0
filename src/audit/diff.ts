// SPDX-License-Identifier: Apache-2.0
/** What changes from one bundle to the next, and what of it a delta carries. Nobody has vouched for any of it. */
import { piecesOf, readContents, type Contents } from '../bundle/delta.ts';
import type { Expected } from '../store/digest.ts';
import type { Media } from '../bundle/volumes.ts';

export interface DiffPiece extends Expected {
  purpose: string;
  /** `changed`: the same place had other bytes; `moved`: the same bytes were in another place. */
  state: 'same' | 'moved' | 'changed' | 'added' | 'removed';
  /** Whether a delta carries it. */
  carried: boolean;
}

export interface BundleDiff {
  from: string;
  to: string;
  /** Whether the newer bundle is a delta, so that this is what it does carry, and not what one would. */
  isDelta: boolean;
  pieces: DiffPiece[];
  carries: { blobs: number; bytes: number };
  leavesOut: { blobs: number; bytes: number };
}

/** @throws {SealiftError} NOT_A_BUNDLE, BUNDLE_MALFORMED, BUNDLE_INCOMPLETE, CONTENT_MISMATCH */
export async function diffBundles(path: string, basePath: string, media: Media = {}): Promise<BundleDiff> {
  const [next, base] = [await readContents(path, media), await readContents(basePath, media)];
  const before = new Map(piecesOf(base).map((piece) => [piece.digest, piece]));
  const places = new Set([...before.values()].map(({ purpose }) => purpose));
  const omits = next.inventory.base && new Set(next.inventory.base.omits.map(({ digest }) => digest));
  const pieces: DiffPiece[] = piecesOf(next).map((piece) => {
    const old = before.get(piece.digest);
    const carried = omits === undefined ? old === undefined : !omits.has(piece.digest);
    const fresh = places.has(piece.purpose) ? 'changed' : 'added';
    const state = old === undefined ? fresh : old.purpose === piece.purpose ? 'same' : 'moved';
    return { ...piece, state, carried };
  });
  const kept = new Set(pieces.map(({ purpose }) => purpose));
  const gone = [...before.values()].filter(({ purpose }) => !kept.has(purpose));
  return {
    from: nameOf(base),
    to: nameOf(next),
    isDelta: omits !== undefined,
    pieces: [...pieces, ...gone.map((piece) => ({ ...piece, state: 'removed' as const, carried: false }))],
    carries: sumOf(pieces.filter(({ carried }) => carried)),
    leavesOut: sumOf(pieces.filter(({ carried }) => !carried)),
  };
}

const nameOf = ({ inventory: { name, version } }: Contents): string => `${name} ${version}`;

const sumOf = (pieces: readonly Expected[]): { blobs: number; bytes: number } => ({
  blobs: pieces.length,
  bytes: pieces.reduce((sum, { size }) => sum + size, 0),
});
