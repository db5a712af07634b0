// SPDX-License-Identifier: Apache-2.0
/**
 * The enclave's program as it crosses: one executable beside a split bundle on a medium that is read-only, in a network
 * namespace with loopback alone and an engine of its own.
 */
import { execFileSync, spawn } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, readdirSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { tinyAnswer } from '../../fixtures/model.ts';
import { buildFor, layOut } from '../support/engine-bundles.ts';
import type { Seen } from '../support/enclave-child.ts';
import { STAND_INS, type StandIn } from '../support/images.ts';
import { makeKeys, provisionHome, type Keys } from '../support/stack.ts';
import {
  freePort,
  makeDir,
  repoRoot,
  run,
  runOk,
  tempDir,
  waitFor,
  type RunResult,
} from '../support/workspace.ts';

const work = tempDir('enclave');
const mediumOf = (name: StandIn): string => makeDir(work, 'carried', name);
const carried = join(work, 'carried/vllm');
const program = join(work, 'sealift-enclave-linux-x64');
const BUNDLE = 'tiny.sealift.tar';
let keys: Keys;

beforeAll(async () => {
  execFileSync(process.execPath, [join(repoRoot, 'scripts/executable.ts'), work]);
  keys = await makeKeys(work);
  await layOut(work);
  await provisionHome(join(work, 'home'), [readFileSync(keys.public, 'utf8')], await freePort());
  const site = join(work, 'home/site.yaml');
  writeFileSync(
    site,
    `${readFileSync(site, 'utf8')}limits: { perKey: { requestsPerMinute: 60, burst: 30 } }\n`,
  );
  for (const name of STAND_INS) {
    const how = ['-o', join(mediumOf(name), BUNDLE), '--volume-size', '2MB', '--with-installer', program];
    await buildFor(work, name, keys, how);
  }
});

afterAll(() => rmSync(work, { recursive: true, force: true }));

describe('the medium', () => {
  it('holds volumes, the program, and a text', () => {
    const names = readdirSync(carried);
    expect(names.filter((name) => /\.\d{3}$/.test(name)).length).toBeGreaterThan(3);
    expect(names).toEqual(
      expect.arrayContaining(['READ-ME-FIRST.txt', 'sealift-enclave-linux-x64', `${BUNDLE}.volumes`]),
    );
  });

  /** The commands of READ-ME-FIRST.txt: lines that are set in by five blanks, up to the third part. */
  function readMeFirst(folder: string, tool: 'openssl' | 'cosign'): Promise<RunResult> {
    const [text = ''] = readFileSync(join(folder, 'READ-ME-FIRST.txt'), 'utf8').split('3. Then');
    const lines = text.split('\n').flatMap((line) => (line.startsWith('     ') ? [line.trim()] : []));
    const other = tool === 'openssl' ? /^(cosign|--trusted-root|echo)/ : /^(openssl|tr )/;
    const script = lines
      .filter((line) => !other.test(line) && !line.endsWith('is what was packed'))
      .map((line) => line.replace(/ {3,}says: .*/, ''))
      .join('\n');
    const cwd = mkdtempSync(join(work, 'check-'));
    cpSync(keys.public, join(cwd, 'release.pub'));
    cpSync(join(folder, 'sealift-enclave-linux-x64'), join(cwd, 'copy'));
    const cosign = join(repoRoot, '.cache/cosign/sid/usr/bin');
    const env = {
      PATH: `${cosign}:${process.env.PATH}`,
      B: join(folder, `${BUNDLE}.001`),
      P: join(cwd, 'copy'),
      HOME: cwd,
    };
    return run('sh', ['-euc', script], { cwd, env });
  }

  it.each(['openssl', 'cosign'] as const)('is checked as READ-ME-FIRST.txt says, with %s', async (tool) => {
    const checked = await readMeFirst(carried, tool);
    expect(checked, checked.stderr).toMatchObject({ code: 0 });
    expect(checked.stdout).toContain('provenance.json: OK');
    expect(checked.stdout.trim().endsWith('\n1')).toBe(true);
  });

  it.each([
    ['program', 'sealift-enclave-linux-x64'],
    ['first volume', `${BUNDLE}.001`],
  ])('is refused by those commands when the %s was changed', async (_, name) => {
    const bad = mkdtempSync(join(work, 'bad-'));
    cpSync(carried, bad, { recursive: true });
    const bytes = readFileSync(join(bad, name));
    bytes[600]! ^= 1; // in the headers of the program, in SHA256SUMS
    writeFileSync(join(bad, name), bytes);
    expect((await readMeFirst(bad, 'openssl')).code).not.toBe(0);
    rmSync(bad, { recursive: true });
  });
});

const exeOf = (pid: string): string | undefined => {
  try {
    return readlinkSync(`/proc/${pid}/exe`);
  } catch {
    return undefined; // it ended, or is a thread of the kernel
  }
};

describe('the program', () => {
  const start = (args: string[], env: NodeJS.ProcessEnv = {}): Promise<RunResult> =>
    run(program, args, { env: { PATH: '/usr/bin:/bin', ...env } });

  it('is the same, bit for bit, when it is made again', () => {
    const again = join(work, 'again');
    execFileSync(process.execPath, [join(repoRoot, 'scripts/executable.ts'), again]);
    expect(readFileSync(join(again, 'sealift-enclave-linux-x64')).equals(readFileSync(program))).toBe(true);
  });

  it('runs nobody else’s code because a variable says so', async () => {
    const evil = join(work, 'evil.cjs');
    writeFileSync(evil, 'console.log("owned"); process.exit(7)');
    const asked = { NODE_OPTIONS: `--require ${evil}`, NODE_PATH: work };
    expect(await start(['--version'], asked)).toMatchObject({
      code: 0,
      stdout: 'sealift 0.1.0\n',
      stderr: '',
    });
    expect((await start([`--require=${evil}`, '--version'])).stdout).not.toContain('owned');
  });

  it('opens no debugger when it is sent SIGUSR1', async () => {
    // It waits for the medium with the second volume.
    const lacking = mkdtempSync(join(work, 'lacking-'));
    cpSync(join(carried, `${BUNDLE}.001`), join(lacking, `${BUNDLE}.001`));
    cpSync(join(carried, `${BUNDLE}.volumes`), join(lacking, `${BUNDLE}.volumes`));
    const asking = `'${program}' verify '${lacking}' --policy '${join(work, 'home/trust.yaml')}'`;
    const child = spawn('script', ['-qfec', asking, '/dev/null'], { stdio: ['pipe', 'pipe', 'inherit'] });
    let said = '';
    child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
    try {
      await waitFor('the question', () => (said.includes('insert the medium') ? true : undefined));
      const pid = readdirSync('/proc').find((name) => /^\d+$/.test(name) && exeOf(name) === program);
      process.kill(Number(pid), 'SIGUSR1');
      await new Promise((done) => setTimeout(done, 500));
      expect(said).not.toContain('Debugger');
      expect(readFileSync('/proc/net/tcp', 'utf8')).not.toMatch(/:240D 00000000:0000 0A/); // 9229, listening
    } finally {
      child.stdin.end('\u0003');
      child.kill('SIGKILL');
    }
  });

  it('has help, man page, completion and explanations inside', async () => {
    expect((await start(['help', 'man'])).stdout).toMatch(/^\.TH SEALIFT 1/);
    expect((await start(['completion', 'bash'])).stdout).toContain(
      'complete -o filenames -F _sealift sealift',
    );
    expect((await start(['help', 'UNTRUSTED_SIGNER'])).stdout).toContain('exit status 11');
  });

  it('does not know the commands of the other side', async () => {
    expect((await start(['build', 'x.yaml'])).code).toBe(2);
  });
});

describe.each(STAND_INS)('%s, with loopback alone', (name) => {
  let seen: Seen;

  beforeAll(async () => {
    const place = makeDir(work, 'enclaves', name);
    cpSync(join(work, 'home'), join(place, 'home'), { recursive: true });
    const child = [process.execPath, join(repoRoot, 'test/support/enclave-child.ts'), place, mediumOf(name)];
    seen = JSON.parse(await runOk('unshare', ['--net', '--mount', ...child])) as Seen;
  });

  it('installs from a split bundle on a read-only medium', () => {
    expect(seen.installed).toMatchObject({ code: 0 });
  });

  it("answers OpenAI's client, and streams", () => {
    expect(seen.answered).toContain(tinyAnswer);
    expect(seen.streamed.length).toBeGreaterThan(3);
    expect(seen.streamed.join('')).toContain(tinyAnswer);
  });

  it('lists its model, and embeds', () => {
    expect(seen.models).toEqual(['tiny']);
    expect(seen.vector).toBe(8);
  });

  it('refuses a request without a key or with a wrong one, and has no paths but its API', () => {
    expect(seen.refused).toEqual({ without: '401', wrong: 401 });
    expect(seen.paths).toEqual({
      '/health': '200',
      '/tokenize': '404',
      '/props': '404',
      '/server_info': '404',
      '/models/apply': '404',
    });
  });

  it('limits a flood', () => {
    expect(seen.flood.slice(0, 5)).toEqual(Array.from({ length: 5 }, () => '200'));
    expect(seen.flood.filter((status) => status === '429').length).toBeGreaterThan(5);
    expect(new Set(seen.flood)).toEqual(new Set(['200', '429']));
  });

  it('changes nothing when it is run again, and finds nothing to complain of', () => {
    expect(seen.again).toEqual({ code: 0, changed: 'false' });
    expect(JSON.parse(seen.audited.stdout)).toMatchObject({ findings: [] });
    expect(seen.audited.code).toBe(0);
  });

  it('answers again after the engine has died and was started anew', () => {
    expect(seen.afterRestart).toContain(tinyAnswer);
    expect(seen.status.code).toBe(0);
  });

  it('tries to reach no other address, and the counter would have seen it', () => {
    expect(seen.packetsBefore).toBe(0);
    expect(seen.packetsAfter).toBeGreaterThan(0);
    expect(seen.sockets.filter((family) => family !== 'UNIX')).toEqual([]);
  });

  it('reads nothing but the medium, the home, and what every program of the host reads', () => {
    const system =
      /^\/(proc|sys|dev|lib|lib64|usr|etc\/ld\.so)|^\/etc\/(localtime|ssl\/openssl\.cnf|resolv\.conf)/; // the doctor looks whether there are name servers
    const own = (path: string): boolean =>
      ['home', 'medium'].some((folder) => path.startsWith(join(work, 'enclaves', name, folder)));
    // Compose is another program, and keeps files of its own.
    const others = seen.opened.filter((path) => !own(path) && !system.test(path) && path.startsWith('/'));
    expect(others.filter((path) => !/docker-compose|\.cache\/compose/.test(path))).toEqual([]);
  });

  it('shows no secret in arguments, logs, messages, on the medium, or in a file that others can read', () => {
    expect(seen.leaks).toEqual([]);
    expect(seen.prompts).toBe(false);
  });

  it('leaves the host as before, but for what it must remember', () => {
    expect(seen.removed).toMatchObject({ code: 0 });
    expect(seen.left).toMatchObject({ images: '', containers: '', networks: [] });
    expect(seen.left.files.toSorted()).toEqual([
      'installed.json',
      'secrets/api-keys',
      'trust-state.json',
      'trust/1.yaml',
    ]);
  });
});
