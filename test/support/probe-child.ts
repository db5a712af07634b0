// SPDX-License-Identifier: Apache-2.0
//
// Hosts for `doctor --probe`, in namespaces of their own that `unshare` has made: one with loopback alone, or one with a
// link to an outside, where a server takes connections on port 443 and a name server knows one name. What the doctor said
// goes to stdout as JSON.
//   node test/support/probe-child.ts alone|linked FOLDER
//   node test/support/probe-child.ts outside             the other end of that link, in a namespace of its own
import { spawn } from 'node:child_process';
import { createSocket } from 'node:dgram';
import { writeFileSync } from 'node:fs';
import { createServer, type AddressInfo } from 'node:net';
import { join } from 'node:path';
import { repoRoot, run, runOk, waitFor } from './workspace.ts';

const [mode = '', work = ''] = process.argv.slice(2);
const OUTSIDE = '192.0.2.1';
const NAME = 'outside.test';
const LINK = 'out0';

const ip = (...args: string[]): Promise<string> => runOk('ip', args);

interface Check {
  name: string;
  outcome: string;
  detail: string;
  advice?: string;
}

/** What the test judges. */
export interface Probed {
  checks: Record<string, Check>;
  exit: number;
  /** That left by the link: while the doctor only looked, and after it had probed. */
  packets: { looking: number; probing: number } | undefined;
  /** Connections that the outside saw, and how many bytes came over them. */
  seen: { connections: number; bytes: number } | undefined;
}

async function doctor(targets: readonly string[]): Promise<{ exit: number; checks: Record<string, Check> }> {
  const probes = targets.flatMap((target) => ['--probe', target]);
  const argv = [
    'doctor',
    '--json',
    '--home',
    join(work, 'home'),
    '--engine',
    join(work, 'none.sock'),
    ...probes,
  ];
  const ran = await run(process.execPath, [join(repoRoot, 'src/cli/enclave.ts'), ...argv], {
    env: { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' },
  });
  const { checks } = JSON.parse(ran.stdout) as { checks: Check[] };
  return { exit: ran.code, checks: Object.fromEntries(checks.map((check) => [check.name, check])) };
}

async function packetsOut(): Promise<number> {
  const shown = await runOk('ip', ['-json', '-statistics', 'link', 'show', 'dev', LINK]);
  return (JSON.parse(shown) as { stats64: { tx: { packets: number } } }[])[0]!.stats64.tx.packets;
}

/** Nobody is there but this host itself, on a port of ::1. */
async function alone(): Promise<Probed> {
  await ip('link', 'set', 'lo', 'up');
  const here = createServer((socket) => socket.destroy());
  await new Promise<void>((done) => here.listen(0, '::1', done));
  const { port } = here.address() as AddressInfo;
  const found = await doctor([OUTSIDE, `${NAME}:80`, '[2001:db8::1]', `[::1]:${port}`]);
  here.close();
  return { ...found, packets: undefined, seen: undefined };
}

async function linked(): Promise<Probed> {
  await runOk('mount', ['--make-rprivate', '/']);
  const resolv = join(work, 'resolv.conf');
  writeFileSync(resolv, `nameserver ${OUTSIDE}\n`);
  await runOk('mount', ['--bind', resolv, '/etc/resolv.conf']);
  const argv = ['--net', process.execPath, import.meta.filename, 'outside'];
  const outside = spawn('unshare', argv, { stdio: ['pipe', 'pipe', 'inherit'] });
  let said = '';
  outside.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
  try {
    await waitFor('the outside', () => (said.includes('ready') ? true : undefined));
    const there = ['-t', String(outside.pid), '-n', 'ip'];
    await ip('link', 'set', 'lo', 'up');
    await ip('link', 'add', LINK, 'type', 'veth', 'peer', 'name', 'peer0', 'netns', String(outside.pid));
    writeFileSync(`/proc/sys/net/ipv6/conf/${LINK}/disable_ipv6`, '1'); // the kernel greets its neighbours
    await runOk('nsenter', [...there, 'addr', 'add', `${OUTSIDE}/24`, 'dev', 'peer0']);
    await runOk('nsenter', [...there, 'link', 'set', 'peer0', 'up']);
    await ip('addr', 'add', '192.0.2.2/24', 'dev', LINK);
    await ip('link', 'set', LINK, 'up');
    await ip('route', 'add', 'default', 'via', OUTSIDE);
    await doctor([]);
    const looking = await packetsOut();
    const found = await doctor([OUTSIDE, `${OUTSIDE}:80`, `${NAME}:443`, 'unknown.test']);
    const probing = await packetsOut();
    outside.stdin.end();
    const seen = await waitFor('what it saw', () => /\{.*\}/.exec(said)?.[0]);
    return { ...found, packets: { looking, probing }, seen: JSON.parse(seen) as Probed['seen'] };
  } finally {
    outside.kill('SIGKILL');
  }
}

/** Says `ready`, and when its stdin ends what came. */
async function beOutside(): Promise<void> {
  const seen = { connections: 0, bytes: 0 };
  const server = createServer((socket) => {
    seen.connections++;
    socket.on('data', (chunk) => (seen.bytes += chunk.length));
    socket.on('error', () => {});
  });
  const names = createSocket('udp4', (query, from) => names.send(answerTo(query), from.port, from.address));
  await new Promise<void>((done) => server.listen(443, '0.0.0.0', done));
  await new Promise<void>((done) => names.bind(53, '0.0.0.0', () => done()));
  process.stdout.write('ready\n');
  process.stdin.resume().on('end', () => {
    process.stdout.write(`${JSON.stringify(seen)}\n`);
    process.exit();
  });
}

/** An A record of the one name, and "no such name" for others (RFC 1035 §4.1). */
function answerTo(query: Buffer): Buffer {
  const end = query.indexOf(0, 12) + 1;
  const name = query.subarray(12, end).toString('latin1');
  const isA = query.readUInt16BE(end) === 1;
  const known = name.includes('\x07outside\x04test\x00');
  const header = Buffer.from([
    ...query.subarray(0, 2),
    0x81,
    known ? 0x80 : 0x83,
    0,
    1,
    0,
    known && isA ? 1 : 0,
    0,
    0,
    0,
    0,
  ]);
  const record = Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, ...OUTSIDE.split('.').map(Number)]);
  return Buffer.concat([header, query.subarray(12, end + 4), known && isA ? record : Buffer.alloc(0)]);
}

if (mode === 'outside') await beOutside();
else process.stdout.write(JSON.stringify(await (mode === 'alone' ? alone() : linked())));
