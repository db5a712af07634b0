// SPDX-License-Identifier: Apache-2.0
//
// A real Podman of one's own: Debian's `podman system service` on a private unix socket, with its own folders, and in
// network and mount namespaces of its own, so that bridges, rules of iptables and mounts end with its last process.
// What a published port answers is therefore asked from within: see `inside`.
import { spawnSync } from 'node:child_process';
import {
  chownSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from 'node:fs';
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
  /** The command line that runs a program as the user whose engine it is. */
  asOwner(program: string, ...args: string[]): [string, string[]];
  /** A folder of the owner's, which goes with the engine. */
  folder: string;
  /** Stops the engine with all its containers and removes every trace of it. */
  stop(): Promise<void>;
};

/** Why none can be started here, or undefined if it can. */
function obstacle(rootless: boolean): string | undefined {
  if (process.platform !== 'linux') return 'not Linux';
  if (process.getuid?.() !== 0) return 'not root';
  const commands = ['podman', 'conmon', 'unshare', 'nsenter', 'setpriv', 'ip', 'iptables'];
  if (rootless) commands.push('newuidmap', 'slirp4netns');
  for (const command of commands)
    if (findCommand(command) === undefined) return `no ${command} (scripts/setup installs it)`;
  for (const helper of ['netavark', 'aardvark-dns'])
    if (!existsSync(`/usr/lib/podman/${helper}`)) return `no ${helper} (scripts/setup installs it)`;
  if (spawnSync(findCommand('unshare') ?? '', ['--mount', '--net', 'true']).status !== 0)
    return 'namespaces are not allowed here';
  return undefined;
}

export type PodmanOptions = {
  /** Folder for the log. */
  dir: string;
  /** Whether it is run by a user without rights, whom no file of this host knows. */
  rootless?: boolean;
};

/** Starts it; resolves when it answers. */
export async function startPodman({ dir, rootless = false }: PodmanOptions): Promise<PodmanEngine> {
  const obstacles = obstacle(rootless);
  if (obstacles !== undefined) throw new Error(`no Podman can be started here: ${obstacles}`);
  // A unix socket's path may have 107 characters at most, and conmon puts its own deeper down.
  const runDir = mkdtempSync(`/tmp/slp-${process.pid}-`);
  const parts: Parts = { runDir, socket: join(runDir, 'podman.sock'), uid: rootless ? freeUid() : 0 };
  const log = join(makeDir(dir), 'podman.log');
  const asOwner = ownerOf(parts);
  const folder = makeDir(runDir, 'home');
  writeConfig(parts);
  chownSync(runDir, parts.uid, parts.uid);
  chownSync(folder, parts.uid, parts.uid);
  const [program, argv] = asOwner('podman', ...serviceArguments(parts));
  const [script, ...more] = rootless ? [ROOTLESS, ...userFiles(parts)] : [ROOTFUL];
  const inner = ['sh', '-c', script, 'sh', ...more, program, ...argv];
  const server = startServer('unshare', ['--mount', '--net', ...inner], { logFile: log });
  const engine: PodmanEngine = {
    socket: parts.socket,
    host: `unix://${parts.socket}`,
    folder,
    inside: (name, ...args) => ['nsenter', ['--target', String(server.pid), '--net', '--', name, ...args]],
    asOwner,
    stop: () => stop(server, parts),
  };
  try {
    await waitFor('podman', () => ping(parts.socket), {
      timeout: 60_000,
      failed: () => failure(server, log),
    });
  } catch (error) {
    await engine.stop();
    throw error;
  }
  return engine;
}

type Parts = { runDir: string; socket: string; uid: number };

/** Users that Debian gives to nobody (policy 9.2.2), with ranges of subordinate ones far above. */
const freeUid = (): number => 61_000 + (process.pid % 1000);
const subUids = (uid: number): number => 2_000_000_000 + (uid % 1000) * 65_536;

/**
 * Of the new network namespace not even the loopback is up. Whatever its configuration says, Podman keeps locks in /dev/shm, and
 * the state of its name server under /run, where it would find another's. `exec` keeps the number of the process.
 */
const FRESH = 'ip link set lo up && mount -t tmpfs none /run && mount -t tmpfs -o mode=1777 none /dev/shm';
const ROOTFUL = `${FRESH} && exec "$@"`;
/** The user is in files that only this mount namespace sees, and may open a tunnel, as on a host that people log in to. */
const ROOTLESS = `${FRESH} &&
for file in passwd group subuid subgid; do mount --bind "$1/$file" "/etc/$file" || exit 1; done &&
mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 &&
mkdir -p "/run/user/$2" && chown "$2:$2" "/run/user/$2" && shift 2 && exec "$@"`;

/** @returns the arguments that ROOTLESS takes before the program */
function userFiles({ runDir, uid }: Parts): string[] {
  const folder = makeDir(runDir, 'etc');
  const copy = (name: string, line: string): void =>
    writeFileSync(join(folder, name), `${readFileSync(join('/etc', name), 'utf8')}${line}\n`);
  copy('passwd', `slp:x:${uid}:${uid}::${join(runDir, 'home')}:/bin/sh`);
  copy('group', `slp:x:${uid}:`);
  for (const name of ['subuid', 'subgid']) writeFileSync(join(folder, name), `slp:${subUids(uid)}:65536\n`);
  return [folder, String(uid)];
}

function ownerOf({ runDir, uid }: Parts): PodmanEngine['asOwner'] {
  const env = {
    PATH: withSystemPath({ PATH: '/usr/bin:/bin' }).PATH,
    HOME: join(runDir, 'home'),
    XDG_RUNTIME_DIR: uid === 0 ? '' : `/run/user/${uid}`,
    TMPDIR: makeDir(runDir, 'spool'),
    CONTAINERS_CONF: join(runDir, 'containers.conf'),
    DISABLE_HC_SYSTEMD: 'true', // otherwise a timer is made for each health check where there is a systemd
  };
  chownSync(env.TMPDIR, uid, uid);
  const variables = Object.entries(env).map(([name, value]) => `${name}=${value}`);
  const user = ['--reuid', String(uid), '--regid', String(uid), '--clear-groups'];
  return (program, ...args) => ['setpriv', [...user, 'env', '-i', ...variables, program, ...args]];
}

function serviceArguments({ runDir, socket }: Parts): string[] {
  const folders = ['--root', join(runDir, 'data'), '--runroot', join(runDir, 'run')];
  const drivers = ['--storage-driver', 'overlay', '--network-backend', 'netavark'];
  return [...folders, ...drivers, 'system', 'service', '--time', '0', `unix://${socket}`];
}

/**
 * No journal, no systemd and no right to raise limits may be there (CI machines, containers), so none is asked for. Podman 4.3
 * mixes up the two halves of a limit of this file when a container is made through Docker's API: they are equal.
 */
function writeConfig({ runDir }: Parts): void {
  writeFileSync(
    join(runDir, 'containers.conf'),
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

async function stop(server: Server, parts: Parts): Promise<void> {
  const groups = await empty(parts.socket).catch(() => []);
  await server.stop(20_000);
  const gone = (): true | undefined => (processesOf(parts).length === 0 ? true : undefined);
  for (const pid of processesOf(parts)) end(pid);
  await waitFor('processes of Podman', gone, { timeout: 10_000 });
  removeGroups(groups);
  removeTree(parts.runDir);
}

/** Removes all containers, which would outlive the service, and returns their numbers. */
async function empty(socket: string): Promise<string[]> {
  const { body } = await engineRequest(socket, 'GET', '/containers/json?all=1');
  const ids = (JSON.parse(body) as { Id: string }[]).map(({ Id }) => Id);
  for (const id of ids) await engineRequest(socket, 'DELETE', `/containers/${id}?force=1&v=1`);
  return ids;
}

/** conmon, aardvark-dns and what else was started with a path below the folder, or by the user. */
function processesOf({ runDir, uid }: Parts): number[] {
  const programs = /^(podman|conmon|netavark|aardvark-dns|runc|crun)$/;
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      try {
        const [program = '', ...words] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        if (uid !== 0 && statSync(`/proc/${pid}`).uid === uid) return true;
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
