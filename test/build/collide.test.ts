// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest';
import { caseCollisions } from '../../src/build/collide.ts';

test.each([
  ['files', ['README.md', 'readme.MD'], [['README.md', 'readme.MD']]],
  ['normal forms', ['caf\u00e9', 'cafe\u0301'], [['caf\u00e9', 'cafe\u0301']]],
  ['folders, told once', ['A/x', 'a/y', 'a/z'], [['A', 'a']]],
  ['a file with a folder', ['Notes', 'notes/a'], [['Notes', 'notes']]],
  [
    'three of one',
    ['a', 'A', 'ａ'],
    [
      ['a', 'A'],
      ['a', 'ａ'],
    ],
  ],
  ['nothing', ['a/b', 'a/c', 'b', 'a.b'], []],
])('%s', (_, paths, expected) => {
  expect(caseCollisions(paths)).toEqual(expected);
});
