// SPDX-License-Identifier: Apache-2.0
/**
 * What the engine has is what was signed, or it is an error that names both: tags that stand on another image,
 * and an engine that lies about what it loaded. The built programs on a real engine, behind a lying proxy.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import {
  failureOf,
  leftIn,
  makeImageBundle,
  REFS,
  type Failure,
  type ImageBundle,
} from '../support/image-bundle.ts';
import { startLyingEngine, type LoadCall, type LyingEngine } from '../support/lying-engine.ts';
import { runOk, tempDir, type RunResult } from '../support/workspace.ts';

/** The one that is lied about; the first image is loaded and proved before it, and has to go again. */
const REF = REFS[1];

let bundle: ImageBundle;
let engine: DockerEngine;
let liar: LyingEngine;
let home: string;
let signed: string;

const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);
const images = async (): Promise<string[]> =>
  (await docker('images', '--all', '--no-trunc', '--format', '{{.Repository}}:{{.Tag}} {{.ID}}'))
    .split('\n')
    .filter(Boolean);
const install = (): Promise<RunResult> =>
  bundle.inside(['install', bundle.path, '--yes', '--json'], home, engine, liar.socket);
const loadOther = (): Promise<string> => docker('load', '--input', bundle.other.archive);

beforeAll(async () => {
  bundle = await makeImageBundle();
  signed = bundle.images[REF].configDigest;
  engine = await startDocker({ dir: tempDir('proof') });
  liar = await startLyingEngine(engine.socket);
});

afterAll(async () => {
  await liar?.stop();
  await engine?.stop();
});

beforeEach(async () => {
  home = await bundle.makeHome();
  liar.forget();
  await docker('image', 'prune', '--all', '--force');
});

/** Installs, and expects this failure. */
async function refused(exit: number, code: string): Promise<Failure> {
  const result = await install();
  expect(result.code, result.stdout + result.stderr).toBe(exit);
  const failure = failureOf(result);
  expect(failure.code, result.stdout).toBe(code);
  return failure;
}

async function expectNothingLeft(): Promise<void> {
  expect(await images()).toEqual([]);
  expect(leftIn(home)).toEqual([]);
}

describe('an honest engine behind the proxy', () => {
  it('passes the proof, so that what follows is due to the lies', async () => {
    const result = await install();
    expect(result.code, result.stdout + result.stderr).toBe(0);
    expect(await images()).toEqual(
      expect.arrayContaining(REFS.map((ref) => `${ref} ${bundle.images[ref].configDigest}`)),
    );
    expect(liar.loads).toBe(2);
    expect((await bundle.inside(['uninstall', '--yes'], home, engine)).code).toBe(0);
    await expectNothingLeft();
  });
});

describe('a tag that stands on another image', () => {
  const both = (): Failure['details'] => [
    { label: 'engine', value: bundle.other.configDigest },
    { label: 'bundle', value: signed },
  ];

  it('before the install: refused with both digests, not moved, and nothing was sent', async () => {
    await loadOther();
    expect((await refused(20, 'TAG_CONFLICT')).details).toEqual(both());
    expect(await images()).toEqual([`${REF} ${bundle.other.configDigest}`]);
    expect(liar.loads).toBe(0);
    expect(leftIn(home)).toEqual([]);
  });

  it.each([
    ['after the plan', 3],
    ['just before it is loaded', 4],
  ])('set by somebody %s: the same, and what was placed before goes again', async (_, look) => {
    let set = false;
    liar.lies.asked = async (reference, nth) => {
      if (reference !== REF || nth !== look) return;
      await loadOther();
      set = true;
    };
    expect((await refused(20, 'TAG_CONFLICT')).details).toEqual(both());
    expect(set).toBe(true);
    expect(await images()).toEqual([`${REF} ${bundle.other.configDigest}`]);
    expect(liar.loads).toBe(1);
    expect(leftIn(home)).toEqual([]);
  });
});

describe('an engine that', () => {
  const second = (lie: (call: LoadCall) => Promise<void>) => (call: LoadCall) =>
    call.nth === 2 ? lie(call) : call.send(call.archive).then((said) => call.answer(said));
  const FALSE_DIGEST = `sha256:${'0'.repeat(64)}`;

  it('names another image ID', async () => {
    liar.lies.inspect = (image, reference) => {
      if (reference === REF) image.Id = FALSE_DIGEST;
    };
    expect((await refused(21, 'IMAGE_NOT_PROVED')).details).toEqual([
      { label: 'signed', value: signed },
      { label: 'engine', value: FALSE_DIGEST },
    ]);
    await expectNothingLeft();
  });

  it('names another layer', async () => {
    liar.lies.inspect = (image, reference) => {
      if (reference === REF) image.RootFS.Layers[1] = FALSE_DIGEST;
    };
    expect((await refused(21, 'IMAGE_NOT_PROVED')).details).toEqual([
      { label: 'signed', value: bundle.images[REF].layers[1]!.diffId },
      { label: 'engine', value: FALSE_DIGEST },
    ]);
    await expectNothingLeft();
  });

  it('names fewer layers', async () => {
    liar.lies.inspect = (image, reference) => {
      if (reference === REF) image.RootFS.Layers.pop();
    };
    expect((await refused(21, 'IMAGE_NOT_PROVED')).details).toEqual([
      { label: 'signed', value: bundle.images[REF].layers[1]!.diffId },
      { label: 'engine', value: 'none' },
    ]);
    await expectNothingLeft();
  });

  it('takes another image under the same tag', async () => {
    liar.lies.load = second(async (call) => {
      await buffer(call.archive);
      call.answer(await call.send(readFileSync(bundle.other.archive)));
    });
    expect((await refused(21, 'IMAGE_NOT_PROVED')).details).toEqual([
      { label: 'signed', value: signed },
      { label: 'engine', value: bundle.other.configDigest },
    ]);
    await expectNothingLeft();
  });

  it('says "Loaded" and has nothing', async () => {
    liar.lies.load = second(async (call) => {
      await buffer(call.archive);
      call.answer(`{"stream":"Loaded image: ${REF}\\n"}\n`);
    });
    expect((await refused(21, 'IMAGE_NOT_PROVED')).details).toEqual([
      { label: 'signed', value: signed },
      { label: 'engine', value: 'none' },
    ]);
    await expectNothingLeft();
  });

  it('reports an error inside a successful answer, whether it has the image or not', async () => {
    liar.lies.load = second(async (call) => {
      const said = await call.send(call.archive);
      call.answer(`${said}\n{"errorDetail":{"message":"no space left on device"},"error":"no space left"}\n`);
    });
    expect((await refused(21, 'IMAGE_LOAD_FAILED')).message).toContain('no space left on device');
    await expectNothingLeft();
  });

  it('breaks off in the middle of an image', async () => {
    liar.lies.load = second(async (call) => {
      const half = async function* (): AsyncGenerator<Buffer> {
        let sent = 0;
        for await (const chunk of call.archive as AsyncIterable<Buffer>) {
          yield chunk;
          sent += chunk.length;
          if (sent > 2 ** 19) throw new Error('cut');
        }
      };
      await call.send(Readable.from(half(), { objectMode: false })).catch(() => undefined);
      call.breakOff();
    });
    expect((await refused(21, 'IMAGE_LOAD_FAILED')).message).toContain(REF);
    await expectNothingLeft();
  });

  it('breaks off when it has all of an image, and goes on loading it', async () => {
    let later: Promise<unknown> | undefined;
    liar.lies.load = second(async (call) => {
      const archive = await buffer(call.archive);
      later = sleep(1000).then(() => call.send(archive));
      call.breakOff();
    });
    await refused(21, 'IMAGE_LOAD_FAILED');
    await later;
    await expectNothingLeft();
  });
});
