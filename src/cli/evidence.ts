// SPDX-License-Identifier: Apache-2.0
/** Events that are a line of their own on stderr, on a terminal and in a log alike. */
import type { CheckOutcome, SealiftEvent } from '../events.ts';
import { formatDuration } from './format.ts';
import { styled, type Line, type Output } from './output.ts';

export type Check = Extract<SealiftEvent, { type: 'check' }>;

const OUTCOME_STYLE = { ok: 'green', failed: 'red', warning: 'yellow', skipped: 'dim' } as const;

/** One line of evidence: the outcome as a word, the name, the detail. */
export function checkLine(outcome: CheckOutcome, name: string, detail: string): Line {
  const word = outcome === 'failed' ? 'FAILED' : outcome;
  return [styled(OUTCOME_STYLE[outcome], word.padEnd(8)), `${name.padEnd(12)} ${detail}`];
}

/** Says what must be said in every mode but JSON: warnings. Returns whether it was one. */
export function sayAlways(event: SealiftEvent, out: Output): boolean {
  if (event.type !== 'warning') return false;
  out.note([styled('yellow', 'sealift: warning: '), event.message]);
  return true;
}

/** Says what is a line of its own on a terminal and in a log alike. Returns whether it did. */
export function sayLine(event: SealiftEvent, out: Output): boolean {
  if (sayAlways(event, out)) return true;
  if (event.type === 'check') {
    out.note(checkLine(event.outcome, event.name, event.detail));
    return true;
  }
  if (event.type === 'retry') {
    out.note(`sealift: ${event.what}: ${event.reason}; trying again in ${formatDuration(event.delayMs)}`);
    return true;
  }
  return false;
}
