// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest';
import { selectFiles } from '../../src/build/select.ts';

const FILES = [
  '.gitattributes',
  'LICENSE',
  'config.json',
  'model-00001-of-00002.safetensors',
  'onnx/model.onnx',
  'original/params.json',
  'sub/deep/vocab.json',
  'tokenizer/vocab.json',
  'tokenizer_config.json',
  'weird [1] (a+b).txt',
].map((path) => ({ path }));

const pick = (include?: string[], exclude?: string[]): string[] =>
  selectFiles(FILES, include, exclude).selected.map(({ path }) => path);

test('without patterns everything is carried', () => {
  expect(pick()).toEqual(FILES.map(({ path }) => path));
});

test.each([
  ['*.safetensors', ['model-00001-of-00002.safetensors']],
  [
    '*.json',
    [
      'config.json',
      'original/params.json',
      'sub/deep/vocab.json',
      'tokenizer/vocab.json',
      'tokenizer_config.json',
    ],
  ],
  ['tokenizer*', ['tokenizer/vocab.json', 'tokenizer_config.json']],
  ['LICENSE*', ['LICENSE']],
  ['license', []],
  ['original', ['original/params.json']],
  ['original/', ['original/params.json']],
  ['original/*', ['original/params.json']],
  ['./config.json', ['config.json']],
  ['sub/*', []],
  ['sub/**', ['sub/deep/vocab.json']],
  ['**/vocab.json', ['sub/deep/vocab.json', 'tokenizer/vocab.json']],
  ['**/deep/*.json', ['sub/deep/vocab.json']],
  ['**/config.json', ['config.json']],
  ['confi?.json', ['config.json']],
  ['config?json', ['config.json']],
  ['con.ig.json', []],
  ['weird [1] (a+b).txt', ['weird [1] (a+b).txt']],
  ['*', FILES.map(({ path }) => path)],
])('include %s', (pattern, expected) => {
  expect(pick([pattern])).toEqual(expected);
});

test('exclude is stronger than include', () => {
  expect(pick(['*.json'], ['original', 'sub/**'])).toEqual([
    'config.json',
    'tokenizer/vocab.json',
    'tokenizer_config.json',
  ]);
  expect(pick(undefined, ['*'])).toEqual([]);
});

test('patterns that take nothing are named', () => {
  expect(selectFiles(FILES, ['*.json', '*.saftensors', 'LICENSE*']).unused).toEqual(['*.saftensors']);
  expect(selectFiles([], undefined).unused).toEqual([]);
  expect(selectFiles(FILES, ['LICENSE*'], ['*.json', '*.bni']).unusedExcludes).toEqual(['*.bni']);
});
