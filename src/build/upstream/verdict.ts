// SPDX-License-Identifier: Apache-2.0
/** What a look at one signature gave, and the refusal that several of them add up to. */
import type { UpstreamSignature } from '../../bundle/inventory.ts';
import { SealiftError } from '../../errors.ts';
import { printable } from '../../text.ts';

/** One candidate. "Signed by someone else" and "does not fit" are kept apart: the second is an alarm. */
export type Finding =
  | { outcome: 'accepted'; signature: UpstreamSignature }
  | { outcome: 'other-signer'; who: string }
  | { outcome: 'does-not-fit'; why: string };

export const otherSigner = (who: string): Finding => ({ outcome: 'other-signer', who: printable(who, 300) });
export const doesNotFit = (why: string): Finding => ({ outcome: 'does-not-fit', why: printable(why, 300) });

/** Findings that a refusal lists; whoever may push could leave thousands. */
const MAX_LISTED = 8;

/**
 * The refusal when no finding was accepted.
 * @param asked whom the manifest names, in words
 * @param looked where signatures were looked for, in words
 */
export function refusalOf(
  what: string,
  asked: string,
  findings: readonly Finding[],
  looked: string,
): SealiftError {
  const details: [string, string][] = [['asked for', asked]];
  if (findings.length === 0) {
    return new SealiftError('UPSTREAM_NOT_SIGNED', `${what} is not signed`, {
      details: [...details, ['looked at', looked]],
      hint: 'ask its maker where the signature is; registries that copy images often leave signatures behind',
    });
  }
  for (const finding of findings.slice(0, MAX_LISTED)) {
    if (finding.outcome === 'other-signer') details.push(['signed by', finding.who]);
    if (finding.outcome === 'does-not-fit') details.push(['does not fit', finding.why]);
  }
  if (findings.length > MAX_LISTED) details.push(['and', `${findings.length - MAX_LISTED} more`]);
  if (findings.some(({ outcome }) => outcome === 'does-not-fit')) {
    return new SealiftError('UPSTREAM_BAD_SIGNATURE', `${what} has a signature that does not fit`, {
      details,
      hint: 'do not use it before its maker has explained this',
    });
  }
  return new SealiftError('UPSTREAM_UNTRUSTED', `${what} is signed, but not by whom the manifest names`, {
    details,
    hint: 'if the other signer is right, name it in the manifest; names are compared as they stand, never as patterns',
  });
}
