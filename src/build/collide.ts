// SPDX-License-Identifier: Apache-2.0

/**
 * Pairs of paths that are one and the same on a disk that ignores case or Unicode normal form (NTFS, exFAT, APFS):
 * files with files, folders with folders, and a file with a folder.
 */
export function caseCollisions(paths: readonly string[]): [string, string][] {
  const seen = new Map<string, string>();
  const collisions: [string, string][] = [];
  for (const path of paths.flatMap(withFolders)) {
    const folded = path.normalize('NFKC').toLowerCase().normalize('NFKC');
    const other = seen.get(folded);
    if (other === undefined) seen.set(folded, path);
    else if (other !== path) collisions.push([other, path]);
  }
  const unique = new Map(collisions.map((pair) => [pair.join('\0'), pair]));
  return [...unique.values()];
}

/** `a/b/c` → `a`, `a/b`, `a/b/c`. */
function withFolders(path: string): string[] {
  const parts = path.split('/');
  return parts.map((_, i) => parts.slice(0, i + 1).join('/'));
}
