// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { count, formatDuration } from '../../src/cli/format.ts';
import { formatBytes } from '../../src/text.ts';
import { Output, printableJson, styled, table } from '../../src/cli/output.ts';
import { printable } from '../../src/text.ts';
import { Screen } from './harness.ts';

describe('printable', () => {
  it.each([
    ['plain Ünïcode 模型', 'plain Ünïcode 模型'],
    ['\x1b[31mred', '\\u{1b}[31mred'],
    ['\u009b31m', '\\u{9b}31m'],
    ['a\rb\nc\td', 'a\\u{d}b\\u{a}c\\u{9}d'],
    ['exe\u202egpj.tar', 'exe\\u{202e}gpj.tar'],
    ['\u200b\u2066\u2028\ufeff', '\\u{200b}\\u{2066}\\u{2028}\\u{feff}'],
    // No glyph, and yet letters or marks by their category.
    ['a\u3164b\u115f\u034f\ufe0f', 'a\\u{3164}b\\u{115f}\\u{34f}\\u{fe0f}'],
    ['\ud800', '\\u{d800}'],
    ['\u{e0041}', '\\u{e0041}'],
  ])('%j', (raw, shown) => expect(printable(raw)).toBe(shown));
});

describe('printableJson', () => {
  it('hides nothing and loses nothing', () => {
    const value = { 'k\u202ey': 'a\x1b[2J\u009b\u2028\u{e0041}\ud800\u3164\ufe0f ok' };
    const text = printableJson(value, 2);
    expect(text).toMatch(/^[\x20-\x7e\n]*$/);
    expect(JSON.parse(text)).toEqual(value);
  });
});

describe('Output', () => {
  it('writes the result to stdout and notes to stderr, escaped', () => {
    const [stdout, stderr] = [new Screen(), new Screen()];
    const out = new Output(stdout, stderr, 'never');
    out.result(['one', [styled('green', 'ok\x1b'), ' two']]);
    out.note('three\u202e');
    expect(stdout.text).toBe('one\nok\\u{1b} two\n');
    expect(stderr.text).toBe('three\\u{202e}\n');
  });

  it('colours with always, not with never', () => {
    const line = [styled('red', 'x')];
    const [always, never] = [new Screen(), new Screen(true)];
    new Output(always, always, 'always').result([line]);
    new Output(never, never, 'never').result([line]);
    expect(always.text).toBe('\x1b[31mx\x1b[39m\n');
    expect(never.text).toBe('x\n');
  });

  it('goes on quietly when the reader has gone', async () => {
    const [stdout, stderr] = [new Screen(), new Screen()];
    const out = new Output(stdout, stderr, 'never');
    stdout.destroy(Object.assign(new Error('write EPIPE'), { code: 'EPIPE' }));
    await new Promise(setImmediate);
    out.result(['lost']);
    out.note('kept');
    await out.flush();
    expect([stdout.text, stderr.text]).toEqual(['', 'kept\n']);
  });
});

describe('table', () => {
  it('lines up columns by what is shown', () => {
    expect(
      table([
        ['a', 'b'],
        ['ccc', ''],
        ['\x1b', 'd'],
      ]),
    ).toEqual(['a       b', 'ccc', '\x1b  d']);
  });
});

describe('numbers', () => {
  it.each([
    [0, '0 B'],
    [999, '999 B'],
    [1000, '1.0 kB'],
    [123_456, '123 kB'],
    [999_960, '1.0 MB'],
    [20_000_000_000, '20.0 GB'],
    [5e17, '500 PB'],
  ])('formatBytes(%d)', (bytes, text) => expect(formatBytes(bytes)).toBe(text));

  it.each([
    [400, '0 s'],
    [59_400, '59 s'],
    [60_000, '1 min 00 s'],
    [7_500_000, '2 h 05 min'],
  ])('formatDuration(%d)', (ms, text) => expect(formatDuration(ms)).toBe(text));

  it('counts', () => expect([count(1, 'file'), count(0, 'file')]).toEqual(['1 file', '0 files']));
});
