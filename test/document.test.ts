// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest';
import * as z from 'zod';
import { didYouMean, MAX_DOCUMENT_BYTES, nearestKey, readDocument } from '../src/document.ts';
import { SealiftError } from '../src/errors.ts';

const Schema = z.strictObject({
  name: z.string(),
  count: z.number().int().optional(),
  platform: z.enum(['linux/amd64', 'linux/arm64']).optional(),
  list: z.array(z.string()).optional(),
  services: z
    .record(
      z.string().regex(/^[a-z]+$/, 'expected a lower-case name'),
      z.strictObject({
        engine: z.string(),
        options: z.record(z.string(), z.union([z.string(), z.number(), z.boolean()])).default({}),
      }),
    )
    .default({}),
});

const read = (text: string): unknown => readDocument(text, 'site.yaml', Schema, 'SITE_INVALID');

function failure(text: string): SealiftError {
  try {
    read(text);
  } catch (error) {
    if (error instanceof SealiftError) return error;
    throw error;
  }
  throw new Error('the document was accepted');
}

test('a valid document is read, with defaults', () => {
  expect(read('name: x\nservices: {a: {engine: vllm}}\n')).toEqual({
    name: 'x',
    services: { a: { engine: 'vllm', options: {} } },
  });
});

test.each([
  // [what, document, message, hint]
  [
    'misspelt key',
    'name: x\nplatfrom: y',
    "site.yaml:2:1: unknown key 'platfrom'",
    "did you mean 'platform'?",
  ],
  [
    'misspelt key deep inside',
    'name: x\nservices:\n  chat:\n    engine: a\n    optoins: {}\n',
    "site.yaml:5:5: unknown key 'optoins' in services.chat",
    "did you mean 'options'?",
  ],
  [
    'key that resembles none',
    'name: x\nservices: {a: {engine: b, zzz: 1}}',
    "site.yaml:2:27: unknown key 'zzz' in services.a",
    'known keys: engine, options',
  ],
  [
    'wrong type',
    'name: x\ncount: many',
    "site.yaml:2:8: count: expected a number, found the string 'many'",
    undefined,
  ],
  [
    'number for a string',
    'name: 1.10',
    "site.yaml:1:7: name: expected a string, found the number '1.1'",
    'put it in quotes: "1.10"',
  ],
  [
    'boolean for a string',
    'name: true',
    'site.yaml:1:7: name: expected a string, found true',
    'put it in quotes: "true"',
  ],
  ['map for a string', 'name: {a: b}', 'site.yaml:1:7: name: expected a string, found a map', undefined],
  ['nothing for a string', 'name:', 'site.yaml:1:6: name: expected a string, found nothing', undefined],
  [
    'scalar for a list',
    'name: x\nlist: y',
    "site.yaml:2:7: list: expected a list, found the string 'y'",
    undefined,
  ],
  [
    'item of a list',
    'name: x\nlist:\n  - a\n  - 7',
    "site.yaml:4:5: list.1: expected a string, found the number '7'",
    'put it in quotes: "7"',
  ],
  [
    'fraction',
    'name: x\ncount: 1.5',
    "site.yaml:2:8: count: expected a whole number, found the number '1.5'",
    undefined,
  ],
  [
    'value outside a choice',
    'name: x\nplatform: linux/adm64',
    "site.yaml:2:11: platform: expected 'linux/amd64' or 'linux/arm64', found 'linux/adm64'",
    "did you mean 'linux/amd64'?",
  ],
  ['missing key', 'count: 1', 'site.yaml:1:1: name: is missing; expected a string', undefined],
  [
    'missing key deep inside',
    'name: x\nservices:\n  chat:\n    options: {}',
    'site.yaml:3:3: services.chat.engine: is missing; expected a string',
    undefined,
  ],
  [
    'name that is not allowed',
    'name: x\nservices:\n  Chat: {engine: a}',
    "site.yaml:3:3: key 'Chat' in services: expected a lower-case name",
    undefined,
  ],
  [
    'value of no branch of a union',
    'name: x\nservices: {a: {engine: b, options: {c: [1]}}}',
    'site.yaml:2:40: services.a.options.c: expected a string or a number or true or false, found a list',
    undefined,
  ],
  ['empty document', '', 'site.yaml:1:1: expected a map, found nothing', undefined],
  ['list for a map', '- a', 'site.yaml:1:1: expected a map, found a list', undefined],
])('%s', (_, text, message, hint) => {
  const error = failure(text);
  expect(error.code).toBe('SITE_INVALID');
  expect(error.message).toBe(message);
  expect(error.hint).toBe(hint);
});

test.each([
  ['duplicate key', 'name: x\nname: y', "site.yaml:2:1: the key 'name' is there twice"],
  ['duplicate key written in two ways', 'name: x\n"name": y', "site.yaml:2:1: the key 'name' is there twice"],
  [
    'duplicate key as word and number',
    'name: x\nservices: {1: a, "1": b}',
    "site.yaml:2:18: the key '1' is there twice",
  ],
  [
    'duplicate key deep inside',
    'name: x\nlist: [{a: 1, a: 2}]',
    "site.yaml:2:15: the key 'a' is there twice",
  ],
  ['tab', 'name:\n\t- x', 'site.yaml:2:1: Tabs are not allowed as indentation'],
  ['unclosed quote', 'name: "x', 'site.yaml:1:9: Missing closing "quote'],
  [
    'two documents',
    'name: x\n---\nname: y',
    "site.yaml:2:1: a second document begins here ('---'), but the file must hold one",
  ],
  ['tag of its own', 'name: !env HOME', 'site.yaml:1:7: Unresolved tag: !env'],
  // Their values are of types that no message has a word for: describing one once ran out of stack.
  ['binary value', 'name: !!binary eA==', 'site.yaml:1:7: Unresolved tag: tag:yaml.org,2002:binary'],
  ['set', 'name: x\nservices: !!set {? a}', 'site.yaml:2:11: Unresolved tag: tag:yaml.org,2002:set'],
  ['date', 'name: !!timestamp 2026-01-01', 'site.yaml:1:7: Unresolved tag: tag:yaml.org,2002:timestamp'],
  [
    'YAML 1.1, where yes is true',
    '%YAML 1.1\n---\nname: yes',
    'site.yaml:1:1: only YAML 1.2 is read, without a %YAML directive',
  ],
  ['key that is a list', 'name: x\n? [a, b]\n: c', 'site.yaml:2:3: a key must be a plain word'],
  [
    '__proto__',
    'name: x\nservices:\n  __proto__: {engine: x}',
    "site.yaml:3:3: the key '__proto__' is not allowed",
  ],
  [
    'key twice, once as a boolean',
    'name: x\nservices:\n  true: {engine: x}\n  "true": {engine: y}',
    "site.yaml:4:3: the key 'true' is there twice",
  ],
  [
    'alias of nothing',
    'name: *x',
    'site.yaml: Unresolved alias (the anchor must be set before the alias): x',
  ],
])('%s is refused', (_, text, message) => {
  expect(failure(text).message).toBe(message);
});

test('merge keys are ordinary, unknown keys', () => {
  expect(failure('name: x\n<<: {count: 1}').message).toBe("site.yaml:2:1: unknown key '<<'");
});

test('an alias bomb is refused, and honest aliases work', () => {
  const bomb = ['a0: &a0 [x]'];
  for (let i = 1; i < 12; i++)
    bomb.push(
      `a${i}: &a${i} [${Array(9)
        .fill(`*a${i - 1}`)
        .join(', ')}]`,
    );
  expect(failure(bomb.join('\n')).message).toBe('site.yaml: too many YAML aliases');
  expect(read('name: &n x\nlist: [*n, *n]')).toMatchObject({ name: 'x', list: ['x', 'x'] });
});

test('a document nested a hundred thousand deep is refused, not a crash', () => {
  expect(failure(`name: ${'['.repeat(100_000)}`).message).toMatch(/^site\.yaml:1:\d+: nested too deeply$/);
  expect(failure(`name: x\nlist: ${'{a: '.repeat(2000)}1${'}'.repeat(2000)}`).code).toBe('SITE_INVALID');
});

test('a document beyond the limit is refused unread', () => {
  expect(failure(`name: ${'x'.repeat(MAX_DOCUMENT_BYTES)}`).message).toBe(
    'site.yaml is larger than 1048576 bytes',
  );
});

test('all violations are told, a misspelt key first, and then in the order of the document as zod gives them', () => {
  const error = failure('nmae: x\ncount: y\nservices: {a: {}}');
  const all = [error.message, ...error.details.map(([, text]) => text)];
  expect(all).toHaveLength(4);
  expect(all.join('\n')).toContain("site.yaml:1:1: unknown key 'nmae'\n");
  expect(all.join('\n')).toContain('site.yaml:1:1: name: is missing');
  expect(all.join('\n')).toContain("site.yaml:2:8: count: expected a number, found the string 'y'");
  expect(all.join('\n')).toContain('site.yaml:3:12: services.a.engine: is missing');
});

test('of many violations the first are told', () => {
  const unknown = failure(`name: x\n${Array.from({ length: 30 }, (_, i) => `k${i}: 1\n`).join('')}`);
  expect(unknown.message).toBe("site.yaml:2:1: unknown key 'k0'");
  expect(unknown.details).toHaveLength(19);
  const wrong = failure(`name: x\nlist: [${Array(30).fill('[]').join(', ')}]`);
  expect(wrong.details).toHaveLength(19);
});

test('what is quoted from the document cannot steer a terminal', () => {
  const error = failure('name: x\n"\\e[31m\\u202Ekey": 1');
  expect(error.message).toBe("site.yaml:2:1: unknown key '\uFFFD[31m\uFFFDkey'");
  expect(failure(`name: x\nplatform: ${'y'.repeat(500)}`).message.length).toBeLessThan(250);
});

test('a problem that a refinement finds carries its own hint and place', () => {
  const Refined = Schema.superRefine((_, context) => {
    context.addIssue({
      code: 'custom',
      path: ['services', 'a', 'engine'],
      message: 'no',
      params: { hint: 'yes' },
    });
  });
  expect(() =>
    readDocument('name: x\nservices:\n  a: {engine: b}', 'm', Refined, 'MANIFEST_INVALID'),
  ).toThrow(expect.objectContaining({ message: 'm:3:15: services.a.engine: no', hint: 'yes' }));
});

test('the nearest key is near, or none', () => {
  expect(nearestKey('gatway', ['gateway', 'images'])).toBe('gateway');
  expect(nearestKey('iamge', ['image', 'imago'])).toBe('image'); // a transposition is one edit
  expect(nearestKey('IMAGE', ['image'])).toBe('image');
  expect(nearestKey('x', ['gateway'])).toBeUndefined();
  expect(nearestKey('x'.repeat(1000), ['x'.repeat(1000)])).toBeUndefined();
  expect(nearestKey('image', [])).toBeUndefined();
  expect(didYouMean('modle', ['model'])).toBe("did you mean 'model'?");
});
