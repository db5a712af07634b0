// SPDX-License-Identifier: Apache-2.0
/**
 * Bundles over 2, 4 and 8 GiB with one bit changed past each limit: a reader whose numbers are too small sees only
 * what lies before it (CVE-2026-34155 of RAUC was that). The files are sparse, so they take no room.
 */
import { closeSync, openSync, readSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, expect, it } from 'vitest';
import { peekBundle } from '../../src/bundle/peek.ts';
import { attachSignature } from '../../src/bundle/slots-file.ts';
import { flipBit } from '../support/flips.ts';
import { person, policyOf, verifyAll } from '../support/sample.ts';
import { signatureParts } from '../support/signature.ts';
import { sparseBundle, type SparseBundle } from '../support/sparse.ts';
import { run, runOk, tempDir } from '../support/workspace.ts';

const GIB = 1024 ** 3;
/** The member is over 8 GiB by an odd number of bytes, so its size is in base-256 and it ends in padding. */
const SIZE = 8 * GIB + 12_345;

const alice = person('alice');
const bob = person('bob');
const policy = policyOf([alice]);
let large: SparseBundle;

beforeAll(async () => {
  large = await sparseBundle(join(tempDir('large'), 'large.sealift.tar'), SIZE, alice);
});

/** The verdict with one bit flipped; the file is as it was afterwards. */
async function flipped(position: number, bit: number): Promise<string> {
  const fd = openSync(large.path, 'r+');
  const flip = { region: '', position, bit };
  flipBit(fd, flip);
  try {
    return await verifyAll(large.path, policy).then(
      () => 'accepted',
      (error: { code: string }) => error.code,
    );
  } finally {
    flipBit(fd, flip);
    closeSync(fd);
  }
}

it('a good one is accepted, and takes no room', async () => {
  const { blocks, size } = statSync(large.path);
  expect(size).toBe(large.size);
  expect(blocks * 512).toBeLessThan(4 * 1024 * 1024);
  const bundle = await verifyAll(large.path, policy);
  expect(bundle.inventory.models[0]!.files[0]!.size).toBe(SIZE);
});

it('is listed by GNU tar as it is', async () => {
  const listed = await runOk('tar', ['--list', '--verbose', '--file', large.path]);
  expect(listed).toContain(` ${SIZE} `);
});

it.each<[string, number, number]>([
  ['past 2 GiB', 2 * GIB + 1, 0],
  ['past 4 GiB', 4 * GIB + 1, 7],
  ['past 8 GiB', 8 * GIB + 1, 3],
])('one bit changed %s', async (_, offset, bit) => {
  expect(await flipped(large.content + offset, bit)).toBe('CONTENT_MISMATCH');
});

it('one bit changed in the header of a size in base-256, in its padding, in the end mark', async () => {
  // The size field is 0x80, three zeros and eight bytes; 8 GiB and 12,345 are in bytes 131, 134 and 135.
  for (const at of [124, 125, 127, 128, 131, 132, 134, 135])
    for (const bit of [0, 7])
      expect(await flipped(large.header + at, bit), `byte ${at}`).toBe('BUNDLE_MALFORMED');
  expect(await flipped(large.content + SIZE, 0)).toBe('BUNDLE_MALFORMED');
  expect(await flipped(large.size - 1, 0)).toBe('BUNDLE_MALFORMED');
});

it('is cut off, one byte before its end', async () => {
  await runOk('truncate', ['--size=-1', large.path]);
  await expect(verifyAll(large.path, policy)).rejects.toMatchObject({ code: 'BUNDLE_INCOMPLETE' });
  await runOk('truncate', ['--size=+1', large.path]);
  expect((await run('cmp', ['-n', '1', '-i', `${large.size - 1}:0`, large.path, '/dev/zero'])).code).toBe(0);
});

it('is looked at and countersigned without reading it', async () => {
  const started = process.cpuUsage();
  expect((await peekBundle(large.path)).size).toBe(large.size);
  expect(await attachSignature(large.path, JSON.stringify(signatureParts(sumsOf(large.path), bob.key)))).toBe(
    1,
  );
  const { user, system } = process.cpuUsage(started);
  expect((user + system) / 1e6, 'processor seconds').toBeLessThan(2);
});

/** The content of the first member. */
function sumsOf(path: string): Buffer {
  const fd = openSync(path, 'r');
  const head = Buffer.alloc(64 * 1024);
  readSync(fd, head);
  closeSync(fd);
  return head.subarray(512, 512 + Number.parseInt(head.toString('latin1', 124, 135), 8));
}
