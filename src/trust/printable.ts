// SPDX-License-Identifier: Apache-2.0

/** Longest piece of outside text that is shown, in code points. */
const MAX_SHOWN = 160;

/**
 * Text from outside, made safe to show: control, format (bidirectional, zero-width), separator, surrogate and
 * unassigned characters become `\u{…}`, and long text is cut. Nothing from a bundle reaches a terminal or a
 * log in any other way (THREATS.md T14).
 */
export function printable(text: string): string {
  const points = Array.from(text);
  const shown = points
    .slice(0, MAX_SHOWN)
    .join('')
    .replace(/[\p{C}\p{Zl}\p{Zp}]/gu, escape);
  return points.length > MAX_SHOWN ? `${shown}…` : shown;
}

const escape = (char: string): string => `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`;
