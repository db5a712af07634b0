// SPDX-License-Identifier: Apache-2.0
//
// The enclave, in namespaces of its own that `unshare` has made: only loopback leads anywhere, and a link that leads
// nowhere has the default route, so that it counts whatever tries to get out. What was seen goes to stdout as JSON.
//   node test/support/enclave-child.ts FOLDER     with FOLDER/carried (what crosses) and FOLDER/home
import { cpSync, existsSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startDocker, type DockerEngine } from './docker.ts';
import { engineFlags, HOST_NAME } from './stack.ts';
import { run, runOk, waitFor, type RunResult } from './workspace.ts';

const [work = ''] = process.argv.slice(2);
const home = join(work, 'home');
const medium = join(work, 'medium');
const port = /port: (\d+)/.exec(readFileSync(join(home, 'site.yaml'), 'utf8'))![1]!;
const WAY_OUT = 'out0';

/** What a login shell of an operator has, and nothing of this process. */
const env = { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin', HOME: '/root' };

async function shutIn(): Promise<void> {
  const ip = (...args: string[]): Promise<string> => runOk('ip', args);
  await ip('link', 'set', 'lo', 'up');
  await ip('link', 'add', WAY_OUT, 'type', 'veth', 'peer', 'name', 'nobody');
  for (const link of [WAY_OUT, 'nobody']) writeFileSync(`/proc/sys/net/ipv6/conf/${link}/disable_ipv6`, '1'); // the kernel greets its neighbours
  await ip('link', 'set', 'nobody', 'up');
  await ip('addr', 'add', '192.0.2.2/24', 'dev', WAY_OUT);
  await ip('link', 'set', WAY_OUT, 'up');
  await ip('route', 'add', 'default', 'via', '192.0.2.1', 'dev', WAY_OUT);
  await runOk('mount', ['--make-rprivate', '/']);
}

async function packetsOut(): Promise<number> {
  const shown = await runOk('ip', ['-json', '-statistics', 'link', 'show', 'dev', WAY_OUT]);
  return (JSON.parse(shown) as { stats64: { tx: { packets: number } } }[])[0]!.stats64.tx.packets;
}

/** A medium that nobody can write to. */
async function plugIn(): Promise<void> {
  mkdirSync(medium);
  await runOk('mount', ['-t', 'tmpfs', 'tmpfs', medium]);
  cpSync(join(work, 'carried'), medium, { recursive: true });
  await runOk('mount', ['-o', 'remount,ro', medium]);
}

const program = join(medium, 'sealift-enclave-linux-x64');
let engine: DockerEngine;

const sealift = (command: string, ...args: string[]): Promise<RunResult> =>
  run(program, [command, ...args, '--home', home, ...engineFlags(engine)], { env });

/** The same, with a list of the files that it or its threads opened and of the addresses it tried. */
async function watched(
  command: string,
  ...args: string[]
): Promise<RunResult & { opened: string[]; sockets: string[] }> {
  const log = join(work, 'strace.log');
  const calls = ['-e', 'trace=openat,open,connect,sendto,socket'];
  const argv = [command, ...args, '--home', home, ...engineFlags(engine)];
  const ran = await run('strace', ['-f', '-qq', '-o', log, ...calls, '--', program, ...argv], { env });
  const lines = readFileSync(log, 'utf8').split('\n');
  const opened = lines.flatMap(
    (line) => /open(?:at)?\((?:AT_FDCWD, )?"([^"]+)".* = \d+$/.exec(line)?.[1] ?? [],
  );
  const sockets = lines.flatMap(
    (line) => /(?:socket\(AF_(\w+)|sa_family=AF_(\w+))/.exec(line)?.slice(1).find(Boolean) ?? [],
  );
  return { ...ran, opened: [...new Set(opened)], sockets: [...new Set(sockets)] };
}

/** A client of the host. */
function ask(path: string, ...more: string[]): Promise<RunResult> {
  const trust = ['--cacert', join(home, 'tls/server.crt'), '--resolve', `${HOST_NAME}:${port}:127.0.0.1`];
  return run('curl', [
    '-q',
    '-sS',
    ...trust,
    '-w',
    '\n%{http_code}',
    ...more,
    `https://${HOST_NAME}:${port}${path}`,
  ]);
}

const statusOf = async (path: string, ...more: string[]): Promise<string> =>
  (await ask(path, ...more)).stdout.split('\n').at(-1)!;

function chat(key: string | undefined, stream = false): Promise<RunResult> {
  const messages = [{ role: 'user', content: 'the prompt that nobody may log' }];
  const body = JSON.stringify({ model: 'tiny-chat', messages, stream });
  const auth = key === undefined ? [] : ['-H', `Authorization: Bearer ${key}`];
  return ask('/v1/chat/completions', ...auth, '-H', 'Content-Type: application/json', '-d', body);
}

/** Files under a folder that others than their owner can read, with their folders open as well. */
function readable(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isSymbolicLink()) return [];
    const { mode } = statSync(path);
    if (entry.isDirectory()) return (mode & 0o055) === 0 ? [] : readable(path);
    return (mode & 0o044) === 0 ? [] : [path];
  });
}

const listOf = (folder: string): string[] =>
  (readdirSync(folder, { recursive: true }) as string[])
    .filter((name) => statSync(join(folder, name)).isFile())
    .sort();

async function play(): Promise<object> {
  await shutIn();
  await plugIn();
  const provisioned = listOf(home);
  engine = await startDocker({ dir: join(work, 'engine') });
  const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);
  const installed = await watched('install', medium, '--yes');
  if (installed.code !== 0) throw new Error(installed.stderr);
  const key = readFileSync(join(home, 'secrets/api-keys'), 'utf8').trim().split(/\s+/).at(-1)!;
  const streamed = await chat(key, true);
  const refused = await chat(undefined);
  const bearer = ['-H', `Authorization: Bearer ${key}`];
  const flood: string[] = [];
  for (let i = 0; i < 40; i++) flood.push(await statusOf('/v1/models', ...bearer));
  const arguments_ = await run('sh', ['-c', "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]);
  const again = await sealift('install', medium, '--yes', '--json');
  const audited = await sealift('audit', '--json');

  await engine.stop({ keepData: true, killed: true });
  engine = await startDocker({ dir: join(work, 'engine') });
  const afterRestart = await waitFor('an answer', async () => {
    const { stdout } = await chat(key);
    return stdout.endsWith('\n200') ? stdout : undefined;
  });
  // Health checks come every few seconds.
  const status = await waitFor('a status without drift', async () => {
    const ran = await sealift('status', '--exit-code', '--json');
    return ran.code === 0 ? ran : undefined;
  });
  const logs = `${await docker('logs', 'sealift-tiny-demo-chat-1')}${await docker('logs', 'sealift-tiny-demo-gateway-1')}`;
  const secret = /=([0-9a-f]{64})/.exec(readFileSync(join(home, 'current/secrets/chat.env'), 'utf8'))![1]!;
  const said = [installed, again, audited, status].map(({ stdout, stderr }) => stdout + stderr).join('\n');
  const secrets = [key, secret];
  const places = {
    arguments: arguments_.stdout,
    logs,
    said,
    readable: readable(home)
      .map((path) => readFileSync(path, 'latin1'))
      .join('\n'),
    medium: listOf(medium)
      .map((name) => readFileSync(join(medium, name), 'latin1'))
      .join('\n'),
  };
  const leaks = Object.entries(places).flatMap(([place, text]) =>
    secrets.some((s) => text.includes(s)) ? [place] : [],
  );
  const prompts = [logs, said].some((text) => text.includes('nobody may log'));
  const packetsBefore = await packetsOut();
  await run('curl', ['-q', '-sS', '--max-time', '1', 'http://198.51.100.1/']);
  const packetsAfter = await packetsOut();
  const removed = await sealift('uninstall', '--yes');
  const left = {
    images: (await docker('images', '--quiet')).trim(),
    containers: (await docker('ps', '--all', '--quiet')).trim(),
    networks: (await docker('network', 'ls', '--format', '{{.Name}}'))
      .trim()
      .split('\n')
      .filter((n) => n.startsWith('sealift')),
    files: listOf(home).filter((name) => !provisioned.includes(name)),
  };
  await engine.stop();
  return {
    installed: { code: installed.code, stderr: installed.stderr },
    opened: installed.opened,
    sockets: installed.sockets,
    streamed: streamed.stdout,
    refused: refused.stdout,
    flood,
    again: { code: again.code, changed: /"changed":\s*(\w+)/.exec(again.stdout)?.[1] },
    audited: { code: audited.code, stdout: audited.stdout },
    afterRestart,
    status: { code: status.code, stdout: status.stdout },
    leaks,
    prompts,
    keyIsInTheHome: existsSync(join(home, 'secrets/api-keys')),
    packetsBefore,
    packetsAfter,
    removed: { code: removed.code, stderr: removed.stderr },
    left,
  };
}

console.log(JSON.stringify(await play()));
