// SPDX-License-Identifier: Apache-2.0
/** Questions to the person at the terminal. Never answered by the environment, a pipe or a default. */
import type { Readable } from 'node:stream';
import { StringDecoder } from 'node:string_decoder';
import { SealiftError } from '../errors.ts';
import { type Output } from './output.ts';
import { printable } from '../text.ts';

export type TerminalInput = Readable & { isTTY?: boolean; setRawMode?: (raw: boolean) => unknown };

export interface Prompter {
  /** Whether somebody is there to answer. */
  readonly available: boolean;
  /** Asks for yes or no; anything but `y` or `yes` is no. */
  confirm(question: string): Promise<boolean>;
  /** Waits for Enter. */
  wait(question: string): Promise<void>;
  /** Reads a line without echo. */
  secret(question: string): Promise<string>;
}

/** Longest answer, in characters. */
const MAX_ANSWER = 1024;

export function createPrompter(stdin: TerminalInput, out: Output, signal: AbortSignal): Prompter {
  const available = stdin.isTTY === true && out.stderr.isTTY === true;
  const ask = async (question: string, echo: boolean): Promise<string> => {
    if (!available) throw new SealiftError('USAGE', 'a question cannot be asked: there is no terminal');
    out.beforeNote?.();
    // Raw mode first: the terminal must not echo what is typed the moment the question appears.
    stdin.setRawMode?.(true);
    try {
      out.draw(printable(question));
      return await readAnswer(stdin, out, echo, signal);
    } finally {
      stdin.setRawMode?.(false);
      out.draw('\n');
    }
  };
  return {
    available,
    confirm: async (question) => /^y(es)?$/i.test((await ask(`${question} [y/N] `, true)).trim()),
    wait: async (question) => void (await ask(`${question} `, true)),
    secret: (question) => ask(`${question}: `, false),
  };
}

/**
 * Reads one line of a terminal in raw mode. Ctrl-C and Ctrl-D, which raw mode delivers as characters, end the
 * command.
 */
async function readAnswer(
  stdin: TerminalInput,
  out: Output,
  echo: boolean,
  signal: AbortSignal,
): Promise<string> {
  const decoder = new StringDecoder('utf8');
  const interrupted = (): SealiftError => new SealiftError('INTERRUPTED', 'interrupted at a question');
  return new Promise<string>((resolve, reject) => {
    let answer = '';
    const settle = (settled: () => void): void => {
      stdin.off('data', onData);
      stdin.off('end', onEnd);
      signal.removeEventListener('abort', onEnd);
      stdin.pause();
      settled();
    };
    const onEnd = (): void => settle(() => reject(interrupted()));
    const onData = (chunk: Buffer | string): void => {
      const chars = [...(typeof chunk === 'string' ? chunk : decoder.write(chunk))];
      for (const [i, char] of chars.entries()) {
        if (char === '\r' || char === '\n') {
          settle(() => resolve(answer));
          // What was typed ahead belongs to the next question.
          if (i + 1 < chars.length) stdin.unshift(chars.slice(i + 1).join(''));
          return;
        }
        if (char === '\x03' || char === '\x04') return onEnd();
        const before = answer;
        answer = edit(answer, char);
        if (echo) out.draw(answer.length < before.length ? '\b \b' : printable(answer.slice(before.length)));
      }
    };
    if (signal.aborted) return onEnd();
    signal.addEventListener('abort', onEnd);
    stdin.on('data', onData);
    stdin.on('end', onEnd);
    stdin.resume();
  });
}

function edit(answer: string, char: string): string {
  if (char === '\x7f' || char === '\b') return [...answer].slice(0, -1).join('');
  if (char === '\x15') return '';
  return char < ' ' || answer.length >= MAX_ANSWER ? answer : answer + char;
}
