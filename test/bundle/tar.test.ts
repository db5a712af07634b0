// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Header } from 'tar';
import { describe, expect, it } from 'vitest';
import { claimedSize, END_OF_ARCHIVE, padding, tarHeader } from '../../src/bundle/tar.ts';
import { run, tempDir } from '../support/workspace.ts';

const GIB = 1024 ** 3;
const SIZES = [
  0,
  1,
  511,
  512,
  2 * GIB + 1,
  8 * GIB - 1,
  8 * GIB,
  8 * GIB + 1,
  800 * GIB,
  Number.MAX_SAFE_INTEGER,
];

describe('tarHeader', () => {
  it.each(SIZES)('writes a size of %d that we and node-tar read back', (size) => {
    const header = tarHeader('blobs/sha256/abc', size);
    expect(header.length).toBe(512);
    expect(claimedSize(header)).toBe(size);
    const theirs = new Header(header);
    expect(theirs).toMatchObject({
      path: 'blobs/sha256/abc',
      size,
      mode: 0o644,
      uid: 0,
      gid: 0,
      type: 'File',
      cksumValid: true,
      needPax: false,
    });
  });

  it.each(['', 'ü', 'a b', 'a\n', 'x'.repeat(101)])('refuses the name %j', (name) => {
    expect(() => tarHeader(name, 0)).toThrow(RangeError);
  });

  it.each([-1, 0.5, Number.NaN, 2 ** 53])('refuses the size %d', (size) => {
    expect(() => tarHeader('a', size)).toThrow(RangeError);
  });

  it('is read by GNU tar and Python alike', async () => {
    const path = join(tempDir('tar'), 'a.tar');
    const content = Buffer.from('hello');
    writeFileSync(
      path,
      Buffer.concat([tarHeader('dir/a', 5), content, Buffer.alloc(padding(5)), END_OF_ARCHIVE]),
    );
    const gnu = await run('tar', ['--numeric-owner', '-tvf', path]);
    expect(gnu).toMatchObject({
      code: 0,
      stderr: '',
      stdout: expect.stringMatching(/^-rw-r--r-- 0\/0 +5 1970-01-01 \S+ dir\/a\n$/),
    });
    const python = await run('python3', [
      '-c',
      `import tarfile; print([(m.name, m.size) for m in tarfile.open(${JSON.stringify(path)})])`,
    ]);
    expect(python.stdout).toBe("[('dir/a', 5)]\n");
  });
});

it('claims no size for a field in neither of the two forms', () => {
  const forge = (field: Buffer | string): Buffer => {
    const header = tarHeader('a', 0);
    Buffer.from(field).copy(header, 124);
    return header;
  };
  expect(claimedSize(forge('-0000000001\0'))).toBeUndefined();
  expect(claimedSize(forge('000000000 1\0'))).toBeUndefined();
  expect(claimedSize(forge(Buffer.alloc(12, 0xff)))).toBeUndefined();
  expect(claimedSize(forge(Buffer.from('800000000020000000000000', 'hex')))).toBeUndefined(); // 2^53
  expect(claimedSize(forge(Buffer.from('800000010000000200000000', 'hex')))).toBeUndefined(); // more than 64 bits
  expect(claimedSize(forge(Buffer.from('80000000001fffffffffffff', 'hex')))).toBe(Number.MAX_SAFE_INTEGER);
});
