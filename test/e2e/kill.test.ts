// SPDX-License-Identifier: Apache-2.0
/** Killed at any moment, lock, build and install go on where they were when run again. */
import { spawn } from 'node:child_process';
import { cpSync, existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { largeModel } from '../../fixtures/model.ts';
import { peekBundle } from '../../src/bundle/peek.ts';
import { digestOf } from '../../src/store/digest.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import {
  engineFlags,
  makeKeys,
  PROGRAM,
  provisionHome,
  sealift,
  startStaging,
  type Keys,
  type Staging,
} from '../support/stack.ts';
import { freePort, repoRoot, runOk, tempDir } from '../support/workspace.ts';

/** Kills for each of the three commands; scripts/soak raises it. */
const ROUNDS = Number(process.env['SEALIFT_TEST_KILLS'] ?? 12);
/** Big enough that a download, a write and a placing can each be hit in the middle. */
const WEIGHTS = 96 * 1024 * 1024;

const work = tempDir('kill');
let staging: Staging;
let keys: Keys;
let engine: DockerEngine;

beforeAll(async () => {
  staging = await startStaging(join(work, 'staging'), largeModel({ size: WEIGHTS }));
  keys = await makeKeys(work);
  cpSync(join(repoRoot, 'manifests/demo.yaml'), join(work, 'demo.yaml'));
  engine = await startDocker({ dir: join(work, 'engine') });
});

afterAll(async () => {
  await engine?.stop();
  await staging?.stop();
});

/** Starts a program and kills it after `delay` milliseconds; true when it was still running then. */
async function killAfter(
  delay: number,
  side: 'outside' | 'inside',
  args: string[],
  env = process.env,
): Promise<boolean> {
  const child = spawn(process.execPath, [PROGRAM[side], ...args], { cwd: work, env, stdio: 'ignore' });
  const ended = new Promise<NodeJS.Signals | null>((done) => child.once('exit', (_, signal) => done(signal)));
  await Promise.race([sleep(delay), ended]);
  child.kill('SIGKILL');
  return (await ended) === 'SIGKILL';
}

/** Milliseconds from 50 to `longest`, every order of magnitude as likely as another: fast machines are hit too. */
const randomDelay = (longest: number): number => 50 * (longest / 50) ** Math.random();

/** Kills the same command at random moments, round after round; `between` looks after each kill. */
async function torture(
  side: 'outside' | 'inside',
  args: string[],
  longest: number,
  between: () => Promise<void> | void,
): Promise<number> {
  let killed = 0;
  for (let round = 0; round < ROUNDS; round++) {
    if (await killAfter(randomDelay(longest), side, args, { ...process.env, ...engine.composeEnv })) killed++;
    await between();
  }
  return killed;
}

it('lock', async () => {
  const args = ['lock', 'demo.yaml', ...staging.flags];
  expect(await torture('outside', args, 1200, () => {})).toBeGreaterThan(0);
  const result = await sealift(args, { cwd: work });
  expect(result, result.stderr).toMatchObject({ code: 0 });
  expect(JSON.parse(readFileSync(join(work, 'demo.lock.json'), 'utf8'))).toMatchObject({ kind: 'Lock' });
});

it('build, with no download repeated that had finished', async () => {
  const out = join(work, 'demo.sealift.tar');
  const args = ['build', 'demo.yaml', '-o', 'demo.sealift.tar', ...keys.flags, ...staging.flags];
  const finished = new Map<string, number>();
  const killed = await torture('outside', args, 2500, () => {
    if (existsSync(out)) {
      expect(statSync(out).size).toBeGreaterThan(WEIGHTS); // whole or not there
      rmSync(out); // so that the next round has something to do
    }
    for (const blob of readdirSync(join(work, 'staging/store/blobs/sha256'))) {
      const served = servedSoFar(blob);
      expect(served, `${blob} was fetched again`).toBeLessThanOrEqual(finished.get(blob) ?? served);
      finished.set(blob, served);
    }
  });
  expect(killed).toBeGreaterThan(0);
  if (!existsSync(out)) expect(await sealift(args, { cwd: work })).toMatchObject({ code: 0 });
  expect(existsSync(`${out}.partial`)).toBe(false);
  expect((await peekBundle(out)).inventory.models[0]!.name).toBe('tiny-chat');
});

/** What has been sent so far of the blob with this digest: bytes by the hub, or requests at the registry. */
function servedSoFar(hex: string): number {
  const lock = JSON.parse(readFileSync(join(work, 'demo.lock.json'), 'utf8')) as {
    models: { files: { path: string; digest: string }[] }[];
  };
  const file = lock.models[0]!.files.find((f) => f.digest === `sha256:${hex}`);
  if (file !== undefined) return staging.hub.served.get(file.path)?.bytes ?? 0;
  return staging.registry.log.filter((line) => line.includes(`/blobs/sha256:${hex}`)).length;
}

it('install, with never a half-placed model visible', async () => {
  const home = join(work, 'enclave');
  await provisionHome(home, [readFileSync(keys.public, 'utf8')], await freePort());
  const args = ['install', 'demo.sealift.tar', '--yes', '--home', home, ...engineFlags(engine)];
  const model = (await peekBundle(join(work, 'demo.sealift.tar'))).inventory.models[0]!;
  const lookAtModels = (): void => {
    const folder = join(home, 'models', model.name);
    for (const revision of existsSync(folder)
      ? readdirSync(folder).filter((name) => !name.startsWith('.'))
      : []) {
      for (const file of model.files) {
        const path = join(folder, revision, file.path);
        expect(statSync(path).size, path).toBe(file.size);
        if (file.size < 1_000_000) expect(digestOf(readFileSync(path)), path).toBe(file.digest);
      }
    }
  };
  expect(await torture('inside', args, 6000, lookAtModels)).toBeGreaterThan(0);
  const env = { ...process.env, ...engine.composeEnv };
  const result = await sealift(args, { cwd: work, side: 'inside', env });
  expect(result, result.stderr).toMatchObject({ code: 0 });
  lookAtModels();
  const away = await sealift(['uninstall', '--yes', '--home', home, ...engineFlags(engine)], {
    side: 'inside',
    env,
  });
  expect(away, away.stderr).toMatchObject({ code: 0 });
  expect(await runOk('docker', ['-H', engine.host, 'ps', '-aq'])).toBe('');
  expect(await runOk('docker', ['-H', engine.host, 'images', '-q'])).toBe('');
});
