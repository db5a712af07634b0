// SPDX-License-Identifier: Apache-2.0
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { placeInstaller, readInstaller } from '../../src/build/installer.ts';
import { provenanceOf } from '../../src/build/provenance.ts';
import { tempDir } from '../support/workspace.ts';

const program = (name = 'sealift-enclave', content = '\x7fELF and so on'): string => {
  const file = join(tempDir('installer'), name);
  writeFileSync(file, content, 'latin1');
  return file;
};
const code = (expected: string): unknown => expect.objectContaining({ code: expected });

describe('the program that crosses beside a bundle', () => {
  it('is copied as it is, may be run, and is named in the text with its digest', async () => {
    const path = program();
    const folder = tempDir('medium');
    const installer = await readInstaller(path);
    await placeInstaller(installer, join(folder, 'demo.tar.001'), 'demo 1.0.0');
    const copy = join(folder, 'sealift-enclave');
    expect(readFileSync(copy).equals(readFileSync(path))).toBe(true);
    expect(statSync(copy).mode & 0o777).toBe(0o755);
    const text = readFileSync(join(folder, 'READ-ME-FIRST.txt'), 'utf8');
    for (const part of ['demo 1.0.0', 'demo.tar.001', installer.digest.slice(7)])
      expect(text).toContain(part);
    expect(Math.max(...text.split('\n').map((line) => line.length))).toBeLessThan(126);
  });

  it('is refused when it is not there, no program, or has a name that no shell likes', async () => {
    await expect(readInstaller(join(tempDir('none'), 'x'))).rejects.toEqual(code('FILE_MISSING'));
    await expect(readInstaller(program('script', '#!/bin/sh'))).rejects.toEqual(code('USAGE'));
    await expect(readInstaller(program('empty', ''))).rejects.toEqual(code('USAGE'));
    await expect(readInstaller(program('a b'))).rejects.toEqual(code('USAGE'));
  });

  it('that changed since the provenance named it does not go along', async () => {
    const path = program();
    const installer = await readInstaller(path);
    writeFileSync(path, '\x7fELF and so 0n', 'latin1');
    const folder = tempDir('medium');
    await expect(placeInstaller(installer, join(folder, 'b.tar'), 'b')).rejects.toEqual(
      code('SOURCE_CHANGED'),
    );
    expect(existsSync(join(folder, 'sealift-enclave'))).toBe(false);
    expect(existsSync(join(folder, 'READ-ME-FIRST.txt'))).toBe(false);
  });
});

it('is a byproduct in the provenance, by its digest', () => {
  const inventory = {} as Parameters<typeof provenanceOf>[0];
  const lock = {
    manifest: `sha256:${'a'.repeat(64)}`,
    images: [],
    models: [],
    configs: [],
    created: '',
    platform: 'linux/amd64',
  };
  const statement = JSON.parse(
    provenanceOf(inventory, { models: {} } as never, lock as never, {
      name: 'sealift-enclave',
      digest: `sha256:${'b'.repeat(64)}`,
    }).toString(),
  ) as { predicate: { runDetails: { byproducts: { name: string; digest: { sha256: string } }[] } } };
  expect(statement.predicate.runDetails.byproducts).toEqual([
    expect.objectContaining({ name: 'sealift-enclave', digest: { sha256: 'b'.repeat(64) } }),
  ]);
});
