// SPDX-License-Identifier: Apache-2.0
import { SealiftError, type ErrorCode } from './errors.ts';

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** A JSON object; undefined for what is none. */
export const objectOf = (value: unknown): Readonly<Record<string, unknown>> | undefined =>
  typeof value === 'object' && value !== null && !Array.isArray(value)
    ? (value as Readonly<Record<string, unknown>>)
    : undefined;

/**
 * Canonical JSON (FORMAT.md, "Canonical JSON"): object keys sorted by UTF-16 code unit, two spaces of indent,
 * one line feed at the end. Members with the value `undefined` are left out. Readers compare bytes, so a
 * document with duplicate keys, odd spacing or unknown escapes is never equal to its canonical form.
 */
export function canonicalJson(value: unknown): Buffer {
  const sorted = sortedCopy(value);
  return Buffer.from(`${sorted === undefined ? write(value, '\n') : JSON.stringify(sorted, null, 2)}\n`);
}

/** A JavaScript object puts these first, whatever the order of insertion; the last is no key there at all. */
const UNSORTABLE = /^(?:\d|__proto__$)/;

/**
 * The value with the keys of every object in order, for JSON.stringify, which is ten times as fast as writing by hand: a
 * model can have a hundred thousand files. Undefined when a key cannot be kept in its place.
 */
function sortedCopy(value: unknown): unknown {
  if (value === null || typeof value !== 'object') return value;
  if (Array.isArray(value)) {
    const items = value.map(sortedCopy);
    return items.includes(undefined) ? undefined : items;
  }
  const copy: Record<string, unknown> = {};
  for (const key of Object.keys(value).sort()) {
    const member = (value as Readonly<Record<string, unknown>>)[key];
    if (member === undefined) continue;
    const sorted = sortedCopy(member);
    if (sorted === undefined || UNSORTABLE.test(key)) return undefined;
    copy[key] = sorted;
  }
  return copy;
}

/** By hand, for objects whose keys JavaScript would put into another order. */
function write(value: unknown, line: string): string {
  if (value === null || typeof value !== 'object') return JSON.stringify(value);
  const inner = `${line}  `;
  const wrap = ([open, close]: [string, string], parts: string[]): string =>
    parts.length === 0 ? open + close : open + inner + parts.join(`,${inner}`) + line + close;
  if (Array.isArray(value))
    return wrap(
      ['[', ']'],
      value.map((item) => write(item, inner)),
    );
  const entries = Object.entries(value).filter(([, member]) => member !== undefined);
  entries.sort(([a], [b]) => (a < b ? -1 : 1));
  return wrap(
    ['{', '}'],
    entries.map(([key, member]) => `${JSON.stringify(key)}: ${write(member, inner)}`),
  );
}

/**
 * Parses JSON that came from outside. `what` names the document in the message.
 * @throws {SealiftError} with `code` when it is not JSON, not UTF-8, or larger than `maxBytes`.
 */
export function parseJson(bytes: Uint8Array, what: string, code: ErrorCode, maxBytes: number): unknown {
  if (bytes.length > maxBytes) {
    throw new SealiftError(
      code,
      `${what} is ${bytes.length} bytes, more than the ${maxBytes} that are allowed`,
    );
  }
  const { depth, values } = shapeOf(bytes);
  if (depth > MAX_DEPTH) throw new SealiftError(code, `${what} is nested deeper than ${MAX_DEPTH} levels`);
  if (values > MAX_VALUES) throw new SealiftError(code, `${what} has more than ${MAX_VALUES} values`);
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes));
  } catch (cause) {
    throw new SealiftError(code, `${what} is not valid JSON`, { cause });
  }
}

/** Our own documents have seven levels; whoever walks one of these recursively must not run out of stack. */
const MAX_DEPTH = 128;

/**
 * A value takes two bytes of text, some thirty of memory, and some hundred when a schema has something to say about
 * it: without this bound 64 MiB of `0,0,0,…` would end the process. A file of a model is four or five values, and
 * SHA256SUMS can list some 230,000 blobs.
 */
const MAX_VALUES = 1_500_000;

/** The deepest nesting of brackets, and at least how many values there are. Of text that is not JSON it says nothing. */
function shapeOf(bytes: Uint8Array): { depth: number; values: number } {
  let depth = 0;
  let deepest = 0;
  let values = 0;
  let inString = false;
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i];
    if (inString) {
      if (byte === 0x5c)
        i++; // a backslash and what it escapes
      else if (byte === 0x22) inString = false;
    } else if (byte === 0x22) inString = true;
    else if (byte === 0x2c) values++;
    else if (byte === 0x7b || byte === 0x5b) {
      values++;
      deepest = Math.max(deepest, ++depth);
    } else if (byte === 0x7d || byte === 0x5d) depth--;
  }
  return { depth: deepest, values };
}

/**
 * Parses JSON that other programs read too, and not all of them with a parser (the README's `sed`). Where a member
 * stands twice, one reader takes the first and another the last; an escape that nothing asks for (`\u0061` for `a`)
 * hides a word from whoever looks for it. No honest writer does either.
 * @throws {SealiftError} as parseJson, and for such text
 */
export function parseJsonOneWay(bytes: Uint8Array, what: string, code: ErrorCode, maxBytes: number): unknown {
  const value = parseJson(bytes, what, code, maxBytes);
  let keys = 0;
  for (const { source, isKey } of stringsIn(Buffer.from(bytes).toString())) {
    if (isKey) keys++;
    if (isNeedlesslyEscaped(source)) throw new SealiftError(code, `${what} hides plain text behind escapes`);
  }
  if (keys !== keysIn(value)) throw new SealiftError(code, `${what} has a member twice`);
  return value;
}

/** Each string of a valid JSON text, as it stands between its quotes. By hand: a pattern needs stack for each character. */
function* stringsIn(text: string): Generator<{ source: string; isKey: boolean }> {
  for (let start = text.indexOf('"'); start >= 0;) {
    let end = start + 1;
    while (text[end] !== '"') end += text[end] === '\\' ? 2 : 1;
    let after = end + 1;
    while (/[ \t\r\n]/.test(text[after] ?? '')) after++;
    yield { source: text.slice(start + 1, end), isKey: text[after] === ':' };
    start = text.indexOf('"', end + 1);
  }
}

const isNeedlesslyEscaped = (source: string): boolean =>
  source.includes('\\') && /^[ !#-[\]-~]*$/.test(JSON.parse(`"${source}"`) as string);

function keysIn(value: unknown): number {
  if (value === null || typeof value !== 'object') return 0;
  const members = Object.values(value).reduce<number>((sum, member) => sum + keysIn(member), 0);
  return Array.isArray(value) ? members : members + Object.keys(value).length;
}
