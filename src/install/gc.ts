// SPDX-License-Identifier: Apache-2.0
/**
 * Removes old releases with what only they need. Whatever another release uses stays, by the same rules as an uninstall:
 * hard links count the users of a blob.
 */
import type { Home } from './home.ts';
import { readJournal, unfinishedInstall } from './journal.ts';
import { EngineClient } from './engine-client.ts';
import { readReceipts, type Receipt } from './receipt.ts';
import { RELEASE_LABEL } from './targets/compose.ts';
import { uninstall, type UninstallInput, type UninstallReport } from './uninstall.ts';

/** Releases that a collection would remove: of each bundle all but the running or current one and the `keep` latest others. */
export async function oldReleases(home: Home, socket: string, keep: number): Promise<string[]> {
  const unfinished = await readJournal(home);
  if (unfinished !== undefined) throw unfinishedInstall(unfinished);
  const receipts = await readReceipts(home);
  const engine = await EngineClient.connect(socket);
  const inUse = new Set([await home.current(), ...(await runningReleases(engine, receipts))]);
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

async function runningReleases(
  engine: EngineClient,
  receipts: readonly Receipt[],
): Promise<(string | undefined)[]> {
  const projects = new Set(receipts.flatMap(({ gateway }) => gateway?.project ?? []));
  const containers = await Promise.all([...projects].map((project) => engine.containers(project)));
  return containers.flat().map(({ labels }) => labels[RELEASE_LABEL]);
}

/** @throws {SealiftError} what an uninstall throws; what was removed until then is gone */
export async function collect(
  releases: readonly string[],
  input: Omit<UninstallInput, 'release'>,
): Promise<UninstallReport[]> {
  const reports: UninstallReport[] = [];
  for (const release of releases) reports.push(await uninstall({ ...input, release, idleOnly: true }));
  return reports;
}
