// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest';
import { diffLocks, type Lock } from '../../src/build/lock.ts';
import type { UpstreamSignature, UpstreamSigner } from '../../src/bundle/inventory.ts';
import { digestOf, type Digest } from '../../src/store/digest.ts';

const digest = (letter: string): Digest => `sha256:${letter.repeat(64)}`;
const mediaType = 'application/vnd.oci.image.manifest.v1+json';

function lock(): Lock {
  return {
    apiVersion: 'sealift.dev/v1',
    kind: 'Lock',
    created: '2026-11-23T10:00:00Z',
    manifest: digest('0'),
    platform: 'linux/amd64',
    images: [
      { name: 'engine', from: 'a/b:1', ref: 'a/b:1', manifest: { mediaType, digest: digest('1'), size: 10 } },
      {
        name: 'gateway',
        from: 'a/c:1',
        ref: 'a/c:1',
        manifest: { mediaType, digest: digest('2'), size: 10 },
      },
    ],
    models: [
      {
        name: 'tiny',
        from: 'hf:o/n@main',
        revision: 'a'.repeat(40),
        license: 'mit',
        files: [
          { path: 'config.json', digest: digest('3'), size: 100 },
          { path: 'old.bin', digest: digest('4'), size: 1000 },
        ],
      },
    ],
    configs: [{ name: 'p.yml', digest: digest('5'), size: 5 }],
  };
}

function changed(edit: (lock: Lock) => void): string[] {
  const after = structuredClone(lock());
  edit(after);
  return diffLocks(lock(), after).map(({ kind, name, text }) => `${kind} ${name}: ${text}`);
}

test('equal locks, and locks that differ in date and manifest digest only, carry the same', () => {
  expect(changed(() => {})).toEqual([]);
  expect(
    changed((l) => Object.assign(l, { created: '2027-01-01T00:00:00Z', manifest: digest('9') })),
  ).toEqual([]);
});

test('a tag that moved', () => {
  expect(changed((l) => void (l.images[0]!.manifest.digest = digest('6')))).toEqual([
    `image engine: a/b:1 moved from ${digest('1')} to ${digest('6')}`,
  ]);
});

test('another tag, with other content, under another name', () => {
  const edit = (l: Lock): void => {
    Object.assign(l.images[0]!, { from: 'a/b:2', ref: 'a/b:2' });
    l.images[0]!.manifest.digest = digest('6');
  };
  expect(changed(edit)).toEqual([
    'image engine: now taken from a/b:2, before from a/b:1',
    `image engine: content changed from ${digest('1')} to ${digest('6')}`,
    'image engine: called a/b:2, before a/b:1',
  ]);
});

test('images that come and go', () => {
  expect(changed((l) => void l.images.shift())).toEqual([`image engine: removed: ${digest('1')}`]);
  expect(changed((l) => void l.images.push({ ...l.images[0]!, name: 'extra' }))).toEqual([
    `image extra: added: ${digest('1')}`,
  ]);
});

test('a revision that moved, with its files and bytes', () => {
  const edit = (l: Lock): void => {
    Object.assign(l.models[0]!, {
      revision: 'b'.repeat(40),
      files: [
        { path: 'config.json', digest: digest('7'), size: 150 },
        { path: 'new.bin', digest: digest('8'), size: 500 },
      ],
    });
  };
  expect(changed(edit)).toEqual([
    `model tiny: revision moved from ${'a'.repeat(40)} to ${'b'.repeat(40)}; 1100 → 650 bytes, -450 in all, 3 files differ`,
    'file tiny/config.json: content changed (100 → 150 bytes, +50)',
    `file tiny/new.bin: added: ${digest('8')} (500 bytes)`,
    `file tiny/old.bin: removed: ${digest('4')} (1000 bytes)`,
  ]);
});

test('a licence, a config and the platform that changed', () => {
  const changes = changed((l) => {
    l.platform = 'linux/arm64';
    delete l.models[0]!.license;
    l.configs[0] = { name: 'p.yml', digest: digest('6'), size: 7 };
  });
  expect(changes).toEqual([
    'platform platform: changed',
    'model tiny: licence changed from mit to none',
    'config p.yml: content changed (5 → 7 bytes, +2)',
  ]);
});

test('each change has both sides for machines', () => {
  const after = lock();
  after.images[0]!.manifest.digest = digest('6');
  expect(diffLocks(lock(), after)).toEqual([
    expect.objectContaining({ kind: 'image', name: 'engine', before: digest('1'), after: digest('6') }),
  ]);
  expect(diffLocks(lock(), { ...lock(), configs: [] })[0]).not.toHaveProperty('after');
});

const signature = (by: UpstreamSigner): UpstreamSignature => ({
  kind: 'sigstore-bundle',
  over: digest('1'),
  by,
  anchor: digest('2'),
});

test('who signed: newly demanded, another one, no longer, and another file that says who may', () => {
  const before = lock();
  before.images[0]!.signature = signature(digest('a'));
  const identity = { identity: 'maker@ci.example', issuer: 'https://issuer.example' };
  const texts = (edit: (lock: Lock) => void, from = before): string[] => {
    const after = structuredClone(from);
    edit(after);
    return diffLocks(from, after).map(({ kind, name, text }) => `${kind} ${name}: ${text}`);
  };
  expect(texts((l) => void (l.images[0]!.signature = signature(digest('a'))), lock())).toEqual([
    `image engine: signed by key ${digest('a')}`,
  ]);
  expect(texts((l) => void (l.images[0]!.signature = signature(identity)))).toEqual([
    `image engine: signed by maker@ci.example (https://issuer.example), before by key ${digest('a')}`,
  ]);
  expect(texts((l) => void delete l.images[0]!.signature)).toEqual([
    'image engine: its signature is not demanded any more',
  ]);
  expect(texts((l) => void (l.images[0]!.signature!.anchor = digest('3')))).toEqual([
    'image engine: the file that says who may sign it has other content',
  ]);
  expect(texts((l) => void (l.images[0]!.signature!.kind = 'simple-signing'))).toEqual([
    'image engine: its signature is in another form: simple-signing',
  ]);
  expect(texts((l) => void (l.images[0]!.signature!.over = digest('4')))).toEqual([
    `image engine: its signature is over ${digest('4')} now`,
  ]);
});

test('our own signature of a model, by another key', () => {
  const change = changed((l) => void (l.models[0]!.oms = { key: 'AAAA', signature: 'AAAA' }));
  expect(change).toEqual([`model tiny: model.sig is by key ${digestOf(Buffer.from('AAAA', 'base64'))} now`]);
});
