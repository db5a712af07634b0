// SPDX-License-Identifier: Apache-2.0
/** Text and numbers for people. */

/**
 * Text from outside, made safe to show: control, format (bidirectional, zero-width), separator, surrogate, private,
 * unassigned and other invisible characters become `\u{…}`, and what is longer than `max` code points is cut. Nothing from a
 * bundle, a registry or a file name reaches a terminal or a log in any other way (THREATS.md T14).
 */
export function printable(text: string, max: number = Number.POSITIVE_INFINITY): string {
  const points = text.length > max ? Array.from(text) : [];
  const cut = points.length > max ? `${points.slice(0, max).join('')}…` : text;
  return cut.replace(/[\p{C}\p{Zl}\p{Zp}\p{DI}]/gu, (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`);
}

/** Decimal units, as registries, hubs and disks use them. */
const UNITS = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];

/** `1.5 GB`: three significant digits at most. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (Math.abs(value) >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit++;
  }
  const digits = unit === 0 || value >= 99.95 ? 0 : 1;
  return `${value.toFixed(digits)} ${UNITS[unit]}`;
}
