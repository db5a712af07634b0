// SPDX-License-Identifier: Apache-2.0
/** One run of the command line: arguments in, exit status out. The only place that turns errors into words. */
import { asSealiftError, SealiftError, type ErrorCode } from '../errors.ts';
import { VERSION } from '../version.ts';
import type { Command, Result } from './command.ts';
import type { Host } from './context.ts';
import { commandHelp, programHelp } from './help.ts';
import { Output, styled, type ColorMode } from './output.ts';
import { parseArguments, wantsJson, type Globals, type Invocation } from './program.ts';
import { PROGRESS_MODES, startProgress, type ProgressMode } from './progress.ts';
import { createPrompter } from './prompt.ts';

/**
 * Runs one command line.
 * @param argv the words after the program's name
 * @returns the exit status, see EXIT_CODES
 */
export async function runCli(
  argv: readonly string[],
  commands: readonly Command[],
  host: Host,
): Promise<number> {
  let out = new Output(host.stdout, host.stderr, colorOf(undefined, host));
  let globals: Globals = {
    json: wantsJson(argv),
    debug: argv.includes('--debug'),
    progress: undefined,
    color: undefined,
  };
  let exit: number;
  const onSignal = (): void => sayStopping(out);
  host.signal.addEventListener('abort', onSignal);
  try {
    const invocation = parseArguments(argv, commands);
    globals = invocation.globals;
    out = new Output(host.stdout, host.stderr, colorOf(globals.color, host));
    const result = await perform(invocation, commands, out, host);
    const { problem } = result;
    const failed = problem === undefined ? {} : { problem: problemOf(problem) };
    if (globals.json) out.json({ schema: result.schema, ...result.data, ...failed });
    else out.result(result.text);
    if (problem !== undefined) reportError(problem, out, globals.debug);
    exit = problem === undefined ? (result.exit ?? 0) : exitOf(problem, host.signal);
  } catch (thrown) {
    const error = asFailure(thrown, host.signal);
    if (globals.json) out.json({ schema: 'sealift/error/v1', problem: problemOf(error) });
    reportError(error, out, globals.debug);
    exit = exitOf(error, host.signal);
  } finally {
    host.signal.removeEventListener('abort', onSignal);
  }
  await out.flush();
  return exit;
}

/** Through the output, so that a progress display gives way to it and JSON lines stay JSON. */
function sayStopping(out: Output): void {
  // The terminal has echoed `^C` where the cursor was.
  if (out.stderr.isTTY === true && !out.jsonNotes) out.draw('\r');
  out.note('sealift: stopping at the next safe point; once more leaves at once');
}

async function perform(
  invocation: Invocation,
  commands: readonly Command[],
  out: Output,
  host: Host,
): Promise<Result> {
  if (invocation.kind === 'version') {
    return { schema: 'sealift/version/v1', data: { version: VERSION }, text: [`sealift ${VERSION}`] };
  }
  if (invocation.kind === 'help') {
    const { command, group, full } = invocation;
    const text = command === undefined ? programHelp(commands, group) : commandHelp(command, full);
    return { schema: 'sealift/help/v1', data: { text: text.join('\n') }, text };
  }
  const work = invocation.command.prepare(invocation.given);
  const progress = startProgress(progressOf(invocation.globals, host), out, host.env.TERM === 'dumb');
  try {
    const { env, now, signal } = host;
    const prompt = createPrompter(host.stdin, out, signal);
    return await work({ out, emit: progress.emit, prompt, env, now, signal });
  } finally {
    progress.end();
  }
}

function progressOf(globals: Globals, host: Host): ProgressMode {
  const word = globals.progress ?? host.env.SEALIFT_PROGRESS ?? 'auto';
  const mode = PROGRESS_MODES.find((known) => known === word);
  if (mode !== undefined) return mode;
  throw new SealiftError(
    'USAGE',
    `SEALIFT_PROGRESS is '${word}', expected one of ${PROGRESS_MODES.join(', ')}`,
  );
}

function colorOf(flag: string | undefined, host: Host): ColorMode {
  if (flag === 'always' || flag === 'never') return flag;
  return flag === undefined && host.env.TERM === 'dumb' ? 'never' : 'auto';
}

/** What a signal breaks off often surfaces as some other failure of the same moment. */
const SIDE_EFFECTS: ReadonlySet<ErrorCode> = new Set(['UNEXPECTED', 'IO_ERROR', 'NETWORK_ERROR']);

function asFailure(thrown: unknown, signal: AbortSignal): SealiftError {
  const error = asSealiftError(thrown, 'unexpected');
  if (!signal.aborted || !SIDE_EFFECTS.has(error.code)) return error;
  return new SealiftError('INTERRUPTED', 'interrupted', {
    hint: 'run the same command again to go on',
    cause: error,
  });
}

/** 128 + signal number, as shells have it. */
function exitOf(error: SealiftError, signal: AbortSignal): number {
  const terminated = signal.aborted && (signal.reason as Error | undefined)?.cause === 'SIGTERM';
  return error.code === 'INTERRUPTED' && terminated ? 143 : error.exitCode;
}

interface Problem {
  code: ErrorCode;
  message: string;
  hint?: string;
  details: { label: string; value: string }[];
}

function problemOf(error: SealiftError): Problem {
  return {
    code: error.code,
    message: error.message,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    details: error.details.map(([label, value]) => ({ label, value })),
  };
}

/**
 * `sealift: error: …`, details, hint, code: the form of every failure. Further lines of a text, such as the log of an
 * engine or the name of a file on a medium, stand behind a bar: none of them passes for a line of sealift's own.
 */
function reportError(error: SealiftError, out: Output, debug: boolean): void {
  const [first = '', ...rest] = error.message.split('\n');
  out.note([styled('red', 'sealift: error: '), first]);
  for (const line of rest) out.note(`  | ${line}`);
  const width = Math.max(0, ...error.details.map(([label]) => label.length));
  for (const [label, value] of error.details) {
    const [head = '', ...tail] = value.split('\n');
    out.note(`  ${label.padEnd(width)}  ${head}`);
    for (const line of tail) out.note(`  ${' '.repeat(width)}  | ${line}`);
  }
  const hint = error.hint ?? (error.code === 'UNEXPECTED' && !debug ? 'run again with --debug' : undefined);
  if (hint !== undefined) out.note([styled('bold', '  hint: '), hint]);
  out.note(`  code: ${error.code}   see: sealift help ${error.code}`);
  if (debug) for (const line of traceOf(error)) out.note(styled('dim', line));
}

function traceOf(error: SealiftError): string[] {
  const lines: string[] = [];
  for (let at: unknown = error, depth = 0; at instanceof Error && depth < 8; at = at.cause, depth++) {
    lines.push(...`${depth === 0 ? '' : 'caused by '}${at.stack ?? at.message}`.split('\n'));
  }
  return lines;
}
