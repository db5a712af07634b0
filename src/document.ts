// SPDX-License-Identifier: Apache-2.0
/**
 * YAML documents that a person writes: manifest, site, trust policy. Every error names the file, line and
 * column, what was expected, and the nearest valid key.
 *
 * Only the plain part of YAML 1.2 is read: one document, scalar keys, no tags of one's own, no merge keys.
 * What another YAML reader would understand differently is refused rather than guessed.
 */
import { isMap, isNode, isScalar, isSeq, LineCounter, parseDocument as parseYaml, visit } from 'yaml';
import type { Document, Scalar, YAMLError } from 'yaml';
import type * as z from 'zod';
import { SealiftError, type ErrorCode } from './errors.ts';

/** Longest document that is read, in bytes: 12,000 configuration files. The parser needs up to 600 times as much. */
export const MAX_DOCUMENT_BYTES = 1024 * 1024;

/** Most problems that one error tells of; nobody mends more of them at a time. */
const MAX_PROBLEMS = 20;

/** Aliases are a way to blow up a small document ("billion laughs"); this many expansions serve any honest file. */
const MAX_ALIASES = 100;

/** What helps with a document that says nothing yet. */
const STARTS: Partial<Record<ErrorCode, string>> = {
  MANIFEST_INVALID: '`sealift init NEW.yaml` writes one to start from',
};

type Path = readonly PropertyKey[];
type Place = (offset: number) => string;

interface Problem {
  text: string;
  hint?: string;
}

/**
 * Parses and checks one document.
 * @param text the file's content; `file` is only used in messages
 * @throws {SealiftError} with `code`; the first violation is its message, some twenty more are in its details
 */
export function readDocument<T>(text: string, file: string, schema: z.ZodType<T>, code: ErrorCode): T {
  if (Buffer.byteLength(text) > MAX_DOCUMENT_BYTES) {
    throw new SealiftError(code, `${file} is larger than ${MAX_DOCUMENT_BYTES} bytes`);
  }
  const lines = new LineCounter();
  const at: Place = (offset) => {
    const { line, col } = lines.linePos(offset);
    return `${file}:${Math.max(line, 1)}:${Math.max(col, 1)}`;
  };
  const doc = parsePlainYaml(text, lines, at, code);
  const parsed = schema.safeParse(toPlain(doc, file, code));
  if (parsed.success) return parsed.data;
  // A misspelt key first: that another one is missing is often only what follows from it.
  const isKey = (issue: z.core.$ZodIssue): boolean => issue.code === 'unrecognized_keys';
  const issues = [...parsed.error.issues.filter(isKey), ...parsed.error.issues.filter((i) => !isKey(i))];
  const problems = issues.slice(0, MAX_PROBLEMS).flatMap((issue) => describe(issue, doc, schema, at));
  const [first, ...rest] = problems.slice(0, MAX_PROBLEMS);
  const hint = doc.contents === null ? STARTS[code] : first?.hint;
  throw new SealiftError(code, first?.text ?? `${file} is not valid`, {
    ...(hint === undefined ? {} : { hint }),
    details: rest.map((p) => ['also', p.hint === undefined ? p.text : `${p.text} (${p.hint})`] as const),
  });
}

// ---- YAML ----

function parsePlainYaml(text: string, lines: LineCounter, at: Place, code: ErrorCode): Document {
  const doc = parseYaml(text, {
    lineCounter: lines,
    uniqueKeys: false, // it compares each key with each: refuseOddKeys does it in one pass
    version: '1.2',
    merge: false,
    // `!!binary`, `!!set` and their like make values that no document here has: an unresolved tag is refused.
    resolveKnownTags: false,
    prettyErrors: false,
  });
  const syntax = doc.errors[0] ?? doc.warnings[0];
  if (syntax) throw new SealiftError(code, `${at(syntax.pos[0])}: ${syntaxText(syntax)}`);
  if (doc.directives?.yaml.version !== '1.2') {
    throw new SealiftError(code, `${at(0)}: only YAML 1.2 is read, without a %YAML directive`);
  }
  refuseOddKeys(doc, at, code);
  return doc;
}

function syntaxText(error: YAMLError): string {
  switch (error.code) {
    case 'MULTIPLE_DOCS':
      return "a second document begins here ('---'), but the file must hold one";
    case 'RESOURCE_EXHAUSTION':
      return 'nested too deeply';
    default:
      return error.message.split('\n')[0] ?? 'not valid YAML';
  }
}

/**
 * Keys that are lists or maps become odd strings, of two equal keys one would win unseen (`true` and `"true"` are
 * equal here, whatever the parser thinks), and zod passes over `__proto__`: none of it may be ignored.
 */
function refuseOddKeys(doc: Document, at: Place, code: ErrorCode): void {
  visit(doc, {
    Map(_, { items }) {
      const seen = new Set<string>();
      for (const { key } of items) {
        const odd = oddity(key, seen);
        if (odd !== undefined) throw new SealiftError(code, `${at(startOf(key) ?? 0)}: ${odd}`);
        seen.add(String((key as Scalar).value));
      }
    },
  });
}

function oddity(key: unknown, seen: ReadonlySet<string>): string | undefined {
  if (!isScalar(key)) return 'a key must be a plain word';
  const word = String(key.value);
  if (word === '__proto__') return "the key '__proto__' is not allowed";
  return seen.has(word) ? `the key ${quoted(word)} is there twice` : undefined;
}

function toPlain(doc: Document, file: string, code: ErrorCode): unknown {
  try {
    return doc.toJS({ maxAliasCount: MAX_ALIASES });
  } catch (cause) {
    const text = cause instanceof Error ? cause.message : String(cause);
    const what = text.startsWith('Excessive alias') ? 'too many YAML aliases' : text;
    throw new SealiftError(code, `${file}: ${what}`, { cause });
  }
}

// ---- what zod found, in words ----

function describe(issue: z.core.$ZodIssue, doc: Document, schema: z.ZodType, at: Place): Problem[] {
  const place = (path: Path, wantKey: boolean): string => at(offsetOf(doc, path, wantKey));
  if (issue.code === 'unrecognized_keys') {
    const known = keysAt(schema, issue.path);
    return issue.keys.slice(0, MAX_PROBLEMS).map((key) => {
      const text = `${place([...issue.path, key], true)}: unknown key ${quoted(key)}${inside(issue.path)}`;
      return withHint(
        text,
        didYouMean(key, known) ?? (known.length > 0 ? `known keys: ${known.join(', ')}` : undefined),
      );
    });
  }
  if (issue.code === 'invalid_key') {
    const why = issue.issues[0]?.message ?? 'not allowed';
    return [
      {
        text: `${place(issue.path, true)}: key ${quoted(String(issue.path.at(-1)))}${inside(issue.path.slice(0, -1))}: ${why}`,
      },
    ];
  }
  const { text, hint } = valueProblem(issue, doc);
  const where = issue.path.length === 0 ? '' : `${dotted(issue.path)}: `;
  return [withHint(`${place(issue.path, false)}: ${where}${text}`, hint)];
}

/** One violation of a value: what was expected, what is there, and how to mend it where that is known. */
function valueProblem(issue: z.core.$ZodIssue, doc: Document): { text: string; hint?: string | undefined } {
  const found = doc.getIn(issue.path);
  if (issue.code === 'custom') return { text: issue.message, hint: hintOf(issue.params) };
  if (issue.code === 'invalid_type' || issue.code === 'invalid_union') {
    const expected = issue.code === 'invalid_type' ? naturally(issue.expected) : unionText(issue.errors);
    if (found === undefined && issue.path.length > 0) return { text: `is missing; expected ${expected}` };
    const quote = expected === 'a string' && ['number', 'boolean'].includes(typeof found);
    const hint = quote ? quotesHint(issue.path, sourceOf(issue.path, doc)) : undefined;
    return { text: `expected ${expected}, found ${kindOf(found)}`, hint };
  }
  if (issue.code === 'invalid_value') {
    const allowed = issue.values.map(String);
    const expected = `expected ${allowed.map(quoted).join(' or ')}`;
    if (found === undefined && issue.path.length > 0) return { text: `is missing; ${expected}` };
    return { text: `${expected}, found ${shown(found)}`, hint: didYouMean(String(found), allowed) };
  }
  const text = issue.message.charAt(0).toLowerCase() + issue.message.slice(1);
  return { text: isPlain(found) ? `${text}, found ${shown(found)}` : text };
}

/** YAML takes `version: 1.0` for a number, and quotes alone would not make it a semantic version. */
function quotesHint(path: Path, source: string): string {
  if (path.at(-1) !== 'version' || !/^\d+(\.\d+)?$/.test(source)) return `put it in quotes: "${source}"`;
  return `put it in quotes, with three numbers: "${source.includes('.') ? source : `${source}.0`}.0"`;
}

const hintOf = (params: Record<string, unknown> | undefined): string | undefined =>
  typeof params?.['hint'] === 'string' ? params['hint'] : undefined;

const withHint = (text: string, hint: string | undefined): Problem =>
  hint === undefined ? { text } : { text, hint };

const NATURAL: Readonly<Record<string, string>> = {
  string: 'a string',
  number: 'a number',
  int: 'a whole number',
  boolean: 'true or false',
  array: 'a list',
  object: 'a map',
  record: 'a map',
};
const naturally = (type: string): string => NATURAL[type] ?? type;

function unionText(branches: readonly (readonly z.core.$ZodIssue[])[]): string {
  const names = branches.map((b) =>
    b[0]?.code === 'invalid_type' ? naturally(b[0].expected) : (b[0]?.message ?? ''),
  );
  return [...new Set(names.filter((n) => n !== ''))].join(' or ');
}

function kindOf(value: unknown): string {
  if (value === null || value === undefined) return 'nothing';
  if (isMap(value)) return 'a map';
  if (isSeq(value)) return 'a list';
  if (typeof value === 'boolean') return String(value);
  return isPlain(value) ? `the ${typeof value} ${shown(value)}` : 'something else';
}

const isPlain = (value: unknown): boolean => ['string', 'number', 'boolean'].includes(typeof value);
const shown = (value: unknown): string => (isPlain(value) ? quoted(String(value)) : kindOf(value));

/** A word of the document between quotes: bounded, and with nothing in it that could steer a terminal. */
function quoted(word: string): string {
  const short = word.length > 80 ? `${word.slice(0, 80)}…` : word;
  return `'${short.replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, '\uFFFD')}'`;
}

const dotted = (path: Path): string => path.map((part) => quoted(String(part)).slice(1, -1)).join('.');
const inside = (path: Path): string => (path.length === 0 ? '' : ` in ${dotted(path)}`);

// ---- where it is ----

/** Offset (UTF-16 units) of the key or value at `path`, or of the nearest ancestor that exists. */
function offsetOf(doc: Document, path: Path, wantKey: boolean): number {
  let node: unknown = doc.contents;
  let offset = startOf(doc.contents) ?? 0;
  for (const [i, part] of path.entries()) {
    const child = childOf(node, part);
    if (child === undefined) break;
    const last = i === path.length - 1;
    offset = startOf(last && wantKey ? child.key : child.value) ?? startOf(child.key) ?? offset;
    // A missing child is reported at its parent's key: a block map's own offset is that of its first key.
    if (!last && childOf(child.value, path[i + 1]!) === undefined) return startOf(child.key) ?? offset;
    node = child.value;
  }
  return offset;
}

const startOf = (node: unknown): number | undefined => (isNode(node) ? node.range?.[0] : undefined);

function childOf(node: unknown, part: PropertyKey): { key?: unknown; value: unknown } | undefined {
  if (isSeq(node)) {
    const item = node.items[Number(part)];
    return item === undefined ? undefined : { value: item };
  }
  if (!isMap(node)) return undefined;
  const pair = node.items.find((p) => isScalar(p.key) && String(p.key.value) === String(part));
  return pair && { key: pair.key, value: pair.value };
}

/** The scalar at `path` as it stands in the file, so that 1.10 is not shown as 1.1. */
function sourceOf(path: Path, doc: Document): string {
  const node = doc.getIn(path, true);
  return isScalar(node) ? (node.source ?? String(node.value)) : '';
}

// ---- what the schema knows ----

/** Keys that the schema knows at a path; looks through optional, default, record, array and union wrappers. */
function keysAt(schema: z.ZodType, path: Path): string[] {
  let level: unknown[] = unwrap(schema);
  for (const part of path) level = level.flatMap((s) => step(s, part)).flatMap(unwrap);
  return [...new Set(level.flatMap((s) => Object.keys(defOf(s).shape ?? {})))];
}

interface Def {
  type: string;
  innerType?: z.ZodType;
  options?: z.ZodType[];
  in?: z.ZodType;
  valueType?: z.ZodType;
  element?: z.ZodType;
  shape?: Record<string, z.ZodType>;
}
/** zod types `def` for each kind of schema; this walk needs what they have in common. */
const defOf = (schema: unknown): Def => (schema as { def: Def }).def;

function unwrap(schema: unknown): unknown[] {
  const def = defOf(schema);
  if (def.options) return def.options.flatMap(unwrap);
  const inner = def.innerType ?? (def.type === 'pipe' ? def.in : undefined);
  return inner ? unwrap(inner) : [schema];
}

function step(schema: unknown, part: PropertyKey): z.ZodType[] {
  const def = defOf(schema);
  const key = String(part);
  const member = def.shape && Object.hasOwn(def.shape, key) ? def.shape[key] : undefined;
  const next = member ?? def.valueType ?? def.element;
  return next ? [next] : [];
}

// ---- did you mean ----

/** `did you mean 'x'?` for the candidate that is near enough, if there is one. */
export function didYouMean(word: string, candidates: readonly string[]): string | undefined {
  const nearest = nearestKey(word, candidates);
  return nearest === undefined ? undefined : `did you mean '${nearest}'?`;
}

/** The candidate at the smallest edit distance, if that is small beside the word's length. */
export function nearestKey(word: string, candidates: readonly string[]): string | undefined {
  // A longer word is no misspelling, and the distance costs the product of the lengths.
  if (word.length > 64) return undefined;
  const ranked = candidates
    .map((c) => ({ c, d: editDistance(word.toLowerCase(), c.toLowerCase()) }))
    .toSorted((a, b) => a.d - b.d);
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
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        d = Math.min(d, before[j - 2]! + 1);
      next.push(d);
    }
    before = row;
    row = next;
  }
  return row[b.length]!;
}
