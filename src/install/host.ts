// SPDX-License-Identifier: Apache-2.0
/**
 * The only place that starts processes. Rules: argument arrays, never a command line made of what came in; the environment is the few
 * variables that the caller names (credential helpers and signing commands outside get all); every process has a
 * time limit, and a group of its own, so that a Ctrl-C at the terminal reaches sealift alone, which stops at the
 * end of a step; only the tail of what it says is kept. A signing command that may ask for a PIN is the exception:
 * it shares sealift's group, since only the terminal's foreground group may read from the terminal.
 */
import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { access, constants, mkdir, readFile, rm, stat as statOf } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SealiftError, type ErrorCode } from '../errors.ts';
import type { Home } from './home.ts';
import { plainLine } from './text.ts';

/** How much of a process's output is kept, in bytes of each stream. */
const KEPT_BYTES = 64 * 1024;
const QUICK_MS = 30_000;
/** `compose up` creates and starts containers, and waits for nothing: minutes are plenty. */
const COMPOSE_MS = 10 * 60_000;

export interface Ran<T = string> {
  code: number;
  stdout: T;
  stderr: string;
}

interface RunOptions {
  env: Readonly<Record<string, string>>;
  timeoutMs: number;
  cwd?: string;
  /** File that names the process while it runs. */
  pidFile?: string;
  /** What the process reads on its stdin; without it stdin is /dev/null. */
  input?: string | Uint8Array;
  /** Its stdout may be this long, in bytes; then it is killed. Without it, the tail of any output is kept. */
  maxStdoutBytes?: number;
  /**
   * Gives it the terminal of this process: stderr (of which nothing is kept), stdin unless there is input, and
   * with `all` also stdout.
   */
  terminal?: 'stderr' | 'all';
  /** Kills it. */
  signal?: AbortSignal;
}

/** A program that took longer than it was given. */
export class TookTooLong extends SealiftError {}

/** Runs a program to its end. @throws {SealiftError} ENGINE_FAILED when it cannot start; TookTooLong, INTERRUPTED */
export async function run(argv: readonly [string, ...string[]], options: RunOptions): Promise<Ran> {
  const ran = await runBytes(argv, options);
  return { ...ran, stdout: ran.stdout.toString() };
}

/** The same for a program whose output is not text. @throws {SealiftError} ENGINE_FAILED, INTERRUPTED */
export function runBytes(argv: readonly [string, ...string[]], options: RunOptions): Promise<Ran<Buffer>> {
  const [program, ...args] = argv;
  const { terminal, timeoutMs, signal, maxStdoutBytes = Infinity } = options;
  return new Promise((done, fail) => {
    const child = spawn(program, args, {
      env: { ...options.env },
      stdio: stdioOf(options),
      detached: terminal === undefined,
      ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
    });
    if (options.pidFile !== undefined && child.pid !== undefined) notePid(options.pidFile, child.pid);
    const stop = (code: ErrorCode, why: string, Kind = SealiftError): void => {
      kill(child.pid, terminal === undefined);
      fail(new Kind(code, why));
    };
    const late = (): void =>
      stop(
        'ENGINE_FAILED',
        `${program} ${args.at(0) ?? ''} took longer than ${timeoutMs / 1000} s`,
        TookTooLong,
      );
    const interrupt = (): void => stop('INTERRUPTED', `${program} was stopped: interrupted`);
    const flood = (): void => stop('ENGINE_FAILED', `${program} wrote more than ${maxStdoutBytes} bytes`);
    const stdout = tail(maxStdoutBytes, flood);
    const stderr = tail();
    child.stdout?.on('data', stdout.add);
    child.stderr?.on('data', stderr.add);
    child.stdin?.on('error', () => {}); // It may end before it has read all of its input.
    child.stdin?.end(options.input);
    const timer = setTimeout(late, timeoutMs);
    const settle = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', interrupt);
    };
    child.once('error', (cause) => {
      settle();
      fail(new SealiftError('ENGINE_FAILED', `cannot start ${program}: ${cause.message}`, { cause }));
    });
    child.once('close', (code) => {
      settle();
      done({ code: code ?? 137, stdout: stdout.bytes(), stderr: stderr.bytes().toString() });
    });
    if (signal?.aborted === true) interrupt();
    else signal?.addEventListener('abort', interrupt);
  });
}

type Stdio = ('ignore' | 'pipe' | 'inherit' | number)[];

/** What the process says on a shared terminal goes to stderr: stdout carries the result of sealift. */
function stdioOf({ input, terminal }: RunOptions): Stdio {
  const stdin = input === undefined ? (terminal === undefined ? 'ignore' : 'inherit') : 'pipe';
  if (terminal === undefined) return [stdin, 'pipe', 'pipe'];
  return [stdin, terminal === 'all' ? 2 : 'pipe', 'inherit'];
}

function kill(pid: number | undefined, group: boolean): void {
  try {
    if (pid !== undefined) process.kill(group ? -pid : pid, 'SIGKILL');
  } catch {
    // It ended by itself.
  }
}

/** Pid and start time, so that a recycled pid is not taken for the process. */
function notePid(file: string, pid: number): void {
  writeFileSync(file, `${pid} ${startTime(pid) ?? ''}`);
}

/** Field 22 of /proc/PID/stat (proc(5)); undefined for a process that is gone or only waits to be reaped. */
function startTime(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' || fields[0] === 'X' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

/**
 * A sealift that was killed leaves its Compose running for a while; a second one beside it would collide with
 * its half-made containers.
 */
async function waitForEarlier(pidFile: string, timeoutMs: number): Promise<void> {
  const text = await readFile(pidFile, 'utf8').catch(() => '');
  const [pid = '', started = ''] = text.split(' ');
  const end = performance.now() + timeoutMs;
  if (started === '') return;
  while (startTime(Number(pid)) === started) {
    if (performance.now() > end) {
      throw new SealiftError('ENGINE_FAILED', `Compose of an earlier run (process ${pid}) does not end`);
    }
    await sleep(100);
  }
}

function tail(
  maxBytes = Infinity,
  tooMuch = (): void => {},
): { add: (chunk: Buffer) => void; bytes: () => Buffer } {
  let kept = Buffer.alloc(0);
  let seen = 0;
  return {
    add: (chunk) => {
      seen += chunk.length;
      if (seen > maxBytes) tooMuch();
      else kept = Buffer.concat([kept, chunk]).subarray(-KEPT_BYTES);
    },
    bytes: () => kept,
  };
}

export interface ComposeOptions {
  /** PATH for finding `docker` and `docker-compose`, and for the processes themselves. */
  path: string;
  /** Path of the engine's unix socket. */
  socket: string;
  /** A folder of our own for DOCKER_CONFIG: empty, so that no credential, proxy or context of a user applies. */
  configFolder: string;
  /** Path of a Compose v2 executable, instead of looking for one. */
  compose?: string;
}

/** Looks for Compose when it is asked for, and only once: bundles without services need none. */
export function composeFinder(
  options: Omit<ComposeOptions, 'configFolder'> & { home: Home },
): () => Promise<Compose> {
  let found: Promise<Compose> | undefined;
  const find = (): Promise<Compose> =>
    Compose.find({ ...options, configFolder: options.home.path('docker-config') });
  return () => (found ??= find());
}

/** Compose v2, found once and asked for its version. */
export class Compose {
  readonly version: string;
  readonly #argv: readonly [string, ...string[]];
  readonly #env: Readonly<Record<string, string>>;
  readonly #pidFile: string;

  private constructor(
    argv: readonly [string, ...string[]],
    env: Readonly<Record<string, string>>,
    version: string,
  ) {
    this.#argv = argv;
    this.#env = env;
    this.#pidFile = join(env['DOCKER_CONFIG']!, 'compose.pid');
    this.version = version;
  }

  /** @throws {SealiftError} COMPOSE_UNSUPPORTED when there is none, or only version 1 */
  static async find(options: ComposeOptions): Promise<Compose> {
    const env = {
      PATH: options.path,
      HOME: options.configFolder,
      DOCKER_HOST: `unix://${options.socket}`,
      DOCKER_CONFIG: options.configFolder,
      LC_ALL: 'C.UTF-8',
    };
    const tried: (readonly [string, string])[] = [];
    for (const argv of await candidates(options)) {
      const version = await versionOf(argv, env);
      if (version !== undefined && Number.parseInt(version, 10) >= 2) return new Compose(argv, env, version);
      tried.push([argv.join(' '), version === undefined ? 'does not answer' : `version ${version}`]);
    }
    throw new SealiftError('COMPOSE_UNSUPPORTED', 'Compose v2 is needed, and was not found', {
      details: tried,
      hint: 'install the Compose plug-in of Docker (package docker-compose-plugin or docker-compose-v2), or name the executable with --compose',
    });
  }

  /** Creates and starts what a compose file asks for, replacing containers of the same project that differ. */
  async up(file: string, project: string): Promise<void> {
    await this.#run(file, project, ['up', '--detach', '--no-build', '--remove-orphans'], 'start');
  }

  /** Stops and removes containers and networks of a project. Without a file only by their labels. */
  async down(file: string | undefined, project: string): Promise<void> {
    await this.#run(file, project, ['down', '--remove-orphans'], 'stop');
  }

  async #run(
    file: string | undefined,
    project: string,
    args: readonly string[],
    verb: string,
  ): Promise<void> {
    const which = file === undefined ? [] : ['--file', file];
    const argv = [...this.#argv, '--ansi', 'never', '--project-name', project, ...which, ...args] as const;
    await mkdir(this.#env['DOCKER_CONFIG']!, { recursive: true, mode: 0o700 });
    await waitForEarlier(this.#pidFile, COMPOSE_MS);
    const options = { env: this.#env, timeoutMs: COMPOSE_MS, cwd: '/', pidFile: this.#pidFile };
    const ran = await run(argv, options);
    await rm(this.#pidFile, { force: true });
    if (ran.code === 0) return;
    const words = ran.stderr
      .trim()
      .split('\n')
      .slice(-8)
      .map((line) => ['compose', plainLine(line)] as const);
    throw new SealiftError('ENGINE_FAILED', `Compose could not ${verb} ${project} (exit ${ran.code})`, {
      details: words,
    });
  }
}

async function candidates(options: ComposeOptions): Promise<(readonly [string, ...string[]])[]> {
  if (options.compose !== undefined) return [[options.compose]];
  const docker = await findProgram('docker', options.path);
  const standalone = await findProgram('docker-compose', options.path);
  return [
    ...(docker === undefined ? [] : [[docker, 'compose'] as const]),
    ...(standalone === undefined ? [] : [[standalone] as const]),
  ];
}

/** The version that a Compose says it is, such as `2.26.1`; undefined when it is none. */
async function versionOf(
  argv: readonly [string, ...string[]],
  env: Readonly<Record<string, string>>,
): Promise<string | undefined> {
  try {
    const ran = await run([...argv, 'version', '--short'] as [string, ...string[]], {
      env,
      timeoutMs: QUICK_MS,
      cwd: '/',
    });
    return /^v?(\d+\.\d+[\w.+~-]*)/.exec(ran.stdout.trim())?.[1];
  } catch {
    return undefined;
  }
}

/** The full path of a program, from the absolute folders of a PATH. */
export async function findProgram(name: string, path: string): Promise<string | undefined> {
  for (const folder of path.split(':').filter((f) => f.startsWith('/'))) {
    const file = join(folder, name);
    const found = await Promise.all([access(file, constants.X_OK), statOf(file)]).catch(() => undefined);
    if (found?.[1].isFile() === true) return file; // root may "execute" folders
  }
  return undefined;
}
