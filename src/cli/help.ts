// SPDX-License-Identifier: Apache-2.0
/**
 * Help, made from the command table, the error table and the environment table, so that it cannot lag behind
 * them. `-h` is short, with one example; `--help` has examples first and exit statuses last; `sealift help`
 * explains topics and every problem code. There is no web in an enclave.
 */
import { ERRORS, EXIT_CODES, SealiftError, type ErrorCode } from '../errors.ts';
import { nearestKey } from '../document.ts';
import { ENVIRONMENT } from './context.ts';
import { command, type Command, type OptionSpec } from './command.ts';
import { completion } from './completion.ts';
import { manPage } from './man.ts';
import { table } from './output.ts';
import { GLOBAL_OPTIONS } from './program.ts';
import { SIGNER_TEMPLATE, SITE_TEMPLATE, TRUST_TEMPLATE } from './templates.ts';

/** Exit statuses that every command can end with. */
const COMMON_EXITS = [0, 1, 2, 130, 143];
/** Column at which prose wraps. */
const WIDTH = 90;

interface Topic {
  about: string;
  text(commands: readonly Command[]): readonly string[];
}

const TOPICS: Readonly<Record<string, Topic>> = {
  'exit-codes': { about: 'what every exit status means', text: exitCodes },
  environment: { about: 'every environment variable that is read', text: environment },
  site: { about: 'a site.yaml to start from', text: () => SITE_TEMPLATE.trimEnd().split('\n') },
  signer: { about: 'a signer.yaml to start from', text: () => SIGNER_TEMPLATE.trimEnd().split('\n') },
  man: { about: 'the man page, for man -l -', text: manPage },
  trust: { about: 'a trust.yaml to start from', text: () => TRUST_TEMPLATE.trimEnd().split('\n') },
};

/** `sealift --help`, or `sealift trust --help` for the commands that begin with one word. */
export function programHelp(commands: readonly Command[], group?: string): string[] {
  if (group !== undefined) return groupHelp(group, commands);
  return [
    'sealift carries a self-hosted LLM stack across an air gap and proves that nothing changed on the way',
    '',
    'Usage: sealift <command> [options]',
    '',
    'Commands:',
    ...table(
      commands.map((c) => [c.name, c.summary]),
      '  ',
    ),
    '',
    'Options of every command:',
    ...optionTable([...GLOBAL_OPTIONS, { flags: '-h, --help', about: 'short help, full help' }]),
    '',
    'More:',
    ...table(
      [
        ['sealift help <command>', 'what a command does'],
        ...topicRows(),
        ['sealift help CODE', 'what a problem code means'],
        ['sealift --version', 'the version of this program'],
      ],
      '  ',
    ),
  ];
}

function groupHelp(group: string, commands: readonly Command[]): string[] {
  const members = commands.filter(({ name }) => name.startsWith(`${group} `));
  return [
    `Usage: sealift ${group} <command> [options]`,
    '',
    'Commands:',
    ...table(
      members.map((c) => [c.name, c.summary]),
      '  ',
    ),
    '',
    `sealift ${group} <command> --help says more.`,
  ];
}

const topicRows = (): string[][] =>
  Object.entries(TOPICS).map(([name, t]) => [`sealift help ${name}`, t.about]);

/** `-h` (short) or `--help` (full) of one command. */
export function commandHelp(spec: Command, full: boolean): string[] {
  return full ? fullHelp(spec) : shortHelp(spec);
}

function shortHelp(spec: Command): string[] {
  const [example] = spec.examples;
  return [
    spec.summary,
    '',
    usageLine(spec),
    ...(example === undefined ? [] : ['', 'Example:', `  ${example[0]}`]),
    ...optionSection('Options:', spec.options),
    '',
    `sealift ${spec.name} --help says more.`,
  ];
}

function fullHelp(spec: Command): string[] {
  const { positional } = spec;
  return [
    spec.summary,
    '',
    usageLine(spec),
    '',
    'Examples:',
    ...spec.examples.flatMap(([line, about]) => [`  ${line}`, `      ${about}`]),
    '',
    ...spec.about.flatMap((paragraph, i) => [...(i === 0 ? [] : ['']), ...wrap(paragraph, WIDTH)]),
    ...(positional === undefined
      ? []
      : ['', 'Argument:', ...table([[positional.name, positional.about]], '  ')]),
    ...optionSection('Options:', spec.options),
    ...optionSection('Options of every command:', GLOBAL_OPTIONS),
    '',
    'Exit status:',
    ...exitTable([...COMMON_EXITS, ...spec.exits]),
  ];
}

function usageLine(spec: Command): string {
  const { positional } = spec;
  const word =
    positional === undefined ? '' : positional.required ? ` ${positional.name}` : ` [${positional.name}]`;
  return `Usage: sealift ${spec.name}${word}${spec.options.length === 0 ? '' : ' [options]'}`;
}

function optionSection(title: string, options: readonly OptionSpec[]): string[] {
  return options.length === 0 ? [] : ['', title, ...optionTable(options)];
}

function optionTable(options: readonly OptionSpec[]): string[] {
  const rows = options.map((option) => [
    option.flags.startsWith('--') ? `    ${option.flags}` : option.flags,
    option.about +
      (option.choices === undefined ? '' : `: ${option.choices.join(', ')}`) +
      (option.repeat === undefined ? '' : ' (may be repeated)'),
  ]);
  return table(rows, '  ');
}

function exitTable(codes: readonly number[]): string[] {
  const known = [...EXIT_CODES].filter(([code]) => codes.includes(code));
  return table(
    known.map(([code, about]) => [String(code).padStart(3), about]),
    '  ',
  );
}

function exitCodes(): string[] {
  const codes = Object.entries(ERRORS);
  const rows = [...EXIT_CODES].map(([exit, about]) => {
    const names = codes.filter(([, spec]) => spec.exit === exit).map(([name]) => name);
    return [
      `${String(exit).padStart(3)}  ${about}`,
      ...wrap(names.join(' '), WIDTH - 7).map((line) => `       ${line}`),
    ];
  });
  return [...rows.flat(), '', 'Any other non-zero status is a failure too.'];
}

function environment(): string[] {
  return [
    ...table(ENVIRONMENT.map(({ name, side, about }) => [name, side, about])),
    '',
    ...wrap(
      'None of them takes a key or a passphrase, switches a check off, names a trust policy or answers a question.',
      WIDTH,
    ),
  ];
}

function aboutCode(code: ErrorCode): string[] {
  const { exit, about } = ERRORS[code];
  return [`${code} (exit status ${exit}: ${EXIT_CODES.get(exit)})`, '', ...wrap(about, WIDTH)];
}

/** Breaks prose into lines of at most `width` characters. */
function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  if (line !== '') lines.push(line);
  return lines;
}

const isCode = (word: string): word is ErrorCode => Object.hasOwn(ERRORS, word);

/** Lines of `sealift help WORD`: a command, a topic or a problem code. */
export function helpOn(word: string, commands: readonly Command[]): string[] {
  const known = commands.find((c) => c.name === word);
  if (known) return fullHelp(known);
  const topic = Object.hasOwn(TOPICS, word) ? TOPICS[word] : undefined;
  if (topic) return [...topic.text(commands)];
  const code = word.toUpperCase();
  if (isCode(code)) return aboutCode(code);
  const candidates = [...commands.map((c) => c.name), ...Object.keys(TOPICS), ...Object.keys(ERRORS)];
  const nearest = nearestKey(word, candidates);
  throw new SealiftError('USAGE', `there is no help on '${word}'`, {
    hint: nearest === undefined ? 'see: sealift --help' : `did you mean '${nearest}'?`,
  });
}

/** The `help` command over a table of the other commands. */
export function withHelp(commands: readonly Command[]): readonly Command[] {
  const help = command<{ word: string | undefined }>({
    name: 'help',
    summary: 'Explain a command, a topic or a problem code',
    about: ['Prints to stdout. Everything is built in: nothing is looked up on a network.'],
    positional: {
      name: 'WORD',
      about: `a command, ${Object.keys(TOPICS).join(', ')}, or a problem code`,
      required: false,
      words: true,
    },
    options: [],
    examples: [
      ['sealift help UNTRUSTED_SIGNER', 'what this problem means and what to do'],
      ['sealift help exit-codes', 'every exit status with its problem codes'],
    ],
    exits: [],
    parse: (given) => ({ word: given.positional }),
    run: async ({ word }) => {
      const text = word === undefined ? programHelp(all) : helpOn(word, all);
      return { schema: 'sealift/help/v1', data: { text: text.join('\n') }, text };
    },
  });
  const all: readonly Command[] = [...commands, completion(() => all), help];
  return all;
}
