// SPDX-License-Identifier: Apache-2.0
/** The jobs of the bench that need the whole rig. Each gives the rows that it measured. */
import { readdirSync, rmSync, statSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { runOk } from '../support/workspace.ts';
import { changeShard, makeImage, makeWeights, shardNames } from './data.ts';
import { best, dropCaches, measure, opensslRate, shell, together, watchDisk, type Cost } from './measure.ts';
import { freshHome, GIB, IMAGE, install, sealift, uninstall, writeManifest, type Rig } from './rig.ts';
import type { Row } from './table.ts';

const BUNDLE = 'bench.sealift.tar';

const remove = (rig: Rig, ...names: string[]): void => {
  for (const name of names) rmSync(join(rig.work, name), { recursive: true, force: true });
};

const sizeOf = (rig: Rig, name: string): number => statSync(join(rig.work, name)).size;

/** Into the file cache, so that nobody pays for reading what another has read already. */
const read = (rig: Rig, files: string): Promise<Cost> => shell(`cat ${files} >/dev/null`, rig.work);

/** sealift has its bytes on the disk when it says that it is done, so what stands beside it has, too. */
async function copy(rig: Rig, from: string): Promise<Cost> {
  await shell(`find ${from} -type f -exec cat {} + >/dev/null`, rig.work);
  return shell(`cp -r ${from} copy && sync -f copy`, rig.work).finally(() => remove(rig, 'copy'));
}

/** Everything is fetched, then the bundle is built again from what the store has. */
export async function buildJobs(rig: Rig): Promise<Row[]> {
  writeManifest(rig.work, 'bench', { image: IMAGE, model: 'hf:bench/weights@main' });
  await sealift(rig, 'outside', ['lock', 'bench.yaml', '--store', 'lock-store', ...rig.network]);
  remove(rig, 'lock-store');
  const args = ['build', 'bench.yaml', '-o', BUNDLE, '--store', 'store', ...rig.keys.flags, ...rig.network];
  const source = await best(() => fetchAll(rig));
  const anew = (...more: string[]): Promise<Cost> =>
    best(() => {
      remove(rig, BUNDLE, 'store');
      return sealift(rig, 'outside', [...args, ...more]);
    });
  const sole = await anew('--sole-copy');
  const cold = await anew();
  const size = sizeOf(rig, BUNDLE);
  const cp = await best(() => copy(rig, BUNDLE));
  const warm = await best(async () => {
    remove(rig, BUNDLE);
    await read(rig, 'store/blobs/sha256/*');
    return sealift(rig, 'outside', args);
  });
  const slower = source.seconds > cp.seconds ? source : cp;
  const beside = slower === cp ? 'cp of the bundle, synced' : 'curl of the same, to /dev/null';
  return [
    {
      job: 'build, warm store',
      ours: warm,
      beside: 'cp of the bundle, synced',
      other: cp,
      ratio: warm.seconds / cp.seconds,
      bar: '<= 1.15',
    },
    {
      job: 'build, cold store',
      ours: cold,
      beside: `${beside} (the slower of both)`,
      other: slower,
      ratio: cold.seconds / slower.seconds,
      bar: '<= 1.3',
    },
    {
      job: 'build, cold store, sole copy',
      ours: sole,
      beside: `${beside} (the slower of both)`,
      other: slower,
      ratio: sole.seconds / slower.seconds,
      bar: '<= 1.3',
    },
    {
      job: 'build, cold store: bytes written',
      ours: cold,
      beside: 'size of the bundle',
      ratio: cold.written / size,
      bar: '<= 2.02',
    },
    {
      job: 'build, cold store, sole copy: bytes written',
      ours: sole,
      beside: 'size of the bundle',
      ratio: sole.written / size,
      bar: '<= 2.02',
    },
  ];
}

/** The blobs of a layout that are no JSON. */
function layersOf(rig: Rig, image: string): { hex: string; size: number }[] {
  return readdirSync(join(rig.work, image, 'blobs/sha256'))
    .map((hex) => ({ hex, size: sizeOf(rig, `${image}/blobs/sha256/${hex}`) }))
    .filter(({ size }) => size > 64 * 1024);
}

/** The hub's and the registry's own speed: the same files, as many at a time as sealift takes. */
async function fetchAll(rig: Rig): Promise<Cost> {
  const files = rig.shards.map((name) => `${rig.hub.url}/bench/weights/resolve/main/${name}`);
  const blobs = layersOf(rig, 'image').map(
    ({ hex }) => `${rig.registry.url}/v2/bench/noise/blobs/sha256:${hex}`,
  );
  const urls = [...files, ...blobs].flatMap((url) => ['-o', '/dev/null', url]);
  return measure(['curl', '-sSfL', '-Z', '--parallel-max', '4', ...urls], rig.work);
}

export async function verifyJobs(rig: Rig): Promise<Row[]> {
  const verify = ['verify', BUNDLE, '--policy', 'home/trust.yaml'];
  const size = sizeOf(rig, BUNDLE);
  await shell('sha256sum weights/*.safetensors >SUMS', rig.work);
  const sums = await measure(['sha256sum', '--quiet', '-c', 'SUMS'], rig.work);
  await read(rig, BUNDLE);
  const warm = await best(() => sealift(rig, 'inside', verify));
  const limit = opensslRate() * Math.min(availableParallelism(), 4);
  const cat = await best(() => {
    dropCaches();
    return read(rig, BUNDLE);
  });
  const cold = await best(() => {
    dropCaches();
    return sealift(rig, 'inside', verify);
  });
  return [
    {
      job: 'verify, warm',
      ours: warm,
      beside: `openssl speed x cores: ${(limit / 1e9).toFixed(2)} GB/s`,
      ratio: size / warm.seconds / limit,
      bar: '>= 0.75',
    },
    {
      job: 'verify, warm',
      ours: warm,
      beside: 'sha256sum -c, per byte',
      other: sums,
      ratio: size / warm.seconds / (rig.weightBytes / sums.seconds),
      bar: '>= 8',
    },
    {
      job: 'verify, cold',
      ours: cold,
      beside: 'cat BUNDLE >/dev/null, cold',
      other: cat,
      ratio: cat.seconds / cold.seconds,
      bar: '>= 0.9',
    },
  ];
}

export async function installJobs(rig: Rig): Promise<Row[]> {
  const host = rig.enclave.host;
  const cp = await copy(rig, 'weights');
  const load = await measure(['docker', '-H', host, 'load', '--quiet', '--input', 'image.tar'], rig.work);
  const images = load.disk;
  await runOk('docker', ['-H', host, 'rmi', IMAGE]);
  const ours = await install(rig, BUNDLE);
  await uninstall(rig);
  const other = together(cp, load);
  const limit = sizeOf(rig, BUNDLE) + images;
  return [
    {
      job: 'install',
      ours,
      beside: 'cp -r of the models, synced + docker load',
      other,
      ratio: ours.seconds / other.seconds,
      bar: '<= 1.15',
    },
    {
      job: 'install: disk peak',
      ours,
      beside: `bundle + images: ${(limit / GIB).toFixed(2)} GiB`,
      ratio: ours.disk / limit,
      bar: '<= 1',
    },
  ];
}

/** One of twenty shards and one of four layers change. */
export async function deltaJobs(rig: Rig): Promise<Row[]> {
  const shardBytes = 32 * 1024 ** 2;
  const layerBytes = 16 * 1024 ** 2;
  makeWeights(join(rig.work, 'delta'), 20, shardBytes, 7);
  makeImage(join(rig.work, 'delta-image'), [11, 12, 13, 14], layerBytes);
  const sources = { image: 'oci:./delta-image', model: 'file:./delta' };
  const build = async (name: string, version: string, more: string[]): Promise<Cost> => {
    writeManifest(rig.work, name, sources, version);
    const lock = await sealift(rig, 'outside', ['lock', `${name}.yaml`, '--store', 'delta-store']);
    const args = [
      'build',
      `${name}.yaml`,
      '-o',
      `${name}.tar`,
      '--store',
      'delta-store',
      ...rig.keys.flags,
      ...more,
    ];
    return together(lock, await sealift(rig, 'outside', args));
  };
  await build('full', '1.0.0', []);
  changeShard(join(rig.work, 'delta'), shardNames(20)[9]!);
  remove(rig, 'delta-image');
  makeImage(join(rig.work, 'delta-image'), [11, 99, 13, 14], layerBytes);
  const ours = await build('next', '1.1.0', ['--base', 'full.tar']);
  const changed = shardBytes + layersOf(rig, 'delta-image')[0]!.size;
  const ratio = sizeOf(rig, 'next.tar') / changed;
  remove(rig, 'full.tar', 'next.tar', 'delta-store', 'delta', 'delta-image');
  return [{ job: 'delta: bytes carried', ours, beside: 'bytes that changed', ratio, bar: '<= 1.01' }];
}

/** From an engine and a folder on one side to an engine and a folder on the other. */
export async function pathJobs(rig: Rig): Promise<Row[]> {
  writeManifest(rig.work, 'path', { image: `docker-daemon:${IMAGE}`, model: 'file:./weights' });
  const store = ['--store', 'path-store', '--engine', rig.staging.socket];
  await freshHome(rig.work, 'path-home', rig.keys);
  const build = ['build', 'path.yaml', '-o', 'path.tar', '--sole-copy'];
  const ours = await watchDisk(rig.work, async () =>
    together(
      await sealift(rig, 'outside', ['lock', 'path.yaml', ...store]),
      await sealift(rig, 'outside', [...build, ...store, ...rig.keys.flags]),
      await install(rig, 'path.tar', 'path-home'),
    ),
  );
  await uninstall(rig, 'path-home');
  remove(rig, 'path.tar', 'path-store', 'path-home');
  const script = await byScript(rig);
  const skopeo = await bySkopeo(rig);
  return [
    {
      job: 'whole path',
      ours,
      beside: 'docker save, cp -r, tar -czf; tar xzf, docker load, cp -r',
      other: script,
      ratio: script.seconds / ours.seconds,
      bar: '>= 6',
    },
    {
      job: 'whole path: disk peak',
      ours,
      beside: 'the same',
      other: script,
      ratio: ours.disk / script.disk,
      bar: '<= 0.5',
    },
    {
      job: 'whole path',
      ours,
      beside: 'skopeo copy, cp -r, sha256sum, tar; tar, sha256sum -c, skopeo copy, cp -r',
      other: skopeo,
      ratio: skopeo.seconds / ours.seconds,
    },
  ];
}

/** The script that everyone has. */
async function byScript(rig: Rig): Promise<Cost> {
  const [out, inside] = [rig.staging.host, rig.enclave.host];
  const lines = [
    `mkdir pack && docker -H ${out} save ${IMAGE} -o pack/images.tar && cp -r weights pack/models`,
    'tar -czf pack.tgz pack && mkdir in && tar -xzf pack.tgz -C in',
    `docker -H ${inside} load --quiet --input in/pack/images.tar && cp -r in/pack/models placed && sync -f placed`,
  ];
  return shell(lines.join(' && '), rig.work).finally(() => cleaned(rig, 'pack', 'pack.tgz', 'in', 'placed'));
}

async function bySkopeo(rig: Rig): Promise<Cost> {
  const [out, inside] = [rig.staging.host, rig.enclave.host];
  const lines = [
    `mkdir pack && skopeo copy --quiet --src-daemon-host ${out} docker-daemon:${IMAGE} oci:pack/image && cp -r weights pack/models`,
    '(cd pack && find . -type f ! -name SUMS -exec sha256sum {} + >SUMS) && tar -cf pack.tar pack',
    'mkdir in && tar -xf pack.tar -C in && (cd in/pack && sha256sum --quiet -c SUMS)',
    `skopeo copy --quiet --dest-daemon-host ${inside} oci:in/pack/image docker-daemon:${IMAGE} && cp -r in/pack/models placed && sync -f placed`,
  ];
  return shell(lines.join(' && '), rig.work).finally(() => cleaned(rig, 'pack', 'pack.tar', 'in', 'placed'));
}

async function cleaned(rig: Rig, ...names: string[]): Promise<void> {
  remove(rig, ...names);
  await runOk('docker', ['-H', rig.enclave.host, 'rmi', IMAGE]).catch(() => undefined);
}
