// SPDX-License-Identifier: Apache-2.0
/** Runs one command and says what it cost: wall time, CPU, peak memory, bytes written, peak of the disk. */
import { spawn, spawnSync } from 'node:child_process';
import { statfsSync, writeFileSync } from 'node:fs';

export interface Cost {
  /** Wall time in seconds. */
  seconds: number;
  /** User and system time of the command and its children, in seconds. */
  cpu: number;
  /** Resident set of the largest process among them, in MiB. */
  mib: number;
  /** Bytes that these processes caused to be written to a disk (getrusage, ru_oublock). */
  written: number;
  /** Bytes by which the file system was fuller at the worst moment than before. */
  disk: number;
}

/** The kernel keeps these numbers for children only, so a process of its own waits for the command. */
const WRAPPER = `
import resource, subprocess, sys, time
start = time.time()
code = subprocess.call(sys.argv[1:], stdin=subprocess.DEVNULL)
wall = time.time() - start
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print("\\n%f %f %d %d" % (wall, used.ru_utime + used.ru_stime, used.ru_maxrss, used.ru_oublock))
sys.exit(code)`;

const SAMPLE_MS = 50;

function usedBytes(folder: string): number {
  const { blocks, bfree, bsize } = statfsSync(folder);
  return (blocks - bfree) * bsize;
}

/** Everything that was written before is on the disk, so that the next command does not pay for it. */
export const settle = (): void => void spawnSync('sync');

/** The next reads come from the disk. Needs root. */
export function dropCaches(): void {
  settle();
  writeFileSync('/proc/sys/vm/drop_caches', '3');
}

/** Work of several commands: the peak of the disk is that of all of it, from one beginning. */
export async function watchDisk(folder: string, work: () => Promise<Cost>): Promise<Cost> {
  settle();
  const before = usedBytes(folder);
  let peak = before;
  const look = (): void => void (peak = Math.max(peak, usedBytes(folder)));
  const sampler = setInterval(look, SAMPLE_MS);
  try {
    const cost = await work();
    look();
    return { ...cost, disk: peak - before };
  } finally {
    clearInterval(sampler);
  }
}

/**
 * @param folder on the file system that is watched, and where the command starts
 * @throws {Error} with the end of its stderr, when the command fails
 */
export function measure(
  command: readonly string[],
  folder: string,
  env: NodeJS.ProcessEnv = process.env,
): Promise<Cost> {
  return watchDisk(folder, () => run(command, folder, env));
}

function run(command: readonly string[], cwd: string, env: NodeJS.ProcessEnv): Promise<Cost> {
  return new Promise((resolve, reject) => {
    const child = spawn('python3', ['-c', WRAPPER, ...command], { cwd, env });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => void out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => void err.push(chunk));
    child.once('error', reject);
    child.once('close', (code) => {
      const text = Buffer.concat(out).toString().trim();
      if (code !== 0) {
        const said = `${text.slice(-1000)}\n${Buffer.concat(err).toString().slice(-2000)}`;
        reject(new Error(`${command.join(' ')}: exit ${code}: ${said}`));
        return;
      }
      const [seconds = 0, cpu = 0, kib = 0, blocks = 0] = text.split('\n').at(-1)!.split(' ').map(Number);
      resolve({ seconds, cpu, mib: kib / 1024, written: blocks * 512, disk: 0 });
    });
  });
}

/** The same for a line of shell. */
export const shell = (line: string, folder: string, env?: NodeJS.ProcessEnv): Promise<Cost> =>
  measure(['sh', '-euc', line], folder, env);

/** The quickest of three runs: what slows a machine down for a moment only ever adds to a time. */
export async function best(once: () => Promise<Cost>): Promise<Cost> {
  const costs = [await once(), await once(), await once()];
  return costs.toSorted((a, b) => a.seconds - b.seconds)[0]!;
}

/** One after the other: times and bytes add up, peaks do not. */
export function together(...costs: readonly Cost[]): Cost {
  const sum = (of: (cost: Cost) => number): number => costs.reduce((total, cost) => total + of(cost), 0);
  const most = (of: (cost: Cost) => number): number => Math.max(...costs.map(of));
  return {
    seconds: sum((c) => c.seconds),
    cpu: sum((c) => c.cpu),
    mib: most((c) => c.mib),
    written: sum((c) => c.written),
    disk: most((c) => c.disk),
  };
}

/** sha256 of one core in bytes per second, as `openssl speed` has it with large blocks. */
export function opensslRate(): number {
  const args = ['speed', '-seconds', '3', '-bytes', '1048576', '-evp', 'sha256'];
  const done = spawnSync('openssl', args, { encoding: 'utf8' });
  const rate = /^sha256\s+([\d.]+)k/im.exec(done.stdout)?.[1];
  if (rate === undefined) throw new Error(`openssl speed: ${done.stderr.slice(-500)}`);
  return Number(rate) * 1000;
}
