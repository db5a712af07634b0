// SPDX-License-Identifier: Apache-2.0
import * as fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { SealiftError } from '../src/errors.ts';
import { canonicalJson, objectOf, parseJson, parseJsonOneWay } from '../src/json.ts';

const text = (value: unknown): string => canonicalJson(value).toString('utf8');

test('canonical JSON: sorted keys, two spaces, one line feed', () => {
  expect(text({ b: [1, { d: 1, c: null }], a: 'ü' })).toBe(
    '{\n  "a": "ü",\n  "b": [\n    1,\n    {\n      "c": null,\n      "d": 1\n    }\n  ]\n}\n',
  );
  expect(text([])).toBe('[]\n');
});

test('keys are sorted by UTF-16 code unit, not by locale or code point', () => {
  // U+1F600 is written as surrogates (d83d…), which come before U+FF5E, although its code point is larger.
  expect(Object.keys(JSON.parse(text({ '\uFF5E': 1, '\u{1F600}': 1, a: 1, Z: 1, ä: 1 })) as object)).toEqual([
    'Z',
    'a',
    'ä',
    '\u{1F600}',
    '\uFF5E',
  ]);
});

test('members that are undefined are left out', () => {
  expect(text({ a: undefined, b: 1 })).toBe('{\n  "b": 1\n}\n');
});

test('__proto__ is a key like another', () => {
  const value: unknown = JSON.parse('{"__proto__": {"x": 1}, "a": 2}');
  expect(text(value)).toContain('"__proto__"');
});

test('the order in which an object was filled never shows, and nothing is lost', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 })), (value) => {
      const backwards = Object.fromEntries(Object.entries(value).toReversed());
      expect(text(backwards)).toBe(text(value));
      expect(JSON.parse(text(value))).toEqual(JSON.parse(JSON.stringify(value)));
    }),
    { seed: 20261123, numRuns: 200 },
  );
});

test('keys that JavaScript would put elsewhere stand where they belong, and change nothing else', () => {
  const inner = fc.dictionary(
    fc.constantFrom('a', 'B', '!', '0', '10', '9', '01', '__proto__', 'toString'),
    fc.nat(3),
  );
  fc.assert(
    fc.property(fc.array(inner, { maxLength: 3 }), (list) => {
      const keys = [...text({ list }).matchAll(/^ {6}("[^"]*"): |^ {4}\}/gm)].map(([, key]) => key ?? '');
      const wanted = list.flatMap((item) => {
        const own = Object.keys(item).toSorted((a, b) => (a < b ? -1 : 1));
        return own.length === 0 ? [] : [...own.map((key) => JSON.stringify(key)), ''];
      });
      expect(keys).toEqual(wanted);
      const plain = list.filter((item) => Object.keys(item).every((key) => /^[aB!]/.test(key)));
      expect(text({ list: [...plain, { 0: 1 }] })).toContain(text({ list: plain }).slice(0, -6).trimEnd());
    }),
    { seed: 20261125, numRuns: 500 },
  );
  expect(text({ a: [], b: {}, c: [[]] })).toBe('{\n  "a": [],\n  "b": {},\n  "c": [\n    []\n  ]\n}\n');
});

test('parseJson reads JSON', () => {
  expect(parseJson(Buffer.from('{"a": [1]}'), 'x', 'LOCK_INVALID', 100)).toEqual({ a: [1] });
});

test.each([
  ['not JSON', Buffer.from('{'), 100, 'x is not valid JSON'],
  ['empty', Buffer.alloc(0), 100, 'x is not valid JSON'],
  ['not UTF-8', Buffer.from([0x22, 0xff, 0x22]), 100, 'x is not valid JSON'],
  ['a byte order mark', Buffer.from('\uFEFF{}'), 100, 'x is not valid JSON'],
  ['text after the value', Buffer.from('{} {}'), 100, 'x is not valid JSON'],
  ['one byte too long', Buffer.from('[1, 2]'), 5, 'x is 6 bytes, more than the 5 that are allowed'],
])('parseJson refuses %s', (_, bytes, max, message) => {
  const attempt = (): unknown => parseJson(bytes, 'x', 'SOURCE_INVALID', max);
  expect(attempt).toThrow(SealiftError);
  expect(attempt).toThrow(expect.objectContaining({ code: 'SOURCE_INVALID', message }));
});

test('an object without members, and text of every kind', () => {
  expect(text({})).toBe('{}\n');
  expect(text([[], {}])).toBe('[\n  [],\n  {}\n]\n');
  expect(text(null)).toBe('null\n');
  expect(text([true, 0, -1.5, 'a"\\\u0001'])).toBe('[\n  true,\n  0,\n  -1.5,\n  "a\\"\\\\\\u0001"\n]\n');
});

describe('nesting', () => {
  const lists = (depth: number): string => '['.repeat(depth) + ']'.repeat(depth);
  const maps = (depth: number): string => '{"a":'.repeat(depth) + '1' + '}'.repeat(depth);
  const parse = (json: string): unknown => parseJson(Buffer.from(json), 'x', 'SOURCE_INVALID', 1e6);
  const tooDeep = expect.objectContaining({
    code: 'SOURCE_INVALID',
    message: 'x is nested deeper than 128 levels',
  });

  test.each([
    ['lists', lists],
    ['maps', maps],
  ])('of %s goes to 128 levels, and no further', (_, nest) => {
    expect(() => parse(nest(128))).not.toThrow();
    expect(() => parse(nest(129))).toThrow(tooDeep);
    expect(() => parse(`{"a": ${nest(128)}}`)).toThrow(tooDeep);
  });

  test('is counted where it is, not over the whole text', () => {
    expect(() => parse(`[${Array(300).fill('[{"a": []}]').join(', ')}]`)).not.toThrow();
  });

  test('is not counted inside strings, whatever they escape', () => {
    for (const inner of ['['.repeat(200), `\\"${'{'.repeat(200)}`, `\\\\\\"${'['.repeat(200)}`])
      expect(parse(`["${inner}", []]`), inner.slice(0, 8)).toEqual([JSON.parse(`"${inner}"`), []]);
  });

  test('is counted again behind a string, also one that ends in a backslash', () => {
    for (const start of ['"a"', '"\\\\"', '"[\\\\\\""', '""'])
      expect(() => parse(`[${start}, ${lists(128)}]`), start).toThrow(tooDeep);
  });

  test('of text that is no JSON is refused before it is parsed', () => {
    expect(() => parse('['.repeat(100_000))).toThrow(tooDeep);
    expect(() => parse(']'.repeat(500))).toThrow(expect.objectContaining({ message: 'x is not valid JSON' }));
  });
});

test('text of exactly the allowed length is read, and the cause of a refusal is kept', () => {
  expect(parseJson(Buffer.from('[1, 2]'), 'x', 'LOCK_INVALID', 6)).toEqual([1, 2]);
  expect(() => parseJson(Buffer.from('{'), 'x', 'LOCK_INVALID', 6)).toThrow(
    expect.objectContaining({ cause: expect.any(SyntaxError) }),
  );
});

test('values are counted, wherever they stand, but not inside strings', () => {
  const parse = (json: string): unknown => parseJson(Buffer.from(json), 'x', 'SOURCE_INVALID', 1e8);
  const tooMany = expect.objectContaining({
    code: 'SOURCE_INVALID',
    message: 'x has more than 1500000 values',
  });
  // The list and what stands between its members are counted: 1 + 1,499,999.
  const most = `[${Array(1_500_000).fill('0').join()}]`;
  expect(parse(most)).toHaveLength(1_500_000);
  expect(() => parse(`[${most}]`)).toThrow(tooMany);
  expect(() => parse(`{"a": ${most}}`)).toThrow(tooMany);
  expect(() => parse(most.replace('0', '0,0'))).toThrow(tooMany);
  expect(parse(`["${','.repeat(1_600_000)}${'[{'.repeat(1_600_000)}"]`)).toHaveLength(1);
});

describe('text that every reader reads in one way', () => {
  const read = (json: string): unknown => parseJsonOneWay(Buffer.from(json), 'x', 'SOURCE_INVALID', 1000);

  test.each([
    '{"a": 1, "b": {"a": [{"a": "b"}, "a"]}}',
    '{"a" : 1, "b"\t:2, "c"\r\n : 3}',
    '["a", "b", {"c": ["d:", ":"]}]',
    '{"a": "say \\"x\\": y", "b\\\\": "\\\\"}',
    '"\\u00e4"',
    '"a"',
    '1',
    'null',
  ])('is read: %s', (json) => {
    expect(read(json)).toEqual(JSON.parse(json));
  });

  test.each(['{"a": 1, "a": 1}', '{"b": [{"a": 1, "c": {}, "a" : 2}]}', '{"a": 1, "b": 2, "a"\n:3}'])(
    'has no member twice: %s',
    (json) => {
      const message = 'x has a member twice';
      expect(() => read(json)).toThrow(expect.objectContaining({ code: 'SOURCE_INVALID', message }));
    },
  );

  test.each(['"\\u0061"', '["x", "\\u0061bc"]', '{"\\u0061": 1}', '{"a": "b\\/c"}', '"ab\\u0020"'])(
    'hides nothing behind an escape: %s',
    (json) => {
      const message = 'x hides plain text behind escapes';
      expect(() => read(json)).toThrow(expect.objectContaining({ code: 'SOURCE_INVALID', message }));
    },
  );

  test('is no longer than it may be, and is JSON', () => {
    expect(() => read(' '.repeat(1001))).toThrow(expect.objectContaining({ code: 'SOURCE_INVALID' }));
    expect(() => read('{')).toThrow(expect.objectContaining({ message: 'x is not valid JSON' }));
  });
});

describe('what is an object', () => {
  test.each([[{}], [{ a: 1 }], [Object.create(null)]])('%j', (value: object) =>
    expect(objectOf(value)).toBe(value),
  );

  test.each([[null], [undefined], [[]], [['a']], ['text'], [1], [true]])('and what is none: %j', (value) =>
    expect(objectOf(value)).toBeUndefined(),
  );
});

test('members without a value are left out, with keys that JavaScript can sort and with those that it cannot', () => {
  expect(text({ b: undefined, a: 1 })).toBe('{\n  "a": 1\n}\n');
  expect(text({ 10: undefined, 9: 1, 1: { 3: undefined, 2: [], 11: {} } })).toBe(
    '{\n  "1": {\n    "11": {},\n    "2": []\n  },\n  "9": 1\n}\n',
  );
  expect(text({ b: 1, ['__proto__']: 2, a: { 2: 1, 10: 2 } })).toBe(
    '{\n  "__proto__": 2,\n  "a": {\n    "10": 2,\n    "2": 1\n  },\n  "b": 1\n}\n',
  );
});
