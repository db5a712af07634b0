// SPDX-License-Identifier: Apache-2.0
/**
 * Disks that are full, break or go away in the middle: each fault ends with its own code, leaves nothing half-done
 * under a final name, and the same command goes on afterwards. The faults are put in by strace, at random calls.
 */
import { cpSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { largeModel } from '../../fixtures/model.ts';
import { peekBundle } from '../../src/bundle/peek.ts';
import { makeImage } from '../bench/data.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { startHub, type HubFixture } from '../support/hub.ts';
import { tinyImage } from '../support/images.ts';
import { startLyingEngine } from '../support/lying-engine.ts';
import { engineFlags, makeKeys, PROGRAM, provisionHome, sealift, type Keys } from '../support/stack.ts';
import { runWithFault, type Fault } from '../support/strace.ts';
import { freePort, makeDir, runOk, tempDir, type RunResult } from '../support/workspace.ts';

/** Random calls that are hit for each kind of fault; scripts/soak raises it. */
const ROUNDS = Number(process.env['SEALIFT_TEST_FAULTS'] ?? 3);
const WEIGHTS = 24 * 1024 * 1024;
const IMAGE = 64 * 1024 * 1024;
/** About as many calls as it takes to move the weights, so that most rounds hit. */
const CALLS = 20;

const READS = 'read,pread64,readv,preadv';
const WRITES = 'write,pwrite64,writev,pwritev';
const SYNCS = 'fsync,fdatasync';

const work = tempDir('faults');
const bundle = join(work, 'ready.sealift.tar');
let hub: HubFixture;
let keys: Keys;
let engine: DockerEngine;
let store: string;

const sources = (): string[] => ['--hub', hub.url, '--store', store];
const buildTo = (out: string): string[] => ['build', 'm.yaml', '-o', out, ...keys.flags, ...sources()];

beforeAll(async () => {
  hub = await startHub({ models: [{ name: 'faults/weights', files: largeModel({ size: WEIGHTS }) }] });
  tinyImage({ name: 'box', payload: 'a box\n', dir: join(work, 'box') });
  writeFileSync(
    join(work, 'm.yaml'),
    `apiVersion: sealift.dev/v1
kind: Bundle
metadata: { name: faults, version: 1.0.0 }
platform: linux/amd64
images: { box: { from: 'oci:./box', as: docker.io/faults/box:1 } }
models: { weights: { from: 'hf:faults/weights@main' } }
`,
  );
  store = join(work, 'store');
  keys = await makeKeys(work);
  await succeeds(sealift(['lock', 'm.yaml', ...sources()], { cwd: work }));
  await succeeds(sealift(buildTo(bundle), { cwd: work }));
  engine = await startDocker({ dir: join(work, 'engine') });
});

afterAll(async () => {
  await engine?.stop();
  await hub?.stop();
});

const withEngine = (): NodeJS.ProcessEnv => ({ ...process.env, ...engine.composeEnv });

async function succeeds(running: Promise<RunResult>): Promise<RunResult> {
  const result = await running;
  expect(result, result.stderr).toMatchObject({ code: 0 });
  return result;
}

interface Kind {
  syscalls: string;
  fault: Fault;
  path: string;
  stays?: boolean;
  code: string;
}

/** Hits random calls of a command. At least one must have been hit, and each that was must end as expected. */
async function hitAtRandom(
  kind: Kind,
  argv: () => string[],
  after: (round: number) => Promise<void> | void,
): Promise<void> {
  let hits = 0;
  for (let round = 0; round < ROUNDS; round++) {
    // The first call always exists, so that one round at least hits.
    const n = round === 0 ? 1 : 1 + Math.floor(Math.random() * CALLS);
    const { path, stays = false } = kind;
    const args = [...argv(), '--json'];
    const options = { path, stays, cwd: work, env: withEngine() };
    const result = await runWithFault(args, kind.syscalls, n, kind.fault, options);
    if (result !== undefined) {
      hits++;
      const { problem } = JSON.parse(result.stdout) as { problem?: { code: string } };
      expect(problem?.code, `call ${n}: ${result.stdout}`).toBe(kind.code);
      expect(result.code).not.toBe(0);
    }
    await after(round);
  }
  expect(hits).toBeGreaterThan(0);
}

describe('build', () => {
  const out = join(work, 'out.sealift.tar');
  const program = PROGRAM.outside;
  const wholeOrAbsent = async (): Promise<void> => {
    if (existsSync(out)) expect((await peekBundle(out)).inventory.name).toBe('faults');
    expect(existsSync(`${out}.partial`)).toBe(false);
    rmSync(out, { force: true });
  };
  const target = { path: `${out}.partial` };

  it.each<[string, Kind]>([
    ['ENOSPC while writing', { ...target, syscalls: WRITES, fault: 'error=ENOSPC', code: 'DISK_FULL' }],
    ['EIO while writing', { ...target, syscalls: WRITES, fault: 'error=EIO', code: 'IO_ERROR' }],
    ['EIO at the end, from fsync', { ...target, syscalls: SYNCS, fault: 'error=EIO', code: 'IO_ERROR' }],
  ])('%s', async (_, kind) => {
    await hitAtRandom(kind, () => [program, ...buildTo(out)], wholeOrAbsent);
    await succeeds(sealift(buildTo(out), { cwd: work }));
    expect((await peekBundle(out)).digest).toBe((await peekBundle(bundle)).digest);
    await wholeOrAbsent();
  });

  it('ENOSPC while writing a sole copy, which the next run goes on with', async () => {
    const sole = (): string[] => [...buildTo(out), '--sole-copy'];
    const kind: Kind = { ...target, syscalls: WRITES, fault: 'error=ENOSPC', code: 'DISK_FULL' };
    await hitAtRandom(
      kind,
      () => [program, ...sole()],
      () => rmSync(out, { force: true }),
    );
    await succeeds(sealift(sole(), { cwd: work }));
    expect((await peekBundle(out)).digest).toBe((await peekBundle(bundle)).digest);
    await wholeOrAbsent();
  });

  it('ENOSPC while downloading: what has come is kept', async () => {
    const file = (await peekBundle(bundle)).inventory.models[0]!.files.find(
      ({ size }) => size > WEIGHTS / 2,
    )!;
    const full = store;
    store = join(work, 'small-store');
    try {
      const path = join(store, 'partial', file.digest.slice(7));
      const kind: Kind = { path, syscalls: WRITES, fault: 'error=ENOSPC', code: 'DISK_FULL' };
      await hitAtRandom(
        kind,
        () => [program, ...buildTo(out)],
        (round) => {
          if (round < ROUNDS - 1) rmSync(store, { recursive: true, force: true });
          return wholeOrAbsent();
        },
      );
      await succeeds(sealift(buildTo(out), { cwd: work }));
      expect((await peekBundle(out)).digest).toBe((await peekBundle(bundle)).digest);
    } finally {
      rmSync(store, { recursive: true, force: true });
      store = full;
      rmSync(out, { force: true });
    }
  });
});

describe('a file system of its own', () => {
  const mount = makeDir(work, 'disk');
  const onDisk = async (bytes: number, use: () => Promise<void>): Promise<void> => {
    await runOk('mount', ['-t', 'tmpfs', '-o', `size=${bytes}`, 'none', mount]);
    try {
      await use();
    } finally {
      await runOk('umount', [mount]);
    }
  };
  const pages = (bytes: number): number => Math.ceil(bytes / 4096) * 4096;

  it('that has exactly the room is filled to the last page; one page less is refused before a byte is written', async () => {
    const { size } = statSync(bundle);
    const out = join(mount, 'b.tar');
    await onDisk(pages(size), () => succeeds(sealift(buildTo(out), { cwd: work })).then(() => undefined));
    await onDisk(pages(size) - 4096, async () => {
      const result = await sealift([...buildTo(out), '--json'], { cwd: work });
      expect(JSON.parse(result.stdout)).toMatchObject({ problem: { code: 'DISK_FULL' } });
      expect((await runOk('find', [mount, '-type', 'f'])).trim()).toBe('');
    });
  });

  it('that is read-only: the bundle is verified and installed from it, and nothing is written to it', async () => {
    await onDisk(3 * statSync(bundle).size, async () => {
      cpSync(bundle, join(mount, 'b.tar'));
      await runOk('mount', ['-o', 'remount,ro', mount]);
      const home = await freshHome();
      await succeeds(install(home, join(mount, 'b.tar')));
      const result = await sealift([...buildTo(join(mount, 'c.tar')), '--json'], { cwd: work });
      expect(JSON.parse(result.stdout)).toMatchObject({ problem: { code: 'IO_ERROR' } });
      await uninstall(home);
    });
  });
});

async function freshHome(): Promise<string> {
  const home = join(tempDir('home'), 'home');
  await provisionHome(home, [readFileSync(keys.public, 'utf8')], await freePort());
  return home;
}

const inside = (command: string, home: string): string[] => [
  command,
  '--yes',
  '--home',
  home,
  ...engineFlags(engine),
];
const install = (home: string, path = bundle): Promise<RunResult> =>
  sealift([...inside('install', home), path], { cwd: work, side: 'inside', env: withEngine() });
const uninstall = (home: string): Promise<RunResult> =>
  succeeds(sealift(inside('uninstall', home), { cwd: work, side: 'inside', env: withEngine() }));

describe('install and verify', () => {
  const reading = { path: bundle, syscalls: READS };

  it.each<[string, Kind]>([
    ['a bad sector', { ...reading, fault: 'error=EIO', code: 'IO_ERROR' }],
    ['a stick that is pulled out', { ...reading, fault: 'error=ENODEV', stays: true, code: 'IO_ERROR' }],
  ])('verify of %s', async (_, kind) => {
    const home = await freshHome();
    await hitAtRandom(
      kind,
      () => [PROGRAM.inside, 'verify', bundle, '--home', home],
      () => {},
    );
  });

  it.each<[string, (home: string) => Promise<Kind>]>([
    ['a bad sector', () => Promise.resolve({ ...reading, fault: 'error=EIO', code: 'IO_ERROR' })],
    [
      'a stick that is pulled out',
      () => Promise.resolve({ ...reading, fault: 'error=ENODEV', stays: true, code: 'IO_ERROR' }),
    ],
    ['a full disk', async (home) => ({ ...(await placing(home)), fault: 'error=ENOSPC', code: 'DISK_FULL' })],
    [
      'a disk that breaks',
      async (home) => ({ ...(await placing(home)), fault: 'error=EIO', code: 'IO_ERROR' }),
    ],
  ])('install with %s goes on when it is run again', async (_, kindIn) => {
    const home = await freshHome();
    const revision = (await peekBundle(bundle)).inventory.models[0]!.revision;
    const kind = await kindIn(home);
    await hitAtRandom(
      kind,
      () => [PROGRAM.inside, ...inside('install', home), bundle],
      () => {
        if (!existsSync(join(home, 'current'))) return undefined;
        return uninstall(home).then(() => undefined); // this round hit nothing, and the next one needs something to do
      },
    );
    await succeeds(install(home));
    expect(existsSync(join(home, 'models/weights', revision, 'model.safetensors'))).toBe(true);
    await uninstall(home);
  });

  /** Writes into the home's copy of the weights. */
  async function placing(home: string): Promise<Pick<Kind, 'path' | 'syscalls'>> {
    const file = (await peekBundle(bundle)).inventory.models[0]!.files.find(
      ({ size }) => size > WEIGHTS / 2,
    )!;
    return { path: join(home, 'partial', file.digest.slice(7)), syscalls: WRITES };
  }
});

describe('an engine that dies in the middle of a load', () => {
  const dir = join(work, 'dying');

  it('is reported, and the same command goes on when it is back', async () => {
    const home = await freshHome();
    const large = await largeImageBundle();
    const first = await startDocker({ dir });
    const between = await startLyingEngine(first.socket);
    between.lies.load = async (call) => {
      await call.send(Readable.from(diesAfter(IMAGE / 4, call.archive, first), { objectMode: false }));
    };
    const run = (own: DockerEngine, socket = own.socket): Promise<RunResult> =>
      sealift(['install', large, '--json', '--yes', '--home', home, ...engineFlags({ ...own, socket })], {
        cwd: work,
        side: 'inside',
        env: { ...process.env, ...own.composeEnv },
      });
    const failed = await run(first, between.socket);
    await between.stop();
    expect(failed.code).not.toBe(0);
    const { problem } = JSON.parse(failed.stdout) as { problem: { code: string } };
    expect(['ENGINE_FAILED', 'ENGINE_NOT_RUNNING', 'IMAGE_LOAD_FAILED', 'ROLLBACK_INCOMPLETE']).toContain(
      problem.code,
    );
    const again = await startDocker({ dir });
    try {
      await succeeds(run(again));
      expect(await runOk('docker', ['-H', again.host, 'images', '-q'])).not.toBe('');
    } finally {
      await again.stop();
    }
  });
});

async function largeImageBundle(): Promise<string> {
  makeImage(join(work, 'large'), [1], IMAGE);
  writeFileSync(
    join(work, 'large.yaml'),
    `apiVersion: sealift.dev/v1
kind: Bundle
metadata: { name: large, version: 1.0.0 }
platform: linux/amd64
images: { large: { from: 'oci:./large', as: docker.io/faults/large:1 } }
`,
  );
  const out = join(work, 'large.sealift.tar');
  await succeeds(sealift(['lock', 'large.yaml', ...sources()], { cwd: work }));
  await succeeds(sealift(['build', 'large.yaml', '-o', out, ...keys.flags, ...sources()], { cwd: work }));
  return out;
}

/** What a client sends, as an engine gets it that is killed after so many bytes. */
async function* diesAfter(bytes: number, archive: Readable, dying: DockerEngine): AsyncGenerator<Buffer> {
  let passed = 0;
  for await (const chunk of archive as AsyncIterable<Buffer>) {
    yield chunk;
    passed += chunk.length;
    if (passed >= bytes) break;
  }
  await dying.stop({ keepData: true, killed: true });
  throw new Error('the engine died');
}
