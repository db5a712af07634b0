// SPDX-License-Identifier: Apache-2.0
/**
 * Wall time and peak memory of build, verify and install of a large bundle, each beside `cp` of the same bytes,
 * in one run. Makes its own data: incompressible weights, and an image with one large layer.
 *
 *   node scripts/bench.ts [--gib 6]     (after npm run build; as root, for the engine)
 */
import { spawnSync } from 'node:child_process';
import { createWriteStream, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { largeModel, slices } from '../fixtures/model.ts';
import { startDocker } from '../test/support/docker.ts';
import { assembleImages } from '../test/support/images.ts';
import { engineFlags, makeKeys, PROGRAM, provisionHome } from '../test/support/stack.ts';
import { freePort, repoRoot } from '../test/support/workspace.ts';

const flag = process.argv.indexOf('--gib');
const gib = flag < 0 ? 6 : Number(process.argv[flag + 1]);
mkdirSync(join(repoRoot, '.cache'), { recursive: true });
const work = await mkdtemp(join(repoRoot, '.cache/bench-'));

/** Runs a command under Python's rusage, which sees the peak memory of the process and its children. */
function measure(
  command: string[],
  env: NodeJS.ProcessEnv = process.env,
): { seconds: number; mib: number; cpu: number } {
  const wrapper =
    'import resource,subprocess,sys,time\n' +
    't=time.time(); c=subprocess.call(sys.argv[1:]); w=time.time()-t\n' +
    'r=resource.getrusage(resource.RUSAGE_CHILDREN)\n' +
    'print("\\n%f %d %f" % (w, r.ru_maxrss, r.ru_utime+r.ru_stime)); sys.exit(c)';
  const done = spawnSync('python3', ['-c', wrapper, ...command], {
    cwd: work,
    env,
    encoding: 'utf8',
    maxBuffer: 1e9,
  });
  if (done.status !== 0) throw new Error(`${command.join(' ')}: ${done.stderr.slice(-2000)}`);
  const [seconds, kib, cpu] = done.stdout.trim().split('\n').at(-1)!.split(' ').map(Number);
  return { seconds: seconds!, mib: kib! / 1024, cpu: cpu! };
}

async function makeModel(dir: string, bytes: number): Promise<void> {
  mkdirSync(dir, { recursive: true });
  for (const [path, file] of largeModel({ size: bytes })) {
    const target = join(dir, path);
    mkdirSync(join(target, '..'), { recursive: true });
    await pipeline(Readable.from(slices(file.bytes)), createWriteStream(target));
  }
}

function manifest(): string {
  return `apiVersion: sealift.dev/v1
kind: Bundle
metadata: { name: bench, version: 1.0.0 }
platform: linux/amd64
images:
  engine: { from: 'oci:./images/engine', as: docker.io/vllm/vllm-openai:v0.27.1 }
  gateway: { from: 'oci:./images/gateway', as: docker.io/library/nginx:1.29-alpine }
models:
  big: { from: 'file:./weights' }
services:
  chat: { engine: vllm, image: engine, model: big }
gateway: { image: gateway }
`;
}

function sync(): void {
  spawnSync('sync');
}

async function main(): Promise<void> {
  await makeModel(join(work, 'weights'), gib * 1024 ** 3);
  await assembleImages(join(work, 'images'));
  // A virtual machine pays for memory that it touches for the first time; the first job must not pay for all.
  measure(['sh', '-c', 'for i in 1 2 3; do cp -r weights warm.$i; done; sync; rm -r warm.*']);
  writeFileSync(join(work, 'bench.yaml'), manifest());
  const keys = await makeKeys(work);
  const node = process.execPath;
  const rows: [string, { seconds: number; mib: number; cpu: number }][] = [];
  const row = (name: string, command: string[], env?: NodeJS.ProcessEnv): void => {
    sync();
    rows.push([name, measure(command, env)]);
  };
  row('lock', [node, PROGRAM.outside, 'lock', 'bench.yaml', '--store', 'store']);
  row('build: store, then bundle', [
    node,
    PROGRAM.outside,
    'build',
    'bench.yaml',
    '-o',
    'b.tar',
    '--store',
    'store',
    ...keys.flags,
  ]);
  // sealift fsyncs what it writes, so the honest neighbour does too.
  row('cp of the bundle, fsync', ['sh', '-c', 'cp b.tar copy.tar && sync copy.tar']);
  rmSync(join(work, 'copy.tar'));
  await provisionHome(join(work, 'home'), [readFileSync(keys.public, 'utf8')], await freePort());
  row('verify', [node, PROGRAM.inside, 'verify', 'b.tar', '--policy', 'home/trust.yaml']);
  row('cat of the bundle', ['sh', '-c', 'cat b.tar >/dev/null']);
  row('sha256sum of the bundle', ['sha256sum', 'b.tar']);
  const engine = await startDocker({ dir: join(work, 'engine') });
  try {
    const env = { ...process.env, ...engine.composeEnv };
    const inside = ['--home', 'home', '--yes', ...engineFlags(engine)];
    row('install', [node, PROGRAM.inside, 'install', 'b.tar', ...inside], env);
    row('cp of the weights, fsync', ['sh', '-c', 'cp -r weights weights.copy && sync weights.copy/*']);
    measure([node, PROGRAM.inside, 'uninstall', ...inside], env);
  } finally {
    await engine.stop();
  }
  console.log(`bundle ${(statSync(join(work, 'b.tar')).size / 1024 ** 3).toFixed(2)} GiB`);
  console.log('| job | wall s | cpu s | peak MiB |\n|---|---|---|---|');
  for (const [name, m] of rows)
    console.log(`| ${name} | ${m.seconds.toFixed(1)} | ${m.cpu.toFixed(1)} | ${m.mib.toFixed(0)} |`);
}

try {
  await main();
} finally {
  rmSync(work, { recursive: true, force: true });
}
