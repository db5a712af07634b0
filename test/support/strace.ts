// SPDX-License-Identifier: Apache-2.0
/** Programs that die or fail at one chosen system call: the crash table of everything that is written. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { run, tempDir, type RunResult } from './workspace.ts';

/** What happens at the call: SIGKILL before it is carried out, or an error instead of it. */
export type Fault = 'signal=KILL' | `error=${'ENOSPC' | 'EIO' | 'ENODEV' | 'EINVAL'}`;

const env = (): NodeJS.ProcessEnv => ({ ...process.env, UV_THREADPOOL_SIZE: '1' }); // strace counts for each thread

/**
 * Runs a Node program whose `n`th call of `syscall` (from 1) meets the fault.
 * @param syscall one, or several with commas between them
 * @param options.path only calls on this file count, or on any of these
 * @param options.stays every later call meets the fault, too: a stick that was pulled out stays away
 * @returns undefined when the program has ended without that many calls
 */
export async function runWithFault(
  argv: string[],
  syscall: string,
  n: number,
  fault: Fault,
  options: { path?: string | string[]; stays?: boolean; cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Promise<RunResult | undefined> {
  const log = join(tempDir('strace'), 'log');
  const when = `${n}${options.stays === true ? '+' : ''}`;
  const inject = ['-e', `trace=${syscall}`, '-e', `inject=${syscall}:${fault}:when=${when}`];
  const paths = [options.path ?? []].flat().flatMap((path) => ['-P', path]);
  // Without the filter of the kernel every call would stop the program; with it strace 6.1 sends no signals.
  const filter = fault.startsWith('error=') ? ['--seccomp-bpf'] : [];
  const args = ['-f', ...filter, '-qq', '-o', log, ...inject, ...paths, process.execPath, ...argv];
  const { cwd } = options;
  const result = await run('strace', args, { env: { ...env(), ...options.env }, ...(cwd && { cwd }) });
  const hit = /\(INJECTED\)|killed by SIGKILL/.test(readFileSync(log, 'utf8'));
  return hit ? result : undefined;
}

/** The calls that a Node program makes on files, one line each, as strace prints them with names for descriptors. */
export async function traced(argv: string[], syscalls: string): Promise<string[]> {
  const log = join(tempDir('strace'), 'log');
  const args = ['-f', '-y', '-qq', '-e', `trace=${syscalls}`, '-o', log, process.execPath, ...argv];
  const result = await run('strace', args, { env: env() });
  if (result.code !== 0) throw new Error(result.stderr);
  return readFileSync(log, 'utf8').split('\n');
}
