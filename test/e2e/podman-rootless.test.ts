// SPDX-License-Identifier: Apache-2.0
/** The enclave program as a user without rights, on that user's own Podman. */
import { copyFileSync, cpSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { tinyAnswer } from '../../fixtures/model.ts';
import { CHAT, makeBundle, makeHome, stackImages } from '../install/rig.ts';
import { composePath, engineRequest } from '../support/docker.ts';
import { assembleImages } from '../support/images.ts';
import { startPodman, type PodmanEngine } from '../support/podman.ts';
import { HOST_NAME, PROGRAM } from '../support/stack.ts';
import { run, runOk, tempDir, type RunResult } from '../support/workspace.ts';

let engine: PodmanEngine;
let port: number;
let home: string;
/** What the user runs, copied to where a user may read it. */
const files = { bundle: '', program: '', compose: '' };

beforeAll(async () => {
  const work = tempDir('rootless');
  const layouts = await assembleImages(join(work, 'images'));
  engine = await startPodman({ dir: work, rootless: true });
  const provisioned = await makeHome();
  port = provisioned.port;
  home = join(engine.folder, 'sealift');
  cpSync(provisioned.home.root, home, { recursive: true });
  const images = stackImages(layouts);
  const take = (path: string): string => {
    const copy = join(engine.folder, basename(path));
    copyFileSync(path, copy);
    return copy;
  };
  files.bundle = take((await makeBundle({ images, more: CHAT })).path);
  files.program = take(PROGRAM.inside);
  take(join(PROGRAM.inside, '../transfer-worker.mjs'));
  files.compose = take(composePath()!);
  const uid = (await runOwned('id', '-u')).stdout.trim();
  await runOk('chown', ['-R', `${uid}:${uid}`, engine.folder]);
}, 120_000);

afterAll(async () => {
  await engine?.stop();
}, 60_000);

function runOwned(program: string, ...args: string[]): Promise<RunResult> {
  return run(...engine.asOwner(program, ...args), { cwd: engine.folder });
}

function sealift(...args: string[]): Promise<RunResult> {
  const compose = args[0] === 'audit' ? [] : ['--compose', files.compose];
  const where = ['--home', home, '--engine', engine.socket, ...compose];
  return runOwned(process.execPath, files.program, ...args, '--json', ...where);
}

async function ask(...more: string[]): Promise<string> {
  const body = JSON.stringify({ model: 'tiny', messages: [{ role: 'user', content: 'hello' }] });
  const trust = ['--cacert', join(home, 'tls/server.crt'), '--resolve', `${HOST_NAME}:${port}:127.0.0.1`];
  const asked = ['-d', body, `https://${HOST_NAME}:${port}/v1/chat/completions`];
  const quiet = ['-q', '-sS', '--max-time', '5', '-w', '\n%{http_code}'];
  const json = ['-H', 'Content-Type: application/json', ...more];
  return (await run(...engine.inside('curl', ...quiet, ...trust, ...json, ...asked))).stdout;
}

it('installs, serves to whoever has a key, audits, and leaves nothing', async () => {
  const installed = await sealift('install', files.bundle, '--yes');
  expect(installed.code, installed.stderr).toBe(0);
  expect(installed.stderr).toContain('all clients have one address');
  const key = /^\S+ (sk-\S+)$/m.exec(readFileSync(join(home, 'secrets/api-keys'), 'utf8'))![1]!;
  expect(await ask('-H', `Authorization: Bearer ${key}`)).toContain(tinyAnswer);
  expect(await ask()).toMatch(/\n401$/);
  const audited = await sealift('audit');
  expect(JSON.parse(audited.stdout)).toMatchObject({ findings: [], containers: 2 });
  expect(audited.code).toBe(0);
  expect((await sealift('uninstall', '--yes')).code).toBe(0);
  const { body } = await engineRequest(engine.socket, 'GET', '/containers/json?all=1');
  expect(JSON.parse(body)).toEqual([]);
});

it('is refused to root, whose files the containers could not read', async () => {
  const argv = [
    PROGRAM.inside,
    'install',
    files.bundle,
    '--yes',
    '--json',
    '--home',
    (await makeHome()).home.root,
  ];
  const refused = await run(process.execPath, [
    ...argv,
    '--engine',
    engine.socket,
    '--compose',
    files.compose,
  ]);
  expect(refused.stderr + refused.stdout).toContain('HOST_UNFIT');
  expect(refused.stderr + refused.stdout).toContain('the engine belongs to a user');
});
