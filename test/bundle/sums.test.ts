// SPDX-License-Identifier: Apache-2.0
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { DOCUMENTS, formatSums, parseSums } from '../../src/bundle/sums.ts';
import { digestOf, type Digest } from '../../src/store/digest.ts';

const documents = new Map(DOCUMENTS.map((name) => [name, digestOf(name)]));
const blobs = ['one', 'two', 'three'].map((text) => digestOf(text));
const good = formatSums(documents, blobs).toString();
const hex = (text: string): string => digestOf(text).slice('sha256:'.length);
const line = (text: string): string => `${hex(text)}  blobs/sha256/${hex(text)}\n`;

it('has one line for each document, then one for each blob, as sha256sum -c reads them', () => {
  expect(good.split('\n').slice(0, 2)).toEqual([
    `${hex('bundle.json')}  bundle.json`,
    `${hex('provenance.json')}  provenance.json`,
  ]);
  expect(good.endsWith(`${line('one')}${line('two')}${line('three')}`)).toBe(true);
});

it('reads what it writes, for any digests', () => {
  const digest = fc
    .uint8Array({ minLength: 32, maxLength: 32 })
    .map((b): Digest => `sha256:${Buffer.from(b).toString('hex')}`);
  fc.assert(
    fc.property(fc.array(digest, { minLength: 5, maxLength: 5 }), fc.uniqueArray(digest), (five, list) => {
      const map = new Map(DOCUMENTS.map((name, i) => [name, five[i]!]));
      expect(parseSums(formatSums(map, list))).toEqual({ documents: map, blobs: list });
    }),
    { seed: 20261123, numRuns: 50 },
  );
});

it('may list no blobs at all', () => {
  expect(parseSums(formatSums(documents, []))).toEqual({ documents, blobs: [] });
});

describe('is refused', () => {
  it.each<[string, (text: string) => string, RegExp]>([
    ['empty', () => '', /whole line/],
    ['with one document too few', (t) => t.split('\n').slice(0, 4).join('\n') + '\n', /whole line/],
    ['without its last line feed', (t) => t.slice(0, -1), /whole line/],
    [
      'without a line feed after its last document',
      (t) => t.split('\n').slice(0, 5).join('\n'),
      /whole line/,
    ],
    ['with a line of nothing', (t) => `${t}\n`, /line 9 is not/],
    ['with a space before a line', (t) => ` ${t}`, /line 1 is not/],
    ['with a space behind a line', (t) => t.replace('\n', ' \n'), /line 1 is not/],
    ['with carriage returns', (t) => t.replaceAll('\n', '\r\n'), /line 1 is not/],
    ['with one space', (t) => t.replace('  ', ' '), /line 1 is not/],
    ['in binary mode', (t) => t.replace('  ', ' *'), /line 1 is not/],
    [
      'with capital digits',
      (t) => t.replace(hex('bundle.json'), hex('bundle.json').toUpperCase()),
      /line 1 is not/,
    ],
    ['with a digit too few', (t) => t.slice(1), /line 1 is not/],
    ['with a digit too many', (t) => `0${t}`, /line 1 is not/],
    ['with an escaped name', (t) => `\\${t}`, /line 1 is not/],
    ['with documents in another order', (t) => t.replace(/(.*\n)(.*\n)/, '$2$1'), /line 1 names another/],
    ['with a document for a blob', (t) => `${t}${hex('x')}  bundle.json\n`, /line 9 names another/],
    [
      'with a blob under another name',
      (t) => `${t}${hex('x')}  blobs/sha256/${hex('y')}\n`,
      /line 9 names another/,
    ],
    ['with a name that climbs out', (t) => `${t}${hex('x')}  ../${hex('x')}\n`, /line 9 names another/],
    ['with a blob twice', (t) => `${t}${line('two')}`, /line 9 repeats/],
  ])('%s', (_, edit, message) => {
    const text = edit(good);
    expect(() => parseSums(Buffer.from(text))).toThrow(
      expect.objectContaining({ code: 'BUNDLE_MALFORMED', message: expect.stringMatching(message) }),
    );
  });
});
