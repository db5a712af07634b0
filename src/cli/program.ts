// SPDX-License-Identifier: Apache-2.0
/**
 * Builds the commander program from the command table and runs it over one argument list. commander decides
 * what is a flag and refuses what it does not know; it never prints and never runs anything itself.
 */
import { Argument, Command as Commander, CommanderError, InvalidArgumentError, Option } from 'commander';
import { SealiftError } from '../errors.ts';
import { Given, type Command, type OptionSpec } from './command.ts';
import { PROGRESS_MODES } from './progress.ts';

export interface Globals {
  json: boolean;
  debug: boolean;
  progress: string | undefined;
  color: string | undefined;
}

/** What one argument list asks for. */
export type Invocation =
  | { kind: 'command'; command: Command; given: Given; globals: Globals }
  | { kind: 'help'; command: Command | undefined; full: boolean; globals: Globals }
  | { kind: 'version'; globals: Globals };

/** Options of every command. */
export const GLOBAL_OPTIONS: readonly OptionSpec[] = [
  { flags: '--json', about: 'print one JSON document on stdout, on failure too' },
  { flags: '--progress <MODE>', about: 'progress on stderr', choices: PROGRESS_MODES },
  { flags: '--color <WHEN>', about: 'colour', choices: ['auto', 'always', 'never'] },
  { flags: '--debug', about: 'print the trace of an unexpected error' },
];

/**
 * Reads an argument list (without node and script).
 * @throws {SealiftError} USAGE, with a did-you-mean where commander has one
 */
export function parseArguments(argv: readonly string[], commands: readonly Command[]): Invocation {
  let chosen: Invocation | undefined;
  const program = buildProgram(commands, (command, given) => {
    chosen = { kind: 'command', command, given, globals: globalsOf(argv, program) };
  });
  try {
    program.parse([...argv], { from: 'user' });
  } catch (thrown) {
    if (!(thrown instanceof CommanderError)) throw thrown;
    const asked = helpOrVersion(thrown, argv, commands);
    if (asked) return { ...asked, globals: globalsOf(argv, program) };
    throw usageError(thrown, commandIn(argv, commands));
  }
  if (chosen === undefined) throw new SealiftError('UNEXPECTED', 'commander chose no command');
  return chosen;
}

function buildProgram(
  commands: readonly Command[],
  chosen: (command: Command, given: Given) => void,
): Commander {
  const program = plain(new Commander('sealift')).version('', '-V, --version').allowExcessArguments(false);
  for (const spec of GLOBAL_OPTIONS) program.addOption(optionOf(spec));
  for (const command of commands) {
    const sub = plain(new Commander(command.name)).allowExcessArguments(false);
    for (const spec of command.options) sub.addOption(optionOf(spec));
    // Repeated here so that they may stand after the command and count for its did-you-mean.
    for (const spec of GLOBAL_OPTIONS) sub.addOption(optionOf(spec));
    const { positional } = command;
    if (positional) {
      sub.addArgument(new Argument(positional.required ? `<${positional.name}>` : `[${positional.name}]`));
    }
    sub.action(() => chosen(command, new Given(sub.args[0], sub.opts())));
    program.addCommand(sub);
  }
  return program;
}

function plain(command: Commander): Commander {
  const quiet = { writeOut: () => {}, writeErr: () => {}, outputError: () => {} };
  return command.exitOverride().configureOutput(quiet).helpCommand(false).helpOption('-h, --help');
}

function optionOf(spec: OptionSpec): Option {
  const option = new Option(spec.flags, spec.about);
  if (!option.required) return option;
  option.argParser((value: string, before: unknown) => {
    if (value === '') throw new InvalidArgumentError('It is empty.');
    if (value.startsWith('-') && value !== '-') {
      throw new InvalidArgumentError(`It starts with '-'; write './${value}' if that is a file.`);
    }
    if (spec.choices && !spec.choices.includes(value)) {
      throw new InvalidArgumentError(`Allowed choices are ${spec.choices.join(', ')}.`);
    }
    if (spec.repeat) return [...((before as string[] | undefined) ?? []), value];
    if (before !== undefined) throw new InvalidArgumentError('It is given twice.');
    return value;
  });
  return option;
}

/** The globals stand on the program or on the command, whichever they were written behind. */
function globalsOf(argv: readonly string[], program: Commander): Globals {
  const opts: Record<string, unknown> = Object.assign(
    {},
    program.opts(),
    ...program.commands.map((c) => c.opts()),
  );
  const text = (name: string): string | undefined =>
    typeof opts[name] === 'string' ? opts[name] : undefined;
  return {
    json: opts['json'] === true || wantsJson(argv),
    debug: opts['debug'] === true || argv.includes('--debug'),
    progress: text('progress'),
    color: text('color'),
  };
}

/** Whether failures are to be JSON, also when the command line itself is what failed. */
export function wantsJson(argv: readonly string[]): boolean {
  const end = argv.indexOf('--');
  return (end === -1 ? argv : argv.slice(0, end)).includes('--json');
}

type Asked = { kind: 'help'; command: Command | undefined; full: boolean } | { kind: 'version' };

function helpOrVersion(
  thrown: CommanderError,
  argv: readonly string[],
  commands: readonly Command[],
): Asked | undefined {
  if (thrown.code === 'commander.version') return { kind: 'version' };
  if (thrown.code !== 'commander.helpDisplayed') return undefined;
  return { kind: 'help', command: commandIn(argv, commands), full: argv.includes('--help') };
}

const commandIn = (argv: readonly string[], commands: readonly Command[]): Command | undefined =>
  commands.find((command) => command.name === argv.find((word) => !word.startsWith('-')));

/** commander's message in our form: lower case, no full stop, the suggestion as the hint. */
function usageError(thrown: CommanderError, command: Command | undefined): SealiftError {
  if (thrown.code === 'commander.help') {
    return new SealiftError('USAGE', 'no command was given', { hint: 'see: sealift --help' });
  }
  const [first = '', ...rest] = thrown.message.replace(/^error: /, '').split('\n');
  const suggestion = /\((Did you mean .*)\)/.exec(rest.join(' '))?.[1];
  const help = command === undefined ? 'sealift --help' : `sealift ${command.name} --help`;
  const hint = suggestion === undefined ? `see: ${help}` : `${suggestion.replace(/^D/, 'd')}  (see: ${help})`;
  return new SealiftError('USAGE', first.replace(/\.$/, ''), { hint });
}
