// SPDX-License-Identifier: Apache-2.0
import { SealiftError } from '../errors.ts';
import { isReason, MAX_REASON } from '../install/override.ts';

/** Why a person goes back. @throws {SealiftError} USAGE when nobody could read it years later */
export function reasonOf(text: string, flag: string): string {
  const reason = text.trim();
  if (isReason(reason)) return reason;
  throw new SealiftError(
    'USAGE',
    `${flag} wants a reason: one line of text, at most ${MAX_REASON} characters`,
    {
      hint: 'it goes into the receipt, so that an auditor understands it: a ticket, what is wrong with the newer version',
    },
  );
}
