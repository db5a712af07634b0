// SPDX-License-Identifier: Apache-2.0
/** The program as a process: exit statuses, signals, pipes that close, a real terminal. */
import { execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { repoRoot, tempDir } from '../support/workspace.ts';
import { sampleBundle } from './sample.ts';

const MAIN = join(repoRoot, 'src/cli/main.ts');

interface Ended {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

function start(args: readonly string[]): {
  child: ChildProcess;
  ended: Promise<Ended>;
  says: (text: string) => Promise<void>;
} {
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let [stdout, stderr] = ['', ''];
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()));
  const ended = once(child, 'close').then(([code, signal]): Ended => ({
    code: code as number | null,
    signal: signal as NodeJS.Signals | null,
    stdout,
    stderr,
  }));
  const says = async (text: string): Promise<void> => {
    while (!stderr.includes(text)) await Promise.race([once(child.stderr, 'data'), endedEarly(ended)]);
  };
  return { child, ended, says };
}

/** So that a child that fails shows why, instead of being waited for. */
const endedEarly = async (ended: Promise<Ended>): Promise<never> => {
  throw new Error(`it ended early: ${JSON.stringify(await ended)}`);
};

let dir = '';
/** A hub that takes every request and never answers. */
let hub: Server;
let requested: Promise<unknown>;

beforeAll(async () => {
  dir = tempDir('cli-process');
  hub = createServer(() => {});
  hub.listen(0, '127.0.0.1');
  await once(hub, 'listening');
  await writeFile(
    join(dir, 'slow.yaml'),
    'apiVersion: sealift.dev/v1\nkind: Bundle\nmetadata: { name: slow, version: 1.0.0 }\nplatform: linux/amd64\nmodels:\n  slow: { from: "hf:org/slow@main" }\n',
  );
});
afterAll(() => {
  hub.closeAllConnections();
  hub.close();
});

function lockSlowly(): ReturnType<typeof start> {
  requested = once(hub, 'request');
  const { port } = hub.address() as AddressInfo;
  return start([
    MAIN,
    'lock',
    join(dir, 'slow.yaml'),
    '--store',
    join(dir, 'store'),
    '--hub',
    `http://127.0.0.1:${port}`,
  ]);
}

describe('a signal', () => {
  it.each([
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('%s stops the command with %d, and says how to go on', async (signal, code) => {
    const { child, ended } = lockSlowly();
    await Promise.race([requested, endedEarly(ended)]);
    child.kill(signal);
    const result = await ended;
    expect(result).toMatchObject({ code, signal: null, stdout: '' });
    expect(result.stderr).toContain('sealift: stopping at the next safe point');
    expect(result.stderr).toContain('code: INTERRUPTED');
    expect(result.stderr).toContain('hint: run the same command again');
  });
});

describe('a second signal', () => {
  /** A command that is deaf to the first one, and waits for a pipe that nobody writes to. */
  const DEAF = `
    import { open } from 'node:fs';
    import { main } from ${JSON.stringify(join(repoRoot, 'src/cli/process.ts'))};
    await main([{
      name: 'deaf', summary: '', about: [], options: [], examples: [], exits: [],
      prepare: () => () => {
        process.stderr.write('deaf\\n');
        open(process.argv[1], () => {});
        return new Promise(() => setInterval(() => {}, 1000));
      },
    }]);
  `;
  it.each(['SIGINT', 'SIGTERM'] as const)('%s leaves at once', async (signal) => {
    const pipe = join(tempDir('cli-deaf'), 'pipe');
    execFileSync('mkfifo', [pipe]);
    const { child, ended, says } = start(['--input-type=module', '-e', DEAF, pipe, 'deaf']);
    await says('deaf');
    child.kill(signal);
    await says('once more leaves at once');
    child.kill(signal);
    expect(await ended).toMatchObject({ code: null, signal }); // 130 and 143 in a shell
  });
});

describe('a pipe', () => {
  it('that closes early is no error', async () => {
    const { bundle } = await sampleBundle();
    const { child, ended } = start([MAIN, 'inspect', bundle, '--json']);
    child.stdout!.destroy();
    expect(await ended).toMatchObject({ code: 0, signal: null, stderr: '' });
  });

  it('that closes early does not hide a failure', async () => {
    const { child, ended } = start([MAIN, 'inspect', join(dir, 'slow.yaml'), '--json']);
    child.stdout!.destroy();
    expect(await ended).toMatchObject({ code: 12 });
  });
});

/** Types into the program on a pseudo-terminal; waits for each question before it answers. */
const TYPIST = `
import os, pty, sys
answers = [a.encode() for a in sys.argv[1].split('|')]
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
seen = b''
while True:
    try:
        chunk = os.read(fd, 4096)
    except OSError:
        break
    if not chunk:
        break
    seen += chunk
    if answers and seen.rstrip().endswith((b':', b'[y/N]')):
        os.write(fd, answers.pop(0) + b'\\r')
        seen += b'<asked>'
sys.stdout.buffer.write(seen)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
`;

describe('a real terminal', () => {
  it('is asked for a passphrase, twice, and shows nothing of it', async () => {
    const key = join(dir, 'typed.key');
    const args = ['-c', TYPIST, 's3cret|s3cret', process.execPath, MAIN, 'keygen', '-o', key];
    const child = spawn('/usr/bin/python3', args, { stdio: ['ignore', 'pipe', 'inherit'] });
    let screen = '';
    child.stdout.on('data', (chunk: Buffer) => (screen += chunk.toString()));
    const [code] = (await once(child, 'close')) as [number];
    expect(screen).toContain('passphrase for the new key');
    expect(screen).toContain('the same again');
    expect(screen).not.toContain('s3cret');
    expect(code).toBe(0);
    expect(readFileSync(key, 'utf8')).toContain('ENCRYPTED PRIVATE KEY');
  });
});
