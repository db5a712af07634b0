// SPDX-License-Identifier: Apache-2.0
/** What is wrong with a bundle or a host: a code of its own, words that lead on, and nothing left behind. */
import { cpSync, existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { createServer, type Server } from 'node:net';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import {
  fails,
  filesOf,
  onDisk,
  startBadStaging,
  type BadStaging,
  type Problem,
} from '../support/bad-input.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { engineFlags, makeCertificate, makeKeys, PROGRAM, provisionHome, sealift } from '../support/stack.ts';
import { freePort, runOk, tempDir, withSystemPath, type RunResult } from '../support/workspace.ts';

const work = tempDir('bad');
let staging: BadStaging;
let engine: DockerEngine;
let port: number;

beforeAll(async () => {
  staging = await startBadStaging(work);
  engine = await startDocker({ dir: join(work, 'engine') });
  port = await freePort();
  await provisionHome(join(work, 'home'), [readFileSync(staging.keys.public, 'utf8')], port);
});

afterAll(async () => {
  await engine?.stop();
  await staging?.stop();
});

/** A home of its own, like the provisioned one. */
function freshHome(): string {
  const home = join(tempDir('enclave'), 'home');
  cpSync(join(work, 'home'), home, { recursive: true });
  return home;
}

function inside(args: string[], home: string, socket?: string): Promise<RunResult> {
  const flags = engineFlags(socket === undefined ? engine : { ...engine, socket });
  return sealift([...args, '--json', '--home', home, ...(args[0] === 'verify' ? [] : flags)], {
    cwd: work,
    side: 'inside',
    env: { ...process.env, ...engine.composeEnv },
  });
}

const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);

/** The engine is as it was started, and the home has the files that it had. */
async function expectUntouched(home: string, files: string[]): Promise<void> {
  expect(filesOf(home)).toEqual(files);
  expect(existsSync(join(home, 'current'))).toBe(false);
  const lists = [docker('images', '-aq'), docker('ps', '-aq'), docker('volume', 'ls', '-q')];
  expect(await Promise.all(lists)).toEqual(['', '', '']);
}

/** `install --yes` of a bundle fails and leaves everything as it was. */
async function installFails(
  code: ErrorCode,
  change: (home: string) => void | Promise<void> = () => {},
  options: { path?: string; args?: string[]; socket?: string } = {},
): Promise<Problem & { stderr: string }> {
  const home = freshHome();
  await change(home);
  const files = filesOf(home);
  const args = ['install', options.path ?? staging.bundle, ...(options.args ?? ['--yes'])];
  const problem = await fails(inside(args, home, options.socket), code);
  await expectUntouched(home, files);
  return problem;
}

const edit = (home: string, file: string, change: (text: string) => string): void =>
  writeFileSync(join(home, file), change(readFileSync(join(home, file), 'utf8')));

describe('a bundle', () => {
  const copy = (size?: number): string => {
    const path = join(tempDir('copy'), 'copy.tar');
    cpSync(staging.bundle, path);
    if (size !== undefined) truncateSync(path, size);
    return path;
  };
  const refusedBoth = async (code: ErrorCode, path: string): Promise<Problem> => {
    const [verified, installed] = await Promise.all([
      fails(inside(['verify', path], freshHome()), code),
      installFails(code, undefined, { path }),
    ]);
    expect(installed.message).toBe(verified.message);
    return verified;
  };

  it.each([
    ['to nothing', () => 0],
    ['in SHA256SUMS', () => 700],
    ['in the signatures', () => 40_000],
    ['in the inventory', () => 137_000],
    ['in the content', (size: number) => Math.floor(size / 2)],
    ['one byte before its end', (size: number) => size - 1],
  ])('is cut %s', async (_, at) => {
    const problem = await refusedBoth('BUNDLE_INCOMPLETE', copy(at(readFileSync(staging.bundle).length)));
    expect(problem.hint).toMatch(/copy|carry/);
  });

  it.each([
    ['a text', 'just a text\n'],
    ['a long text', 'no bundle at all\n'.repeat(10_000)],
  ])('is %s', async (_, text) => {
    const path = join(tempDir('other'), 'x.tar');
    writeFileSync(path, text);
    await refusedBoth('NOT_A_BUNDLE', path);
  });

  it('is a tarball of somebody else', async () => {
    const path = join(tempDir('other'), 'x.tar');
    await runOk('tar', ['-cf', path, '-C', join(work, 'images'), '.']);
    await refusedBoth('NOT_A_BUNDLE', path);
  });

  it('is not there, and a folder has none', async () => {
    await refusedBoth('FILE_MISSING', join(work, 'no.tar'));
    await refusedBoth('FILE_MISSING', tempDir('medium'));
  });

  it('has no signature', async () => {
    const problem = await refusedBoth('NOT_SIGNED', join(staging.good, 'unsigned.tar'));
    expect(problem.hint).toContain('sealift sign');
  });

  it('is signed by somebody whom the policy does not name', async () => {
    const other = await makeKeys(tempDir('other-key'));
    const problem = await installFails('UNTRUSTED_SIGNER', async (home) => {
      await provisionHome(home, [readFileSync(other.public, 'utf8')], port);
    });
    expect(problem.message + JSON.stringify(problem.details)).toContain('sha256:');
  });
});

describe('the doctor', () => {
  interface Check {
    name: string;
    outcome: string;
    detail: string;
    advice?: string;
  }
  const examine = async (home: string, ...args: string[]): Promise<{ code: number; checks: Check[] }> => {
    const { code, stdout } = await inside(['doctor', ...args], home);
    return { code, checks: (JSON.parse(stdout) as { checks: Check[] }).checks };
  };
  const outcomes = (checks: Check[]): Record<string, string> =>
    Object.fromEntries(checks.map(({ name, outcome }) => [name, outcome]));

  it('finds nothing in the way of a good bundle on this host, and changes nothing', async () => {
    const home = freshHome();
    const files = filesOf(home);
    const { code, checks } = await examine(home, staging.bundle);
    expect(checks.filter(({ outcome }) => outcome === 'failed')).toEqual([]);
    expect(code).toBe(0);
    expect(outcomes(checks)).toMatchObject({
      port: 'ok',
      certificate: 'ok',
      disk: 'ok',
      'memory of chat': 'ok',
    });
    await expectUntouched(home, files);
  });

  it('finds all that is wrong at once, with what to do, with a bundle and without', async () => {
    const home = freshHome();
    const taken = await freePort();
    const holder = await new Promise<Server>((done) => {
      const server: Server = createServer().listen(taken, '127.0.0.1', () => done(server));
    });
    edit(home, 'site.yaml', (text) => text.replace(`port: ${port}`, `port: ${taken}`));
    await makeCertificate(join(home, 'tls/server.crt'), join(home, 'tls/server.key'), { expired: true });
    for (const args of [[], [staging.bundle]]) {
      const { code, checks } = await examine(home, ...args);
      expect(code).toBe(20);
      expect(outcomes(checks)).toMatchObject({
        engine: 'ok',
        compose: 'ok',
        port: 'failed',
        certificate: 'failed',
      });
      for (const { outcome, advice } of checks) if (outcome !== 'ok') expect(advice).toMatch(/\w{3}/);
    }
    holder.close();
    const { stderr, stdout } = await sealift(['doctor', '--home', home, ...engineFlags(engine)], {
      cwd: work,
      side: 'inside',
    });
    expect(stdout).toMatch(/FAILED +certificate .* expired on/);
    expect(stdout).toMatch(/NOT READY {2}1 fault to mend/);
    expect(stderr).toBe('');
  });

  it('says of a host that has nothing what is to be made first, and makes nothing itself', async () => {
    const home = join(tempDir('nothing'), 'home');
    const { code, checks } = await examine(home);
    expect(code).toBe(20);
    expect(outcomes(checks)).toMatchObject({ trust: 'failed', site: 'failed', engine: 'ok', compose: 'ok' });
    expect(checks.find(({ name }) => name === 'trust')?.advice).toContain('sealift help trust');
    expect(existsSync(home)).toBe(false);
  });

  it('refuses a bundle that nobody vouches for', async () => {
    const { code } = await inside(['doctor', join(staging.good, 'unsigned.tar')], freshHome());
    expect(code).toBe(10);
  });
});

describe('a host', () => {
  it('has no trust.yaml', async () => {
    const problem = await installFails('POLICY_MISSING', (home) => rmSync(join(home, 'trust.yaml')));
    expect(problem.hint).toContain('sealift help trust');
  });

  it('gives GPUs to a service that the bundle does not have', async () => {
    const problem = await installFails('SITE_INVALID', (home) =>
      edit(home, 'site.yaml', (text) => `${text}gpus: { chta: [0] }\n`),
    );
    expect(problem.message).toContain('site.yaml gives GPUs to chta, which is no service here');
    expect(problem.hint).toBe("did you mean 'chat'?");
  });

  it('has no site.yaml', async () => {
    const problem = await installFails('SITE_MISSING', (home) => rmSync(join(home, 'site.yaml')));
    expect(problem.hint).toContain('sealift help site');
  });

  it.each([
    ['site.yaml', 'SITE_INVALID', 'hostName', 'hostname', /site\.yaml:3:1: /],
    ['trust.yaml', 'POLICY_INVALID', 'threshold', 'treshold', /trust\.yaml:4:1: /],
  ] as const)('has a misspelt key in %s', async (file, code, right, wrong, place) => {
    const problem = await installFails(code, (home) => edit(home, file, (t) => t.replace(right, wrong)));
    expect(problem.message).toMatch(place);
    expect(problem.message + problem.hint).toContain(`did you mean '${right}'?`);
  });

  it('has nobody to ask: no terminal and no --yes', async () => {
    const problem = await installFails('USAGE', undefined, { args: [] });
    expect(problem.hint).toContain('--yes');
  });

  it('has a port that is taken', async () => {
    const taken = await freePort();
    const holder = await new Promise<Server>((done) => {
      const server: Server = createServer().listen(taken, '127.0.0.1', () => done(server));
    });
    const problem = await installFails('PORT_TAKEN', (home) =>
      edit(home, 'site.yaml', (text) => text.replace(`port: ${port}`, `port: ${taken}`)),
    );
    holder.close();
    expect(problem.message).toContain(String(taken));
    expect(problem.hint).toContain(`:${taken}`);
  });

  it('has a certificate and a key that do not belong together', async () => {
    const problem = await installFails('TLS_INVALID', (home) =>
      makeCertificate(join(tempDir('tls'), 'other.crt'), join(home, 'tls/server.key')),
    );
    expect(problem.message).toContain('tls/server.key');
    expect(problem.message).toContain('tls/server.crt');
  });

  it.each([
    ['a socket that is not there', () => join(tempDir('none'), 'docker.sock')],
    [
      'a file instead of a socket',
      () => {
        const path = join(tempDir('none'), 'docker.sock');
        writeFileSync(path, '');
        return path;
      },
    ],
  ])('has no running engine: %s', async (_, make) => {
    const socket = make();
    const problem = await installFails('ENGINE_NOT_RUNNING', undefined, { socket });
    expect(problem.message).toContain(socket);
  });
});

it('a host has a Podman that is older than the oldest that was tried', async () => {
  const socket = join(tempDir('podman'), 'podman.sock');
  const version = {
    Version: '3.4.4',
    ApiVersion: '1.40',
    Os: 'linux',
    Arch: 'amd64',
    Components: [{ Name: 'Podman Engine', Version: '3.4.4' }],
  };
  const old = createHttpServer(({ url }, answer) => {
    answer.setHeader('Content-Type', 'application/json');
    answer.end(JSON.stringify(url?.endsWith('/version') ? version : {}));
  });
  await new Promise<void>((done) => old.listen(socket, done));
  try {
    const problem = await installFails('ENGINE_UNSUPPORTED', undefined, { socket });
    expect(problem.message).toContain('Podman 3.4.4');
    expect(problem.hint).toContain('Podman 4.3');
  } finally {
    await new Promise((done) => old.close(done));
  }
});

describe('a disk that is full', () => {
  it.each([
    ['too small, known before anything is done', 'DISK_TOO_SMALL', 'size=2m'],
    ['without room for one more file, while models are placed', 'DISK_FULL', 'size=20m,nr_inodes=51'],
    ['without room for one more file, not even the journal', 'DISK_FULL', 'size=20m,nr_inodes=56'],
  ] as const)('under the home: %s', async (_, code, options) => {
    const home = join(tempDir('enclave'), 'home');
    cpSync(join(work, 'home'), `${home}.seed`, { recursive: true });
    const flags = ['--yes', '--home', home, ...engineFlags(engine)];
    const args = [PROGRAM.inside, 'install', staging.bundle, '--json', ...flags];
    const env = { ...withSystemPath(process.env), ...engine.composeEnv };
    const after = code === 'DISK_FULL' ? [PROGRAM.inside, 'uninstall', ...flags] : undefined;
    const disk = { folder: home, options, ...(after && { after }) };
    const { result, left } = await onDisk(disk, args, { cwd: work, env });
    await fails(Promise.resolve(result), code);
    // What was copied and verified is kept for the next run, in the store and in the engine, with the journal by which
    // an uninstall takes it back, on this disk, too. Keys for the clients that were made stay, as they do after an
    // uninstall. Nothing is placed half.
    const kept = /^(journal\.json|(blobs\/sha256|partial)\/[0-9a-f]{64}|secrets\/api-keys)$/;
    expect(left.filter((name) => !kept.test(name))).toEqual(filesOf(`${home}.seed`));
    await expectUntouched(home, []);
  });
});
