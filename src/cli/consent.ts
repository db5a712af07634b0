// SPDX-License-Identifier: Apache-2.0
import { SealiftError } from '../errors.ts';
import type { Io } from './context.ts';

/**
 * Refuses a command that would have to ask where nobody can answer; to be called before the work that leads to
 * the question. `yes` comes from the flag alone, never from the environment or a file.
 * @throws {SealiftError} USAGE
 */
export function demandSomebody(yes: boolean, io: Io, what: string): void {
  if (yes || io.prompt.available) return;
  throw new SealiftError(
    'USAGE',
    `${what} asks before it changes anything, and there is no terminal to ask on`,
    {
      hint: 'add --yes to go ahead without a question',
    },
  );
}

/** @throws {SealiftError} CANCELLED when the answer is no */
export async function demandConsent(yes: boolean, io: Io, question: string): Promise<void> {
  if (yes || (await io.prompt.confirm(question))) return;
  throw new SealiftError('CANCELLED', 'not confirmed; nothing was changed');
}
