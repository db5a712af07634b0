// SPDX-License-Identifier: Apache-2.0
/** Attacks on the archive by someone who owns the media. Each starts from a good, signed bundle. */
import { readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openBundle } from '../../src/bundle/open.ts';
import { formatSums, DOCUMENTS, parseSums } from '../../src/bundle/sums.ts';
import { END_OF_ARCHIVE } from '../../src/bundle/tar.ts';
import { writeBundle } from '../../src/bundle/write.ts';
import { canonicalJson } from '../../src/json.ts';
import { digestOf, type Digest } from '../../src/store/digest.ts';
import { keySigner } from '../../src/trust/sign.ts';
import { member, pack, reheaded, split, type Member } from '../support/members.ts';
import { person, policyOf, provenanceOf, sampleBundle, verifyAll } from '../support/sample.ts';
import { runOk, tempDir } from '../support/workspace.ts';

const alice = person('alice');
const policy = policyOf([alice]);
const sample = await sampleBundle();
const good = readFileSync(await sample.write([alice]));

/** Judges a forged archive; the outcome's code, or 'accepted'. */
async function judge(bytes: Buffer): Promise<string> {
  const path = `${tempDir('forged')}/x.tar`;
  writeFileSync(path, bytes);
  return verifyAll(path, policy).then(
    () => 'accepted',
    (error: { code: string }) => error.code,
  );
}

const isBlob = (m: Member): boolean => m.name.startsWith('blobs/');
const lastBlob = split(good).findLastIndex((m) => isBlob(m) && m.content.length > 0);

it('splits and packs without a change, so that the attacks below start from a good bundle', async () => {
  expect(pack(split(good)).equals(good)).toBe(true);
  expect(await judge(good)).toBe('accepted');
});

describe('members', () => {
  const edited = (edit: (members: Member[]) => void): Promise<string> => {
    const members = split(good);
    edit(members);
    return judge(pack(members));
  };
  it.each<[string, (members: Member[]) => void]>([
    ['a member added at the end', (m) => m.push(member('evil.sh', 'rm -rf /'))],
    ['a member added in the middle', (m) => m.splice(10, 0, member('evil.sh', 'rm -rf /'))],
    ['a listed blob left out', (m) => m.splice(lastBlob, 1)],
    ['a member renamed', (m) => m.splice(9, 1, member('bundle.yaml', m[9]!.content))],
    ['a blob twice', (m) => m.splice(lastBlob, 0, m[lastBlob]!)],
    ['two blobs in the other order', (m) => m.push(m.splice(lastBlob - 1, 1)[0]!)],
    ['a slot left out', (m) => m.splice(3, 1)],
    [
      'a slot of another size',
      (m) => m.splice(3, 1, member('signatures/2.sigstore.json', ' '.repeat(16_383))),
    ],
    [
      'a blob that is longer than its descriptor',
      (m) =>
        m.splice(
          lastBlob,
          1,
          member(m[lastBlob]!.name, Buffer.concat([m[lastBlob]!.content, Buffer.from('+')])),
        ),
    ],
  ])('%s', async (_, edit) => {
    expect(await edited(edit)).toMatch(/^(BUNDLE_MALFORMED|BUNDLE_INCOMPLETE)$/);
  });

  it('content changed under the same size', async () => {
    const members = split(good);
    members[lastBlob]!.content = Buffer.alloc(members[lastBlob]!.content.length, 0x41);
    expect(await judge(pack(members))).toBe('CONTENT_MISMATCH');
  });

  it('SHA256SUMS rewritten to fit changed content', async () => {
    const members = split(good);
    members[0] = member('SHA256SUMS', Buffer.from(members[0]!.content).fill('0', 0, 64));
    expect(await judge(pack(members))).toBe('BAD_SIGNATURE');
  });
});

describe('headers', () => {
  const reheadered = (edit: (header: Buffer) => void): Promise<string> => {
    const members = split(good);
    members[9]!.header = reheaded(members[9]!.header, edit);
    return judge(pack(members));
  };
  it.each<[string, (header: Buffer) => void]>([
    ['pax', (h) => h.write('x', 156)],
    ['a global pax header', (h) => h.write('g', 156)],
    ['a GNU long name', (h) => h.write('L', 156)],
    ['a GNU sparse file', (h) => h.write('S', 156)],
    ['a hard link', (h) => h.write('1', 156) && h.write('/etc/passwd', 157)],
    ['a symbolic link', (h) => h.write('2', 156) && h.write('/etc/passwd', 157)],
    ['a directory', (h) => h.write('5', 156)],
    ['an old regular file', (h) => h.writeUInt8(0, 156)],
    ['a prefix', (h) => h.write('../../etc', 345)],
    ['a name that climbs out', (h) => h.write('../bundle.json\0', 0)],
    ['a set-uid mode', (h) => h.write('0004755\0', 100)],
    ['an owner', (h) => h.write('root', 265)],
    ['a date', (h) => h.write('14742142000\0', 136)],
    ['GNU magic', (h) => h.write('ustar  \0', 257)],
    [
      'a small size in base-256',
      (h) => h.fill(0, 124, 136) && h.writeUInt8(0x80, 124) && h.writeUInt32BE(5, 132),
    ],
    ['a negative size', (h) => h.fill(0xff, 124, 136)],
    [
      'a huge size',
      (h) => h.fill(0, 124, 136) && h.writeUInt8(0x80, 124) && h.writeBigUInt64BE(2n ** 52n, 128),
    ],
    ['octal with spaces', (h) => h.write('      00010 ', 124)],
    ['rubbish in the unused bytes', (h) => h.writeUInt8(1, 511)],
  ])('%s', async (_, edit) => {
    expect(await reheadered(edit)).toBe('BUNDLE_MALFORMED');
  });
});

it('a FIFO under the name of the bundle', async () => {
  const path = `${tempDir('fifo')}/x.tar`;
  await runOk('mkfifo', [path]);
  await expect(openBundle(path, { policy, now: new Date() })).rejects.toMatchObject({ code: 'NOT_A_BUNDLE' });
});

describe('the end', () => {
  it.each<[string, Buffer, string]>([
    ['a third zero block', Buffer.alloc(1536), 'BUNDLE_MALFORMED'],
    [
      'data after the end mark',
      Buffer.concat([END_OF_ARCHIVE, member('evil', 'x').header]),
      'BUNDLE_MALFORMED',
    ],
    ['only one zero block', Buffer.alloc(512), 'BUNDLE_INCOMPLETE'],
    ['no end mark', Buffer.alloc(0), 'BUNDLE_INCOMPLETE'],
    ['an end mark that is not zero', Buffer.alloc(1024, 1), 'BUNDLE_MALFORMED'],
  ])('%s', async (_, end, code) => {
    expect(await judge(pack(split(good), end))).toBe(code);
  });

  it.each([1, 511, 512, 2000, 20_000, 140_000, good.length - 1])('cut off after %d bytes', async (length) => {
    expect(await judge(good.subarray(0, length))).toBe('BUNDLE_INCOMPLETE');
  });

  it('an empty file, and one that is something else', async () => {
    expect(await judge(Buffer.alloc(0))).toBe('BUNDLE_INCOMPLETE');
    expect(await judge(Buffer.from('PK\x03\x04 a zip file'))).toBe('NOT_A_BUNDLE');
    expect(await judge(pack([member('evil', 'x')]))).toBe('NOT_A_BUNDLE');
  });
});

/** The attacker here is a trusted signer gone bad, or one who was shown something else: the signature is good. */
describe('documents under a good signature', () => {
  async function forged(
    documents: Record<string, Buffer>,
    blobs?: (list: Digest[]) => Digest[],
  ): Promise<string> {
    const all = DOCUMENTS.map(
      (name) => [name, documents[name] ?? sample.plan.documents.find(([n]) => n === name)![1]] as const,
    );
    const order = blobs
      ? blobs(sample.plan.blobs.map((b) => b.digest))
      : sample.plan.blobs.map((b) => b.digest);
    const sums = formatSums(new Map(all.map(([name, bytes]) => [name, digestOf(bytes)])), order);
    const path = `${tempDir('forged')}/x.tar`;
    const listed = order.flatMap((digest) => sample.plan.blobs.filter((b) => b.digest === digest));
    const plan = { ...sample.plan, sums, documents: all, blobs: listed };
    await writeBundle(path, plan, [await keySigner(alice.key).sign(sums)], sample.store);
    return judge(readFileSync(path));
  }
  const json = (name: string): Record<string, unknown> =>
    JSON.parse(sample.plan.documents.find(([n]) => n === name)![1].toString()) as Record<string, unknown>;
  const inventory = (change: (i: typeof sample.inventory) => void): Record<string, Buffer> => {
    const copy = structuredClone(sample.inventory);
    change(copy);
    const bytes = canonicalJson(copy);
    return { 'bundle.json': bytes, 'provenance.json': provenanceOf(bytes) };
  };

  it('accepts its own forgery without a change, so that the refusals below are earned', async () => {
    expect(await forged({})).toBe('accepted');
  });

  it('manifest.json that loads another image than index.json', async () => {
    const [first, second] = json('manifest.json') as unknown as Record<string, unknown>[];
    expect(
      await forged({ 'manifest.json': canonicalJson([{ ...first, Layers: second!['Layers'] }, second]) }),
    ).toBe('BUNDLE_MALFORMED');
  });

  it('index.json that names a blob which is not listed', async () => {
    const index = json('index.json') as { manifests: { digest: string }[] };
    index.manifests[0]!.digest = digestOf('elsewhere');
    expect(await forged({ 'index.json': canonicalJson(index) })).toBe('BUNDLE_MALFORMED');
  });

  it('a listed blob that nothing names', async () => {
    expect(await forged({}, (list) => [...list.slice(1), list[0]!])).toBe('BUNDLE_MALFORMED');
    expect(await forged(inventory((i) => i.configs.pop()))).toBe('BUNDLE_MALFORMED');
  });

  it('a provenance of another bundle', async () => {
    expect(await forged({ 'provenance.json': provenanceOf(Buffer.from('another')) })).toBe(
      'BUNDLE_MALFORMED',
    );
  });

  it.each<[string, (i: typeof sample.inventory) => void]>([
    ['a file that climbs out', (i) => (i.models[0]!.files[0]!.path = '../../etc/cron.d/x')],
    ['an absolute file', (i) => (i.models[0]!.files[0]!.path = '/etc/passwd')],
    ['a file name with an escape sequence', (i) => (i.models[0]!.files[0]!.path = 'a\u001b[2Jb')],
    ['a file name with bidirectional text', (i) => (i.models[0]!.files[0]!.path = 'a\u202etxt.exe')],
    ['a service with an image that is not there', (i) => (i.services[0]!.image = 'other')],
    ['an image for another platform', (i) => (i.platform = 'linux/arm64')],
    ['a size that differs from the blob', (i) => i.models[0]!.files[3]!.size++],
    ['models out of order', (i) => i.models[0]!.files.reverse()],
    ['two images with one reference', (i) => (i.images[1]!.ref = i.images[0]!.ref)],
    ['an option that is not one', (i) => (i.services[0]!.options = { '-v': '/:/host' })],
    ['an unknown key', (i) => Object.assign(i, { extra: true })],
    [
      'a reference that climbs out of a path of the engine',
      (i) => (i.images[0]!.ref = '../127.0.0.9/leak:1'),
    ],
    ['a reference to another object of the engine', (i) => (i.images[0]!.ref = '../containers/aa:1')],
    ['a reference in a spelling that engines shorten', (i) => (i.images[0]!.ref = 'docker.io/nginx:1')],
    ['a reference by an alias of a registry', (i) => (i.images[0]!.ref = 'index.docker.io/library/nginx:1')],
    ['a reference with a port that is none', (i) => (i.images[0]!.ref = 'localhost:99999/x:1')],
    ['a reference with empty labels', (i) => (i.images[0]!.ref = 'a/b...c:1')],
    ['an image manifest under another media type', (i) => (i.images[0]!.manifest.mediaType = 'text/plain')],
    [
      'an image manifest that claims to be an index',
      (i) => (i.images[0]!.manifest.mediaType = 'application/vnd.oci.image.index.v1+json'),
    ],
    ['a file that is a folder as well', (i) => (i.models[0]!.files[2]!.path = 'config.json/x')],
    [
      'a config that is a folder as well',
      (i) => i.configs.push({ ...i.configs[0]!, name: 'prometheus.yml/x' }),
    ],
    ['an option value with a NUL', (i) => (i.services[0]!.options = { seed: 'a\u0000b' })],
    ['a version without end', (i) => (i.version = `1.0.0-${'a'.repeat(300)}`)],
  ])('%s', async (_, change) => {
    expect(await forged(inventory(change))).toBe('BUNDLE_MALFORMED');
  });

  it.each<[string, (text: string) => string]>([
    ['duplicate keys', (t) => t.replace('"name": "sample"', '"name": "other",\n  "name": "sample"')],
    ['other spacing', (t) => t.replace('  "name"', '   "name"')],
    ['escapes', (t) => t.replace('"sample"', '"\\u0073ample"')],
    ['a prototype', (t) => t.replace('{\n', '{\n  "__proto__": {},\n')],
    ['deep nesting', () => '['.repeat(100_000)],
    ['a byte order mark', (t) => `\ufeff${t}`],
    ['not JSON', () => 'hello'],
  ])('bundle.json with %s', async (_, edit) => {
    const bytes = Buffer.from(edit(sample.plan.documents[0]![1].toString()));
    expect(await forged({ 'bundle.json': bytes, 'provenance.json': provenanceOf(bytes) })).toBe(
      'BUNDLE_MALFORMED',
    );
  });

  it('a format from the future', async () => {
    const bytes = canonicalJson({ ...sample.inventory, apiVersion: 'sealift.dev/v2' });
    expect(await forged({ 'bundle.json': bytes })).toBe('BUNDLE_UNSUPPORTED');
  });
});

it('media swapped between check and use', async () => {
  const path = `${tempDir('swap')}/x.tar`;
  writeFileSync(path, good);
  const bundle = await openBundle(path, { policy, now: new Date() });
  const evil = Buffer.from(good);
  evil[good.lastIndexOf('wwww')] = 0x76;
  writeFileSync(path, evil); // the same inode: what a hostile stick can do
  await expect(bundle.verifyContent()).rejects.toMatchObject({ code: 'CONTENT_MISMATCH' });
  await bundle.close();
});

it('reads no blob, and nothing behind the slots, before the signatures are good', async () => {
  const members = split(good);
  const unsigned = members.map((m, i) => (i === 1 ? member(m.name, ' '.repeat(16_384)) : m));
  const head = pack(unsigned.slice(0, 9), Buffer.alloc(0));
  // Everything behind the slots is missing: had it been read, the code would be BUNDLE_INCOMPLETE.
  expect(await judge(head)).toBe('NOT_SIGNED');
  expect(parseSums(members[0]!.content).blobs.length).toBeGreaterThan(0);
});
