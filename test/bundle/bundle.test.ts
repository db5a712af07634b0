// SPDX-License-Identifier: Apache-2.0
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openBundle } from '../../src/bundle/open.ts';
import { peekBundle } from '../../src/bundle/peek.ts';
import { attachSignature } from '../../src/bundle/slots-file.ts';
import { writeBundle } from '../../src/bundle/write.ts';
import { digestOf, hexOf } from '../../src/store/digest.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { person, policyOf, sampleBundle, verifyAll } from '../support/sample.ts';
import { holding, runOk, tempDir } from '../support/workspace.ts';

const alice = person('alice');
const bob = person('bob');
const now = new Date('2026-11-23T12:00:00Z');

describe('a bundle', () => {
  it('opens, says who signed, and gives every blob', async () => {
    const sample = await sampleBundle();
    const path = await sample.write([alice]);
    const bundle = await verifyAll(path, policyOf([alice]));
    expect(bundle.digest).toBe(sample.plan.digest);
    expect(bundle.size).toBe(statSync(path).size);
    expect(bundle.inventory).toEqual(sample.inventory);
    expect(bundle.verdict.accepted).toMatchObject([{ slot: 0, signer: 'alice' }]);
    expect(bundle.images.map((i) => i.ref)).toEqual([
      'docker.io/vllm/vllm-openai:v0.27.1',
      'docker.io/library/nginx:1.29',
    ]);
  });

  it('gives the bytes of a blob', async () => {
    const sample = await sampleBundle();
    const bundle = await openBundle(await sample.write([alice]), { policy: policyOf([alice]), now });
    const file = sample.inventory.models[0]!.files.find((f) => f.path.startsWith('notes/'))!;
    const chunks: Buffer[] = [];
    for await (const chunk of bundle.blob(file)) chunks.push(chunk);
    await bundle.close();
    expect(Buffer.concat(chunks).toString()).toBe('ü');
  });

  it('is the same bytes from bundle.json on, whoever signs and from whichever store', async () => {
    const [one, two] = [await sampleBundle(), await sampleBundle()];
    const [a, b] = [readFileSync(await one.write([alice])), readFileSync(await two.write([bob]))];
    const start = a.indexOf('bundle.json\0');
    expect(one.store.root).not.toBe(two.store.root);
    expect(one.plan.digest).toBe(two.plan.digest);
    expect(a.equals(b)).toBe(false);
    expect(a.subarray(start).equals(b.subarray(start))).toBe(true);
  });

  it('unpacks with GNU tar, and sha256sum agrees', async () => {
    const path = await (await sampleBundle()).write([alice]);
    const dir = tempDir('unpacked');
    await runOk('tar', ['-xf', path, '-C', dir]);
    expect(await runOk('sha256sum', ['-c', '--quiet', 'SHA256SUMS'], { cwd: dir })).toBe('');
    writeFileSync(`${dir}/index.json`, '{}');
    await expect(runOk('sha256sum', ['-c', '--quiet', 'SHA256SUMS'], { cwd: dir })).rejects.toThrow();
  });

  it('takes a second signature in place, and changes nothing else', async () => {
    const sample = await sampleBundle();
    const path = await sample.write([alice]);
    const before = readFileSync(path);
    await expect(verifyAll(path, policyOf([alice, bob], 2))).rejects.toMatchObject({
      code: 'THRESHOLD_NOT_MET',
    });
    expect(await attachSignature(path, await keySigner(bob.key).sign(sample.plan.sums))).toBe(1);
    const after = readFileSync(path);
    const changed = [...before.keys()].filter((i) => before[i] !== after[i]);
    expect(changed.at(-1)! - changed[0]!).toBeLessThan(16_384);
    expect((await verifyAll(path, policyOf([alice, bob], 2))).verdict.accepted.map((s) => s.signer)).toEqual([
      'alice',
      'bob',
    ]);
  });

  it('has eight slots', async () => {
    const sample = await sampleBundle();
    const path = await sample.write([]);
    const sign = (): Promise<string> => keySigner(person('somebody').key).sign(sample.plan.sums);
    for (let slot = 0; slot < 8; slot++) expect(await attachSignature(path, await sign())).toBe(slot);
    await expect(attachSignature(path, await sign())).rejects.toMatchObject({ code: 'SLOTS_FULL' });
  });

  it('takes one signature of a key, and does not count what was made over other content', async () => {
    const sample = await sampleBundle();
    const path = await sample.write([bob]);
    const sign = (sums: Uint8Array): Promise<string> => keySigner(alice.key).sign(sums);
    expect(await attachSignature(path, await sign(Buffer.from('other')))).toBe(1);
    expect(await attachSignature(path, await sign(sample.plan.sums))).toBe(2);
    const before = readFileSync(path);
    await expect(attachSignature(path, await sign(sample.plan.sums))).rejects.toMatchObject({
      code: 'ALREADY_SIGNED',
    });
    expect(readFileSync(path).equals(before)).toBe(true);
  });

  it('can be looked at without trust', async () => {
    const sample = await sampleBundle();
    const path = await sample.write([]);
    expect(await peekBundle(path)).toMatchObject({
      digest: sample.plan.digest,
      inventory: sample.inventory,
      provenance: sample.provenance,
    });
    expect(holding(path)).toEqual([]);
  });
});

describe('the writer', () => {
  it('leaves no output when the store has rotted', async () => {
    const sample = await sampleBundle();
    const file = sample.inventory.models[0]!.files.find((f) => f.path === 'model.safetensors')!;
    writeFileSync(sample.store.path(file.digest), 'v'.repeat(70_000));
    const path = `${tempDir('out')}/x.tar`;
    await expect(writeBundle(path, sample.plan, [], sample.store)).rejects.toMatchObject({
      code: 'STORE_DAMAGED',
    });
    expect([existsSync(path), existsSync(`${path}.partial`)]).toEqual([false, false]);
    expect(existsSync(dirname(path))).toBe(true);
  });

  it('puts manifests and configs first, then the rest by digest', async () => {
    const { plan, inventory } = await sampleBundle();
    const order = plan.blobs.map((b) => b.digest);
    const firstFile = Math.min(...inventory.models[0]!.files.map((f) => order.indexOf(f.digest)));
    const lastManifest = Math.max(...inventory.images.map((i) => order.indexOf(i.manifest.digest)));
    expect(lastManifest).toBeLessThan(firstFile);
    expect(plan.sums.toString()).toContain(
      `${hexOf(digestOf('{}'))}  blobs/sha256/${hexOf(digestOf('{}'))}\n`,
    );
  });
});
