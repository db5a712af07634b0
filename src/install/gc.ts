// SPDX-License-Identifier: Apache-2.0
/**
 * Removes old releases with what only they need. Whatever another release uses stays, by the same rules as an uninstall:
 * hard links count the users of a blob.
 */
import type { Home } from './home.ts';
import { readJournal, unfinishedInstall } from './journal.ts';
import { EngineClient } from './engine-client.ts';
import { readReceipts, type Receipt } from './receipt.ts';
import { releasesIn } from './running.ts';
import { uninstall, type UninstallInput, type UninstallReport } from './uninstall.ts';

/** Releases that a collection would remove: of each bundle all but the running or current one and the `keep` latest others. */
export async function oldReleases(home: Home, socket: string, keep: number): Promise<string[]> {
  const unfinished = await readJournal(home);
  if (unfinished !== undefined) throw unfinishedInstall(unfinished);
  const receipts = await readReceipts(home);
  const engine = await EngineClient.connect(socket);
  const projects = new Set(receipts.map(({ gateway }) => gateway?.project));
  const running = await Promise.all([...projects].map((project) => releasesIn(engine, project)));
  const inUse = new Set([await home.current(), ...running.flatMap((releases) => [...releases])]);
  const names = new Set(receipts.map(({ bundle }) => bundle.name));
  return [...names].flatMap((name) =>
    receipts
      .filter(({ bundle, release }) => bundle.name === name && !inUse.has(release))
      .toSorted(byWorth(receipts.find(({ bundle, release }) => bundle.name === name && inUse.has(release))))
      .slice(keep)
      .map(({ release }) => release),
  );
}

/** What a rollback would go to comes first; releases newer than the running one were fled from. */
const byWorth =
  (running: Receipt | undefined) =>
  (a: Receipt, b: Receipt): number => {
    const fled = ({ finishedAt }: Receipt): number =>
      Number(running !== undefined && finishedAt > running.finishedAt);
    return fled(a) - fled(b) || (a.finishedAt < b.finishedAt ? 1 : -1);
  };

/** @throws {SealiftError} what an uninstall throws; what was removed until then is gone */
export async function collect(
  releases: readonly string[],
  input: Omit<UninstallInput, 'release'>,
): Promise<UninstallReport[]> {
  const reports: UninstallReport[] = [];
  for (const release of releases) reports.push(await uninstall({ ...input, release, idleOnly: true }));
  return reports;
}
