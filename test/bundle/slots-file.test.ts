// SPDX-License-Identifier: Apache-2.0
import { copyFileSync, mkdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { beforeEach, describe, expect, it, vi } from 'vitest';
import {
  attachSignature,
  demandNewSigner,
  demandWritable,
  freeSlot,
  readSignable,
} from '../../src/bundle/slots-file.ts';
import { readClaim } from '../../src/trust/claim.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { decodeSlot, encodeSlot } from '../../src/trust/slots.ts';
import { person, sampleBundle } from '../support/sample.ts';
import { holding, tempDir } from '../support/workspace.ts';

const alice = person('alice');
const bob = person('bob');
const sample = await sampleBundle();
const signed = await sample.write([alice]);
const { sums, digest } = sample.plan;
const sign = (who: typeof alice, bytes: Uint8Array = sums): Promise<string> => keySigner(who.key).sign(bytes);
const byBob = await sign(bob);

let path = '';
const named = (name: string): string => {
  path = join(tempDir('slots-file'), name);
  copyFileSync(signed, path);
  return path;
};
beforeEach(() => named('sample.sealift.tar'));

describe('what a signer gets to see', () => {
  it('is what there is to sign, its documents, and the slots', async () => {
    expect(await readSignable(path)).toMatchObject({ sums, digest, inventory: sample.inventory });
    const { slots } = await readSignable(path);
    expect(slots.map(({ kind }) => kind)).toEqual(['bundle', ...Array<string>(7).fill('empty')]);
    expect(holding(path)).toEqual([]);
  });

  it('is no bundle that ends before its documents do', async () => {
    truncateSync(path, readFileSync(path).indexOf('index.json\0'));
    await expect(readSignable(path)).rejects.toMatchObject({ code: 'BUNDLE_INCOMPLETE' });
    expect(holding(path)).toEqual([]);
  });

  it('is the head alone of a first volume that ends before them', async () => {
    named('sample.sealift.tar.001');
    expect((await readSignable(path)).inventory).toEqual(sample.inventory);
    truncateSync(path, readFileSync(path).indexOf('index.json\0'));
    expect(await readSignable(path)).toMatchObject({ sums, digest, inventory: undefined });
  });

  it('is no first volume whose documents are others', async () => {
    named('001.sealift.tar.001');
    const bytes = readFileSync(path);
    bytes[bytes.indexOf('bundle.json\0') + 512 + 9]! ^= 1;
    writeFileSync(path, bytes);
    await expect(readSignable(path)).rejects.toMatchObject({ code: 'CONTENT_MISMATCH' });
  });

  it('is no other volume', async () => {
    named('.001.sealift.tar.002');
    truncateSync(path, readFileSync(path).indexOf('index.json\0'));
    await expect(readSignable(path)).rejects.toMatchObject({ code: 'BUNDLE_INCOMPLETE' });
  });
});

describe('a signature', () => {
  it('goes into the first slot that is free', async () => {
    expect(await attachSignature(path, byBob, digest)).toBe(1);
    const { slots } = await readSignable(path);
    expect(slots[1]).toEqual({ kind: 'bundle', json: JSON.parse(byBob) });
    expect(holding(path)).toEqual([]);
  });

  it('goes into slot 0 first', async () => {
    copyFileSync(await sample.write([]), path);
    expect(await attachSignature(path, byBob)).toBe(0);
  });

  it.each([
    ['a signature by the same key in slot 0', alice, 0],
    ['a signature by the same key in slot 1', bob, 1],
  ])('is refused beside %s', async (_, who, slot) => {
    await attachSignature(path, byBob);
    const before = readFileSync(path);
    await expect(attachSignature(path, await sign(who))).rejects.toMatchObject({
      code: 'ALREADY_SIGNED',
      message: expect.stringContaining(`slot ${slot} of `) as unknown,
      details: [['signer', expect.stringMatching(/^sha256:[0-9a-f]{64}$/)]],
      hint: expect.stringContaining('another key') as unknown,
    });
    expect(readFileSync(path).equals(before)).toBe(true);
  });

  it('that only looks like one keeps nobody from signing, nor does anything else in a slot', async () => {
    const junk = [
      '{}',
      '{"verificationMaterial":{"publicKey":{"hint":"x"}}}',
      await sign(bob, Buffer.from('other')),
    ];
    for (const [i, json] of junk.entries()) expect(await attachSignature(path, json)).toBe(i + 1);
    expect(await attachSignature(path, byBob)).toBe(4);
    const malformed = decodeSlot(Buffer.from('['.padEnd(16_384)));
    expect(() => demandNewSigner([malformed], readClaim(JSON.parse(byBob)), path)).not.toThrow();
    expect(freeSlot([malformed, decodeSlot(encodeSlot(undefined))], path)).toBe(1);
  });

  it('for a bundle that became another one is not written', async () => {
    const before = readFileSync(path);
    const expected = `sha256:${'0'.repeat(64)}` as const;
    await expect(attachSignature(path, byBob, expected)).rejects.toMatchObject({
      code: 'CONTENT_MISMATCH',
      details: [
        ['signed', expected],
        ['now', digest],
      ],
    });
    expect(readFileSync(path).equals(before)).toBe(true);
  });

  it('is not there when the disk says so, and the file is let go', async () => {
    const handle = await open(path);
    const failing = vi
      .spyOn(Object.getPrototypeOf(handle) as typeof handle, 'sync')
      .mockRejectedValueOnce(Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO' }));
    await handle.close();
    await expect(attachSignature(path, byBob)).rejects.toMatchObject({
      code: 'IO_ERROR',
      message: expect.stringMatching(/^writing the signature into .*: EIO/) as unknown,
    });
    failing.mockRestore();
    expect(holding(path)).toEqual([]);
  });
});

describe('demandWritable', () => {
  it('leaves a bundle that can be written as it is', async () => {
    const before = readFileSync(path);
    await demandWritable(path);
    expect(readFileSync(path).equals(before)).toBe(true);
    expect(holding(path)).toEqual([]);
  });

  it('refuses what cannot be written', async () => {
    const folder = join(tempDir('slots-file'), 'folder');
    mkdirSync(folder);
    await expect(demandWritable(folder)).rejects.toMatchObject({ code: 'IO_ERROR' });
  });
});
