// SPDX-License-Identifier: Apache-2.0
/** A bundle whose bytes change, on the same inode, after it was opened and before it is copied (THREATS.md T9). */
import { existsSync, openSync, readdirSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openBundle } from '../../src/bundle/open.ts';
import { Home } from '../../src/install/home.ts';
import type { World } from '../../src/install/step.ts';
import { modelStep } from '../../src/install/steps/model.ts';
import { digestOf } from '../../src/store/digest.ts';
import { Store } from '../../src/store/store.ts';
import { person, policyOf, sampleBundle } from '../support/sample.ts';
import { tempDir } from '../support/workspace.ts';

const alice = person('alice');
const now = new Date('2026-11-23T12:00:00Z');
const sample = await sampleBundle();
const byAlice = readFileSync(await sample.write([alice]));

describe('media swapped between check and use, on the way into the store', () => {
  const model = sample.inventory.models[0]!;
  const weights = model.files.find((file) => file.path === 'model.safetensors')!;

  /** Installs the model from a bundle whose bytes change, on the same inode, once it has been opened. */
  async function placed(change: (fd: number) => void): Promise<{ error: unknown; store: Store; home: Home }> {
    const path = `${tempDir('swap')}/x.tar`;
    writeFileSync(path, byAlice);
    const home = new Home(tempDir('swap-home'));
    await home.prepare();
    const store = await Store.open(home.root);
    const bundle = await openBundle(path, { policy: policyOf([alice]), now });
    const step = await modelStep({ home, store } as World, bundle, model, 'models/tiny/x');
    change(openSync(path, 'r+'));
    const error: unknown = await step.apply(() => {}).catch((thrown: unknown) => thrown);
    await bundle.close();
    return { error, store, home };
  }

  it('the same content is placed, so that the refusals below are earned', async () => {
    const { error, home } = await placed(() => {});
    expect(error).toBeUndefined();
    expect(digestOf(readFileSync(home.path('models/tiny/x/model.safetensors')))).toBe(weights.digest);
  });

  it.each<[string, number, string]>([
    ['one byte of the weights', byAlice.lastIndexOf('wwww'), 'v'],
    ['the first byte of the weights', byAlice.indexOf('wwww'), 'v'],
    ['a small file', byAlice.indexOf('{"a":1}'), '{"a":2}'],
  ])('%s: refused, nothing placed, and nothing of it kept', async (_, at, text) => {
    const { error, store, home } = await placed((fd) => writeSync(fd, text, at));
    expect(error).toMatchObject({ code: 'CONTENT_MISMATCH' });
    expect(existsSync(home.path('models/tiny/x'))).toBe(false);
    for (const name of readdirSync(`${store.root}/blobs/sha256`))
      expect(digestOf(readFileSync(`${store.root}/blobs/sha256/${name}`))).toBe(`sha256:${name}`);
  });
});
