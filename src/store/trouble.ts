// SPDX-License-Identifier: Apache-2.0
/** Failures of reading and writing, in a form that crosses between threads. */

/** What went wrong in a job. */
export interface Trouble {
  /** Of the operating system; EEND when the source ends too early, EBADSIZE, ECANCELED. */
  code: string;
  message: string;
  side: 'read' | 'write';
  /** Which stretch, from 0, and at which byte of its file. */
  stretch: number;
  at: number;
}

/** Where something was going on. */
export type Place = Omit<Trouble, 'code' | 'message'>;

export class Failure extends Error {
  readonly trouble: Trouble;

  constructor(cause: unknown, place: Place) {
    const { code = 'EUNKNOWN', message } = cause as NodeJS.ErrnoException;
    super(message, { cause });
    this.trouble = { code, message, ...place };
  }
}

export const errno = (code: string, message: string): Error => Object.assign(new Error(message), { code });

/** @throws {Failure} in place of what `act` throws */
export function attempt<T>(place: Place, act: () => T): T {
  try {
    return act();
  } catch (error) {
    throw new Failure(error, place);
  }
}
