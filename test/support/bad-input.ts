// SPDX-License-Identifier: Apache-2.0
/** For tests of what goes wrong: a staging side that can be made to fail, and what every failure must look like. */
import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { expect } from 'vitest';
import { tinyModel, type ModelFiles } from '../../fixtures/model.ts';
import { ERRORS, type ErrorCode } from '../../src/errors.ts';
import { startHub, type HubFixture } from './hub.ts';
import { pushImages, tinyImage } from './images.ts';
import { registryUser, startTokenRegistry, type TokenRegistry } from './registry.ts';
import { makeKeys, MODEL, sealift, type Keys } from './stack.ts';
import { makeDir, repoRoot, run, tempDir, withSystemPath, type RunResult } from './workspace.ts';

/** Models of the hub beside the demo's. */
export const GATED = 'sealift/gated';
export const CLIMBER = 'sealift/climber';
export const TWINS = 'sealift/twins';
export const GONE = 'sealift/gone';

export const demo = readFileSync(join(repoRoot, 'manifests/demo.yaml'), 'utf8');

export interface BadStaging {
  registry: TokenRegistry;
  hub: HubFixture;
  keys: Keys;
  /** Folder with demo.yaml, its lock, its store, `demo.sealift.tar` and `unsigned.tar`. */
  good: string;
  bundle: string;
  /** A docker config folder with a login to the registry. */
  login(password?: string): string;
  /** Flags of `lock` and `build` that lead to these servers, with a store in `dir`. */
  sources(dir: string): string[];
  /** Takes back all faults. */
  mend(): void;
  stop(): Promise<void>;
}

/** The files of a small model, with some more. */
function modelWith(...names: string[]): ModelFiles {
  return new Map([
    ...tinyModel(),
    ...names.map((name) => [name, { bytes: Buffer.from(`${name}\n`), lfs: false }] as const),
  ]);
}

/** A registry that wants a login, a hub, and a bundle that was built from them. Images are too small to run. */
export async function startBadStaging(work: string): Promise<BadStaging> {
  const registry = await startTokenRegistry({ dir: join(work, 'registry') });
  const images = { engine: join(work, 'images/engine'), gateway: join(work, 'images/gateway') };
  for (const [name, dir] of Object.entries(images))
    tinyImage({ name, payload: `stand-in for the ${name}\n`, dir });
  await pushImages(images, registry.host, {
    names: { engine: 'vllm/vllm-openai:v0.27.1', gateway: 'library/nginx:1.29-alpine' },
    credentials: `${registryUser.username}:${registryUser.password}`,
  });
  const hub = await startHub({
    models: [
      { name: MODEL, files: tinyModel() },
      { name: GATED, files: tinyModel(), gated: true },
      { name: CLIMBER, files: modelWith('../climbed.json') },
      { name: TWINS, files: modelWith('README.md', 'readme.md') },
      { name: GONE, files: tinyModel() },
    ],
  });
  const good = makeDir(work, 'good');
  const staging: BadStaging = {
    registry,
    hub,
    keys: await makeKeys(work),
    good,
    bundle: join(good, 'demo.sealift.tar'),
    login: (password = registryUser.password) => login(registry.host, password),
    sources: (dir) => [
      '--mirror',
      `docker.io=${registry.url}`,
      '--hub',
      hub.url,
      '--store',
      join(dir, 'store'),
    ],
    mend: () => {
      for (const faults of [registry.faults, hub.faults])
        for (const key of Object.keys(faults)) delete faults[key];
    },
    stop: async () => {
      await hub.stop();
      await registry.stop();
    },
  };
  await buildGood(staging);
  return staging;
}

function login(host: string, password: string): string {
  const folder = tempDir('login');
  const auth = Buffer.from(`${registryUser.username}:${password}`).toString('base64');
  writeFileSync(join(folder, 'config.json'), JSON.stringify({ auths: { [host]: { auth } } }));
  return folder;
}

async function buildGood({ good, bundle, keys, ...staging }: BadStaging): Promise<void> {
  writeFileSync(join(good, 'demo.yaml'), demo);
  const env = envWith(staging.login());
  for (const args of [
    ['lock', 'demo.yaml'],
    ['build', 'demo.yaml', '-o', bundle, ...keys.flags],
    ['build', 'demo.yaml', '-o', join(good, 'unsigned.tar'), '--unsigned'],
  ]) {
    const { code, stderr } = await sealift([...args, ...staging.sources(good)], { cwd: good, env });
    if (code !== 0) throw new Error(stderr);
  }
}

/** The environment with another DOCKER_CONFIG. */
export const envWith = (config: string): NodeJS.ProcessEnv => ({
  ...withSystemPath(process.env),
  DOCKER_CONFIG: config,
});

export interface Problem {
  code: ErrorCode;
  message: string;
  hint?: string;
  details: { label: string; value: string }[];
}

/** The command failed as it should: one document, the code, its exit status, and words that lead on. */
export async function fails(
  running: Promise<RunResult>,
  code: ErrorCode,
): Promise<Problem & { stderr: string }> {
  const { code: exit, stdout, stderr } = await running;
  const document = JSON.parse(stdout) as { schema: string; problem: Problem; verified?: boolean };
  const { problem, verified } = document;
  // A verdict that refuses is a result of its own, with the evidence up to the refusal.
  expect([document.schema, verified]).toEqual(
    verified === undefined ? ['sealift/error/v1', undefined] : ['sealift/verify/v1', false],
  );
  expect(problem.code, stderr).toBe(code);
  expect(exit).toBe(ERRORS[code].exit);
  expect(exit).toBeGreaterThan(0);
  expect(stderr).toContain(`sealift: error: ${problem.message.split('\n')[0]}`);
  expect(stderr).toContain(`see: sealift help ${code}`);
  // Only where the message itself says what was expected, and at which place, there may be no hint.
  const saysAll = /:\d+:\d+: .*(expected|must)/.test(problem.message);
  expect(saysAll || problem.hint !== undefined, `nothing leads on from: ${problem.message}`).toBe(true);
  if (problem.hint !== undefined) expect(stderr).toContain(`hint: ${problem.hint}`);
  expect(stderr, 'a stack trace').not.toMatch(/^\s+at .*:\d+:\d+/m);
  return { ...problem, stderr };
}

/** Files below a folder, sorted. */
export function filesOf(dir: string): string[] {
  if (!existsSync(dir)) return [];
  return readdirSync(dir, { recursive: true, withFileTypes: true })
    .filter((entry) => !entry.isDirectory())
    .map((entry) => relative(dir, join(entry.parentPath, entry.name)))
    .sort();
}

/**
 * Runs one of the programs where `folder` is a small disk; what is left on that is listed in `left`.
 * @param mount.after arguments of what is run there afterwards, whatever comes of it
 */
export async function onDisk(
  mount: { folder: string; options: string; after?: string[] },
  argv: string[],
  options: { cwd: string; env: NodeJS.ProcessEnv },
): Promise<{ result: RunResult; left: string[] }> {
  const list = join(tempDir('disk'), 'left');
  // In a mount namespace of its own: nothing stays mounted, however this ends. FOLDER.seed is what is on it before.
  const script = [
    'folder=$1 list=$3; mkdir -p "$folder"',
    'mount -t tmpfs -o "$2" tmpfs "$folder" || exit 99',
    'shift 3; [ ! -d "$folder.seed" ] || cp -a "$folder.seed/." "$folder/" || exit 98',
    '"$@"; code=$?',
    '(cd "$folder" && find . -type f -printf "%P\\n" -o -type l -printf "%P\\n" | sort) > "$list"',
    '[ -z "$AFTER" ] || $AFTER >/dev/null 2>&1',
    'exit $code',
  ].join('\n');
  const program = ['sh', '-c', script, 'sh', mount.folder, mount.options, list, process.execPath, ...argv];
  const env = { ...options.env, AFTER: mount.after ? [process.execPath, ...mount.after].join(' ') : '' };
  const unshared = ['-m', '--propagation', 'private', ...program];
  const result = await run('unshare', unshared, { ...options, env });
  return { result, left: readFileSync(list, 'utf8').split('\n').filter(Boolean) };
}
