// SPDX-License-Identifier: Apache-2.0
/** What is wrong with what `lock`, `build` and `sign` are given: a code of its own, words that lead on, nothing half-done. */
import { createHash } from 'node:crypto';
import { cpSync, existsSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  CLIMBER,
  demo,
  envWith,
  fails,
  filesOf,
  GATED,
  GONE,
  onDisk,
  startBadStaging,
  TWINS,
  type BadStaging,
  type Problem,
} from '../support/bad-input.ts';
import { registryUser } from '../support/registry.ts';
import { MODEL, PROGRAM, sealift } from '../support/stack.ts';
import { makeDir, tempDir, type RunResult } from '../support/workspace.ts';

const work = tempDir('bad');
const SHARD = 'model-00001-of-00002.safetensors';
let staging: BadStaging;

/** A folder with a manifest: the demo's, edited. */
function project(edit: (yaml: string) => string = (yaml) => yaml): string {
  const dir = tempDir('project');
  writeFileSync(join(dir, 'demo.yaml'), edit(demo));
  return dir;
}

const modelFrom =
  (from: string) =>
  (yaml: string): string =>
    yaml.replace(`hf:${MODEL}@main`, from);

/** The same with the good lock, so that `build` can start; its store is empty. */
function lockedProject(): string {
  const dir = project();
  cpSync(join(staging.good, 'demo.lock.json'), join(dir, 'demo.lock.json'));
  return dir;
}

interface OutsideOptions {
  /** DOCKER_CONFIG; the right login unless something else is given. */
  config?: string;
  flags?: string[];
}

function outside(dir: string, args: string[], options: OutsideOptions = {}): Promise<RunResult> {
  return sealift([...args, '--json', ...(options.flags ?? [])], {
    cwd: dir,
    env: envWith(options.config ?? staging.login()),
  });
}

const lock = (dir: string, options?: OutsideOptions): Promise<RunResult> =>
  outside(dir, ['lock', 'demo.yaml', ...staging.sources(dir)], options);
const build = (dir: string, options?: OutsideOptions): Promise<RunResult> =>
  outside(
    dir,
    ['build', 'demo.yaml', '-o', 'out.tar', ...staging.keys.flags, ...staging.sources(dir)],
    options,
  );

/** Nothing but the files that were there, and whole downloads in the store. */
function expectClean(dir: string, ...files: string[]): void {
  const found = filesOf(dir);
  expect(found.filter((name) => !name.startsWith('store/'))).toEqual(['demo.yaml', ...files].sort());
  expect(
    found.filter((name) => /^store\/partial\/new-|\.tmp$|lock/.test(name)).filter((n) => !files.includes(n)),
  ).toEqual([]);
  for (const name of found.filter((path) => path.startsWith('store/blobs/'))) {
    const digest = createHash('sha256')
      .update(readFileSync(join(dir, name)))
      .digest('hex');
    expect(name).toBe(`store/blobs/sha256/${digest}`);
  }
}

const expectNothingOf = (dir: string, digest: string): void =>
  expect(filesOf(join(dir, 'store')).filter((name) => name.includes(digest.replace('sha256:', '')))).toEqual(
    [],
  );

interface LockFile {
  images: { name: string; manifest: { digest: string } }[];
  models: { revision: string; files: { path: string; digest: string }[] }[];
}
const goodLock = (): LockFile =>
  JSON.parse(readFileSync(join(staging.good, 'demo.lock.json'), 'utf8')) as LockFile;

beforeAll(async () => {
  staging = await startBadStaging(work);
});

afterEach(() => staging.mend());

afterAll(() => staging?.stop());

describe('a manifest', () => {
  it.each([
    [
      'a misspelt key',
      (y: string) => y.replace('models:', 'modles:'),
      /^demo\.yaml:18:1: .*modles/,
      "did you mean 'models'?",
    ],
    [
      'a misspelt key deep down',
      (y: string) => y.replace('engine: vllm', 'engin: vllm'),
      /^demo\.yaml:24:5: .*engin/,
      "did you mean 'engine'?",
    ],
    ['a wrong type', (y: string) => y.replace('gpus: 0', 'gpus: none'), /^demo\.yaml:27:11: .*gpus/, ''],
    [
      'a version that is a number',
      (y: string) => y.replace('version: 1.0.0', 'version: 1.0'),
      /^demo\.yaml:9:12: .*version/,
      '',
    ],
    [
      'a service without its model',
      (y: string) => y.replace('model: tiny-chat', 'model: tiny-chart'),
      /^demo\.yaml:26:12: .*tiny-chart/,
      "did you mean 'tiny-chat'?",
    ],
    ['no YAML at all', () => 'apiVersion: [', /^demo\.yaml:\d+:\d+: /, ''],
  ])('with %s', async (_, edit, message, meant) => {
    const dir = project(edit);
    const problem = await fails(lock(dir), 'MANIFEST_INVALID');
    expect(problem.message).toMatch(message);
    expect(problem.message + problem.hint).toContain(meant);
    expectClean(dir);
    expect(existsSync(join(dir, 'store'))).toBe(false);
  });

  it('that is not there', async () => {
    const problem = await fails(lock(tempDir('empty')), 'FILE_MISSING');
    expect(problem.hint).toContain('sealift init');
  });
});

describe('a registry', () => {
  it.each([
    ['repository', 'docker.io/vllm/vllm-open:v0.27.1'],
    ['tag', 'docker.io/vllm/vllm-openai:v9.9.9'],
  ])('has no such %s', async (_, from) => {
    const dir = project((yaml) => yaml.replace('docker.io/vllm/vllm-openai:v0.27.1', from));
    const problem = await fails(lock(dir), 'IMAGE_NOT_FOUND');
    expect(problem.message).toContain(from.slice(0, -8));
    expectClean(dir);
  });

  it('wants credentials and gets none (401)', async () => {
    const dir = project();
    const problem = await fails(lock(dir, { config: tempDir('no-login') }), 'UNAUTHORIZED');
    expect(problem.hint).toContain(`docker login ${staging.registry.host}`);
    expectClean(dir);
  });

  it('refuses wrong credentials (401), and they are told to nobody', async () => {
    const dir = project();
    const problem = await fails(lock(dir, { config: staging.login('wrong-horse') }), 'UNAUTHORIZED');
    expect(problem.hint).toContain(`docker login ${staging.registry.host}`);
    expect(problem.stderr).not.toContain('wrong-horse');
    expectClean(dir);
  });

  it('gets credentials from a helper on PATH, and a helper that is not there is named', async () => {
    const folder = tempDir('helper');
    const config = tempDir('login');
    const answer = JSON.stringify({ Username: registryUser.username, Secret: registryUser.password });
    writeFileSync(
      join(config, 'config.json'),
      JSON.stringify({ credHelpers: { [staging.registry.host]: 'e2e' } }),
    );
    writeFileSync(
      join(folder, 'docker-credential-e2e'),
      `#!/bin/sh\nread -r host && [ "$1 $host" = 'get ${staging.registry.host}' ] && echo '${answer}'\n`,
      { mode: 0o755 },
    );
    const missing = project();
    const problem = await fails(lock(missing, { config }), 'UNAUTHORIZED');
    expect(problem.message).toContain('docker-credential-e2e');
    expectClean(missing);
    const dir = project();
    const env = envWith(config);
    env['PATH'] = `${folder}:${env['PATH']}`;
    const { code, stderr } = await sealift(['lock', 'demo.yaml', ...staging.sources(dir)], { cwd: dir, env });
    expect(code, stderr).toBe(0);
  });

  it('lets these credentials in, but not to this image (403)', async () => {
    const key = 'vllm/vllm-openai/manifests/v0.27.1';
    staging.registry.faults[key] = { refuse: { status: 403, times: 99 } };
    const dir = project();
    const problem = await fails(lock(dir), 'UNAUTHORIZED');
    expect(problem.message).toContain('403');
    expectClean(dir);
  });

  it('sends another manifest than the lock names', async () => {
    const [engineImage] = goodLock().images;
    const { digest } = engineImage!.manifest;
    const key = `vllm/vllm-openai/manifests/${digest}`;
    staging.registry.faults[key] = { flip: { at: 20 } };
    const dir = lockedProject();
    const problem = await fails(build(dir), 'SOURCE_CHANGED');
    expect(problem.message).toContain('vllm/vllm-openai');
    expectNothingOf(dir, digest);
    expectClean(dir, 'demo.lock.json');
  });

  it('sends another layer than the lock names', async () => {
    const [engineImage] = goodLock().images;
    const stored = join(staging.good, 'store/blobs/sha256', engineImage!.manifest.digest.slice(7));
    const manifest = JSON.parse(readFileSync(stored, 'utf8')) as { layers: { digest: string }[] };
    const { digest } = manifest.layers.at(-1)!;
    staging.registry.faults[digest] = { flip: { at: 10 } };
    const dir = lockedProject();
    const problem = await fails(build(dir), 'SOURCE_CHANGED');
    expect(problem.details.map(({ value }) => value).join()).toContain(digest);
    expectNothingOf(dir, digest);
    expectClean(dir, 'demo.lock.json');
  });
});

describe('a hub', () => {
  it('has no such model', async () => {
    const dir = project(modelFrom('hf:sealift/tiny-chart@main'));
    const problem = await fails(lock(dir), 'MODEL_NOT_FOUND');
    expect(problem.message).toContain('sealift/tiny-chart');
    expectClean(dir);
  });

  it.each([
    ['without a token (401)', undefined],
    ['with the token of somebody else (403)', 'hf_somebody'],
  ])('has a gated model, asked for %s', async (_, token) => {
    const dir = project(modelFrom(`hf:${GATED}@main`));
    const file = join(tempDir('token'), 'token');
    writeFileSync(file, `${token}\n`);
    const flags = token === undefined ? [] : ['--hub-token-file', file];
    const problem = await fails(lock(dir, { flags }), 'MODEL_GATED');
    expect(problem.hint).toContain(`${staging.hub.url}/${GATED}`);
    expect(problem.hint?.includes('--hub-token-file')).toBe(token === undefined);
    expect(problem.stderr).not.toContain('hf_somebody');
    expectClean(dir);
  });

  it('refuses (403)', async () => {
    staging.hub.faults['api'] = { refuse: { status: 403, times: 99 } };
    const dir = project();
    const problem = await fails(lock(dir), 'UNAUTHORIZED');
    expect(problem.hint).toContain('--hub-token-file');
    expectClean(dir);
  });

  it('has lost the revision', async () => {
    const dir = project(modelFrom(`hf:${GONE}@${staging.hub.head(GONE)}`));
    expect((await lock(dir)).code).toBe(0);
    const before = readFileSync(join(dir, 'demo.lock.json'));
    staging.hub.forget(GONE, staging.hub.head(GONE));
    rmSync(join(dir, 'store'), { recursive: true });
    const built = await fails(build(dir), 'REVISION_NOT_FOUND');
    expect(built.message).toContain(staging.hub.head(GONE));
    const locked = await fails(lock(dir), 'REVISION_NOT_FOUND');
    expect(locked.message).toContain(GONE);
    expect(readFileSync(join(dir, 'demo.lock.json'))).toEqual(before);
    expectClean(dir, 'demo.lock.json');
  });

  it.each([
    ['a large file', SHARD],
    ['a small file', 'config.json'],
  ])('sends other bytes than locked: %s', async (_, path) => {
    staging.hub.faults[path] = { flip: { at: 7 } };
    const dir = lockedProject();
    const problem = await fails(build(dir), 'SOURCE_CHANGED');
    const { digest } = goodLock().models[0]!.files.find((file) => file.path === path)!;
    expect(problem.message).toContain(path);
    expect(problem.details.map(({ value }) => value).join()).toContain(digest);
    expectNothingOf(dir, digest);
    expectClean(dir, 'demo.lock.json');
  });

  it('sends other bytes than its own list says, while locking', async () => {
    staging.hub.faults['config.json'] = { flip: { at: 7 } };
    const dir = project();
    const problem = await fails(lock(dir), 'SOURCE_INVALID');
    expect(problem.message).toContain('config.json');
    expectClean(dir);
  });

  it('names a file that climbs out of its folder', async () => {
    const dir = project(modelFrom(`hf:${CLIMBER}@main`));
    const problem = await fails(lock(dir), 'UNSAFE_NAME');
    expect(problem.message).toContain('../climbed.json');
    expectClean(dir);
    expect(existsSync(join(dir, '..', 'climbed.json'))).toBe(false);
  });

  it('names two files that are one on a disk that ignores case: a warning', async () => {
    const dir = project(modelFrom(`hf:${TWINS}@main`));
    const { code, stdout, stderr } = await lock(dir);
    expect(code, stderr).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ schema: 'sealift/lock/v1' });
    expect(stderr).toMatch(/warning.*README\.md.*readme\.md/);
  });
});

describe('a key', () => {
  it('is missing', async () => {
    const dir = lockedProject();
    const running = outside(dir, ['build', 'demo.yaml', '-o', 'out.tar', ...staging.sources(dir)]);
    expect((await fails(running, 'KEY_MISSING')).hint).toContain('--key FILE');
    expectClean(dir, 'demo.lock.json');
  });

  it('is named and not there', async () => {
    const dir = lockedProject();
    const running = outside(dir, [
      'build',
      'demo.yaml',
      '-o',
      'out.tar',
      '--key',
      'no.key',
      ...staging.sources(dir),
    ]);
    expect((await fails(running, 'FILE_MISSING')).message).toContain('no.key');
    expectClean(dir, 'demo.lock.json');
  });

  it('is not opened by the passphrase, for build and for sign', async () => {
    const dir = lockedProject();
    const wrong = join(tempDir('wrong'), 'passphrase');
    writeFileSync(wrong, 'battery horse\n');
    const flags = ['--key', staging.keys.private, '--passphrase-file', wrong];
    const running = outside(dir, ['build', 'demo.yaml', '-o', 'out.tar', ...flags, ...staging.sources(dir)]);
    expect((await fails(running, 'WRONG_PASSPHRASE')).message).toContain(staging.keys.private);
    expectClean(dir, 'demo.lock.json');
    const before = readFileSync(staging.bundle);
    await fails(outside(dir, ['sign', staging.bundle, ...flags]), 'WRONG_PASSPHRASE');
    expect(readFileSync(staging.bundle).equals(before)).toBe(true);
  });
});

describe('a disk that is full', () => {
  async function outsideOn(
    mount: { folder: string; options: string },
    dir: string,
    args: string[],
  ): Promise<{ problem: Problem; left: string[] }> {
    const env = envWith(staging.login());
    const argv = [PROGRAM.outside, ...args, ...staging.sources(dir), '--json'];
    const { result, left } = await onDisk(mount, argv, { cwd: dir, env });
    return { problem: await fails(Promise.resolve(result), 'DISK_FULL'), left };
  }

  /** What the kernel really refuses, half-way: a partial file with a hole in it passes for space that comes free. */
  function hole(path: string, bytes: number): void {
    makeDir(path, '..');
    writeFileSync(path, '');
    truncateSync(path, bytes);
  }

  it('under the store, while locking', async () => {
    const dir = project();
    const store = join(dir, 'store');
    const { problem, left } = await outsideOn({ folder: store, options: 'size=12k' }, dir, [
      'lock',
      'demo.yaml',
    ]);
    expect(problem.message).toContain('ENOSPC');
    // Whole blobs, and part of one by its digest, from which the next run goes on.
    expect(left.filter((name) => !/^(blobs\/sha256|partial)\/[0-9a-f]{64}$/.test(name))).toEqual([]);
    expectClean(dir);
  });

  it('under the store, known before the downloads', async () => {
    const dir = lockedProject();
    const store = join(dir, 'store');
    const args = ['build', 'demo.yaml', '-o', 'out.tar', ...staging.keys.flags];
    const { problem } = await outsideOn({ folder: store, options: 'size=200k' }, dir, args);
    expect(problem.message).toMatch(/\d+ bytes are needed/);
    expect(problem.hint).toContain('--store');
    expectClean(dir, 'demo.lock.json');
  });

  // One that fills up half-way is in e2e/faults.
  it('under the bundle, known before the downloads, whatever holes a killed build left', async () => {
    const dir = lockedProject();
    const out = join(tempDir('out'), 'disk');
    hole(join(`${out}.seed`, 'out.tar.partial'), 500_000); // takes no room, and gives none back
    const args = ['build', 'demo.yaml', '-o', join(out, 'out.tar'), ...staging.keys.flags];
    const { problem } = await outsideOn({ folder: out, options: 'size=200k' }, dir, args);
    expect(problem.message).toMatch(/\d+ bytes are needed/);
    expectClean(dir, 'demo.lock.json');
  });
});
