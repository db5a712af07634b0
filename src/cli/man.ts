// SPDX-License-Identifier: Apache-2.0
/** The man page, sealift(1), in roff (man(7)), made from the same tables as the help. */
import { ERRORS, EXIT_CODES } from '../errors.ts';
import { VERSION } from '../version.ts';
import type { Command, OptionSpec } from './command.ts';
import { ENVIRONMENT } from './context.ts';
import { GLOBAL_OPTIONS } from './program.ts';

/** What would be a request or an escape of roff is text here. */
const text = (words: string): string =>
  words.replaceAll('\\', '\\e').replaceAll('-', '\\-').replace(/^[.']/gm, '\\&$&');

const terms = (rows: readonly (readonly [string, string])[]): string[] =>
  rows.flatMap(([term, about]) => ['.TP', `.B ${text(term)}`, text(about)]);

const optionRows = (options: readonly OptionSpec[]): [string, string][] =>
  options.map(({ flags, about, choices }) => [
    flags,
    about + (choices === undefined ? '' : `: ${choices.join(', ')}`),
  ]);

function commandPart({ name, summary, about, positional, options, examples }: Command): string[] {
  const argument = positional === undefined ? '' : ` ${positional.name}`;
  return [
    `.SS "${text(`sealift ${name}${argument}`)}"`,
    `${text(summary)}.`,
    ...about.flatMap((paragraph) => ['.PP', text(paragraph)]),
    ...terms(optionRows(options)),
    ...examples.flatMap(([line, why]) => ['.PP', `${text(why)}:`, '.PP', '.nf', text(`    ${line}`), '.fi']),
  ];
}

/** Lines of the page. */
export function manPage(commands: readonly Command[]): string[] {
  return [
    `.TH SEALIFT 1 "" "sealift ${text(VERSION)}"`,
    '.SH NAME',
    'sealift \\- carries a self\\-hosted LLM stack across an air gap and proves that nothing changed on the way',
    '.SH SYNOPSIS',
    '.B sealift',
    '.I command',
    '.RI [ options ]',
    '.SH COMMANDS',
    ...commands.flatMap(commandPart),
    '.SH OPTIONS OF EVERY COMMAND',
    ...terms(optionRows(GLOBAL_OPTIONS)),
    '.SH EXIT STATUS',
    ...terms([...EXIT_CODES].map(([code, about]) => [String(code), about])),
    '.SH PROBLEM CODES',
    ...terms(
      Object.entries(ERRORS).map(([code, { exit, about }]) => [code, `(exit status ${exit}) ${about}`]),
    ),
    '.SH ENVIRONMENT',
    ...terms(ENVIRONMENT.map(({ name, about }) => [name, about])),
  ];
}
