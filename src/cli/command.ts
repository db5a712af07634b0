// SPDX-License-Identifier: Apache-2.0
/**
 * A command is a row: its words, an options object, and a run function. `parse` turns flags into the options
 * object and `run` does the work, so each is tested without the other; program.ts and help.ts read the words.
 */
import { SealiftError } from '../errors.ts';
import type { Io } from './context.ts';
import type { Line } from './output.ts';

export interface OptionSpec {
  /** In commander's form: `-o, --output <FILE>`, `--key <FILE>`, `--yes`. */
  flags: string;
  about: string;
  /** May be given more than once. */
  repeat?: true;
  choices?: readonly string[];
}

export interface Positional {
  name: string;
  about: string;
  required: boolean;
  /** May be several words, which are handed over as one with spaces in between. */
  words?: true;
  choices?: readonly string[];
}

/** What a command hands back; main prints `text`, or with --json `{ schema, ...data }`. */
export interface Result {
  /** `sealift/verify/v1`: additive within a version. */
  schema: `sealift/${string}/v${number}`;
  data: object;
  text: readonly Line[];
  /** Exit status of a command that ends well but not with 0. */
  exit?: number;
  /**
   * Why the command failed, when it has a result all the same, such as the evidence up to the failure. It is reported
   * like any error, and its code sets the exit status.
   */
  problem?: SealiftError;
}

export interface CommandSpec<O> {
  /** One word, or two with a space in between: `trust show`. */
  name: string;
  /** One line for the list of commands. */
  summary: string;
  /** What it does and does not do, for --help. */
  about: readonly string[];
  positional?: Positional;
  options: readonly OptionSpec[];
  /** Command line and what it is for; the first one is shown by -h. */
  examples: readonly (readonly [command: string, about: string])[];
  /** Exit statuses beside 0, 1, 2 and 130. */
  exits: readonly number[];
  parse(given: Given): O;
  run(options: O, io: Io): Promise<Result>;
}

/** A row of the command table, with the type of its options closed over. */
export interface Command extends Omit<CommandSpec<never>, 'parse' | 'run'> {
  /** Checks the flags; what it returns does the work. */
  prepare(given: Given): (io: Io) => Promise<Result>;
}

export function command<O>(spec: CommandSpec<O>): CommandSpec<O> & Command {
  return {
    ...spec,
    prepare(given) {
      const options = spec.parse(given);
      return (io) => spec.run(options, io);
    },
  };
}

/** The positional and flags of one invocation. Only names that the command's row lists can be there. */
export class Given {
  readonly positional: string | undefined;
  readonly #flags: Readonly<Record<string, unknown>>;

  /** @param flags by long name in camel case, as commander gives them */
  constructor(positional: string | undefined, flags: Readonly<Record<string, unknown>> = {}) {
    this.positional = positional;
    this.#flags = flags;
  }

  text(name: string): string | undefined {
    const value = this.#flags[name];
    return typeof value === 'string' ? value : undefined;
  }

  list(name: string): readonly string[] {
    const value = this.#flags[name];
    return Array.isArray(value) ? (value as string[]) : [];
  }

  is(name: string): boolean {
    return this.#flags[name] === true;
  }

  /** @throws {SealiftError} USAGE when the flag is missing; `flag` is shown as the person writes it */
  need(name: string, flag: string): string {
    const value = this.text(name);
    if (value === undefined) throw new SealiftError('USAGE', `${flag} is missing`);
    return value;
  }
}
