// SPDX-License-Identifier: Apache-2.0
/** Damage to good inputs: to bytes whatever they mean, to JSON with its shape kept, and to YAML line by line. */
import { canonicalJson } from '../../src/json.ts';
import type { Random } from '../support/random.ts';

/** Text that readers have stumbled over. */
export const WORDS: readonly string[] = [
  '',
  '__proto__',
  'constructor',
  'toString',
  'null',
  '..',
  '../../etc/passwd',
  '/',
  '\u0000',
  '\u001b[2J',
  '\u202e',
  '\u200b',
  '\u2028',
  '\ud800',
  '\ufeff',
  '\u{1f600}',
  'a'.repeat(5000),
  'sha256:',
  `sha256:${'0'.repeat(64)}`,
  `sha256:${'A'.repeat(64)}`,
  '0'.repeat(64),
  '1.0.0',
  '99999999999999999999.0.0-0',
  'linux/arm64',
  'sealift.dev/v2',
  'application/vnd.oci.image.index.v1+json',
  '2026-02-30T00:00:00Z',
  '-1',
  '1e999',
  '0x10',
];

const NUMBERS: readonly number[] = [
  0,
  -0,
  -1,
  1,
  0.5,
  7,
  8,
  9,
  255,
  256,
  511,
  512,
  513,
  65_535,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32,
  2 ** 33,
  2 ** 53 - 1,
  2 ** 53,
  -(2 ** 31),
  1e308,
];

// ---- bytes ----

/** @param others good inputs of the same kind, for splices; `words` what means something in this kind */
export function damageBytes(
  random: Random,
  good: Buffer,
  others: readonly Buffer[] = [],
  words: readonly (string | Buffer)[] = WORDS,
): Buffer {
  let bytes: Buffer = Buffer.from(good);
  for (let edits = random.few(6); edits > 0; edits--) bytes = editBytes(random, bytes, others, words);
  return bytes;
}

function editBytes(
  random: Random,
  bytes: Buffer,
  others: readonly Buffer[],
  words: readonly (string | Buffer)[],
): Buffer {
  const at = random.int(bytes.length + 1);
  const length = Math.min(random.few(4096), bytes.length - at);
  const around = (middle: Buffer, skipped = 0): Buffer =>
    Buffer.concat([bytes.subarray(0, at), middle, bytes.subarray(at + skipped)]);
  switch (random.int(9)) {
    case 0:
      return around(Buffer.of((bytes[at] ?? 0) ^ (1 << random.int(8))), 1);
    case 1:
      return around(random.bytes(random.few(64)));
    case 2:
      return around(Buffer.alloc(0), length);
    case 3:
      return bytes.subarray(0, at);
    case 4:
      return around(bytes.subarray(at, at + length));
    case 5:
      return around(Buffer.from(random.pick(words)), random.chance(0.5) ? length : 0);
    case 6:
      return around(numberBytes(random), random.chance(0.8) ? 8 : 0);
    case 7:
      return around(Buffer.alloc(length, random.pick([0, 0x20, 0x30, 0xff])), length);
    default:
      return splice(random, bytes, random.pick([...others, bytes]));
  }
}

function numberBytes(random: Random): Buffer {
  const value = random.pick(NUMBERS);
  if (random.chance(0.5)) return Buffer.from(String(value));
  const bytes = Buffer.alloc(8);
  bytes.writeBigInt64BE(BigInt.asIntN(64, BigInt(Math.trunc(Math.min(value, 2 ** 62)))));
  return bytes;
}

/** The beginning of one and the end of another. */
function splice(random: Random, a: Buffer, b: Buffer): Buffer {
  const at = random.int(a.length + 1);
  const from = random.chance(0.5) ? Math.min(at, b.length) : random.int(b.length + 1);
  return Buffer.concat([a.subarray(0, at), b.subarray(from)]);
}

// ---- JSON ----

/** The damaged value as text, more often than not in canonical form, so that it gets past the first check. */
export function damageJson(random: Random, good: unknown): Buffer {
  const root: Box = { value: structuredClone(good) };
  for (let edits = random.few(4); edits > 0; edits--) editJson(random, root);
  const canonical = canonicalJson(root.value ?? null);
  if (random.chance(0.8)) return canonical;
  const text = canonical.toString();
  return random.pick([
    () => Buffer.from(JSON.stringify(root.value) ?? ''),
    () => Buffer.from(text.replaceAll('\n', '\r\n')),
    () => Buffer.from(repeatMember(random, text)),
    () => damageBytes(random, canonical),
  ])();
}

interface Box {
  value: unknown;
}

type Place = { get: () => unknown; set: (value: unknown) => void; drop: () => void };

function editJson(random: Random, root: Box): void {
  const places = placesOf(root);
  const place = random.pick(places);
  const value = place.get();
  switch (random.int(8)) {
    case 0:
      return place.drop();
    case 1:
      return place.set(random.pick([null, true, false, [], {}, random.pick(WORDS), random.pick(NUMBERS)]));
    case 2:
      return place.set(random.pick([[value], { value }, [value, value]]));
    case 3:
      return place.set(structuredClone(random.pick(places).get()));
    case 4:
      return editList(random, value);
    case 5:
      return editKeys(random, value);
    case 6:
      return place.set(nearby(random, value));
    default:
      return place.set(nested(random.few(400), random.chance(0.5)));
  }
}

function placesOf(root: Box): Place[] {
  const places: Place[] = [
    {
      get: () => root.value,
      set: (value) => (root.value = value),
      drop: () => (root.value = undefined),
    },
  ];
  // Bounded: a value that an earlier edit nested deeply must not overflow our own stack.
  const visit = (holder: unknown, depth: number): void => {
    if (holder === null || typeof holder !== 'object' || depth > 50) return;
    const object = holder as Record<string, unknown>;
    for (const key of Object.keys(object)) {
      places.push({
        get: () => object[key],
        set: (value) => define(object, key, value),
        drop: () => (Array.isArray(holder) ? holder.splice(Number(key), 1) : delete object[key]),
      });
      visit(object[key], depth + 1);
    }
  };
  visit(root.value, 0);
  return places;
}

/** Also for `__proto__`, which an assignment would not make a member. */
const define = (object: object, key: string, value: unknown): unknown =>
  Object.defineProperty(object, key, { value, enumerable: true, writable: true, configurable: true });

function editList(random: Random, value: unknown): void {
  if (!Array.isArray(value) || value.length === 0) return;
  const [a, b] = [random.int(value.length), random.int(value.length)];
  if (random.chance(0.5)) value.push(structuredClone(value[a]));
  else [value[a], value[b]] = [value[b], value[a]];
}

function editKeys(random: Random, value: unknown): void {
  if (value === null || typeof value !== 'object' || Array.isArray(value)) return;
  const object = value as Record<string, unknown>;
  const keys = Object.keys(object);
  const key = random.pick([...keys, 'extra']);
  const name = random.pick([...WORDS, ...keys, `${key} `, key.toUpperCase()]);
  define(object, name, object[key] ?? 1);
  if (random.chance(0.5)) delete object[key];
}

/** A value of the same type, a little off. */
function nearby(random: Random, value: unknown): unknown {
  if (typeof value === 'number') return value + random.pick([-1, 1, 0.5, 2 ** 32]);
  if (typeof value === 'boolean') return !value;
  if (typeof value !== 'string') return value;
  return damageBytes(random, Buffer.from(value)).toString(random.pick(['utf8', 'latin1']));
}

/** Not made by recursion: canonicalJson, which is recursive, stands a few thousand levels. */
function nested(depth: number, lists: boolean): unknown {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = lists ? [value] : { a: value };
  return value;
}

/** One line of an object once more, perhaps with another value: what a JSON parser passes over in silence. */
function repeatMember(random: Random, text: string): string {
  const lines = text.split('\n');
  const members = lines.flatMap((line, i) => (/^ +"[^"]*": [^{[]/.test(line) ? [i] : []));
  if (members.length === 0) return text;
  const at = random.pick(members);
  const line = lines[at]!.replace(/,?$/, ',');
  lines.splice(at, 0, random.chance(0.5) ? line : line.replace(/: .*,$/, ': "other",'));
  return lines.join('\n');
}

// ---- YAML ----

const YAML: readonly string[] = [
  '&a ',
  '*a',
  '!!binary ',
  '!own ',
  '<<: *a',
  '---',
  '...',
  '%YAML 1.1',
  '- ',
  '? ',
  ': ',
  '# ',
  '|',
  '>-',
  '"',
  "'",
  '{',
  '}',
  '[',
  ']',
  ',',
  '~',
  'yes',
  '0o17',
  '.inf',
  '.nan',
  '2026-01-01',
  '\t',
  '  ',
  '\r',
];

export function damageYaml(random: Random, good: string, others: readonly string[] = []): Buffer {
  if (random.chance(0.2))
    return damageBytes(
      random,
      Buffer.from(good),
      others.map((o) => Buffer.from(o)),
      [...WORDS, ...YAML],
    );
  const lines = good.split('\n');
  for (let edits = random.few(4); edits > 0; edits--) editYaml(random, lines);
  return Buffer.from(lines.join('\n'));
}

function editYaml(random: Random, lines: string[]): void {
  const at = random.int(lines.length);
  const line = lines[at] ?? '';
  const word = random.chance(0.5) ? random.pick(YAML) : random.pick(WORDS);
  switch (random.int(9)) {
    case 0:
      return void lines.splice(at, 1);
    case 1:
      return void lines.splice(random.int(lines.length), 0, line);
    case 2:
      return void lines.splice(random.int(lines.length), 0, ...lines.splice(at, random.few(5)));
    case 3:
      return void (lines[at] = random.chance(0.5) ? `  ${line}` : line.replace(/^ {1,2}/, ''));
    case 4:
      return void (lines[at] = line.replace(/: .*$/, () => `: ${word}`));
    case 5:
      return void (lines[at] = line.replace(/^( *)[^ :]+/, (_, indent: string) => indent + word));
    case 6:
      return void (lines[at] = line.replace(/: /, () => `: ${word}`));
    case 7:
      return void (lines[at] = aliases(random.few(200), random.few(9)));
    default:
      return void (lines[at] = line.replace(/: .*$/, () => `: ${random.pick(NUMBERS)}`));
  }
}

/** Lists of aliases of lists of aliases. */
function aliases(width: number, levels: number): string {
  const rows = Array.from({ length: levels }, (_, i) =>
    i === 0
      ? 'x0: &x0 [lol]'
      : `x${i}: &x${i} [${Array.from({ length: width }, () => `*x${i - 1}`).join(', ')}]`,
  );
  return rows.join('\n');
}
