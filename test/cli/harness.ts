// SPDX-License-Identifier: Apache-2.0
/** Runs the command line inside the test: streams are buffers, the environment and the terminal are given. */
import { PassThrough, Writable } from 'node:stream';
import type { Command } from '../../src/cli/command.ts';
import type { Environment } from '../../src/cli/context.ts';
import { withHelp } from '../../src/cli/help.ts';
import { runCli } from '../../src/cli/run.ts';

export class Screen extends Writable {
  text = '';
  readonly isTTY: boolean;
  columns = 80;

  constructor(isTTY = false) {
    super({ decodeStrings: false });
    this.isTTY = isTTY;
  }

  override _write(chunk: string | Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }

  getColorDepth(): number {
    return this.isTTY ? 8 : 1;
  }
}

export interface Ran {
  exit: number;
  stdout: string;
  stderr: string;
}

export interface RunOptions {
  env?: Environment;
  /** A terminal is there, and this is what gets typed. */
  typed?: string;
  signal?: AbortSignal;
  /** What the clock says. */
  now?: Date;
}

/** Runs `argv` over a table of commands. */
export async function run(
  commands: readonly Command[],
  argv: readonly string[],
  options: RunOptions = {},
): Promise<Ran> {
  const tty = options.typed !== undefined;
  const stdout = new Screen();
  const stderr = new Screen(tty);
  const stdin = Object.assign(new PassThrough(), { isTTY: tty });
  if (options.typed !== undefined) stdin.write(options.typed);
  const exit = await runCli(argv, withHelp(commands), {
    stdin,
    stdout,
    stderr,
    env: { TERM: 'dumb', ...options.env },
    now: () => options.now ?? new Date('2027-01-02T03:04:05Z'),
    signal: options.signal ?? new AbortController().signal,
  });
  return { exit, stdout: stdout.text, stderr: stderr.text };
}

/** The one JSON document on stdout. */
export function documentOf(ran: Ran): Record<string, unknown> {
  const value: unknown = JSON.parse(ran.stdout);
  return value as Record<string, unknown>;
}
