// SPDX-License-Identifier: Apache-2.0
/**
 * Which options an engine takes, by release. An engine ends at once when it meets a flag that it does not know, and in
 * the enclave nobody can look up why; so a manifest is held against these tables at the staging box.
 */
import { didYouMean } from '../document.ts';

/** Releases in which an option works, as numbers: `since` included, `until` excluded. */
export interface OptionRange {
  since?: string;
  until?: string;
  /** What to write instead, from `until` on. */
  instead?: string;
}

/** Options without their leading dashes. What has no range works in every release that sealift supports. */
export type OptionTable = Readonly<Record<string, OptionRange>>;

/** A table from a list of names, and what is special about some. */
export const options = (names: string, special: Readonly<Record<string, OptionRange>> = {}): OptionTable => ({
  ...Object.fromEntries(
    names
      .trim()
      .split(/\s+/)
      .map((name) => [name, {}]),
  ),
  ...special,
});

/** What is wrong with a service: it will not run, or something about it looks so. */
export interface Finding {
  severity: 'error' | 'warning';
  message: string;
  hint?: string;
}

/**
 * What is wrong with an option. An unknown one may be newer than the table, so that is only a warning.
 * @param release of the engine, such as `0.27.1`; undefined when the image's tag does not say it
 */
export function checkOption(
  name: string,
  table: OptionTable,
  engine: string,
  release: string | undefined,
): Finding | undefined {
  const range = Object.hasOwn(table, name) ? table[name]! : undefined;
  if (range === undefined) {
    const hint = didYouMean(name, Object.keys(table)) ?? 'look it up in the documentation of that release';
    return { severity: 'warning', message: `--${name} is no option of ${engine} that sealift knows`, hint };
  }
  if (release === undefined) return undefined;
  const hint = range.instead === undefined ? {} : { hint: `use ${range.instead}` };
  if (range.until !== undefined && !isBefore(release, range.until))
    return {
      severity: 'error',
      message: `--${name} is gone from ${engine} since ${range.until}, and the image is ${release}`,
      ...hint,
    };
  if (range.since !== undefined && isBefore(release, range.since))
    return {
      severity: 'error',
      message: `--${name} came to ${engine} with ${range.since}, and the image is ${release}`,
    };
  return undefined;
}

/** Whether a release comes before another; both are numbers with dots between them. */
export function isBefore(release: string, other: string): boolean {
  const [a, b] = [release, other].map((text) => text.split('.').map(Number)) as [number[], number[]];
  for (let i = 0; i < Math.max(a.length, b.length); i++) {
    const difference = (a[i] ?? 0) - (b[i] ?? 0);
    if (difference !== 0) return difference < 0;
  }
  return false;
}

/**
 * The release that an image's tag names: `v0.27.1` and `v0.5.19-cu129-amd64` have dots, llama.cpp counts builds
 * (`server-cuda13-b6510`).
 * @returns undefined for `latest` and its like
 */
export function releaseOf(ref: string): string | undefined {
  const tag = /:([^:/@]+)(@|$)/.exec(ref)?.[1] ?? '';
  return /(?:^|-)v?(\d+\.\d+(?:\.\d+)*)/.exec(tag)?.[1] ?? /(?:^|-)b(\d{3,})(?:-|$)/.exec(tag)?.[1];
}
