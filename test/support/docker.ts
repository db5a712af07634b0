// SPDX-License-Identifier: Apache-2.0
//
// A real Docker engine of one's own: Debian's dockerd on a private unix socket, with its own data folder,
// bridge and address range, so that it neither meets a daemon of the host nor another one of these.
//
// It runs with --iptables=false: two daemons flush each other's chains when they start, and what they write
// outlives them. Published ports work all the same (docker-proxy), containers of one network reach each
// other through the one rule that is added and removed here, and with no masquerading nothing gets out.
import { spawnSync } from 'node:child_process';
import {
  existsSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { request } from 'node:http';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import {
  findCommand,
  isAlive,
  makeDir,
  removeTree,
  repoRoot,
  run,
  startServer,
  waitFor,
  withSystemPath,
} from './workspace.ts';
import type { Server } from './workspace.ts';

export type DockerEngine = {
  /** Path of the unix socket. */
  socket: string;
  /** The same as a DOCKER_HOST: `unix://…`. */
  host: string;
  /** Environment for the docker command and `docker compose`: this engine, and the Compose v2 plugin. */
  composeEnv: NodeJS.ProcessEnv;
  /** Stops the engine with all its containers and removes every trace of it; `killed` is how a crash looks. */
  stop(options?: { keepData?: boolean; killed?: boolean }): Promise<void>;
};

export type DockerOptions = {
  /** Folder for the engine's data (`data/`) and log (`dockerd.log`). */
  dir: string;
  /** Further arguments for dockerd. */
  args?: string[];
};

/** Why no engine of one's own can be started here, or undefined if it can. */
export function dockerAvailable(): string | undefined {
  if (process.platform !== 'linux') return 'not Linux';
  if (process.getuid?.() !== 0) return 'not root';
  for (const command of ['dockerd', 'docker', 'ip', 'unshare']) {
    if (findCommand(command) === undefined) return `no ${command} (scripts/setup installs it)`;
  }
  if (!existsSync('/sys/fs/cgroup') || readdirSync('/sys/fs/cgroup').length === 0)
    return 'no cgroups mounted';
  if (spawnSync(findCommand('unshare') ?? '', ['--mount', '--net', 'true']).status !== 0)
    return 'namespaces are not allowed here';
  return undefined;
}

const pluginFolders = [
  join(homedir(), '.docker'),
  '/usr/local/lib/docker',
  '/usr/local/libexec/docker',
  '/usr/lib/docker',
  '/usr/libexec/docker',
  join(repoRoot, '.cache/compose/usr/libexec/docker'),
];

/** Path of a Compose plugin of major version 2 or later: the host's own, else what scripts/setup unpacked. */
export function composePath(): string | undefined {
  const plugins = pluginFolders.map((folder) => join(folder, 'cli-plugins/docker-compose'));
  return plugins.filter((path) => existsSync(path)).find((path) => isComposeV2(path));
}

function isComposeV2(path: string): boolean {
  const answer = spawnSync(path, ['docker-cli-plugin-metadata'], { encoding: 'utf8' }).stdout ?? '';
  return /"Version":\s*"v?([2-9]|\d\d)\./.test(answer);
}

/** Starts Debian's dockerd; resolves when it answers. */
export function startDocker({ dir, args = [] }: DockerOptions): Promise<DockerEngine> {
  return launchEngine({ dir, args, command: (dockerd) => ['dockerd', dockerd] });
}

export type LaunchOptions = DockerOptions & {
  /** A daemon.json to be read instead of an empty one. */
  configFile?: string;
  /** The program and arguments that run dockerd with these arguments; `folders` must be visible to it. */
  command: (dockerd: string[], folders: string[]) => [string, string[]];
};

/** Starts any dockerd (also one in another root folder) with a bridge and folders of its own. */
export async function launchEngine(options: LaunchOptions): Promise<DockerEngine> {
  const dir = makeDir(resolve(options.dir));
  // A unix socket's path may have 107 characters at most, and containerd puts its own deeper down.
  await sweep();
  const runDir = mkdtempSync(`/tmp/sld-${process.pid}-`);
  const data = makeDir(dir, 'data');
  symlinkSync(data, join(runDir, 'data')); // For sweep().
  const network = await claimNetwork();
  const socket = join(runDir, 'docker.sock');
  const configFile = options.configFile ?? emptyConfig(runDir);
  const fixed = engineArguments({ runDir, data, socket, network });
  const dockerd = [...fixed, '--config-file', configFile, ...(options.args ?? [])];
  const [program, argv] = options.command(dockerd, [dir, runDir]);
  const server = startServer(program, argv, { logFile: join(dir, 'dockerd.log') });
  const parts: Parts = { dir, runDir, data, socket, network, server };
  try {
    await waitFor('dockerd', () => ping(socket), { timeout: 60_000, failed: () => failure(parts) });
  } catch (error) {
    await stopEngine(parts, false);
    throw error;
  }
  return {
    socket,
    host: `unix://${socket}`,
    composeEnv: clientEnvironment(runDir, socket),
    stop: async ({ keepData = false, killed = false } = {}) => {
      if (killed) await server.kill();
      await stopEngine(parts, keepData);
    },
  };
}

type Parts = { dir: string; runDir: string; data: string; socket: string; network: Network; server: Server };

function engineArguments({ runDir, data, socket, network }: Omit<Parts, 'dir' | 'server'>): string[] {
  const named = {
    'data-root': data,
    'exec-root': join(runDir, 'x'),
    pidfile: join(runDir, 'pid'),
    host: `unix://${socket}`,
    bridge: network.bridge,
    'shutdown-timeout': '3',
  };
  const pools = network.pools.flatMap((pool) => ['--default-address-pool', `base=${pool},size=26`]);
  const off = ['--iptables=false', '--ip-masq=false', '--ip-forward=false'];
  return [...Object.entries(named).flatMap(([name, value]) => [`--${name}`, value]), ...pools, ...off];
}

/** The host's own /etc/docker/daemon.json must not be read: it may name a data folder or hosts. */
function emptyConfig(runDir: string): string {
  const path = join(runDir, 'daemon.json');
  writeFileSync(path, '{}');
  return path;
}

function clientEnvironment(runDir: string, socket: string): NodeJS.ProcessEnv {
  const config = makeDir(runDir, 'client');
  const compose = composePath();
  if (compose) symlinkSync(compose, join(makeDir(config, 'cli-plugins'), 'docker-compose'));
  return withSystemPath({ ...process.env, DOCKER_HOST: `unix://${socket}`, DOCKER_CONFIG: config });
}

function failure({ server, dir }: Parts): string | undefined {
  if (server.process.exitCode === null && server.process.signalCode === null) return undefined;
  return `ended at once; ${join(dir, 'dockerd.log')} says:\n${server.output().slice(-1500)}`;
}

async function ping(socket: string): Promise<true | undefined> {
  const answer = await engineRequest(socket, 'GET', '/_ping').catch(() => undefined);
  return answer?.status === 200 ? true : undefined;
}

/** One request to the engine's API. */
export function engineRequest(
  socket: string,
  method: string,
  path: string,
): Promise<{ status: number; body: string }> {
  return new Promise((done, fail) => {
    const call = request({ socketPath: socket, method, path, timeout: 30_000 }, (answer) => {
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('error', fail);
      answer.on('end', () =>
        done({ status: answer.statusCode ?? 0, body: Buffer.concat(chunks).toString() }),
      );
    });
    call.on('timeout', () => call.destroy(new Error('the engine does not answer')));
    call.on('error', fail);
    call.end();
  });
}

// --- network -------------------------------------------------------------------------------------------

type Network = { slot: number; bridge: string; pools: string[]; range: string };

const slots = 16;

/**
 * One of sixteen slices of 10.211.0.0/16: the bridge in its first /24, networks of /26 in the rest. Making
 * the link is atomic in the kernel, so its name is the lock; its alias says whose it is.
 */
async function claimNetwork(): Promise<Network> {
  for (let slot = 0; slot < slots; slot++) {
    const network = networkOf(slot);
    const made = await run('ip', ['link', 'add', network.bridge, 'type', 'bridge']);
    if (made.code !== 0) continue;
    await run('ip', ['link', 'set', network.bridge, 'alias', `sealift ${process.pid}`]);
    await run('ip', ['addr', 'add', `10.211.${slot * 16}.1/24`, 'dev', network.bridge]);
    await run('ip', ['link', 'set', network.bridge, 'up']);
    // Where another daemon made DROP the policy of FORWARD, containers could not reach each other.
    await run('iptables', ['-w', '-I', ...forwardRule(network)]).catch(() => undefined);
    return network;
  }
  throw new Error(`no free bridge: ${slots} engines run already, or links cannot be made here`);
}

function networkOf(slot: number): Network {
  const first = slot * 16;
  const pools = [`10.211.${first + 4}.0/22`, `10.211.${first + 8}.0/21`];
  return { slot, bridge: `sealift${slot}`, pools, range: `10.211.${first}.0/20` };
}

const forwardRule = ({ range }: Network): string[] => ['FORWARD', '-s', range, '-d', range, '-j', 'ACCEPT'];

/** What engines left whose test process was killed: it got no chance to call stop(). */
async function sweep(): Promise<void> {
  for (const name of readdirSync('/tmp')) {
    const owner = /^sld-(\d+)-/.exec(name)?.[1];
    if (owner === undefined || isAlive(Number(owner))) continue;
    const runDir = join('/tmp', name);
    await endLeftProcesses(runDir);
    await unmountUnder(runDir);
    await removeData(runDir);
    removeTree(runDir);
  }
  for (let slot = 0; slot < slots; slot++) await dropIfOrphaned(networkOf(slot));
}

/** The data folder of a run folder, which may be anywhere. */
async function removeData(runDir: string): Promise<void> {
  const link = join(runDir, 'data');
  if (!existsSync(link)) return;
  const data = readlinkSync(link);
  await unmountUnder(data);
  removeTree(data);
}

async function dropIfOrphaned(network: Network): Promise<void> {
  if (!existsSync(`/sys/class/net/${network.bridge}`)) return;
  const shown = await run('ip', ['link', 'show', 'dev', network.bridge]);
  const owner = /alias sealift (\d+)/.exec(shown.stdout)?.[1];
  if (owner !== undefined && !isAlive(Number(owner))) await releaseNetwork(network);
}

async function releaseNetwork(network: Network): Promise<void> {
  for (const link of await linksIn(network)) await run('ip', ['link', 'delete', link]);
  await run('ip', ['link', 'delete', network.bridge]);
  // The rule may be there more than once if an earlier owner was killed.
  const drop = (): Promise<{ code: number }> =>
    run('iptables', ['-w', '-D', ...forwardRule(network)]).catch(() => ({ code: 1 }));
  while ((await drop()).code === 0);
}

/** Bridges that Docker made in this engine's range and did not take away. */
async function linksIn(network: Network): Promise<string[]> {
  const shown = await run('ip', ['-o', '-4', 'addr', 'show']);
  const found = [...shown.stdout.matchAll(/^\d+: (br-\S+)\s+inet 10\.211\.(\d+)\./gm)];
  return found
    .filter((match) => Math.floor(Number(match[2]) / 16) === network.slot)
    .map((match) => match[1] ?? '');
}

// --- end -----------------------------------------------------------------------------------------------

async function stopEngine(parts: Parts, keepData: boolean): Promise<void> {
  await emptyEngine(parts.socket).catch(() => undefined);
  await parts.server.stop(30_000);
  await endLeftProcesses(parts.runDir);
  await unmountUnder(parts.runDir);
  await unmountUnder(parts.data);
  await releaseNetwork(parts.network);
  removeTree(parts.runDir);
  if (!keepData) removeTree(parts.data);
}

/** Containers are removed by force first: dockerd would wait ten seconds for each to end by itself. */
async function emptyEngine(socket: string): Promise<void> {
  const list = await engineRequest(socket, 'GET', '/containers/json?all=1');
  const containers: { Id: string }[] = JSON.parse(list.body);
  await Promise.all(
    containers.map(({ Id }) => engineRequest(socket, 'DELETE', `/containers/${Id}?force=1&v=1`)),
  );
  await engineRequest(socket, 'POST', '/networks/prune');
}

/**
 * What is left of the engine with this exec root. dockerd, if its owner was killed, has got its SIGTERM from
 * the kernel already and is given time to end properly; containerd and shims are left only if it was killed.
 */
async function endLeftProcesses(runDir: string): Promise<void> {
  const gone = (): true | undefined => (processesNaming(`${runDir}/`).length === 0 ? true : undefined);
  if (processesNaming(`${runDir}/`, /dockerd$/).length > 0)
    await waitFor('dockerd', gone, { timeout: 15_000 }).catch(() => false);
  // A killed shim does not take its container along, so the containers go first.
  for (const pid of [...containersOf(runDir), ...processesNaming(`${runDir}/`)]) signal(pid, 'SIGKILL');
  await waitFor('processes of the engine', gone, { timeout: 5000 }).catch(() => false);
}

/** First processes of the containers that runc still knows of; the cgroup says that the id was not reused. */
function containersOf(runDir: string): number[] {
  const state = join(runDir, 'x/runtime-runc/moby');
  if (!existsSync(state)) return [];
  return readdirSync(state).flatMap((id) => {
    try {
      const { init_process_pid: pid }: { init_process_pid: number } = JSON.parse(
        readFileSync(join(state, id, 'state.json'), 'utf8'),
      );
      return readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(id) ? [pid] : [];
    } catch {
      return []; // It ended in the meantime.
    }
  });
}

/** Only the programs of an engine: a shell or test that merely mentions the folder is nobody's leftover. */
function processesNaming(
  text: string,
  programs = /(dockerd|containerd|containerd-shim\S*|docker-proxy|runc)$/,
): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((pid) => {
      const [program = '', ...words] = commandLine(pid);
      return programs.test(program) && words.join(' ').includes(text);
    })
    .map(Number);
}

function commandLine(pid: string): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
  } catch {
    return []; // It ended in the meantime.
  }
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // It ended by itself.
  }
}

async function unmountUnder(dir: string): Promise<void> {
  const points = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => (line.split(' ')[1] ?? '').replace(/\\040/g, ' '))
    .filter((point) => point === dir || point.startsWith(`${dir}/`));
  for (const point of points.toReversed()) await run('umount', ['-l', point]);
}
