// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import { mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SealiftError } from '../errors.ts';

interface Holder {
  pid: number;
  /** Start time of the process in clock ticks since boot, so that a recycled pid is not taken for the holder. */
  started: string;
  what: string;
}

/** Two that come at the same moment both step back; this often they try again. */
const ATTEMPTS = 5;

/**
 * One writer a folder. Everyone puts a file of its own, `lock.<uuid>`, beside the others and only then looks
 * round: whoever sees another living process steps back. Because each looks after it has shown itself, two never
 * both go on; and because names are never used twice, the file of a process that is gone (SIGKILL, power cut)
 * can be removed by anyone at any time.
 * @param what the command that holds it, shown to whoever has to wait
 * @returns a function that releases the lock
 * @throws {SealiftError} LOCKED when another living process holds it
 */
export async function lockFolder(dir: string, what: string): Promise<() => Promise<void>> {
  await mkdir(dir, { recursive: true });
  for (let attempt = 1; ; attempt++) {
    const own = `lock.${randomUUID()}`;
    await show(dir, own, { pid: process.pid, started: (await startTime(process.pid)) ?? '', what });
    const other = await otherHolder(dir, own);
    if (other === undefined) return () => rm(join(dir, own), { force: true });
    await rm(join(dir, own), { force: true });
    if (attempt === ATTEMPTS) throw held(dir, other);
    await sleep(5 + Math.random() * 40);
  }
}

/** Renamed into place, so that nobody reads half of it. */
async function show(dir: string, name: string, holder: Holder): Promise<void> {
  const temp = join(dir, `${name}.tmp`);
  await writeFile(temp, JSON.stringify(holder));
  await rename(temp, join(dir, name));
}

/** Another living holder of the folder; files of dead ones are removed on the way. */
async function otherHolder(dir: string, own: string): Promise<Holder | undefined> {
  const names = (await readdir(dir)).filter((name) => /^lock\.[0-9a-f-]{36}$/.test(name) && name !== own);
  for (const name of names) {
    const holder = await readHolder(join(dir, name));
    if (holder && (await isAlive(holder))) return holder;
    await rm(join(dir, name), { force: true });
  }
  return undefined;
}

async function readHolder(path: string): Promise<Holder | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as Holder;
  } catch {
    return undefined; // gone in the meantime, or torn by a power cut: both mean nobody holds it
  }
}

async function isAlive(holder: Holder): Promise<boolean> {
  const started = await startTime(holder.pid);
  return started !== undefined && started === holder.started;
}

/** Field 22 of /proc/PID/stat (proc(5)); the command name in field 2 may hold spaces and parentheses. */
async function startTime(pid: number): Promise<string | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}

function held(dir: string, holder: Holder): SealiftError {
  return new SealiftError('LOCKED', `${dir} is in use by 'sealift ${holder.what}' (process ${holder.pid})`, {
    hint: 'wait until it ends, then run this command again',
  });
}
