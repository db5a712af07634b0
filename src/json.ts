// SPDX-License-Identifier: Apache-2.0
import { SealiftError, type ErrorCode } from './errors.ts';

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/**
 * Canonical JSON (FORMAT.md, "Canonical JSON"): object keys sorted by UTF-16 code unit, two spaces of indent,
 * one line feed at the end. Members with the value `undefined` are left out. Readers compare bytes, so a
 * document with duplicate keys, odd spacing or unknown escapes is never equal to its canonical form.
 */
export function canonicalJson(value: unknown): Buffer {
  return Buffer.from(`${write(value, '\n')}\n`);
}

/** By hand, because a JavaScript object puts keys that look like integers first, whatever the order of insertion. */
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
