// SPDX-License-Identifier: Apache-2.0
/** The demo; scripts/demo sets up and builds before. Every command is printed as a person would type it. */
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { composePath, dockerAvailable, startDocker, type DockerEngine } from '../test/support/docker.ts';
import {
  HOST_NAME,
  PROGRAM,
  provisionHome,
  startStaging,
  type Staging,
  engineFlags,
  startHubOnly,
} from '../test/support/stack.ts';
import { findCommand, freePort, repoRoot, run } from '../test/support/workspace.ts';

const keep = process.argv.includes('--keep');
mkdirSync(join(repoRoot, '.cache'), { recursive: true });
const work = mkdtempSync(join(repoRoot, '.cache/demo-'));
const say = (text: string): void => console.log(`\n\u001b[1m== ${text}\u001b[0m`);

/** Runs a program in the demo's folder, showing the command and all it prints. */
function show(command: string, args: string[]): Promise<void> {
  const typed = command === process.execPath ? ['sealift', ...args.slice(1)] : [command, ...args];
  console.log(`$ ${typed.map((word) => (/[^\w@%+=:,./-]/.test(word) ? `'${word}'` : word)).join(' ')}`);
  return new Promise((done, fail) => {
    const child = spawn(command, args, { cwd: work, stdio: ['ignore', 'inherit', 'inherit'] });
    child.once('error', fail);
    child.once('exit', (code) => (code === 0 ? done() : fail(new Error(`${typed[0]} ended with ${code}`))));
  });
}

const outside = (...args: string[]): Promise<void> => show(process.execPath, [PROGRAM.outside, ...args]);
const inside = (...args: string[]): Promise<void> => show(process.execPath, [PROGRAM.inside, ...args]);

/** The manifest of the demo; without a registry the images come from OCI layouts, with the same references. */
function writeManifest(fromLayouts: boolean): void {
  const text = readFileSync(join(repoRoot, 'manifests/demo.yaml'), 'utf8');
  const image = /^ {2}(\w+):\n {4}from: (docker\.io\/.*)$/gm;
  const local = text.replace(image, "  $1:\n    from: 'oci:./staging/images/$1'\n    as: $2");
  writeFileSync(join(work, 'demo.yaml'), fromLayouts ? local : text);
}

async function stagingSide(flags: string[]): Promise<void> {
  say('Outside, on the staging box: who signs');
  writeFileSync(join(work, 'passphrase'), 'correct horse battery staple\n', { mode: 0o600 });
  const key = ['--passphrase-file', 'passphrase'];
  await outside('keygen', '-o', 'release.key', ...key);
  say('What is asked for, and what that is today: the lock');
  await outside('lock', 'demo.yaml', ...flags);
  say('One signed, content-addressed tarball');
  await outside('build', 'demo.yaml', '-o', 'demo.sealift.tar', '--key', 'release.key', ...key, ...flags);
  await outside('inspect', 'demo.sealift.tar');
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
  const where = ['--home', 'enclave', ...engineFlags(engine)];
  say('Inside, in the enclave: install');
  try {
    await inside('install', 'demo.sealift.tar', '--yes', ...where);
    await inside('status', ...where);
    await ask(home);
  } finally {
    say('And away again');
    await inside('uninstall', '--yes', ...where);
  }
}

/** A user's request, from outside the containers: https, nginx, engine, model. */
async function ask(home: string): Promise<void> {
  const port = Number(/port: (\d+)/.exec(readFileSync(join(home, 'site.yaml'), 'utf8'))?.[1]);
  say(`A question through https://${HOST_NAME}:${port}`);
  const keyFile = join(home, 'secrets/api-keys');
  const key = readFileSync(keyFile, 'utf8').trim().split(/\s+/).at(-1) ?? '';
  const body = JSON.stringify({
    model: 'tiny-chat',
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

/** Registry and hub; without the programs for a registry, only the hub. */
function startSources(): Promise<Pick<Staging, 'flags' | 'stop'>> {
  const missing = ['docker-registry', 'skopeo', 'nginx', 'curl'].filter(
    (name) => findCommand(name) === undefined,
  );
  writeManifest(missing.length > 0);
  if (missing.length === 0) return startStaging(join(work, 'staging'));
  say(`Without a registry, because ${missing.join(', ')} cannot be had here: images come from OCI layouts`);
  return startHubOnly(join(work, 'staging'));
}

async function main(): Promise<void> {
  const sources = await startSources();
  try {
    await stagingSide(sources.flags);
  } finally {
    await sources.stop();
  }
  await auditorSide();
  await provisionHome(
    join(work, 'enclave'),
    [readFileSync(join(work, 'release.pub'), 'utf8')],
    await freePort(),
  );
  say('Inside: verify signatures, policy, structure, and every byte');
  await inside('verify', 'demo.sealift.tar', '--policy', 'enclave/trust.yaml');
  const reason =
    dockerAvailable() ??
    (composePath() === undefined ? 'no Compose v2 (scripts/setup installs it)' : undefined);
  if (reason !== undefined)
    return say(`Skipped: install. No container engine can be started here: ${reason}`);
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
