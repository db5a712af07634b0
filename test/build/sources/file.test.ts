// SPDX-License-Identifier: Apache-2.0
import { execFileSync } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { modelSource } from '../../../src/build/sources/index.ts';
import type { ResolvedModel } from '../../../src/build/sources/source.ts';
import { digestOf } from '../../../src/store/digest.ts';
import { runOk, tempDir } from '../../support/workspace.ts';
import { failure, fetchBlob, testContext, type TestContext } from './support.ts';

function weights(files: Record<string, string>): string {
  const dir = tempDir('weights');
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(join(dir, path, '..'), { recursive: true });
    writeFileSync(join(dir, path), content);
  }
  return dir;
}

async function resolve(dir: string, revision?: string, context?: TestContext): Promise<ResolvedModel> {
  const used = context ?? (await testContext());
  return modelSource(`file:${dir}`, used, revision === undefined ? undefined : { revision }).resolve(
    used.emit,
  );
}

const odd = { 'b/ä #1.txt': 'two', 'a.json': '{}', empty: '' };

describe('a folder', () => {
  it('is listed with digests; its revision is what sha256sum says of sha256sum', async () => {
    const dir = weights(odd);
    const model = await resolve(dir);
    expect(model.files).toEqual([
      { path: 'a.json', size: 2, digest: digestOf('{}') },
      { path: 'b/ä #1.txt', size: 3, digest: digestOf('two') },
      { path: 'empty', size: 0, digest: digestOf('') },
    ]);
    const list = await runOk('sha256sum', ['a.json', 'b/ä #1.txt', 'empty'], { cwd: dir });
    expect(model.revision).toBe(digestOf(list));
  });

  it('relative to the manifest gives its files', async () => {
    const dir = weights(odd);
    const context = await testContext({ baseDir: join(dir, '..') });
    const model = await resolve(`./${dir.split('/').pop()}`, undefined, context);
    for (const { path, size, digest } of model.files) {
      const bytes = await fetchBlob(context, { digest: digest!, size }, model.file(path));
      expect(bytes.toString()).toBe(odd[path as keyof typeof odd]);
    }
  });

  it('that is locked is not hashed again, but what changed is caught when it is stored', async () => {
    const dir = weights(odd);
    const before = await resolve(dir);
    writeFileSync(join(dir, 'b/ä #1.txt'), 'new');
    const context = await testContext();
    const locked = await resolve(dir, before.revision, context);
    expect(locked.revision).toBe(before.revision);
    expect(locked.files.every((file) => file.digest === undefined)).toBe(true);
    expect(context.events).toEqual([]);
    const { digest, size, path } = before.files[1]!;
    await failure(fetchBlob(context, { digest: digest!, size }, locked.file(path)), 'SOURCE_CHANGED');
  });

  it('lost a file, or is not there', async () => {
    const model = await resolve(weights(odd));
    await failure(() => model.file('other'), 'SOURCE_CHANGED');
    await failure(resolve('/nowhere/at/all'), 'FILE_MISSING');
  });
});

describe('a link', () => {
  it('to a file of the folder is followed', async () => {
    const dir = weights({ 'blobs/x': 'content' });
    symlinkSync('blobs/x', join(dir, 'model.bin'));
    const model = await resolve(dir);
    expect(model.files.map(({ path, digest }) => [path, digest])).toEqual([
      ['blobs/x', digestOf('content')],
      ['model.bin', digestOf('content')],
    ]);
  });

  it.each([['/etc/passwd'], ['../secret'], ['inside/../../secret']])('to %s is refused', async (target) => {
    const parent = weights({ secret: 's', 'model/inside/x': 'x' });
    const dir = join(parent, 'model');
    symlinkSync(target, join(dir, 'link'));
    const error = await failure(resolve(dir), 'UNSAFE_NAME');
    expect(error.hint).toContain('cp -rL');
  });

  it('to a folder with a name that begins alike is refused', async () => {
    const parent = weights({ 'model-secret/s': 's', 'model/x': 'x' });
    symlinkSync('../model-secret/s', join(parent, 'model/link'));
    await failure(resolve(join(parent, 'model')), 'UNSAFE_NAME');
  });

  it('to a folder, and one to nothing, is refused', async () => {
    const dir = weights({ 'a/x': 'x' });
    symlinkSync('a', join(dir, 'b'));
    await failure(resolve(dir), 'SOURCE_INVALID');
    const dangling = weights({ x: 'x' });
    symlinkSync('none', join(dangling, 'b'));
    await failure(resolve(dangling), 'FILE_MISSING');
  });

  it('as the folder itself is fine', async () => {
    const dir = weights({ x: 'x' });
    const link = join(tempDir('link'), 'model');
    symlinkSync(dir, link);
    expect((await resolve(link)).files).toHaveLength(1);
  });
});

it('names that a bundle cannot carry, and things that are no files, are refused', async () => {
  await failure(resolve(weights({ 'a\nb': 'x' })), 'UNSAFE_NAME');
  const dir = weights({ x: 'x' });
  execFileSync('mkfifo', [join(dir, 'pipe')]);
  await failure(resolve(dir), 'SOURCE_INVALID');
});
