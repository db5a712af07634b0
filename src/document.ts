// SPDX-License-Identifier: Apache-2.0
/**
 * YAML documents that a person writes: manifest, site, trust policy. Every error names the file, line and
 * column, what was expected, and the nearest valid key.
 */
import { isMap, isPair, isScalar, isSeq, LineCounter, parseDocument as parseYaml, type Document, type Node } from 'yaml';
import type { z } from 'zod';
import { SealiftError, type ErrorCode } from './errors.ts';

/** Longest document that is read, in bytes. A manifest of this size would name about 50,000 files. */
export const MAX_DOCUMENT_BYTES = 4 * 1024 * 1024;

type Path = readonly PropertyKey[];

/**
 * Parses and checks one document.
 * @param text the file's content; `file` is only used in messages
 * @throws {SealiftError} with `code`; all violations are listed in its details, the first one is its message
 */
export function readDocument<T>(text: string, file: string, schema: z.ZodType<T>, code: ErrorCode): T {
  if (Buffer.byteLength(text) > MAX_DOCUMENT_BYTES) {
    throw new SealiftError(code, `${file} is larger than ${MAX_DOCUMENT_BYTES} bytes`);
  }
  const lines = new LineCounter();
  const doc = parseYaml(text, { lineCounter: lines, uniqueKeys: true, version: '1.2', merge: false });
  const at = (offset: number): string => {
    const { line, col } = lines.linePos(offset);
    return `${file}:${Math.max(line, 1)}:${Math.max(col, 1)}`;
  };
  const syntax = doc.errors[0] ?? doc.warnings[0];
  if (syntax) throw new SealiftError(code, `${at(syntax.pos[0])}: ${syntax.message.split('\n')[0]?.replace(/ at line \d+.*$/, '')}`);
  const parsed = schema.safeParse(toPlain(doc, file, code));
  if (parsed.success) return parsed.data;
  const problems = parsed.error.issues.flatMap((issue) => describe(issue, doc, schema, at));
  const [first, ...rest] = problems;
  throw new SealiftError(code, first?.text ?? `${file} is not valid`, {
    ...(first?.hint === undefined ? {} : { hint: first.hint }),
    details: rest.map((p) => ['also', p.hint === undefined ? p.text : `${p.text} (${p.hint})`] as const),
  });
}

/** Aliases are a way to blow up a small document ("billion laughs"); 100 expansions serve any honest file. */
function toPlain(doc: Document, file: string, code: ErrorCode): unknown {
  try {
    return doc.toJS({ maxAliasCount: 100 });
  } catch (cause) {
    throw new SealiftError(code, `${file}: too many YAML aliases`, { cause });
  }
}

interface Problem {
  text: string;
  hint?: string;
}

function describe(issue: z.core.$ZodIssue, doc: Document, schema: z.ZodType, at: (offset: number) => string): Problem[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const nearest = nearestKey(key, keysAt(schema, issue.path));
      const text = `${at(offsetOf(doc, [...issue.path, key], true))}: unknown key '${key}'${inside(issue.path)}`;
      return nearest === undefined ? { text } : { text, hint: `did you mean '${nearest}'?` };
    });
  }
  return [{ text: `${at(offsetOf(doc, issue.path, false))}: ${inside(issue.path, '')}${issue.message}` }];
}

function inside(path: Path, preposition = ' in '): string {
  if (path.length === 0) return '';
  return preposition === '' ? `${path.map(String).join('.')}: ` : `${preposition}${path.map(String).join('.')}`;
}

/** Byte offset of the key or value at `path`, or of the nearest ancestor that exists. */
function offsetOf(doc: Document, path: Path, wantKey: boolean): number {
  let node: unknown = doc.contents;
  let offset = (doc.contents as Node | null)?.range?.[0] ?? 0;
  for (const [i, part] of path.entries()) {
    const child = childOf(node, part);
    if (child === undefined) break;
    const last = i === path.length - 1;
    offset = (last && wantKey ? child.key : child.value)?.range?.[0] ?? child.key?.range?.[0] ?? offset;
    node = child.value;
  }
  return offset;
}

function childOf(node: unknown, part: PropertyKey): { key?: Node; value?: Node } | undefined {
  if (isSeq(node)) return { value: node.items[Number(part)] as Node };
  if (!isMap(node)) return undefined;
  const pair = node.items.find((p) => isPair(p) && isScalar(p.key) && String(p.key.value) === String(part));
  return pair && { key: pair.key as Node, value: pair.value as Node };
}

/** Keys that the schema knows at a path; looks through optional, default, record, array and union wrappers. */
function keysAt(schema: z.ZodType, path: Path): string[] {
  let level: unknown[] = unwrap(schema);
  for (const part of path) level = level.flatMap((s) => step(s, part)).flatMap(unwrap);
  return [...new Set(level.flatMap((s) => Object.keys(shapeOf(s) ?? {})))];
}

type Def = { type: string; innerType?: z.ZodType; options?: z.ZodType[]; in?: z.ZodType; valueType?: z.ZodType; element?: z.ZodType; shape?: Record<string, z.ZodType> };
const defOf = (schema: unknown): Def => (schema as { def: Def }).def;
const shapeOf = (schema: unknown): Record<string, z.ZodType> | undefined => defOf(schema).shape;

function unwrap(schema: unknown): unknown[] {
  const def = defOf(schema);
  if (def.options) return def.options.flatMap(unwrap);
  const inner = def.innerType ?? (def.type === 'pipe' ? def.in : undefined);
  return inner ? unwrap(inner) : [schema];
}

function step(schema: unknown, part: PropertyKey): z.ZodType[] {
  const def = defOf(schema);
  const next = def.shape?.[String(part)] ?? def.valueType ?? def.element;
  return next ? [next] : [];
}

/** The candidate at the smallest edit distance, if that is small beside the word's length. */
export function nearestKey(word: string, candidates: readonly string[]): string | undefined {
  const ranked = candidates.map((c) => ({ c, d: editDistance(word.toLowerCase(), c.toLowerCase()) })).sort((a, b) => a.d - b.d);
  const best = ranked[0];
  return best && best.d <= Math.max(1, Math.floor(word.length / 3)) ? best.c : undefined;
}

/** Levenshtein distance with adjacent transpositions counted as one edit. */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1] ? 0 : 1;
      let d = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + same);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) d = Math.min(d, before[j - 2]! + 1);
      next.push(d);
    }
    before = row;
    row = next;
  }
  return row[b.length]!;
}
