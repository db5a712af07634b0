// SPDX-License-Identifier: Apache-2.0
/**
 * The containerd image store answers "Loaded", and reports the expected image ID, over content that is missing or
 * was replaced (seen with Docker 26 and 28). The proof must not be taken in. The attacks travel through a proxy
 * that also takes away the parameter by which the engine would notice.
 */
import { buffer } from 'node:stream/consumers';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { DockerEngine } from '../support/docker.ts';
import {
  failureOf,
  leftIn,
  makeImageBundle,
  REFS,
  type Failure,
  type ImageBundle,
} from '../support/image-bundle.ts';
import { editArchive, startLyingEngine, type LyingEngine } from '../support/lying-engine.ts';
import { startNewerDocker, type NewerDockerOptions } from '../support/newer-docker.ts';
import { runOk, tempDir, type RunResult } from '../support/workspace.ts';

const REF = REFS[1];

const rows: [version: string, suite: NewerDockerOptions['suite']][] = [
  ['26', 'trixie'],
  ['28', 'sid'],
];

describe.each(rows)('Docker %s (%s), containerd store:', (_, suite) => {
  let engine: DockerEngine;
  let liar: LyingEngine;
  let bundle: ImageBundle;
  let home: string;

  const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);
  const install = (): Promise<RunResult> =>
    bundle.inside(['install', bundle.path, '--yes', '--json'], home, engine, liar.socket);

  beforeAll(async () => {
    engine = await startNewerDocker({ suite, store: 'containerd', dir: tempDir(`content-${suite}`) });
    liar = await startLyingEngine(engine.socket);
  });

  afterAll(async () => {
    await liar?.stop();
    await engine?.stop();
  });

  beforeEach(async () => {
    // Anew for each test, because the store keeps content that no image names for a while.
    bundle = await makeImageBundle();
    home = await bundle.makeHome();
    liar.forget();
    await docker('image', 'prune', '--all', '--force');
  });

  /**
   * Changes the second archive on its way. When `silent`, the client hears "Loaded" whatever the engine says, and
   * the engine is not given the parameter by which it would notice.
   */
  function attack(edit: (name: string, content: Buffer) => Buffer | undefined, silent: boolean): void {
    liar.lies.load = async (call) => {
      if (call.nth !== 2) return call.answer(await call.send(call.archive));
      const archive = editArchive(await buffer(call.archive), edit);
      const said = await call.send(archive, { withoutPlatform: silent });
      call.answer(silent ? `{"stream":"Loaded image: ${REF}\\n"}\n` : said);
    };
  }

  const blobOf = (digest: string): string => `blobs/sha256/${digest.slice('sha256:'.length)}`;
  const ownLayer = (): string => blobOf(bundle.images[REF].layers[1]!.digest);

  const attacks: Record<string, (name: string, content: Buffer) => Buffer | undefined> = {
    'a layer is missing': (name, content) => (name === ownLayer() ? undefined : content),
    'a layer has other bytes': (name, content) => (name === ownLayer() ? content.fill(0, 100, 200) : content),
    'another config has the name of the signed one': (name, content) =>
      name === blobOf(bundle.images[REF].configDigest)
        ? Buffer.from(content.toString().replace('"/payload"', '"/paylurk"'))
        : content,
  };

  async function failedInstall(): Promise<Failure> {
    const result = await install();
    expect(result.code, result.stdout + result.stderr).toBe(21);
    expect((await docker('images', '--all', '--format', '{{.Repository}}:{{.Tag}}')).trim()).toBe('');
    expect(leftIn(home)).toEqual([]);
    return failureOf(result);
  }

  it('archives that pass the proxy unchanged are proved', async () => {
    attack((_name, content) => content, true);
    const result = await install();
    expect(result.code, result.stdout + result.stderr).toBe(0);
    expect((await bundle.inside(['uninstall', '--yes'], home, engine)).code).toBe(0);
  });

  it.each(Object.keys(attacks))('%s: the engine says so, and is heard', async (name) => {
    attack(attacks[name]!, false);
    const failure = await failedInstall();
    expect(['IMAGE_LOAD_FAILED', 'IMAGE_NOT_PROVED']).toContain(failure.code);
  });

  it.each(Object.keys(attacks))('%s: the engine says "Loaded", and is not believed', async (name) => {
    attack(attacks[name]!, true);
    const failure = await failedInstall();
    expect(failure.code).toBe('IMAGE_NOT_PROVED');
    const signed = bundle.images[REF].manifest.digest;
    expect(failure.details[0]).toEqual({ label: 'signed', value: signed });
    // Docker 26 drops an image whose config it could not store; all else stays, under the right ID.
    const dropped = suite === 'trixie' && name.includes('config');
    expect(failure.details[1]!.value).toBe(dropped ? 'none' : `${signed}, incomplete`);
  });
});
