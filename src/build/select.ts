// SPDX-License-Identifier: Apache-2.0
/**
 * Which files of a model are carried: `include` and `exclude` of the manifest. A pattern without '/' is compared
 * with every part of a path (so `*.json` finds files in every folder, and `original` takes a whole folder); one
 * with '/' is compared with the whole path. `*` and `?` stop at '/', `**` does not; every
 * other character stands for itself. Case counts, as it does on the hub.
 */

export interface Selection<T> {
  selected: T[];
  /** Patterns of `include` that took no file: a typing error, or a file the model lacks. */
  unused: string[];
  /** Patterns of `exclude` that fit no file: something is carried that was meant to stay. */
  unusedExcludes: string[];
}

/** Picks by patterns; without `include`, all. The order of `files` is kept. */
export function selectFiles<T extends { path: string }>(
  files: readonly T[],
  include: readonly string[] | undefined,
  exclude: readonly string[] = [],
): Selection<T> {
  const wanted = (include ?? ['**']).map((pattern) => ({
    pattern,
    test: matcher(pattern),
    used: include === undefined,
  }));
  const unwanted = exclude.map((pattern) => ({ pattern, test: matcher(pattern), used: false }));
  const selected = files.filter(({ path }) => {
    const hits = wanted.filter(({ test }) => test(path));
    const misses = unwanted.filter(({ test }) => test(path));
    for (const hit of [...hits, ...misses]) hit.used = true;
    return hits.length > 0 && misses.length === 0;
  });
  const unused = (patterns: typeof unwanted): string[] =>
    patterns.filter(({ used }) => !used).map(({ pattern }) => pattern);
  return { selected, unused: unused(wanted), unusedExcludes: unused(unwanted) };
}

function matcher(pattern: string): (path: string) => boolean {
  const anchored = pattern.replace(/^\.?\//, '').replace(/\/$/, '/**');
  const regex = new RegExp(`^${toRegex(anchored)}$`, 'u');
  if (pattern.includes('/')) return (path) => regex.test(path);
  return (path) => path.split('/').some((part) => regex.test(part));
}

const TOKENS = /\*\*\/|\*+|[^*]/gu;

function toRegex(pattern: string): string {
  return (pattern.match(TOKENS) ?? []).map(tokenToRegex).join('');
}

function tokenToRegex(token: string): string {
  if (token === '**/') return '(?:[^/]+/)*';
  if (token === '*') return '[^/]*';
  if (token.startsWith('*')) return '.*';
  if (token === '?') return '[^/]';
  return token.replace(/[.+^${}()|[\]\\]/, '\\$&');
}
