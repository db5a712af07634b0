// SPDX-License-Identifier: Apache-2.0
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { Output } from '../../src/cli/output.ts';
import { startProgress } from '../../src/cli/progress.ts';
import { Tally } from '../../src/cli/tally.ts';
import type { Emit } from '../../src/events.ts';
import { Screen } from './harness.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setInterval', 'clearInterval', 'performance'] });
});
afterEach(() => {
  vi.useRealTimers();
});

function start(mode: Parameters<typeof startProgress>[0], tty = false) {
  const screen = new Screen(tty);
  const out = new Output(new Screen(), screen, 'never');
  return { screen, out, progress: startProgress(mode, out, false) };
}

function download(emit: Emit, id = 'a', bytes = 1000): void {
  emit({ type: 'item-start', id, kind: 'file', label: `file ${id}`, bytes });
}

describe('plain', () => {
  it('says start and end of each artefact, the sum of small ones, checks, warnings and retries', () => {
    const { screen, progress } = start('auto');
    progress.emit({ type: 'stage', name: 'fetching', totalBytes: 3000 });
    download(progress.emit, 'a', 2e6);
    progress.emit({ type: 'item-progress', id: 'a', delta: 1000 });
    vi.advanceTimersByTime(2000);
    progress.emit({ type: 'item-end', id: 'a', outcome: 'done' });
    download(progress.emit, 'b');
    progress.emit({ type: 'item-end', id: 'b', outcome: 'done', detail: 'abc' });
    download(progress.emit, 'c', 3e6);
    progress.emit({ type: 'item-end', id: 'c', outcome: 'cached' });
    download(progress.emit, 'd');
    progress.emit({ type: 'item-end', id: 'd', outcome: 'cached' });
    for (const id of ['e', 'f']) {
      download(progress.emit, id);
      progress.emit({ type: 'item-end', id, outcome: id === 'f' ? 'failed' : 'done' });
    }
    progress.emit({ type: 'check', name: 'policy', outcome: 'failed', detail: 'revoked' });
    progress.emit({ type: 'warning', code: 'CASE', message: 'two\x07files' });
    progress.emit({ type: 'retry', what: 'layer', reason: '503', delayMs: 4000 });
    progress.emit({ type: 'stage', name: 'writing' });
    download(progress.emit, 'g');
    progress.emit({ type: 'item-end', id: 'g', outcome: 'done' });
    progress.end();
    expect(screen.text.split('\n')).toEqual([
      'sealift: fetching (3.0 kB)',
      'sealift: file a (2.0 MB)',
      'sealift: file a (2.0 MB): done in 2 s',
      'sealift: file c (3.0 MB)',
      'sealift: file c (3.0 MB): already there',
      'sealift: file f (1.0 kB): failed',
      'FAILED  policy       revoked',
      'sealift: warning: two\\u{7}files',
      'sealift: layer: 503; trying again in 4 s',
      'sealift: fetching: 2 small items done, 2.0 kB together',
      'sealift: writing',
      'sealift: writing: 1 small item done, 1.0 kB together',
      '',
    ]);
  });

  it('gives a sign of life every 30 s while something runs', () => {
    const { screen, progress } = start('plain');
    progress.emit({ type: 'stage', name: 'fetching', totalBytes: 4000 });
    download(progress.emit);
    const before = screen.text;
    vi.advanceTimersByTime(29_000);
    expect(screen.text).toBe(before);
    progress.emit({ type: 'item-progress', id: 'a', delta: 500 });
    vi.advanceTimersByTime(1000);
    expect(screen.text.slice(before.length)).toMatch(
      /^sealift: fetching: 500 B of 4\.0 kB \(12 %\), \d+ B\/s, .* left; working on file a\n$/,
    );
    progress.emit({ type: 'item-end', id: 'a', outcome: 'done' });
    const after = screen.text;
    vi.advanceTimersByTime(60_000);
    expect(screen.text).toBe(after);
    expect(screen.text).not.toContain('\x1b');
    progress.end();
  });
});

describe('on a terminal', () => {
  /** What a terminal shows after the sequences that the display uses. */
  function shown(text: string): string[] {
    const lines: string[] = [''];
    for (const [part] of text.matchAll(/\x1b\[(\d+)A\x1b\[0J|\n|[^\n\x1b]+/g)) {
      const up = /^\x1b\[(\d+)A/.exec(part)?.[1];
      if (up !== undefined) lines.splice(lines.length - 1 - Number(up), Infinity, '');
      else if (part === '\n') lines.push('');
      else lines[lines.length - 1] += part;
    }
    return lines;
  }

  it('shows a total and up to four items at ten frames a second, and is gone at the end', () => {
    const { screen, progress } = start('auto', true);
    progress.emit({ type: 'stage', name: 'fetching', totalBytes: 6000 });
    for (const id of ['a', 'b', 'c', 'd', 'e', 'f']) download(progress.emit, id);
    progress.emit({ type: 'item-progress', id: 'a', delta: 250 });
    expect(screen.text).toBe('');
    vi.advanceTimersByTime(100);
    expect(shown(screen.text)).toEqual([
      'fetching: 250 B of 6.0 kB (4 %)',
      '      25 %  file a',
      '       0 %  file b',
      '       0 %  file c',
      '       0 %  file d',
      '  and 2 more',
      '',
    ]);
    progress.emit({ type: 'warning', code: 'X', message: 'look' });
    vi.advanceTimersByTime(1000);
    expect(shown(screen.text)[0]).toBe('sealift: warning: look');
    expect(shown(screen.text)).toHaveLength(8);
    progress.end();
    expect(shown(screen.text)).toEqual(['sealift: warning: look', '']);
  });

  it('never wraps a line and never prints what moves the cursor', () => {
    const { screen, progress } = start('tty', true);
    screen.columns = 40;
    progress.emit({
      type: 'item-start',
      id: 'x',
      kind: 'file',
      label: `\x1b[2J${'long '.repeat(40)}`,
      bytes: 1,
    });
    vi.advanceTimersByTime(100);
    for (const line of screen.text.split('\n')) expect([...line].length).toBeLessThan(40);
    expect(screen.text).not.toContain('\x1b[2J');
    progress.end();
  });

  it('is plain when the terminal is dumb', () => {
    const screen = new Screen(true);
    const progress = startProgress('auto', new Output(new Screen(), screen, 'never'), true);
    download(progress.emit, 'a', 1e9);
    vi.advanceTimersByTime(1000);
    expect(screen.text).toBe('sealift: file a (1.0 GB)\n');
    progress.end();
  });
});

describe('json', () => {
  it('is the event stream, a document a line, with deltas added up', () => {
    const { screen, out, progress } = start('json');
    download(progress.emit);
    for (let i = 0; i < 1000; i++) progress.emit({ type: 'item-progress', id: 'a', delta: 1 });
    progress.emit({ type: 'item-end', id: 'a', outcome: 'done' });
    out.note('by the way');
    progress.end();
    const events = screen.text
      .trimEnd()
      .split('\n')
      .map((line): unknown => JSON.parse(line));
    expect(events).toEqual([
      { type: 'stream', schema: 'sealift/events/v1' },
      { type: 'item-start', id: 'a', kind: 'file', label: 'file a', bytes: 1000 },
      { type: 'item-progress', id: 'a', delta: 1000 },
      { type: 'item-end', id: 'a', outcome: 'done' },
      { type: 'note', text: 'by the way' },
    ]);
  });
});

describe('none', () => {
  it('says warnings only', () => {
    const { screen, progress } = start('none');
    download(progress.emit);
    progress.emit({ type: 'check', name: 'x', outcome: 'ok', detail: 'y' });
    progress.emit({ type: 'warning', code: 'X', message: 'look' });
    expect(screen.text).toBe('sealift: warning: look\n');
  });
});

describe('the tally', () => {
  it('counts what was there already, and takes back what failed or started over', () => {
    const tally = new Tally(() => 0);
    tally.add({ type: 'stage', name: 's', totalBytes: 300 });
    for (const id of ['a', 'b', 'c'])
      tally.add({ type: 'item-start', id, kind: 'blob', label: id, bytes: 100 });
    tally.add({ type: 'item-progress', id: 'a', delta: 60 });
    tally.add({ type: 'item-progress', id: 'a', delta: -60 });
    tally.add({ type: 'item-end', id: 'b', outcome: 'cached' });
    tally.add({ type: 'item-progress', id: 'c', delta: 40 });
    tally.add({ type: 'item-end', id: 'c', outcome: 'failed' });
    expect(tally.done).toBe(100);
    expect([...tally.active.keys()]).toEqual(['a']);
  });

  it('knows the rate of the last seconds', () => {
    let now = 0;
    const tally = new Tally(() => now);
    tally.add({ type: 'stage', name: 's', totalBytes: 1000 });
    expect(tally.rate()).toBeUndefined();
    for (now = 1000; now <= 5000; now += 1000) {
      tally.add({ type: 'item-progress', id: 'a', delta: 100 });
      tally.rate();
    }
    now = 5000;
    expect(tally.summary()).toBe('s: 500 B of 1.0 kB (50 %), 100 B/s, 5 s left');
  });
});
