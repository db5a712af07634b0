// SPDX-License-Identifier: Apache-2.0
/** Deltas from the staging side into a real engine: chains, receipts as bases, and hosts that lack what they need. */
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { changeShard, makeImage, makeWeights, shardNames } from '../bench/data.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { engineFlags, makeKeys, provisionHome, sealift, type Keys } from '../support/stack.ts';
import { freePort, runOk, tempDir, type RunResult } from '../support/workspace.ts';

const work = tempDir('delta');
const home = join(work, 'home');
const SHARD = 3_000_000;
const LAYER = 1_000_000;
let keys: Keys;
let engine: DockerEngine;

beforeAll(async () => {
  keys = await makeKeys(work);
  engine = await startDocker({ dir: join(work, 'engine') });
  await provisionHome(home, [readFileSync(keys.public, 'utf8')], await freePort());
  makeWeights(join(work, 'weights'), 5, SHARD);
});

afterAll(async () => {
  await engine?.stop();
});

async function ok(running: Promise<RunResult>): Promise<RunResult> {
  const result = await running;
  expect(result, result.stderr + result.stdout).toMatchObject({ code: 0 });
  return result;
}

/** Builds a version whose image has layers of these seeds, under a tag of its own. */
async function build(version: string, seeds: number[], ...more: string[]): Promise<string> {
  rmSync(join(work, 'image'), { recursive: true, force: true });
  makeImage(join(work, 'image'), seeds, LAYER);
  writeFileSync(
    join(work, 'm.yaml'),
    `apiVersion: sealift.dev/v1
kind: Bundle
metadata: { name: delta, version: ${version} }
platform: linux/amd64
images: { noise: { from: 'oci:./image', as: 'docker.io/delta/noise:${version}' } }
models: { weights: { from: 'file:./weights' } }
configs: { note.txt: ./note.txt }
`,
  );
  writeFileSync(join(work, 'note.txt'), 'the same in all\n');
  await ok(sealift(['lock', 'm.yaml', '--store', 'store'], { cwd: work }));
  const out = join(work, `${version}.sealift.tar`);
  await ok(
    sealift(['build', 'm.yaml', '-o', out, '--store', 'store', ...keys.flags, ...more], { cwd: work }),
  );
  return out;
}

const install = (bundle: string, to = home, by = engine): Promise<RunResult> =>
  sealift(['install', bundle, '--yes', '--home', to, '--json', ...engineFlags(by)], {
    side: 'inside',
    env: { ...process.env, ...by.composeEnv },
  });

/** The code of a refusal, and what it lists. */
async function refusalOf(running: Promise<RunResult>): Promise<{ code: string; listed: string[] }> {
  const { problem } = JSON.parse((await running).stdout) as {
    problem: { code: string; details: { label: string }[] };
  };
  return { code: problem.code, listed: problem.details.map(({ label }) => label) };
}

/** The engine has the image with these many layers, and the model is placed as it is on the staging side. */
async function expectInstalled(version: string): Promise<void> {
  const layers = await runOk('docker', [
    '-H',
    engine.host,
    'image',
    'inspect',
    '--format',
    '{{len .RootFS.Layers}}',
    `docker.io/delta/noise:${version}`,
  ]);
  expect(layers.trim()).toBe('3');
  const revisions = join(home, 'models/weights');
  const placed = readdirSync(revisions).filter((revision) =>
    shardNames(5).every((name) =>
      readFileSync(join(revisions, revision, name)).equals(readFileSync(join(work, 'weights', name))),
    ),
  );
  expect(placed).toHaveLength(1);
  expect(readdirSync(join(home, 'spool'))).toEqual([]);
}

it('a whole bundle, then a delta in which one shard and the middle layer changed', async () => {
  await ok(install(await build('1.0.0', [1, 2, 3])));
  await expectInstalled('1.0.0');
  changeShard(join(work, 'weights'), shardNames(5)[2]!);
  const delta = await build('1.1.0', [1, 20, 3], '--base', join(work, '1.0.0.sealift.tar'));
  expect(statSync(delta).size).toBeGreaterThan(SHARD + LAYER);
  expect(statSync(delta).size).toBeLessThan(SHARD + LAYER + 300_000);
  const verified = await ok(sealift(['verify', delta, '--home', home], { side: 'inside' }));
  expect(verified.stdout).toMatch(/base\s+delta 1\.0\.0\s+leaves out \d+ blobs/);
  await ok(install(delta));
  await expectInstalled('1.1.0');
});

it('the same lock and base give the same bytes from bundle.json on', async () => {
  const again = join(work, 'again.tar');
  await ok(
    sealift(
      [
        'build',
        'm.yaml',
        '-o',
        again,
        '--store',
        'store',
        '--unsigned',
        '--base',
        join(work, '1.0.0.sealift.tar'),
      ],
      { cwd: work },
    ),
  );
  const from = (path: string): Buffer => readFileSync(path).subarray(-1_000_000);
  expect(from(again).equals(from(join(work, '1.1.0.sealift.tar')))).toBe(true);
});

it('a delta on a delta, by its bundle.json, and one on the receipt of the host', async () => {
  changeShard(join(work, 'weights'), shardNames(5)[0]!, 31_337);
  const json = join(work, 'bundle.json');
  writeFileSync(json, await runOk('tar', ['-xOf', join(work, '1.1.0.sealift.tar'), 'bundle.json']));
  const second = await build('1.2.0', [1, 20, 30], '--base', json);
  expect(statSync(second).size).toBeLessThan(SHARD + LAYER + 300_000);
  await ok(install(second));
  await expectInstalled('1.2.0');
  const receipt = join(home, 'releases/delta-1.2.0/receipt.json');
  const third = await build('1.3.0', [10, 20, 30], '--base', receipt);
  expect(statSync(third).size).toBeLessThan(LAYER + 300_000);
  await ok(install(third));
  await expectInstalled('1.3.0');
});

it('diff says what a delta carries, and why', async () => {
  const args = ['diff', join(work, '1.2.0.sealift.tar'), '--base', join(work, '1.1.0.sealift.tar'), '--json'];
  const diff = JSON.parse((await ok(sealift(args))).stdout) as {
    carries: { bytes: number };
    leavesOut: { bytes: number };
    pieces: { purpose: string; state: string }[];
  };
  expect(diff.carries.bytes).toBeGreaterThan(SHARD);
  expect(diff.leavesOut.bytes).toBeGreaterThan(4 * SHARD);
  const changed = diff.pieces
    .filter(({ state }) => state !== 'same')
    .map(({ purpose, state }) => `${purpose} ${state}`)
    .toSorted();
  expect(changed).toEqual(['image noise: layer 3/3 changed', `model weights: ${shardNames(5)[0]} changed`]);
});

it('a host without the base refuses, says what it lacks, and is untouched', async () => {
  const other = join(work, 'other');
  const bare = await startDocker({ dir: join(work, 'bare') });
  await provisionHome(other, [readFileSync(keys.public, 'utf8')], await freePort());
  const { code, listed } = await refusalOf(install(join(work, '1.3.0.sealift.tar'), other, bare));
  await bare.stop();
  expect(code).toBe('BASE_MISSING');
  expect(listed).toEqual(
    expect.arrayContaining(['config note.txt', 'image noise: layer 2', `model weights: ${shardNames(5)[1]}`]),
  );
  expect(existsSync(join(other, 'current'))).toBe(false);
  expect(existsSync(join(other, 'models'))).toBe(false);
});

it('a file of the base that has rotted is missing', async () => {
  const delta = await build('1.4.0', [11, 20, 30], '--base', join(work, '1.3.0.sealift.tar'));
  const revision = readdirSync(join(home, 'models/weights'))[0]!;
  const victim = join(home, 'models/weights', revision, shardNames(5)[4]!);
  chmodSync(victim, 0o644);
  const bytes = readFileSync(victim);
  writeFileSync(victim, Buffer.concat([Buffer.of(bytes[0]! ^ 1), bytes.subarray(1)]), { flag: 'r+' });
  const { code, listed } = await refusalOf(install(delta));
  expect([code, listed]).toEqual(['BASE_MISSING', [`model weights: ${shardNames(5)[4]}`]]);
  writeFileSync(victim, bytes, { flag: 'r+' });
  await ok(install(delta));
  await expectInstalled('1.4.0');
});
