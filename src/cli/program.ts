// SPDX-License-Identifier: Apache-2.0
/**
 * Builds the commander program from the command table and runs it over one argument list. commander decides
 * what is a flag and refuses what it does not know; it never prints and never runs anything itself.
 */
import { Argument, Command as Commander, CommanderError, InvalidArgumentError, Option } from 'commander';
import { SealiftError } from '../errors.ts';
import { Given, type Command, type OptionSpec, type Positional } from './command.ts';
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
  | ({ kind: 'help'; globals: Globals } & HelpAsked)
  | { kind: 'version'; globals: Globals };

interface HelpAsked {
  command: Command | undefined;
  /** First word of commands of two words, when only that was given. */
  group?: string;
  full: boolean;
}

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
    throw usageError(thrown, argv, commands);
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
    const words = command.name.split(' ');
    const sub = plain(new Commander(words.at(-1))).allowExcessArguments(false);
    for (const spec of command.options) sub.addOption(optionOf(spec));
    addGlobals(sub);
    const { positional } = command;
    if (positional) sub.addArgument(argumentIn(positional));
    sub.action(() =>
      chosen(command, new Given(sub.args.length === 0 ? undefined : sub.args.join(' '), sub.opts())),
    );
    (words.length === 1 ? program : groupIn(program, words[0]!)).addCommand(sub);
  }
  return program;
}

/** Repeated on every command, so that they may stand after it and count for its did-you-mean. */
function addGlobals(command: Commander): void {
  for (const spec of GLOBAL_OPTIONS) command.addOption(optionOf(spec));
}

function argumentIn(positional: Positional): Argument {
  const argument = new Argument(argumentOf(positional));
  return positional.choices === undefined ? argument : argument.choices(positional.choices);
}

function argumentOf({ name, required, words }: Positional): string {
  const word = words === undefined ? name : `${name}...`;
  return required ? `<${word}>` : `[${word}]`;
}

/** The commander of the first word of commands of two words, which does nothing by itself. */
function groupIn(program: Commander, name: string): Commander {
  const known = program.commands.find((command) => command.name() === name);
  if (known) return known;
  const group = plain(new Commander(name)).allowExcessArguments(false);
  addGlobals(group);
  program.addCommand(group);
  return group;
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
    ...program.commands.flatMap((c) => [c, ...c.commands]).map((c) => c.opts()),
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

type Asked = ({ kind: 'help' } & HelpAsked) | { kind: 'version' };

function helpOrVersion(
  thrown: CommanderError,
  argv: readonly string[],
  commands: readonly Command[],
): Asked | undefined {
  if (thrown.code === 'commander.version') return { kind: 'version' };
  if (thrown.code !== 'commander.helpDisplayed') return undefined;
  const group = groupWord(argv, commands);
  return {
    kind: 'help',
    command: commandIn(argv, commands),
    ...(group === undefined ? {} : { group }),
    full: argv.includes('--help'),
  };
}

const wordsOf = (argv: readonly string[]): string[] => argv.filter((word) => !word.startsWith('-'));

function commandIn(argv: readonly string[], commands: readonly Command[]): Command | undefined {
  const [first, second] = wordsOf(argv);
  return commands.find(({ name }) => name === first || name === `${first} ${second}`);
}

/** The first word, when it begins commands of two words. */
function groupWord(argv: readonly string[], commands: readonly Command[]): string | undefined {
  const [first] = wordsOf(argv);
  return commands.some(({ name }) => name.startsWith(`${first} `)) ? first : undefined;
}

/** commander's message in our form: lower case, no full stop, the suggestion as the hint. */
function usageError(
  thrown: CommanderError,
  argv: readonly string[],
  commands: readonly Command[],
): SealiftError {
  const command = commandIn(argv, commands);
  const group = groupWord(argv, commands);
  if (thrown.code === 'commander.help') return noCommand(group, commands);
  const [first = '', ...rest] = thrown.message.replace(/^error: /, '').split('\n');
  const suggestion = /\((Did you mean .*)\)/.exec(rest.join(' '))?.[1];
  const words = command?.name ?? group;
  const help = words === undefined ? 'sealift --help' : `sealift ${words} --help`;
  const hint = suggestion === undefined ? `see: ${help}` : `${suggestion.replace(/^D/, 'd')}  (see: ${help})`;
  return new SealiftError('USAGE', first.replace(/\.$/, ''), { hint });
}

function noCommand(group: string | undefined, commands: readonly Command[]): SealiftError {
  if (group === undefined)
    return new SealiftError('USAGE', 'no command was given', { hint: 'see: sealift --help' });
  const names = commands.flatMap(({ name }) => (name.startsWith(`${group} `) ? `sealift ${name}` : []));
  return new SealiftError('USAGE', `'${group}' needs a second word`, { hint: names.join(', ') });
}
