// SPDX-License-Identifier: Apache-2.0
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { imageSource } from '../../../src/build/sources/index.ts';
import type { ResolvedImage, SourceContext } from '../../../src/build/sources/source.ts';
import type { Descriptor } from '../../../src/bundle/inventory.ts';
import { digestOf } from '../../../src/store/digest.ts';
import { tinyImage, type TinyImage } from '../../support/images.ts';
import { runOk, tempDir } from '../../support/workspace.ts';
import { failure, fetchBlob, testContext, type TestContext } from './support.ts';
import { tarOf } from './tar.ts';

const NAME = 'registry.example/team/app:1';
const image = (payload = 'payload'): TinyImage =>
  tinyImage({ name: NAME, payload, architecture: 'amd64', compression: 'none', shared: true });

const resolve = (from: string, context: SourceContext, manifest?: Descriptor): Promise<ResolvedImage> =>
  imageSource(from, context, manifest && { manifest }).resolve(context.emit);

async function expectAll(resolved: ResolvedImage, made: TinyImage, context: TestContext): Promise<void> {
  expect(resolved.manifest).toEqual(made.manifest);
  for (const [digest, bytes] of made.blobs) {
    const expected = { digest: digest as `sha256:${string}`, size: bytes.length };
    if (digest !== made.manifest.digest)
      expect(await fetchBlob(context, expected, resolved.blob(expected))).toEqual(bytes);
  }
}

/** Rewrites index.json with these entries. */
function writeIndex(dir: string, ...manifests: object[]): void {
  writeFileSync(join(dir, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
}

const named = (name: string): object => ({ annotations: { 'org.opencontainers.image.ref.name': name } });

describe('a layout in a folder', () => {
  it('gives its only image, with its name', async () => {
    const made = image();
    const context = await testContext({ baseDir: join(made.dir, '..') });
    const resolved = await resolve(`oci:./${made.dir.split('/').pop()}`, context);
    expect(resolved.ref).toBe(NAME);
    await expectAll(resolved, made, context);
  });

  it('gives the image that a name or a digest chooses; a bare tag is no name for an engine', async () => {
    const made = image();
    const other = { ...made.manifest, digest: digestOf('other') };
    writeIndex(made.dir, { ...made.manifest, ...named('v1') }, { ...other, ...named('v2') });
    const context = await testContext();
    for (const ref of ['v1', made.manifest.digest]) {
      const resolved = await resolve(`oci:${made.dir}:${ref}`, context);
      expect([resolved.ref, resolved.manifest.digest]).toEqual([undefined, made.manifest.digest]);
    }
    const error = await failure(resolve(`oci:${made.dir}`, context), 'IMAGE_NOT_FOUND');
    expect(error.hint).toContain('v1, v2');
    await failure(resolve(`oci:${made.dir}:v3`, context), 'IMAGE_NOT_FOUND');
  });

  it('looks into an index for the platform, and keeps its digest', async () => {
    const made = image();
    const inner = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        manifests: [{ ...made.manifest, platform: { os: 'linux', architecture: 'amd64' } }],
      }),
    );
    const digest = digestOf(inner);
    writeFileSync(join(made.dir, 'blobs/sha256', digest.slice(7)), inner);
    writeIndex(made.dir, {
      mediaType: 'application/vnd.oci.image.index.v1+json',
      digest,
      size: inner.length,
      ...named(NAME),
    });
    const resolved = await resolve(`oci:${made.dir}:${NAME}`, await testContext());
    expect([resolved.manifest.digest, resolved.index, resolved.ref]).toEqual([
      made.manifest.digest,
      digest,
      NAME,
    ]);
    const error = await failure(
      resolve(`oci:${made.dir}`, await testContext({ platform: 'linux/arm64' })),
      'PLATFORM_NOT_FOUND',
    );
    expect(error.hint).toContain('linux/amd64');
  });

  it('whose manifest was changed is refused', async () => {
    const made = image();
    writeFileSync(
      join(made.dir, 'blobs/sha256', made.manifest.digest.slice(7)),
      image('changed').blobs.get(image('changed').manifest.digest)!,
    );
    await failure(resolve(`oci:${made.dir}`, await testContext()), 'SOURCE_CHANGED');
  });

  it('whose layer was changed, or is gone, is refused', async () => {
    const made = image();
    const layer = made.layers[1]!;
    const expected = { digest: layer.digest as `sha256:${string}`, size: layer.bytes.length };
    const context = await testContext();
    const resolved = await resolve(`oci:${made.dir}`, context);
    const path = join(made.dir, 'blobs/sha256', layer.digest.slice(7));
    writeFileSync(path, Buffer.alloc(layer.bytes.length));
    await failure(fetchBlob(context, expected, resolved.blob(expected)), 'SOURCE_CHANGED');
    writeFileSync(path, 'short');
    await failure(fetchBlob(context, expected, resolved.blob(expected)), 'SOURCE_CHANGED');
    rmSync(path);
    await failure(fetchBlob(context, expected, resolved.blob(expected)), 'SOURCE_CHANGED');
  });

  it('that is locked is found by digest, whatever its index says by now', async () => {
    const made = image();
    writeIndex(made.dir);
    const resolved = await resolve(`oci:${made.dir}:gone`, await testContext(), made.manifest as Descriptor);
    expect(resolved.manifestBytes).toEqual(made.blobs.get(made.manifest.digest));
    await failure(
      resolve(`oci:${made.dir}`, await testContext(), { ...made.manifest, digest: digestOf('x') }),
      'SOURCE_CHANGED',
    );
  });

  it('is no layout, or is not there', async () => {
    const dir = tempDir('empty');
    await failure(resolve(`oci:${dir}`, await testContext()), 'SOURCE_INVALID');
    await failure(resolve(`oci:${dir}/none`, await testContext()), 'FILE_MISSING');
    writeFileSync(join(dir, 'x.tar'), '');
    const error = await failure(resolve(`oci:${dir}/x.tar`, await testContext()), 'SOURCE_INVALID');
    expect(error.hint).toContain('oci-archive:');
    await failure(resolve(`oci-archive:${dir}`, await testContext()), 'SOURCE_INVALID');
  });
});

describe('a layout in an archive', () => {
  it.each([
    ['GNU tar', ['--format=gnu']],
    ['GNU tar, pax', ['--format=pax']],
  ])('of %s is read in place', async (_, flags) => {
    const made = image();
    const path = join(tempDir('archive'), 'x.tar');
    await runOk('tar', ['-C', made.dir, ...flags, '-cf', path, '.']);
    const context = await testContext();
    await expectAll(await resolve(`oci-archive:${path}`, context), made, context);
  });

  it('of skopeo is read in place, by name', async () => {
    const made = image();
    const path = join(tempDir('archive'), 'x.tar');
    await runOk('skopeo', [
      'copy',
      '--quiet',
      '--preserve-digests',
      `oci:${made.dir}:${NAME}`,
      `oci-archive:${path}:${NAME}`,
    ]);
    const context = await testContext();
    await expectAll(await resolve(`oci-archive:${path}:${NAME}`, context), made, context);
  });

  it('with names that climb out is only a list of names: nothing is written anywhere', async () => {
    const made = image();
    const evil = Buffer.from('evil');
    const members: [string, { bytes: Buffer } | { link: string }][] = [
      ['../../evil', { bytes: evil }],
      ['/tmp/sealift-evil', { bytes: evil }],
      ['blobs/sha256/' + 'x'.repeat(200), { bytes: evil }],
      [`blobs/sha256/${made.layers[0]!.digest.slice(7)}`, { link: '/etc/passwd' }],
      [
        'index.json',
        { bytes: Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [made.manifest] })) },
      ],
      ...[...made.blobs].map(([digest, bytes]): [string, { bytes: Buffer }] => [
        `blobs/sha256/${digest.slice(7)}`,
        { bytes },
      ]),
    ];
    const path = join(tempDir('archive'), 'x.tar');
    writeFileSync(path, tarOf(members));
    const context = await testContext();
    await expectAll(await resolve(`oci-archive:${path}`, context), made, context);
  });

  it.each<[string, (tar: Buffer) => Buffer]>([
    ['cut', (tar) => tar.subarray(0, tar.length - 2000)],
    ['cut in a header', (tar) => tar.subarray(0, 100)],
    ['empty', () => Buffer.alloc(0)],
    ['compressed', (tar) => gzipSync(tar)],
    ['damaged', (tar) => Buffer.concat([Buffer.from('x'), tar.subarray(1)])],
    ['of nothing', () => Buffer.alloc(1024)],
  ])('that is %s is refused', async (_, change) => {
    const made = image();
    const members = [...made.blobs].map(
      ([digest, bytes]) => [`blobs/sha256/${digest.slice(7)}`, { bytes }] as const,
    );
    const path = join(tempDir('archive'), 'x.tar');
    writeFileSync(
      path,
      change(tarOf([['index.json', { bytes: Buffer.from('{"manifests":[]}') }], ...members])),
    );
    await failure(resolve(`oci-archive:${path}`, await testContext()), 'SOURCE_INVALID');
  });
});
