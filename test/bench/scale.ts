// SPDX-License-Identifier: Apache-2.0
/** Jobs about growth: one file from 1 to 64 GiB, and thousands of small ones. */
import { rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { person } from '../support/sample.ts';
import { sparseBundle } from '../support/sparse.ts';
import { makeSmallFiles } from './data.ts';
import { best, shell, together, type Cost } from './measure.ts';
import { freshHome, GIB, install, sealift, uninstall, writeManifest, type Rig } from './rig.ts';
import type { Row } from './table.ts';

const clear = (rig: Rig, ...names: string[]): void => {
  for (const name of names) rmSync(join(rig.work, name), { recursive: true, force: true });
};

/** Lock, build and install of one sparse file; what they write is not sparse. */
async function oneFile(rig: Rig, gib: number): Promise<Cost> {
  clear(rig, 'one', 'one.tar', 'one-store');
  writeManifest(rig.work, 'one', { model: 'file:./one' });
  await shell('mkdir one', rig.work);
  writeFileSync(join(rig.work, 'one/model.safetensors'), '');
  truncateSync(join(rig.work, 'one/model.safetensors'), gib * GIB);
  const store = ['--store', 'one-store'];
  const lock = await sealift(rig, 'outside', ['lock', 'one.yaml', ...store]);
  const build = await sealift(rig, 'outside', [
    'build',
    'one.yaml',
    '-o',
    'one.tar',
    ...store,
    ...rig.keys.flags,
  ]);
  await freshHome(rig.work, 'one-home', rig.keys); // a host takes a version only once
  const installed = await install(rig, 'one.tar', 'one-home');
  await uninstall(rig, 'one-home');
  clear(rig, 'one', 'one.tar', 'one-store', 'one-home');
  return together(lock, build, installed);
}

async function verifySparse(rig: Rig, gib: number): Promise<Cost> {
  const alice = person('bench');
  const path = join(rig.work, 'sparse.tar');
  clear(rig, 'sparse.tar');
  await sparseBundle(path, gib * GIB, alice);
  writeFileSync(join(rig.work, 'sparse.yaml'), policyOf(alice.publicPem));
  return sealift(rig, 'inside', ['verify', 'sparse.tar', '--policy', 'sparse.yaml']).finally(() =>
    clear(rig, 'sparse.tar'),
  );
}

/** The largest size whose bundle and installed copy fit on the disk. */
function largestThatFits(rig: Rig, sizes: readonly number[]): number {
  const { bavail, bsize } = statfsSync(rig.work);
  return sizes.findLast((gib) => gib * 2.2 * GIB < bavail * bsize) ?? 1;
}

export async function sizeJobs(rig: Rig): Promise<Row[]> {
  const large = largestThatFits(rig, [1, 4, 16, 64]);
  const small = await oneFile(rig, 1);
  const big = await oneFile(rig, large);
  const verifySmall = await verifySparse(rig, 16);
  const verifyBig = await verifySparse(rig, 64);
  return [
    {
      job: `lock, build, install of one file of ${large} GiB: peak MiB`,
      ours: big,
      beside: 'one of 1 GiB',
      other: small,
      ratio: big.mib,
      bar: '<= 300',
    },
    {
      job: 'verify 64 GiB: peak MiB',
      ours: verifyBig,
      beside: 'verify 16 GiB',
      other: verifySmall,
      ratio: verifyBig.mib,
      bar: '<= 300',
    },
    {
      job: `one file of ${large} GiB: time per byte`,
      ours: big,
      beside: 'one of 1 GiB',
      other: small,
      ratio: big.seconds / large / small.seconds,
      bar: '<= 1.1',
    },
    {
      job: 'verify 64 GiB: time per byte',
      ours: verifyBig,
      beside: 'verify 16 GiB',
      other: verifySmall,
      ratio: verifyBig.seconds / 4 / verifySmall.seconds,
      bar: '<= 1.1',
    },
  ];
}

async function smallFiles(rig: Rig, count: number): Promise<{ ours: Cost; tar: Cost }> {
  const name = `small${count}`;
  makeSmallFiles(join(rig.work, name), count);
  writeManifest(rig.work, name, { model: `file:./${name}` });
  const store = ['--store', 'small-store'];
  const tar = await best(() =>
    shell(`tar -cf small.tar ${name} && sync small.tar && rm small.tar`, rig.work),
  );
  const out = ['-o', 'small.sealift.tar'];
  const ours = await best(async () => {
    clear(rig, 'small.sealift.tar', 'small-store', `${name}.lock.json`);
    const lock = await sealift(rig, 'outside', ['lock', `${name}.yaml`, ...store]);
    const build = ['build', `${name}.yaml`, ...out, ...store, ...rig.keys.flags];
    return together(lock, await sealift(rig, 'outside', build));
  });
  clear(rig, name, 'small.sealift.tar', 'small-store');
  return { ours, tar };
}

export async function countJobs(rig: Rig): Promise<Row[]> {
  const few = await smallFiles(rig, 5_000);
  const many = await smallFiles(rig, 20_000);
  return [
    {
      job: 'lock + build of 20,000 small files',
      ours: many.ours,
      beside: 'tar -c of them, synced',
      other: many.tar,
      ratio: many.ours.seconds / many.tar.seconds,
      bar: '<= 2',
    },
    {
      job: '20,000 small files: time per file',
      ours: many.ours,
      beside: '5,000 of them',
      other: few.ours,
      ratio: many.ours.seconds / 4 / few.ours.seconds,
      bar: '<= 1.1',
    },
  ];
}

const policyOf = (pem: string): string =>
  `apiVersion: sealift.dev/v1\nkind: TrustPolicy\nversion: 1\nthreshold: 1\nsigners:\n  - name: bench\n    publicKey: |\n${pem.trim().replace(/^/gm, '      ')}\n`;
