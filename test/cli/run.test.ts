// SPDX-License-Identifier: Apache-2.0
import { setTimeout } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';
import { command, type Command } from '../../src/cli/command.ts';
import type { Io } from '../../src/cli/context.ts';
import { SealiftError } from '../../src/errors.ts';
import { documentOf, run } from './harness.ts';

/** A command whose only work is what the test says. */
function doing(work: (io: Io) => Promise<void> | void): Command {
  return command<{ thing: string | undefined; keys: readonly string[]; fast: boolean }>({
    name: 'work',
    summary: 'Work',
    about: ['Works.'],
    positional: { name: 'THING', about: 'a thing', required: false },
    options: [
      { flags: '--key <FILE>', about: 'keys', repeat: true },
      { flags: '--policy <FILE>', about: 'policy' },
      { flags: '--fast', about: 'fast' },
    ],
    examples: [['sealift work', 'works']],
    exits: [],
    parse: (given) => ({ thing: given.positional, keys: given.list('key'), fast: given.is('fast') }),
    run: async (options, io) => {
      await work(io);
      return { schema: 'sealift/work/v1', data: options, text: ['worked'] };
    },
  });
}

const idle = doing(() => {});

describe('a result', () => {
  it('is text on stdout and nothing else', async () => {
    expect(await run([idle], ['work'])).toEqual({ exit: 0, stdout: 'worked\n', stderr: '' });
  });

  it('is one versioned document with --json, wherever that stands', async () => {
    for (const argv of [
      ['--json', 'work', 'x'],
      ['work', 'x', '--json'],
      ['work', '--json', 'x'],
    ]) {
      const ran = await run([idle], argv);
      expect(documentOf(ran)).toEqual({ schema: 'sealift/work/v1', thing: 'x', keys: [], fast: false });
      expect(ran.exit).toBe(0);
    }
  });

  it('has its flags', async () => {
    const ran = await run([idle], ['work', '--key', 'a', '--fast', '--key=b', '--json', '--', '-x']);
    expect(documentOf(ran)).toMatchObject({ thing: '-x', keys: ['a', 'b'], fast: true });
  });
});

describe('wrong usage ends with 2, does nothing, and says what was meant', () => {
  let worked = false;
  const work = doing(() => {
    worked = true;
  });
  it.each([
    [['wrok'], "unknown command 'wrok'", 'did you mean work?'],
    [['work', '--polcy', 'p'], "unknown option '--polcy'", 'did you mean --policy?'],
    [['work', '--polic', 'p'], "unknown option '--polic'", 'did you mean --policy?'],
    [['wor'], "unknown command 'wor'", 'did you mean work?'],
    [['work', 'a', 'b'], 'too many arguments', 'sealift work --help'],
    [['work', '--policy'], 'argument missing', 'sealift work --help'],
    [['work', '--policy', 'a', '--policy', 'b'], 'given twice', 'sealift work --help'],
    [['work', '--policy', '--fast'], "starts with '-'", 'sealift work --help'],
    [['work', '--policy='], 'is empty', 'sealift work --help'],
    [['work', '--progress', 'loud'], 'Allowed choices are auto', 'sealift work --help'],
    [['work', '-z'], "unknown option '-z'", 'sealift work --help'],
    [[], 'no command was given', 'sealift --help'],
  ])('%j', async (argv, message, hint) => {
    const ran = await run([work], argv);
    expect(ran.exit).toBe(2);
    expect(ran.stdout).toBe('');
    expect(ran.stderr).toMatch(/^sealift: error: /);
    expect(ran.stderr).toContain(message);
    expect(ran.stderr).toContain(hint);
    expect(ran.stderr.split('\n').length).toBeLessThanOrEqual(4);
    expect(worked).toBe(false);
    const json = await run([work], [...argv, '--json']);
    expect(json.exit).toBe(2);
    if (argv[1] !== '--policy') expect(documentOf(json)).toMatchObject({ problem: { code: 'USAGE' } });
  });

  it('a variable with a wrong value', async () => {
    const ran = await run([work], ['work'], { env: { SEALIFT_PROGRESS: 'loud' } });
    expect(ran.exit).toBe(2);
    expect(ran.stderr).toContain("SEALIFT_PROGRESS is 'loud'");
  });
});

describe('a failure', () => {
  const failing = doing(() => {
    throw new SealiftError('UNTRUSTED_SIGNER', 'signed by\x1b[2J nobody\nsecond line', {
      hint: 'add the key',
      details: [
        ['signed by', 'build-04'],
        ['trusted', '2 keys'],
      ],
    });
  });

  it('is printed in one form, escaped, with its exit status', async () => {
    expect(await run([failing], ['work'])).toEqual({
      exit: 11,
      stdout: '',
      stderr: [
        'sealift: error: signed by\\u{1b}[2J nobody',
        '  | second line',
        '  signed by  build-04',
        '  trusted    2 keys',
        '  hint: add the key',
        '  code: UNTRUSTED_SIGNER   see: sealift help UNTRUSTED_SIGNER',
        '',
      ].join('\n'),
    });
  });

  it('is one versioned document with --json', async () => {
    expect(documentOf(await run([failing], ['work', '--json']))).toEqual({
      schema: 'sealift/error/v1',
      problem: {
        code: 'UNTRUSTED_SIGNER',
        message: 'signed by\x1b[2J nobody\nsecond line',
        hint: 'add the key',
        details: [
          { label: 'signed by', value: 'build-04' },
          { label: 'trusted', value: '2 keys' },
        ],
      },
    });
  });

  it('that nobody foresaw is one line, and a trace with --debug', async () => {
    const broken = doing(() => {
      throw new TypeError('boom');
    });
    const plain = await run([broken], ['work']);
    expect(plain.exit).toBe(1);
    expect(plain.stderr).toContain('boom');
    expect(plain.stderr).toContain('run again with --debug');
    expect(plain.stderr).not.toContain('run.test.ts');
    expect((await run([broken], ['work', '--debug'])).stderr).toContain('run.test.ts');
  });
});

describe('a signal', () => {
  const stopped = (name: string): AbortSignal =>
    AbortSignal.abort(new SealiftError('INTERRUPTED', 'interrupted', { cause: name }));
  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ])('%s ends with %d', async (name, exit) => {
    const work = doing((io) => io.signal.throwIfAborted());
    const ran = await run([work], ['work'], { signal: stopped(name) });
    expect(ran.exit).toBe(exit);
    expect(ran.stderr).toContain('code: INTERRUPTED');
  });

  /** A command that shows progress, and is told to stop after a frame or two of it. */
  async function interrupted(...argv: string[]): Promise<string> {
    const controller = new AbortController();
    const work = doing(async (io) => {
      io.emit({ type: 'item-start', id: 'a', kind: 'file', label: 'file a', bytes: 1e9 });
      await setTimeout(250);
      controller.abort(new SealiftError('INTERRUPTED', 'interrupted', { cause: 'SIGINT' }));
      io.signal.throwIfAborted();
    });
    return (await run([work], ['work', ...argv], { signal: controller.signal, typed: '' })).stderr;
  }
  const NOTICE = 'sealift: stopping at the next safe point; once more leaves at once';

  it('is acknowledged under the progress display, which gives way', async () => {
    const text = await interrupted('--progress', 'tty');
    expect(text).toContain(`\r\x1b[2A\x1b[0J${NOTICE}\n`);
  });

  it('is acknowledged as an event among events', async () => {
    const lines = (await interrupted('--progress', 'json')).trimEnd().split('\n');
    expect(lines.map((line): unknown => JSON.parse(line))).toContainEqual({ type: 'note', text: NOTICE });
  });

  it('explains the failures that it causes, but hides no verdict', async () => {
    const broken = doing(() => {
      throw new SealiftError('NETWORK_ERROR', 'socket hang up');
    });
    expect((await run([broken], ['work'], { signal: stopped('SIGINT') })).exit).toBe(130);
    const half = doing(() => {
      throw new SealiftError('ROLLBACK_INCOMPLETE', 'left behind');
    });
    expect((await run([half], ['work'], { signal: stopped('SIGINT') })).exit).toBe(22);
  });
});

describe('questions', () => {
  const asking = doing(async (io) => {
    io.emit({ type: 'warning', code: 'ANSWER', message: String(await io.prompt.confirm('sure?')) });
  });
  it.each([
    ['y\r', 'true'],
    ['yes\n', 'true'],
    ['nx\x7fo\r', 'false'],
    ['\r', 'false'],
    ['yess\r', 'false'],
  ])('%j is %s', async (typed, answer) => {
    const ran = await run([asking], ['work'], { typed });
    expect(ran.stderr).toContain(`warning: ${answer}`);
    expect(ran.stdout).toBe('worked\n');
  });

  it('Ctrl-C at a question ends with 130', async () => {
    expect((await run([asking], ['work'], { typed: 'ye\x03' })).exit).toBe(130);
  });

  it('are refused, not awaited, without a terminal', async () => {
    expect((await run([asking], ['work'])).exit).toBe(2);
  });

  it('secrets are not echoed', async () => {
    let secret = '';
    const secretive = doing(async (io) => {
      secret = await io.prompt.secret('passphrase');
    });
    const ran = await run([secretive], ['work'], { typed: 'gehe1m\x7fn\r' });
    expect(secret).toBe('gehe1n');
    expect(ran.stderr).toBe('passphrase: \n');
  });
});
