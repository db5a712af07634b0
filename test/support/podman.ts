// SPDX-License-Identifier: Apache-2.0
//
// A real Podman of one's own: Debian's `podman system service` on a private unix socket, with its own folders, and in
// network and mount namespaces of its own, so that bridges, rules of iptables and mounts end with its last process.
// What a published port answers is therefore asked from within: see `inside`.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { engineRequest } from './docker.ts';
import { findCommand, makeDir, removeTree, startServer, waitFor, withSystemPath } from './workspace.ts';
import type { Server } from './workspace.ts';

export type PodmanEngine = {
  /** Path of the unix socket. */
  socket: string;
  /** The same as a DOCKER_HOST: `unix://…`. */
  host: string;
  /** The command line that runs a program where the engine's published ports are. */
  inside(program: string, ...args: string[]): [string, string[]];
  /** Stops the engine with all its containers and removes every trace of it. */
  stop(): Promise<void>;
};

/** Why none can be started here, or undefined if it can. */
export function podmanAvailable(): string | undefined {
  if (process.platform !== 'linux') return 'not Linux';
  if (process.getuid?.() !== 0) return 'not root';
  for (const command of ['podman', 'conmon', 'unshare', 'nsenter', 'ip', 'iptables'])
    if (findCommand(command) === undefined) return `no ${command} (scripts/setup installs it)`;
  for (const helper of ['netavark', 'aardvark-dns'])
    if (!existsSync(`/usr/lib/podman/${helper}`)) return `no ${helper} (scripts/setup installs it)`;
  if (spawnSync(findCommand('unshare') ?? '', ['--mount', '--net', 'true']).status !== 0)
    return 'namespaces are not allowed here';
  return undefined;
}

/** Starts it; resolves when it answers. */
export async function startPodman({ dir }: { dir: string }): Promise<PodmanEngine> {
  // A unix socket's path may have 107 characters at most, and conmon puts its own deeper down.
  const runDir = mkdtempSync(`/tmp/slp-${process.pid}-`);
  const socket = join(runDir, 'podman.sock');
  const log = join(makeDir(dir), 'podman.log');
  const server = startServer(
    'unshare',
    ['--mount', '--net', 'sh', '-c', SCRIPT, 'sh', ...argv(runDir, socket)],
    {
      logFile: log,
      env: environment(runDir),
    },
  );
  const engine: PodmanEngine = {
    socket,
    host: `unix://${socket}`,
    inside: (program, ...args) => [
      'nsenter',
      ['--target', String(server.pid), '--net', '--', program, ...args],
    ],
    stop: () => stop(server, socket, runDir),
  };
  try {
    await waitFor('podman', () => ping(socket), { timeout: 60_000, failed: () => failure(server, log) });
  } catch (error) {
    await engine.stop();
    throw error;
  }
  return engine;
}

/**
 * Of the new network namespace not even the loopback is up. Whatever its configuration says, Podman keeps locks in /dev/shm, and
 * the state of its name server under /run, where it would find another's. `exec` keeps the number of the process.
 */
const SCRIPT = 'ip link set lo up && mount -t tmpfs none /run && mount -t tmpfs none /dev/shm && exec "$@"';

const argv = (runDir: string, socket: string): string[] => [
  'podman',
  ...['--root', join(runDir, 'data'), '--runroot', join(runDir, 'run')],
  ...['--storage-driver', 'overlay', '--network-backend', 'netavark'],
  ...['system', 'service', '--time', '0', `unix://${socket}`],
];

/**
 * No journal, no systemd and no right to raise limits may be there (CI machines, containers), so none is asked for. Podman 4.3
 * mixes up the two halves of a limit of this file when a container is made through Docker's API: they are equal.
 */
function environment(runDir: string): NodeJS.ProcessEnv {
  const file = join(runDir, 'containers.conf');
  writeFileSync(
    file,
    `[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
log_driver = "k8s-file"
[network]
network_backend = "netavark"
network_config_dir = "${join(runDir, 'networks')}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "${join(runDir, 'tmp')}"
`,
  );
  return withSystemPath({
    ...process.env,
    CONTAINERS_CONF: file,
    TMPDIR: makeDir(runDir, 'spool'),
    DISABLE_HC_SYSTEMD: 'true', // otherwise a timer is made for each health check where there is a systemd
  });
}

async function ping(socket: string): Promise<true | undefined> {
  const answer = await engineRequest(socket, 'GET', '/_ping').catch(() => undefined);
  return answer?.status === 200 ? true : undefined;
}

function failure(server: Server, log: string): string | undefined {
  if (server.process.exitCode === null && server.process.signalCode === null) return undefined;
  return `ended at once; ${log} says:\n${server.output().slice(-1500)}`;
}

// --- end -----------------------------------------------------------------------------------------------

async function stop(server: Server, socket: string, runDir: string): Promise<void> {
  const groups = await empty(socket).catch(() => []);
  await server.stop(20_000);
  const gone = (): true | undefined => (processesOf(runDir).length === 0 ? true : undefined);
  for (const pid of processesOf(runDir)) end(pid);
  await waitFor('processes of Podman', gone, { timeout: 10_000 });
  removeGroups(groups);
  removeTree(runDir);
}

/** Removes all containers, which would outlive the service, and returns their numbers. */
async function empty(socket: string): Promise<string[]> {
  const { body } = await engineRequest(socket, 'GET', '/containers/json?all=1');
  const ids = (JSON.parse(body) as { Id: string }[]).map(({ Id }) => Id);
  for (const id of ids) await engineRequest(socket, 'DELETE', `/containers/${id}?force=1&v=1`);
  return ids;
}

/** conmon, aardvark-dns and what else was started with a path below the folder. */
function processesOf(runDir: string): number[] {
  const programs = /^(podman|conmon|netavark|aardvark-dns|runc|crun)$/;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const [program = '', ...words] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        return programs.test(basename(program)) && words.join(' ').includes(`${runDir}/`);
      } catch {
        return false; // it ended in the meantime
      }
    })
    .map(Number);
}

function end(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch {
    // It ended by itself.
  }
}

/** runc and conmon leave control groups of containers that were ended by force. */
function removeGroups(ids: readonly string[]): void {
  const root = '/sys/fs/cgroup';
  for (const controller of ['.', ...readdirSync(root)]) {
    const parent = join(root, controller, 'libpod_parent');
    if (!existsSync(parent)) continue;
    for (const name of readdirSync(parent))
      if (ids.some((id) => name.endsWith(id))) {
        try {
          rmdirSync(join(parent, name));
        } catch {
          // Not empty: it is not ours alone.
        }
      }
  }
}
