// SPDX-License-Identifier: Apache-2.0
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openBundle, VerifiedBundle, type OpenOptions } from '../../src/bundle/open.ts';
import { DOCUMENTS } from '../../src/bundle/sums.ts';
import { SealiftError } from '../../src/errors.ts';
import type { SealiftEvent } from '../../src/events.ts';
import { digestOf } from '../../src/store/digest.ts';
import { consistent } from '../support/forge.ts';
import { member, pack, split, type Member } from '../support/members.ts';
import { MemorySource, openMemory } from '../support/memory.ts';
import { person, policyOf, sampleBundle } from '../support/sample.ts';
import { sha256, signatureParts, slotOf } from '../support/signature.ts';
import { tempDir } from '../support/workspace.ts';

const alice = person('alice');
const policy = policyOf([alice]);
const now = new Date('2026-11-23T12:00:00Z');
const sample = await sampleBundle();
const path = await sample.write([alice]);
const good = readFileSync(path);

const open = (bytes: Buffer, options: Partial<OpenOptions> = {}): Promise<VerifiedBundle> =>
  openMemory(new MemorySource(bytes), { policy, now, ...options });

/** The bundle with members changed, and signed over what SHA256SUMS says then. */
function resigned(change: (members: Member[]) => void): Buffer {
  const members = split(good);
  change(members);
  const list = members.slice(9).map((m) => `${sha256(m.content).toString('hex')}  ${m.name}\n`);
  const sums = Buffer.from(list.join(''));
  members[0] = member('SHA256SUMS', sums);
  members[1] = member(members[1]!.name, slotOf(JSON.stringify(signatureParts(sums, alice.key))));
  return pack(members);
}

const at = (name: string): number => split(good).findIndex((m) => m.name === name);
const blobAt = (digest: string): number => at(`blobs/sha256/${digest.slice(7)}`);
const refusal = (code: string, message: RegExp): object => ({
  code,
  message: expect.stringMatching(message),
});

describe('opening', () => {
  it('says what it finds, check by check', async () => {
    const events: SealiftEvent[] = [];
    await open(good, { emit: (event) => events.push(event) });
    const checks = events.flatMap((e) =>
      e.type === 'check' ? [[e.name, e.outcome, e.detail] as const] : [],
    );
    expect(checks.map(([, outcome]) => outcome)).toEqual(checks.map(() => 'ok'));
    const details = Object.fromEntries(checks.map(([name, , detail]) => [name, detail]));
    expect(details['signatures']).toMatch(/1 of 1 needed/);
    expect(details['structure']).toMatch(`${good.length} bytes`);
  });

  it('asks what is installed under this name, and refuses to go back', async () => {
    const asked: string[] = [];
    const installed =
      (version: string, digest = digestOf('other')) =>
      (name: string) => {
        asked.push(name);
        return { version, digest };
      };
    await expect(open(good, { installed: installed('1.2.4') })).rejects.toMatchObject({
      code: 'VERSION_REFUSED',
    });
    await expect(open(good, { installed: installed('1.2.3') })).rejects.toMatchObject({
      code: 'VERSION_REFUSED',
    });
    await open(good, { installed: installed('1.2.3', sample.plan.digest) });
    await open(good, { installed: installed('1.2.2') });
    expect(asked).toEqual(['sample', 'sample', 'sample', 'sample']);
  });

  it('can ask again later', async () => {
    const bundle = await open(good);
    expect(() => bundle.recheckPolicy(undefined)).not.toThrow();
    expect(() => bundle.recheckPolicy({ version: '1.2.4', digest: digestOf('x') })).toThrow(
      expect.objectContaining({ code: 'VERSION_REFUSED' }),
    );
  });

  it('closes what it does not accept', async () => {
    const source = new MemorySource(good.subarray(0, 1000));
    await expect(openMemory(source, { policy, now })).rejects.toMatchObject({ code: 'BUNDLE_INCOMPLETE' });
    expect(source.closed).toBe(true);
    const accepted = new MemorySource(good);
    const bundle = await openMemory(accepted, { policy, now });
    expect(accepted.closed).toBe(false);
    await bundle.close();
    expect(accepted.closed).toBe(true);
  });

  it('is the only way to a VerifiedBundle', () => {
    const Forged = VerifiedBundle as unknown as new (key: symbol, opened: unknown) => VerifiedBundle;
    const opened = { source: { name: 'x', size: 1 }, inventory: sample.inventory, blobs: new Map() };
    expect(() => new Forged(Symbol('opener'), opened)).toThrow('only openBundle makes a VerifiedBundle');
  });
});

describe('what was found', () => {
  it('is the images, as engines know them', async () => {
    const bundle = await open(good);
    const [engine] = bundle.images;
    const { manifest } = sample.inventory.images[0]!;
    const json = JSON.parse(engine!.manifestBytes.toString()) as {
      config: { digest: string };
      layers: object[];
    };
    expect(engine).toMatchObject({
      name: 'engine',
      ref: 'docker.io/vllm/vllm-openai:v0.27.1',
      manifest,
      config: json.config,
      layers: json.layers,
      diffIds: [digestOf('base of everything'), digestOf('program engine')],
    });
    expect(digestOf(engine!.configBytes)).toBe(json.config.digest);
    expect(digestOf(engine!.manifestBytes)).toBe(manifest.digest);
    expect(engine).not.toHaveProperty('parsed');
    expect(bundle.path).toBe('memory');
  });

  it('is every byte of a blob, in buffers of its own or in one', async () => {
    const bundle = await open(good);
    for (const file of sample.inventory.models[0]!.files) {
      const kept: Buffer[] = [];
      for await (const chunk of bundle.blob(file)) kept.push(chunk);
      expect(digestOf(Buffer.concat(kept)), file.path).toBe(file.digest);
      const copied: Buffer[] = [];
      for await (const chunk of bundle.blob(file, undefined, true)) copied.push(Buffer.from(chunk));
      expect(digestOf(Buffer.concat(copied)), file.path).toBe(file.digest);
    }
  });

  it('is no blob that the bundle does not have, nor one of another size', async () => {
    const bundle = await open(good);
    const file = sample.inventory.models[0]!.files[0]!;
    const drain = async (digest: typeof file.digest, size: number): Promise<void> => {
      for await (const _ of bundle.blob({ digest, size }));
    };
    await expect(drain(digestOf('none'), 4)).rejects.toThrow(TypeError);
    await expect(drain(file.digest, file.size + 1)).rejects.toThrow(TypeError);
  });

  it('can be given up in between', async () => {
    const bundle = await open(good);
    const abort = new AbortController();
    abort.abort();
    await expect(bundle.verifyContent({ signal: abort.signal })).rejects.toMatchObject({
      name: 'AbortError',
    });
  });
});

describe('large blobs', async () => {
  const big = await sampleBundle();
  const bytes = Buffer.alloc(2 * 1024 * 1024 + 1, 'v');
  const stored = await big.store.addBytes(bytes);
  const files = [{ path: 'model.safetensors', ...stored }];
  const model = { ...big.inventory.models[0]!, files };
  const bundled = await sampleBundle({ models: [model] }, big.store);
  const archive = readFileSync(await bundled.write([alice]));

  it('come in pieces of a mebibyte, each its own unless one buffer is asked for', async () => {
    const bundle = await open(archive);
    const kept: Buffer[] = [];
    for await (const chunk of bundle.blob(stored)) kept.push(chunk);
    expect(kept.map((chunk) => chunk.length)).toEqual([1024 * 1024, 1024 * 1024, 1]);
    expect(new Set(kept.map((chunk) => chunk.buffer)).size).toBe(3);
    const shared = new Set<ArrayBufferLike>();
    for await (const chunk of bundle.blob(stored, undefined, true)) shared.add(chunk.buffer);
    expect(shared.size).toBe(1);
  });

  it('whose last piece is withheld when any byte differs', async () => {
    const damaged = Buffer.from(archive);
    damaged[archive.indexOf('vvvv')] = 0;
    const bundle = await open(damaged);
    let received = 0;
    const drain = async (): Promise<void> => {
      for await (const chunk of bundle.blob(stored)) received += chunk.length;
    };
    await expect(drain()).rejects.toMatchObject({
      code: 'CONTENT_MISMATCH',
      details: [
        ['signed', stored.digest],
        ['found', expect.stringMatching(/^sha256:/)],
      ],
      hint: expect.stringMatching(/./),
    });
    expect(received).toBe(2 * 1024 * 1024);
  });

  it('can be given up between two pieces', async () => {
    const bundle = await open(archive);
    const abort = new AbortController();
    const drain = async (): Promise<void> => {
      for await (const _ of bundle.blob(stored, abort.signal)) abort.abort();
    };
    await expect(drain()).rejects.toMatchObject({ name: 'AbortError' });
  });
});

describe('hashing everything', () => {
  it('tells how much it was, and as it goes', async () => {
    const bundle = await open(good);
    const events: SealiftEvent[] = [];
    const bytes = sample.plan.blobs.reduce((sum, { size }) => sum + size, 0);
    expect(await bundle.verifyContent({ emit: (event) => events.push(event) })).toEqual({
      blobs: sample.plan.blobs.length,
      bytes,
    });
    const moved = events.flatMap((event) => (event.type === 'item-progress' ? [event.delta] : []));
    expect(moved.reduce((a, b) => a + b, 0)).toBe(bytes);
    expect(events[0]).toEqual({ type: 'stage', name: 'hash', totalBytes: bytes });
    expect(events[1]).toEqual({
      type: 'item-start',
      id: 'memory',
      kind: 'bundle',
      label: 'every byte of memory',
      bytes,
    });
    expect(events).toContainEqual({ type: 'item-end', id: 'memory', outcome: 'done' });
  });

  it('names every blob that differs, and what each is for', async () => {
    const members = split(good);
    const file = sample.inventory.models[0]!.files.find((f) => f.path === 'LICENSE')!;
    const config = sample.inventory.configs[0]!;
    for (const { digest } of [file, config]) {
      const i = blobAt(digest);
      members[i] = { ...members[i]!, content: Buffer.alloc(members[i]!.content.length, '?') };
    }
    const one = members.with(blobAt(config.digest), split(good)[blobAt(config.digest)]!);
    const events: SealiftEvent[] = [];
    const bundle = await open(pack(members));
    const error = await bundle.verifyContent({ emit: (e) => events.push(e) }).catch((e: unknown) => e);
    expect(error).toMatchObject(refusal('CONTENT_MISMATCH', /^2 blobs of the bundle are not/));
    expect(error).toMatchObject({ hint: expect.stringMatching(/./) });
    expect(
      new Map((error as { details: [string, string][] }).details.map(([label, text]) => [text, label])),
    ).toEqual(
      new Map([
        [`${config.digest} (config prometheus.yml)`, 'differs'],
        [`${file.digest} (model tiny: LICENSE)`, 'differs'],
      ]),
    );
    expect(events).toContainEqual({ type: 'item-end', id: 'memory', outcome: 'failed' });
    await expect((await open(pack(one))).verifyContent()).rejects.toMatchObject(
      refusal('CONTENT_MISMATCH', /^one blob of the bundle is not/),
    );
  });

  it('does not take a medium that breaks off for content that differs', async () => {
    const source = new MemorySource(good);
    const bundle = await openMemory(source, { policy, now });
    source.breakOff();
    await expect(bundle.verifyContent()).rejects.toMatchObject({ code: 'BUNDLE_INCOMPLETE' });
  });
});

describe('structure under a good signature', () => {
  it.each(DOCUMENTS)('%s that is not what was signed', async (name) => {
    const members = split(good);
    const i = at(name);
    members[i] = { ...members[i]!, content: Buffer.alloc(members[i]!.content.length, ' ') };
    await expect(open(pack(members))).rejects.toMatchObject({
      ...refusal('CONTENT_MISMATCH', new RegExp(`^${name} is not what was signed`)),
      details: [
        ['signed', expect.stringMatching(/^sha256:/)],
        ['found', digestOf(members[i].content)],
      ],
    });
  });

  it.each(['oci-layout', 'index.json', 'manifest.json'])(
    '%s that does not follow from bundle.json',
    async (name) => {
      const bytes = resigned((members) => (members[at(name)] = member(name, '{}\n')));
      await expect(open(bytes)).rejects.toMatchObject(
        refusal('BUNDLE_MALFORMED', new RegExp(`${name} does not follow`)),
      );
    },
  );

  it('a document over 64 MiB', async () => {
    const { header } = member('bundle.json', Buffer.alloc(64 * 1024 * 1024 + 1));
    const bytes = Buffer.concat([pack(split(good).slice(0, 9), Buffer.alloc(0)), header]);
    await expect(open(bytes)).rejects.toMatchObject(
      refusal('BUNDLE_MALFORMED', /more than the 67108864 allowed/),
    );
  });

  it('a blob too many, and one too few', async () => {
    const more = resigned((members) =>
      members.push(member(`blobs/sha256/${sha256('more').toString('hex')}`, 'more')),
    );
    await expect(open(more)).rejects.toMatchObject(
      refusal('BUNDLE_MALFORMED', /lists \d+ blobs, its inventory needs \d+/),
    );
    const fewer = resigned((members) => members.pop());
    await expect(open(fewer)).rejects.toMatchObject(
      refusal('BUNDLE_MALFORMED', /lists \d+ blobs, its inventory needs \d+/),
    );
  });

  it('one blob in the place of another', async () => {
    const bytes = resigned((members) => {
      members.pop();
      members.push(member(`blobs/sha256/${sha256('other').toString('hex')}`, 'other'));
    });
    await expect(open(bytes)).rejects.toMatchObject(
      refusal('BUNDLE_MALFORMED', /blob \d+ of SHA256SUMS is not the one/),
    );
  });

  it('an image without its manifest or config', async () => {
    const { manifest } = sample.inventory.images[0]!;
    const without = resigned((members) => members.splice(blobAt(manifest.digest), 1));
    await expect(open(without)).rejects.toMatchObject(
      refusal('BUNDLE_MALFORMED', /manifest of image engine is missing/),
    );
    const { config } = JSON.parse(split(good)[blobAt(manifest.digest)]!.content.toString()) as {
      config: { digest: string };
    };
    const bare = resigned((members) => members.splice(blobAt(config.digest), 1));
    await expect(open(bare)).rejects.toMatchObject(
      refusal('BUNDLE_MALFORMED', /config of image engine is missing/),
    );
  });

  it.each([
    ['manifest of an image', () => sample.inventory.images[0]!.manifest.digest],
    ['generated manifest', () => [...sample.plan.generated.keys()][0]!],
  ])('a %s with other content under its name', async (_, digest) => {
    const i = blobAt(digest());
    const members = split(good);
    const content = Buffer.from(members[i]!.content);
    content[content.length - 3]! ^= 1;
    members[i] = { ...members[i]!, content };
    await expect(open(pack(members))).rejects.toMatchObject({ code: 'CONTENT_MISMATCH' });
  });
});

it('a bundle on a disk is opened by its path', async () => {
  const bundle = await openBundle(path, { policy, now });
  expect([bundle.path, bundle.size]).toEqual([path, good.length]);
  await bundle.close();
});

/** A medium that threads cannot read, such as one of several that come one after another. */
class ShyMedium extends MemorySource {
  override stretches(): Promise<never> {
    return Promise.resolve(undefined as never);
  }
}

describe.each([
  ['by threads', MemorySource],
  ['by this process, from a medium that threads cannot read', ShyMedium],
])('copying a blob %s', (_, Source) => {
  const file = sample.inventory.models[0]!.files.find((f) => f.path === 'LICENSE')!;
  const content = split(good)[blobAt(file.digest)]!.content;
  const damaged = (): Buffer => {
    const members = split(good);
    members[blobAt(file.digest)] = member(
      members[blobAt(file.digest)]!.name,
      Buffer.alloc(content.length, '?'),
    );
    return pack(members);
  };
  const target = (): { fd: number; path: string } => {
    const copy = join(tempDir('copy'), 'target');
    return { fd: openSync(copy, 'wx+'), path: copy };
  };
  const openFrom = (bytes: Buffer): Promise<VerifiedBundle> => openMemory(new Source(bytes), { policy, now });

  it('puts it where it is to go, and tells how much it was', async () => {
    const bundle = await openFrom(good);
    const { fd, path: copy } = target();
    let moved = 0;
    const to = [{ fd, offset: 7, length: content.length }];
    await bundle.copy(file, to, { onBytes: (bytes) => (moved += bytes) });
    closeSync(fd);
    const found = readFileSync(copy);
    expect(found.length).toBe(7 + content.length);
    expect(found.subarray(7).equals(content)).toBe(true);
    expect(moved).toBe(content.length);
  });

  it('says when it is not what was signed', async () => {
    const bundle = await openFrom(damaged());
    const { fd } = target();
    const copied = bundle.copy(file, [{ fd, offset: 0, length: content.length }]);
    await expect(copied).rejects.toMatchObject({ code: 'CONTENT_MISMATCH' });
    closeSync(fd);
    await expect(bundle.verifyContent()).rejects.toMatchObject({
      code: 'CONTENT_MISMATCH',
      details: [['differs', `${file.digest} (model tiny: LICENSE)`]],
    });
  });

  it('says it of one that is empty, too', async () => {
    const digest = digestOf('not nothing');
    const empty = { path: 'zzz.bin', digest, size: 0 };
    const forged = await consistent(
      sample,
      ({ models }) => models[0]!.files.push(empty),
      new Map([[digest, Buffer.alloc(0)]]),
      alice.key,
    );
    const bundle = await openFrom(forged);
    const { fd } = target();
    await expect(bundle.copy(empty, [{ fd, offset: 0, length: 0 }])).rejects.toMatchObject({
      code: 'CONTENT_MISMATCH',
    });
    closeSync(fd);
    await expect(bundle.verifyContent()).rejects.toMatchObject({
      code: 'CONTENT_MISMATCH',
      details: [['differs', `${digest} (model tiny: zzz.bin)`]],
    });
    const read = async (): Promise<void> => {
      for await (const chunk of bundle.blob(empty)) expect(chunk.length).toBe(0);
    };
    await expect(read()).rejects.toMatchObject({ code: 'CONTENT_MISMATCH' });
  });

  it('finds nothing where nothing differs', async () => {
    let moved = 0;
    const emit = (event: SealiftEvent): unknown => event.type === 'item-progress' && (moved += event.delta);
    const { bytes } = await (await openFrom(good)).verifyContent({ emit });
    expect(moved).toBe(bytes);
  });

  it('does not take a target that cannot be written for a bad medium', async () => {
    const bundle = await openFrom(good);
    const fd = openSync('/dev/null', 'r');
    const copied = bundle.copy(file, [{ fd, offset: 0, length: content.length }]).catch((e: unknown) => e);
    const error = (await copied) as { side?: string; code: string };
    expect(error.code).toBe('EBADF');
    expect(error).not.toBeInstanceOf(SealiftError);
    closeSync(fd);
  });

  it('tells a medium that breaks off from content that differs', async () => {
    const source = new Source(good);
    const bundle = await openMemory(source, { policy, now });
    source.breakOff();
    const { fd } = target();
    const copied = bundle.copy(file, [{ fd, offset: 0, length: content.length }]);
    await expect(copied).rejects.toMatchObject({ code: 'BUNDLE_INCOMPLETE' });
    closeSync(fd);
    await expect(bundle.verifyContent()).rejects.toMatchObject({ code: 'BUNDLE_INCOMPLETE' });
  });
});

describe('copying without threads', () => {
  it('wants one place, and copies more than one piece to it', async () => {
    const big = await sampleBundle();
    const bytes = Buffer.concat([Buffer.alloc(1024 * 1024, 'a'), Buffer.from('and the rest')]);
    const stored = await big.store.addBytes(bytes);
    const model = { ...big.inventory.models[0]!, files: [{ path: 'model.safetensors', ...stored }] };
    const archive = readFileSync(await (await sampleBundle({ models: [model] }, big.store)).write([alice]));
    const bundle = await openMemory(new ShyMedium(archive), { policy, now });
    const copy = join(tempDir('copy'), 'target');
    const fd = openSync(copy, 'wx+');
    const stretch = { fd, offset: 0, length: bytes.length };
    for (const to of [[], [stretch, stretch]])
      await expect(bundle.copy(stored, to)).rejects.toThrow(TypeError);
    await bundle.copy(stored, [stretch]);
    closeSync(fd);
    expect(readFileSync(copy).equals(bytes)).toBe(true);
  });

  it('can be given up', async () => {
    const bundle = await openMemory(new ShyMedium(good), { policy, now });
    const file = sample.inventory.models[0]!.files[0]!;
    const fd = openSync(join(tempDir('copy'), 'target'), 'wx+');
    const signal = AbortSignal.abort();
    const copied = bundle.copy(file, [{ fd, offset: 0, length: file.size }], { signal });
    await expect(copied).rejects.toMatchObject({ name: 'AbortError' });
    closeSync(fd);
  });
});
