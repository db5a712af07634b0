// SPDX-License-Identifier: Apache-2.0
/**
 * A person may install an older version, or other content under the same one, and must say why. Only the check
 * against what was installed is left out; who signed, revocations and the policy's own minimum hold as always.
 * What was refused and the reason go into the receipt.
 */
import type { VerifiedBundle } from '../bundle/open.ts';
import { SealiftError } from '../errors.ts';
import { releaseName, type Home, type InstalledVersion } from './home.ts';
import { readReceipt } from './receipt.ts';

/** Longest reason, in UTF-16 code units. */
export const MAX_REASON = 500;

/** One line that a person can read in a receipt years later: printable, bounded, and not only punctuation. */
export const isReason = (text: string): boolean =>
  text.length <= MAX_REASON && /^[^\p{C}\p{Zl}\p{Zp}]*$/u.test(text) && /[\p{L}\p{N}]/u.test(text);

export interface Override {
  check: 'version';
  /** What would have been the refusal. */
  refused: string;
  reason: string;
}

/** An override with what it was agreed against: when the host has something else by then, it holds no more. */
export interface AgreedOverride extends Override {
  installed: InstalledVersion;
}

/**
 * What the check against the installed version would refuse, as an override of it.
 * @param bundle one that was opened without that check
 * @returns undefined when nothing is refused, and so nothing overridden
 * @throws {SealiftError} what else the policy refuses
 */
export function overrideOf(
  bundle: VerifiedBundle,
  installed: InstalledVersion | undefined,
  reason: string,
): AgreedOverride | undefined {
  bundle.recheckPolicy(undefined);
  if (installed === undefined) return undefined;
  try {
    bundle.recheckPolicy(installed);
    return undefined;
  } catch (error) {
    // With nothing installed it passed, so the installed version is what this is about.
    if (!(error instanceof SealiftError) || error.code !== 'VERSION_REFUSED') throw error;
    return { check: 'version', refused: error.message, reason, installed };
  }
}

/** Judges the version under the lock: what was agreed to holds for what was installed then, and for nothing else. */
export function recheckVersion(
  bundle: VerifiedBundle,
  installed: InstalledVersion | undefined,
  agreed: AgreedOverride | undefined,
): void {
  const same =
    agreed !== undefined &&
    installed?.version === agreed.installed.version &&
    installed.digest === agreed.installed.digest;
  bundle.recheckPolicy(same ? undefined : installed);
}

/** Overrides for a receipt. Those by which this very bundle came in earlier are kept: a new receipt must not forget them. */
export async function overridesOf(
  home: Home,
  bundle: VerifiedBundle,
  agreed: AgreedOverride | undefined,
): Promise<Override[]> {
  const release = releaseName(bundle.inventory);
  const receipts = await Promise.all(
    [release, `.${release}.previous`].map((name) => readReceipt(home, name)),
  );
  const all: Override[] = receipts.flatMap((r) =>
    r?.bundle.digest === bundle.digest ? (r.overrides ?? []) : [],
  );
  if (agreed !== undefined) all.push({ check: agreed.check, refused: agreed.refused, reason: agreed.reason });
  return [...new Map(all.map((override) => [JSON.stringify(override), override])).values()];
}
