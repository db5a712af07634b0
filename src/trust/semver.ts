// SPDX-License-Identifier: Apache-2.0
/** Semantic Versioning 2.0.0 precedence (§11): negative when `a` comes before `b`. Build metadata is ignored. */
export function compareVersions(a: string, b: string): number {
  const [left, right] = [parseVersion(a), parseVersion(b)];
  const core = compareLists(left.core, right.core);
  if (core !== 0) return core;
  // A version without pre-release identifiers comes after every one that has some.
  if (left.pre.length === 0 || right.pre.length === 0) return right.pre.length - left.pre.length;
  return compareLists(left.pre, right.pre);
}

function parseVersion(text: string): { core: string[]; pre: string[] } {
  const [version = ''] = text.split('+', 1);
  const dash = version.indexOf('-');
  if (dash < 0) return { core: version.split('.'), pre: [] };
  return { core: version.slice(0, dash).split('.'), pre: version.slice(dash + 1).split('.') };
}

/** Identifier by identifier; the longer list comes after the shorter one that it begins with. */
function compareLists(a: readonly string[], b: readonly string[]): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) {
    const order = compareIdentifiers(a[i] ?? '', b[i] ?? '');
    if (order !== 0) return order;
  }
  return a.length - b.length;
}

/** Numbers by value, of any length (2^53 is not a limit for them), before words; words by code unit. */
function compareIdentifiers(a: string, b: string): number {
  const numeric = isNumber(a);
  if (numeric !== isNumber(b)) return numeric ? -1 : 1;
  const [left, right] = numeric ? [withoutZeros(a), withoutZeros(b)] : [a, b];
  if (numeric && left.length !== right.length) return left.length - right.length;
  return left < right ? -1 : left > right ? 1 : 0;
}

const isNumber = (text: string): boolean => /^\d+$/.test(text);
const withoutZeros = (digits: string): string => digits.replace(/^0+(?=\d)/, '');
