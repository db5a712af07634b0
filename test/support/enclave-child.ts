// SPDX-License-Identifier: Apache-2.0
//
// The enclave, in namespaces of its own that `unshare` has made: only loopback leads anywhere, and a link that leads
// nowhere has the default route, so that it counts whatever tries to get out. What was seen goes to stdout as JSON.
//   node test/support/enclave-child.ts FOLDER CARRIED     with FOLDER/home, and what crosses in CARRIED
import { cpSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { startDocker, type DockerEngine } from './docker.ts';
import { openai } from './openai.ts';
import { engineFlags, HOST_NAME } from './stack.ts';
import { run, runOk, waitFor, type RunResult } from './workspace.ts';

const [work = '', carried = ''] = process.argv.slice(2);
const home = join(work, 'home');
const medium = join(work, 'medium');
const port = import.meta.main ? /port: (\d+)/.exec(readFileSync(join(home, 'site.yaml'), 'utf8'))![1]! : '';
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
  cpSync(carried, medium, { recursive: true });
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

const messages = [{ role: 'user' as const, content: 'the prompt that nobody may log' }];

const answerTo = async (key: string): Promise<string> =>
  (await openai(home, port, key).chat.completions.create({ model: 'tiny', messages })).choices[0]!.message
    .content!;

async function streamTo(key: string): Promise<string[]> {
  const parts: string[] = [];
  const stream = await openai(home, port, key).chat.completions.create({
    model: 'tiny',
    messages,
    stream: true,
  });
  for await (const { choices } of stream) parts.push(choices[0]?.delta.content ?? '');
  return parts;
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

/** What was seen, for the test to judge. */
export interface Seen {
  installed: { code: number; stderr: string };
  opened: string[];
  sockets: string[];
  answered: string;
  streamed: string[];
  models: string[];
  vector: number;
  refused: { without: string; wrong: number };
  paths: Record<string, string>;
  flood: string[];
  again: { code: number; changed: string };
  audited: { code: number; stdout: string };
  afterRestart: string;
  status: { code: number; stdout: string };
  leaks: string[];
  prompts: boolean;
  packetsBefore: number;
  packetsAfter: number;
  removed: { code: number; stderr: string };
  left: { images: string; containers: string; networks: string[]; files: string[] };
}

async function play(): Promise<Seen> {
  await shutIn();
  await plugIn();
  const provisioned = listOf(home);
  engine = await startDocker({ dir: join(work, 'engine') });
  const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);
  const installed = await watched('install', medium, '--yes');
  if (installed.code !== 0) throw new Error(installed.stderr);
  const key = readFileSync(join(home, 'secrets/api-keys'), 'utf8').trim().split(/\s+/).at(-1)!;
  const client = openai(home, port, key);
  const answered = await answerTo(key);
  const streamed = await streamTo(key);
  const models = (await client.models.list()).data.map(({ id }) => id);
  const input = { model: 'tiny', input: 'hello', encoding_format: 'float' as const };
  const vector = (await client.embeddings.create(input)).data[0]!.embedding.length;
  const wrong = await openai(home, port, 'sk-wrong-wrong-wrong-wrong')
    .models.list()
    .then(
      () => 200,
      (error: unknown) => (error as { status: number }).status,
    );
  const refused = { without: await statusOf('/v1/models'), wrong };
  const bearer = ['-H', `Authorization: Bearer ${key}`];
  const paths: Record<string, string> = {};
  for (const path of ['/health', '/tokenize', '/props', '/server_info', '/models/apply'])
    paths[path] = await statusOf(path, ...bearer);
  const flood: string[] = [];
  for (let i = 0; i < 40; i++) flood.push(await statusOf('/v1/models', ...bearer));
  const commandLines = await run('sh', ['-c', "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]);
  const again = await sealift('install', medium, '--yes', '--json');
  const audited = await sealift('audit', '--json');

  await engine.stop({ keepData: true, killed: true });
  engine = await startDocker({ dir: join(work, 'engine') });
  const afterRestart = await waitFor('an answer', async () => {
    return answerTo(key).catch(() => undefined);
  });
  // Health checks come every few seconds.
  const status = await waitFor('a status without drift', async () => {
    const ran = await sealift('status', '--exit-code', '--json');
    return ran.code === 0 ? ran : undefined;
  });
  const project = `sealift-${(await docker('ps', '--format', '{{.Names}}')).match(/sealift-(.*)-chat-1/)![1]}`;
  const logs = `${await docker('logs', `${project}-chat-1`)}${await docker('logs', `${project}-gateway-1`)}`;
  const secret = /=([0-9a-f]{64})/.exec(readFileSync(join(home, 'current/secrets/chat.env'), 'utf8'))![1]!;
  const said = [installed, again, audited, status].map(({ stdout, stderr }) => stdout + stderr).join('\n');
  const secrets = [key, secret];
  const places = {
    arguments: commandLines.stdout,
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
    answered,
    streamed,
    models,
    vector,
    refused,
    paths,
    flood,
    again: { code: again.code, changed: /"changed":\s*(\w+)/.exec(again.stdout)?.[1] ?? '' },
    audited: { code: audited.code, stdout: audited.stdout },
    afterRestart,
    status: { code: status.code, stdout: status.stdout },
    leaks,
    prompts,
    packetsBefore,
    packetsAfter,
    removed: { code: removed.code, stderr: removed.stderr },
    left,
  };
}

if (import.meta.main) process.stdout.write(JSON.stringify(await play()));
