// SPDX-License-Identifier: Apache-2.0
/** The demo; scripts/demo sets up and builds before. Every command is printed as a person would type it. */
import { spawn } from 'node:child_process';
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { join, relative } from 'node:path';
import { composePath, dockerAvailable, startDocker, type DockerEngine } from '../test/support/docker.ts';
import {
  HOST_NAME,
  makeKeys,
  PROGRAM,
  provisionHome,
  startStaging,
  type Staging,
} from '../test/support/stack.ts';
import { findCommand, freePort, repoRoot, run } from '../test/support/workspace.ts';

const keep = process.argv.includes('--keep');
mkdirSync(join(repoRoot, '.cache'), { recursive: true });
const work = mkdtempSync(join(repoRoot, '.cache/demo-'));
const say = (text: string): void => console.log(`\n\u001b[1m== ${text}\u001b[0m`);

/** Runs a program in the demo's folder, showing the command and all it prints. */
function show(command: string, args: string[], env: NodeJS.ProcessEnv = process.env): Promise<void> {
  const typed = command === process.execPath ? ['sealift', ...args.slice(1)] : [command, ...args];
  console.log(`$ ${typed.map((word) => (/[^\w@%+=:,./-]/.test(word) ? `'${word}'` : word)).join(' ')}`);
  return new Promise((done, fail) => {
    const child = spawn(command, args, { cwd: work, env, stdio: ['ignore', 'inherit', 'inherit'] });
    child.once('error', fail);
    child.once('exit', (code) => (code === 0 ? done() : fail(new Error(`${typed[0]} ended with ${code}`))));
  });
}

const outside = (...args: string[]): Promise<void> => show(process.execPath, [PROGRAM.outside, ...args]);

async function stagingSide(staging: Staging): Promise<void> {
  say('Outside, on the staging box: who signs');
  await makeKeys(work);
  console.log('$ sealift keygen -o release.key --passphrase-file release.passphrase');
  say('What is asked for, and what that is today: the lock');
  copyFileSync(join(repoRoot, 'manifests/demo.yaml'), join(work, 'demo.yaml'));
  for (const file of ['prometheus.yml']) {
    if (existsSync(join(repoRoot, 'manifests', file)))
      copyFileSync(join(repoRoot, 'manifests', file), join(work, file));
  }
  await outside('lock', 'demo.yaml', ...staging.flags);
  say('One signed, content-addressed tarball');
  await outside(
    'build',
    'demo.yaml',
    '-o',
    'demo.sealift.tar',
    '--key',
    'release.key',
    '--passphrase-file',
    'release.passphrase',
    ...staging.flags,
  );
}

async function auditorSide(): Promise<void> {
  say('An auditor without sealift: tar, openssl, sha256sum');
  const readme = readFileSync(join(repoRoot, 'README.md'), 'utf8');
  const commands = /<!-- audit -->\s*```sh\n([\s\S]*?)```/.exec(readme)?.[1];
  if (commands === undefined) throw new Error('README.md has no audit commands');
  console.log(commands.trim().replace(/^/gm, '$ '));
  const env = { ...process.env, BUNDLE: join(work, 'demo.sealift.tar'), KEY: join(work, 'release.pub') };
  const audit = await run('sh', ['-euc', commands], { cwd: work, env });
  process.stdout.write(audit.stdout.split('\n').slice(0, 3).join('\n') + '\n…\n');
  if (audit.code !== 0) throw new Error(`the audit failed: ${audit.stderr}`);
}

async function enclaveSide(engine: DockerEngine): Promise<void> {
  const home = join(work, 'enclave');
  const port = await freePort();
  const env = { ...process.env, ...engine.composeEnv };
  const inside = (...args: string[]): Promise<void> =>
    show(process.execPath, [PROGRAM.inside, ...args, '--home', 'enclave'], env);
  say('Inside, in the enclave: install');
  await provisionHome(home, [readFileSync(join(work, 'release.pub'), 'utf8')], port);
  try {
    await inside('install', 'demo.sealift.tar', '--yes', ...engineFlags(engine));
    await inside('status', ...engineFlags(engine));
    await ask(home, port);
  } finally {
    say('And away again');
    await inside('uninstall', '--yes', ...engineFlags(engine));
  }
}

/** A user's request, from outside the containers: https, nginx, engine, model. */
async function ask(home: string, port: number): Promise<void> {
  say(`A question through https://${HOST_NAME}:${port}`);
  const keyFile = join(home, 'secrets/api-keys');
  const key = readFileSync(keyFile, 'utf8').trim().split(/\s+/).at(-1) ?? '';
  const body = JSON.stringify({
    model: 'chat',
    messages: [{ role: 'user', content: 'Are you the model that left the hub?' }],
  });
  const flags = ['--silent', '--show-error', '--fail', '--cacert', join(home, 'tls/server.crt')];
  const url = `https://${HOST_NAME}:${port}/v1/chat/completions`;
  const where = ['--resolve', `${HOST_NAME}:${port}:127.0.0.1`, '--config', '-'];
  const config = `header = "Authorization: Bearer ${key}"\nheader = "Content-Type: application/json"\n`;
  console.log(`$ curl --cacert tls/server.crt --data '${body}' ${url}`);
  const answer = await run('curl', [...flags, ...where, '--data', body, url], { input: config });
  if (answer.code !== 0) throw new Error(`no answer: ${answer.stderr}`);
  const { choices } = JSON.parse(answer.stdout) as { choices: { message: { content: string } }[] };
  answered = choices[0]?.message.content ?? '';
  console.log(answered);
}

let answered = '';

async function main(): Promise<void> {
  const missing = ['docker-registry', 'skopeo', 'nginx', 'openssl'].filter(
    (command) => findCommand(command) === undefined,
  );
  if (missing.length > 0)
    throw new Error(
      `the demo cannot make its registry without ${missing.join(', ')}: run it as root on Debian once`,
    );
  const staging = await startStaging(join(work, 'staging'));
  try {
    await stagingSide(staging);
  } finally {
    await staging.stop();
  }
  await outside('inspect', 'demo.sealift.tar');
  await auditorSide();
  const home = join(work, 'enclave');
  await provisionHome(home, [readFileSync(join(work, 'release.pub'), 'utf8')], 8443);
  say('Verify: signatures, policy, structure, and every byte');
  await show(process.execPath, [
    PROGRAM.inside,
    'verify',
    'demo.sealift.tar',
    '--policy',
    'enclave/trust.yaml',
  ]);
  const reason =
    dockerAvailable() ??
    (composePath() === undefined ? 'no Compose v2 (scripts/setup installs it)' : undefined);
  if (reason !== undefined)
    return say(`Skipped: install, because there is no container engine to be had here: ${reason}`);
  const engine = await startDocker({ dir: join(work, 'engine') });
  try {
    await enclaveSide(engine);
  } finally {
    await engine.stop();
  }
}

try {
  await main();
  if (keep) say(`Kept: ${relative(process.cwd(), work)}`);
  if (answered !== '') say(`The answer that came through https and nginx: ${answered}`);
} finally {
  if (!keep) rmSync(work, { recursive: true, force: true });
}
