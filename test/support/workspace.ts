// SPDX-License-Identifier: Apache-2.0
//
// Folders, child processes and ports for tests and for the demo. Nothing made here outlives the process:
// folders go when it exits, servers get a signal when it dies, and what a killed process left is swept by
// the next one.
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  realpathSync,
  rmSync,
  closeSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { delimiter, join, resolve } from 'node:path';

/** The root folder of the repository. */
export const repoRoot = resolve(import.meta.dirname, '../..');

const parentPattern = /^sealift-(\d+)-/;
let parent: string | undefined;

/** A new empty folder under the system's temporary folder, removed when this process exits. */
export function tempDir(prefix: string): string {
  if (parent === undefined) {
    sweep();
    parent = mkdtempSync(join(tmpdir(), `sealift-${process.pid}-`));
    const mine = parent;
    process.once('exit', () => removeTree(mine));
  }
  return mkdtempSync(join(parent, `${prefix}-`));
}

/** Removes a folder if it is there. A folder that something is still mounted in stays, without an error. */
export function removeTree(dir: string): void {
  try {
    rmSync(dir, { recursive: true, force: true, maxRetries: 2 });
  } catch {
    // A busy mount or a file that another process is still writing: the next sweep gets it.
  }
}

/** Folders whose process is gone (killed, so no exit handler ran), but not those of an engine still ending. */
function sweep(): void {
  const mounts = existsSync('/proc/self/mounts') ? readFileSync('/proc/self/mounts', 'utf8') : '';
  for (const name of readdirSync(tmpdir())) {
    const pid = parentPattern.exec(name)?.[1];
    if (pid === undefined || isAlive(Number(pid)) || mounts.includes(` ${join(tmpdir(), name)}/`)) continue;
    removeTree(join(tmpdir(), name));
  }
}

/** Whether a process with this id exists. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM';
  }
}

export type RunOptions = {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  input?: string | Buffer;
  /** Milliseconds after which the child is killed; its code is then 137. */
  timeout?: number;
};

export type RunResult = { code: number; stdout: string; stderr: string };

/** Runs a command to its end. Never throws for a non-zero code; throws if it cannot be started. */
export function run(command: string, args: string[], options: RunOptions = {}): Promise<RunResult> {
  return new Promise((done, fail) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: options.env ?? withSystemPath(process.env),
      timeout: options.timeout,
      killSignal: 'SIGKILL',
    });
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
    child.stdin.on('error', () => {}); // The child may end before it has read all of its input.
    child.stdin.end(options.input);
    child.once('error', fail);
    child.once('close', (code, signal) =>
      done({ code: code ?? signalCode(signal), stdout: text(out), stderr: text(err) }),
    );
  });
}

/** Like run(), but a non-zero code is an error that shows the end of what the command said. Gives stdout. */
export async function runOk(command: string, args: string[], options: RunOptions = {}): Promise<string> {
  const result = await run(command, args, options);
  if (result.code === 0) return result.stdout;
  const said = (result.stderr || result.stdout).trim().slice(-2000);
  throw new Error(`${command} ${args.join(' ')} ended with ${result.code}: ${said}`);
}

const text = (chunks: Buffer[]): string => Buffer.concat(chunks).toString('utf8');

function signalCode(signal: NodeJS.Signals | null): number {
  return signal === 'SIGTERM' ? 143 : signal === 'SIGINT' ? 130 : 137;
}

/** The environment with the folders of system programs (dockerd, nginx, ip) at the end of PATH. */
export function withSystemPath(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return {
    ...env,
    PATH: [env['PATH'], '/usr/sbin', '/sbin', '/usr/bin', '/bin'].filter(Boolean).join(delimiter),
  };
}

/** The full path of a command, or undefined. */
export function findCommand(name: string): string | undefined {
  const folders = withSystemPath(process.env)['PATH']?.split(delimiter) ?? [];
  return folders.map((folder) => join(folder, name)).find((path) => isExecutable(path));
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

export type Server = {
  process: ChildProcess;
  pid: number;
  /** What it wrote to stdout and stderr so far. */
  output(): string;
  exited: Promise<void>;
  /** Ends it by its process id: SIGTERM, and SIGKILL after `grace` milliseconds. */
  stop(grace?: number): Promise<void>;
  /** Ends it with SIGKILL. */
  kill(): Promise<void>;
};

/** Starts a long-running program that writes into `logFile` and gets SIGTERM if this process dies. */
export function startServer(
  command: string,
  args: string[],
  { logFile, env, cwd }: { logFile: string; env?: NodeJS.ProcessEnv; cwd?: string },
): Server {
  const leash = findCommand('setpriv');
  const [program, argv] = leash ? [leash, ['--pdeathsig', 'SIGTERM', command, ...args]] : [command, args];
  const log = openSync(logFile, 'a');
  const child = spawn(program, argv, {
    stdio: ['ignore', log, log],
    env: env ?? withSystemPath(process.env),
    cwd,
  });
  closeSync(log);
  const exited = new Promise<void>((done) => {
    child.once('exit', () => done());
    child.once('error', () => done());
  });
  return {
    process: child,
    pid: child.pid ?? -1,
    output: () => readFileSync(logFile, 'utf8'),
    exited,
    stop: (grace = 10_000) => stopProcess(child, exited, grace),
    kill: () => {
      child.kill('SIGKILL');
      return exited;
    },
  };
}

async function stopProcess(child: ChildProcess, exited: Promise<void>, grace: number): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) return;
  child.kill('SIGTERM');
  const timer = setTimeout(() => child.kill('SIGKILL'), grace);
  await exited;
  clearTimeout(timer);
}

/** Calls `probe` until it gives a value. Gives up after `timeout` ms or when `failed` names a reason. */
export async function waitFor<T>(
  what: string,
  probe: () => T | undefined | Promise<T | undefined>,
  { timeout = 30_000, failed }: { timeout?: number; failed?: () => string | undefined } = {},
): Promise<T> {
  const end = Date.now() + timeout;
  for (;;) {
    const value = await probe();
    if (value !== undefined) return value;
    const reason = failed?.() ?? (Date.now() > end ? `not within ${timeout} ms` : undefined);
    if (reason !== undefined) throw new Error(`${what}: ${reason}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** Has a file on the disk alone: the page cache drops what it has of it. */
export async function outOfCache(path: string): Promise<void> {
  await runOk('dd', [`of=${path}`, 'oflag=nocache', 'conv=notrunc,fdatasync', 'count=0']);
}

/** The descriptors by which this process holds a file open. */
export function holding(path: string): string[] {
  const target = (fd: string): string | undefined => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return undefined; // that of readdir itself is gone
    }
  };
  const file = realpathSync(path);
  return readdirSync('/proc/self/fd').filter((fd) => target(fd) === file);
}

/** A TCP port of the loopback that nothing listens on at this moment. */
export function freePort(): Promise<number> {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once('error', fail);
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      server.close(() => done(typeof address === 'object' && address ? address.port : 0));
    });
  });
}

/** Makes a folder with its parents and gives its path back. */
export function makeDir(...parts: string[]): string {
  const dir = join(...parts);
  mkdirSync(dir, { recursive: true });
  return dir;
}
