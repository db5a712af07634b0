// SPDX-License-Identifier: Apache-2.0
/** A split bundle on its way: over several folders, damaged on two media, and installed from what is carried again. */
import {
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { largeModel } from '../../fixtures/model.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { flipBit } from '../support/flips.ts';
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
import { freePort, repoRoot, run, runOk, tempDir, type RunResult } from '../support/workspace.ts';

const work = tempDir('split');
const [one, two, kept] = ['one', 'two', 'kept'].map((name) => join(work, name)) as [string, string, string];
const NAME = 'demo.sealift.tar';
let staging: Staging;
let keys: Keys;
let engine: DockerEngine;

beforeAll(async () => {
  staging = await startStaging(join(work, 'staging'), largeModel({ size: 40 * 1024 * 1024 }));
  keys = await makeKeys(work);
  cpSync(join(repoRoot, 'manifests/demo.yaml'), join(work, 'demo.yaml'));
  engine = await startDocker({ dir: join(work, 'engine') });
  await ok(sealift(['lock', 'demo.yaml', ...staging.flags], { cwd: work }));
  for (const folder of [one, two, kept]) mkdirSync(folder);
});

afterAll(async () => {
  await engine?.stop();
  await staging?.stop();
});

async function ok(running: Promise<RunResult>): Promise<RunResult> {
  const result = await running;
  expect(result, result.stderr).toMatchObject({ code: 0 });
  return result;
}

const build = (...args: string[]): Promise<RunResult> =>
  ok(sealift(['build', 'demo.yaml', ...keys.flags, ...staging.flags, ...args], { cwd: work }));

const verify = (path: string, ...args: string[]): Promise<RunResult> =>
  sealift(['verify', path, '--policy', join(work, 'home/trust.yaml'), '--json', ...args], { side: 'inside' });

it('build and split cut the same volumes, which cat joins and sha256sum checks', async () => {
  await build('-o', NAME);
  await build('-o', join(one, NAME), '--volume-size', '10MiB');
  await ok(sealift(['split', NAME, '--volume-size', '10MiB', '-o', kept], { cwd: work }));
  const volumes = readdirSync(one).filter((name) => /\.\d{3}$/.test(name));
  expect(volumes.length).toBeGreaterThan(4);
  expect(readdirSync(kept).toSorted()).toEqual(readdirSync(one).toSorted());
  for (const folder of [one, kept])
    expect(
      await run('sha256sum', ['--check', '--strict', '--quiet', `${NAME}.volumes`], { cwd: folder }),
    ).toMatchObject({ code: 0 });
  const joined = await runOk('sh', ['-c', `cat ${kept}/${NAME}.0* | cmp - ${join(work, NAME)} && echo same`]);
  expect(joined.trim()).toBe('same');
});

it('they are verified and installed where they are, over two folders', async () => {
  await provisionHome(join(work, 'home'), [readFileSync(keys.public, 'utf8')], await freePort());
  for (const n of ['002', '004']) renameSync(join(one, `${NAME}.${n}`), join(two, `${NAME}.${n}`));
  const alone = JSON.parse((await verify(one)).stdout) as { problem: { code: string; hint: string } };
  expect(alone.problem).toMatchObject({
    code: 'BUNDLE_INCOMPLETE',
    hint: `carry again: ${NAME}.002, ${NAME}.004`,
  });
  await ok(verify(one, '--volumes', two));
});

it('two flipped bits in two volumes: both are named, and carrying just those completes the install', async () => {
  const bad = [join(two, `${NAME}.002`), join(one, `${NAME}.003`)];
  for (const path of bad) {
    const fd = openSync(path, 'r+');
    flipBit(fd, { region: '', position: Math.floor(statSync(path).size / 2), bit: 5 });
    closeSync(fd);
  }
  const { problem } = JSON.parse((await verify(one, '--volumes', two)).stdout) as {
    problem: { code: string; hint: string };
  };
  expect(problem).toMatchObject({ code: 'CONTENT_MISMATCH', hint: `carry again: ${NAME}.002, ${NAME}.003` });
  const install = (): Promise<RunResult> =>
    sealift(
      [
        'install',
        one,
        '--volumes',
        two,
        '--yes',
        '--home',
        join(work, 'home'),
        '--json',
        ...engineFlags(engine),
      ],
      {
        side: 'inside',
        env: { ...process.env, ...engine.composeEnv },
      },
    );
  const refused = JSON.parse((await install()).stdout) as { problem: { code: string; hint: string } };
  expect(refused.problem).toMatchObject({
    code: 'CONTENT_MISMATCH',
    hint: `carry again: ${NAME}.002, ${NAME}.003`,
  });
  expect(existsSync(join(work, 'home/current'))).toBe(false);
  for (const path of bad) cpSync(join(kept, path.slice(-NAME.length - 4)), path);
  await ok(install());
  for (const folder of [one, two])
    expect(readdirSync(folder).every((name) => name.startsWith(NAME))).toBe(true);
});

it('with parity, two damaged volumes are named and rebuilt, and the bundle verifies', async () => {
  const folder = join(work, 'parity');
  mkdirSync(folder);
  await ok(sealift(['split', NAME, '--volume-size', '10MiB', '--parity', '2', '-o', folder], { cwd: work }));
  for (const n of ['001', '004']) {
    const fd = openSync(join(folder, `${NAME}.${n}`), 'r+');
    flipBit(fd, { region: '', position: 1_000_003, bit: 0 });
    closeSync(fd);
  }
  const { problem } = JSON.parse((await verify(folder)).stdout) as { problem: { hint: string } };
  expect(problem.hint).toBe(`carry again: ${NAME}.001, ${NAME}.004`);
  const repaired = await ok(sealift(['repair', folder, '--json'], { side: 'inside' }));
  expect(JSON.parse(repaired.stdout)).toMatchObject({ rebuilt: [`${NAME}.001`, `${NAME}.004`] });
  await ok(verify(folder));
});

it('with parity, the first volume and a parity volume come back from media that cannot be written', async () => {
  const [disc, disk] = ['disc', 'disk'].map((name) => join(work, name)) as [string, string];
  for (const folder of [disc, disk]) mkdirSync(folder);
  await build('-o', join(disc, NAME), '--volume-size', '10MiB', '--parity', '2');
  const first = readFileSync(join(disc, `${NAME}.001`));
  for (const n of ['001', 'p01']) rmSync(join(disc, `${NAME}.${n}`));
  const before = readdirSync(disc);
  const script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && shift && exec "$@"';
  const argv = [process.execPath, PROGRAM.inside, 'repair', disc, '--output', disk];
  await ok(run('unshare', ['-m', '--propagation', 'private', 'sh', '-c', script, 'sh', disc, ...argv]));
  expect(readdirSync(disc)).toEqual(before);
  expect(readdirSync(disk).toSorted()).toEqual([`${NAME}.001`, `${NAME}.p01`]);
  expect(readFileSync(join(disk, `${NAME}.001`)).equals(first)).toBe(true);
  await ok(verify(disk, '--volumes', disc));
});
