// SPDX-License-Identifier: Apache-2.0
import { randomUUID } from 'node:crypto';
import { link, mkdir, readFile, rm, unlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { SealiftError } from '../errors.ts';

interface Holder {
  pid: number;
  /** Start time of the process in clock ticks since boot, so that a recycled pid is not taken for the holder. */
  started: string;
  what: string;
}

/**
 * One writer a folder. The lock is a file `lock` that names the process; it is taken by link(2), which is atomic,
 * and a lock whose process is gone (SIGKILL, power cut) is taken over.
 * @param what the command that holds it, shown to whoever has to wait
 * @returns a function that releases the lock
 * @throws {SealiftError} LOCKED when another living process holds it
 */
export async function lockFolder(dir: string, what: string): Promise<() => Promise<void>> {
  await mkdir(dir, { recursive: true });
  const path = join(dir, 'lock');
  const own = join(dir, `lock.${randomUUID()}`);
  const me: Holder = { pid: process.pid, started: (await startTime(process.pid)) ?? '', what };
  await writeFile(own, JSON.stringify(me));
  try {
    for (let attempt = 0; attempt < 5; attempt++) {
      if (await tryLink(own, path)) return () => rm(path, { force: true });
      const holder = await readHolder(path);
      if (holder && (await isAlive(holder))) throw held(dir, holder);
      await rm(path, { force: true });
    }
    throw new SealiftError('LOCKED', `${dir} is locked, and the lock keeps changing hands`);
  } finally {
    await unlink(own);
  }
}

async function tryLink(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
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
