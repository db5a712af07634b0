// SPDX-License-Identifier: Apache-2.0
/**
 * Documents that are made to break their reader, or to be read in two ways: mostly under a good signature, since of
 * a bundle that nobody trusted has signed no document is read.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { Inventory } from '../../src/bundle/inventory.ts';
import { canonicalJson } from '../../src/json.ts';
import { digestOf } from '../../src/store/digest.ts';
import { blob, consistent, digestName, resigned, withInventory } from '../support/forge.ts';
import { member, pack, split, type Member } from '../support/members.ts';
import { MemorySource, openMemory } from '../support/memory.ts';
import { person, policyOf, sampleBundle } from '../support/sample.ts';

const alice = person('alice');
const policy = policyOf([alice]);
const now = new Date('2026-11-23T12:00:00Z');
const sample = await sampleBundle();
const good = readFileSync(await sample.write([alice]));
const other = readFileSync(await (await sampleBundle({ version: '1.2.4' })).write([alice]));

/** `CODE: message` of the refusal, or 'accepted'. */
async function judge(bytes: Buffer): Promise<string> {
  try {
    const bundle = await openMemory(new MemorySource(bytes), { policy, now });
    await bundle.verifyContent();
    return 'accepted';
  } catch (error) {
    const { code, message } = error as { code: string; message: string };
    return `${code}: ${message}`;
  }
}

const edited = (edit: (members: Member[]) => void): Promise<string> => {
  const members = split(good);
  edit(members);
  return judge(pack(members));
};
const at = (name: string): number => split(good).findIndex((m) => m.name === name);
const signedAgain = (edit: (members: Member[]) => Member[]): Promise<string> =>
  judge(resigned(edit(split(good)), alice.key));

it('the forgeries below start from a good bundle', async () => {
  expect(await judge(good)).toBe('accepted');
  expect(await signedAgain((members) => members)).toBe('accepted');
  expect(await signedAgain((members) => withInventory(members, sample.inventory))).toBe('accepted');
});

describe('SHA256SUMS', () => {
  it('swapped for that of another good bundle, with its signature or without', async () => {
    const [theirs] = split(other);
    expect(await edited((m) => (m[0] = theirs!))).toMatch(/^BAD_SIGNATURE/);
    expect(await edited((m) => m.splice(0, 2, ...split(other).slice(0, 2)))).toMatch(/^CONTENT_MISMATCH/);
  });

  it('with its lines reordered, and the members with them', async () => {
    expect(
      await signedAgain((members) => [...members.slice(0, -2), members.at(-1)!, members.at(-2)!]),
    ).toMatch(/^BUNDLE_MALFORMED: .*not the one that follows from bundle\.json/);
  });
});

describe('documents', () => {
  it.each([
    ['bundle.json', 'provenance.json'],
    ['oci-layout', 'index.json'],
    ['index.json', 'manifest.json'],
  ])('%s and %s in the other order, unsigned and signed', async (a, b) => {
    const swap = (members: Member[]): void => {
      [members[at(a)], members[at(b)]] = [members[at(b)]!, members[at(a)]!];
    };
    expect(await edited(swap)).toMatch(/^BUNDLE_MALFORMED: .*no canonical header/);
    expect(await signedAgain((members) => (swap(members), members))).toMatch(
      /^BUNDLE_MALFORMED: SHA256SUMS .*names another member/,
    );
  });

  it('of another good bundle in their place', async () => {
    const theirs = split(other);
    expect(await edited((m) => m.splice(9, 5, ...theirs.slice(9, 14)))).toMatch(
      /^CONTENT_MISMATCH: bundle\.json/,
    );
  });
});

describe('an index', () => {
  const { manifest } = sample.inventory.images[0]!;
  const INDEX = 'application/vnd.oci.image.index.v1+json';
  const index = (entries: unknown[], more = {}): Buffer =>
    canonicalJson({ schemaVersion: 2, mediaType: INDEX, manifests: entries, ...more });

  /** The bundle with other content as the manifest of its first image, and an inventory that says so. */
  function withManifest(content: Buffer, mediaType = manifest.mediaType): Promise<string> {
    const inventory: Inventory = structuredClone(sample.inventory);
    inventory.images[0]!.manifest = { mediaType, digest: digestOf(content), size: content.length };
    return signedAgain((members) =>
      withInventory(members, inventory).map((m) =>
        m.name === digestName(manifest.digest) ? blob(content) : m,
      ),
    );
  }

  it('in the place of an image manifest', async () => {
    expect(await withManifest(index([manifest]), INDEX)).toMatch(
      /^BUNDLE_MALFORMED: .*not an image manifest/,
    );
    expect(await withManifest(index([manifest]))).toMatch(/^BUNDLE_MALFORMED: .*not an image manifest/);
  });

  it('that is an image manifest as well: half of the tools would read the one, half the other', async () => {
    const bytes = split(good).find((m) => m.name === digestName(manifest.digest))!.content;
    const both = { ...(JSON.parse(bytes.toString()) as object), manifests: [manifest] };
    expect(await withManifest(canonicalJson(both))).toMatch(/^BUNDLE_MALFORMED: .*not an image manifest/);
  });

  it('of indexes of indexes, a hundred deep', async () => {
    let nested: Buffer = index([manifest]);
    const blobs: Member[] = [];
    for (let level = 0; level < 100; level++) {
      blobs.push(blob(nested));
      nested = index([{ mediaType: INDEX, digest: digestOf(nested), size: nested.length }]);
    }
    const outer = await signedAgain((members) => [
      ...members.with(at('index.json'), member('index.json', nested)),
      ...blobs,
    ]);
    expect(outer).toMatch(/^BUNDLE_MALFORMED: .*index\.json does not follow from bundle\.json/);
    expect(await withManifest(nested, INDEX)).toMatch(/^BUNDLE_MALFORMED: .*not an image manifest/);
  });

  it('that names itself: nothing is followed, so nothing goes round', async () => {
    // No content has its own digest in it, so a cycle can only be claimed: by digests that are those of something else.
    const claimed = { mediaType: INDEX, digest: manifest.digest, size: manifest.size };
    const self = index([claimed, claimed]);
    expect(await withManifest(self, INDEX)).toMatch(/^BUNDLE_MALFORMED: .*not an image manifest/);
    const outer = await signedAgain((members) => members.with(at('index.json'), member('index.json', self)));
    expect(outer).toMatch(/^BUNDLE_MALFORMED: .*index\.json does not follow/);
  });

  it('of text nested 100,000 deep', async () => {
    const deep = Buffer.from(`${'{"manifests":['.repeat(50_000)}${']}'.repeat(50_000)}`);
    const outer = await signedAgain((members) => members.with(at('index.json'), member('index.json', deep)));
    expect(outer).toMatch(/^BUNDLE_MALFORMED: .*index\.json does not follow/);
    expect(await withManifest(deep)).toMatch(/^BUNDLE_MALFORMED: .*nested deeper than 128/);
  });
});

describe('a member whose size differs from its descriptor', () => {
  const weights = sample.inventory.models[0]!.files.find((f) => f.path === 'model.safetensors')!;
  const { config, layers } = JSON.parse(
    split(good)[at(digestName(sample.inventory.images[0]!.manifest.digest))]!.content.toString(),
  ) as { config: { digest: string; size: number }; layers: { digest: string; size: number }[] };

  it.each<[string, string, (content: Buffer) => Buffer]>([
    ['weights, larger', weights.digest, (c) => Buffer.concat([c, Buffer.from('+')])],
    ['weights, smaller', weights.digest, (c) => c.subarray(1)],
    ['weights, of no bytes', weights.digest, () => Buffer.alloc(0)],
    ['a layer, larger', layers[0]!.digest, (c) => Buffer.concat([c, Buffer.from('+')])],
    ['a layer, smaller', layers[0]!.digest, (c) => c.subarray(0, -1)],
    ['an image config, smaller', config.digest, (c) => c.subarray(0, -1)],
    [
      'an image manifest, larger',
      sample.inventory.images[0]!.manifest.digest,
      (c) => Buffer.concat([c, Buffer.from(' ')]),
    ],
    [
      'the manifest of a model, larger',
      [...sample.plan.generated.keys()][0]!,
      (c) => Buffer.concat([c, Buffer.from(' ')]),
    ],
  ])('%s', async (_, digest, change) => {
    const name = digestName(digest);
    expect(await edited((m) => (m[at(name)] = member(name, change(m[at(name)]!.content))))).toMatch(
      /^(BUNDLE_MALFORMED|CONTENT_MISMATCH)/,
    );
  });

  it('by what the descriptor says, under a good signature', async () => {
    for (const by of [-1, 1, 2 ** 40]) {
      const inventory = structuredClone(sample.inventory);
      inventory.models[0]!.files.find((f) => f.path === 'model.safetensors')!.size += by;
      const outcome = await signedAgain((members) => withInventory(members, inventory));
      expect(outcome, String(by)).toMatch(/^BUNDLE_MALFORMED/);
    }
  });
});

/** Here nothing contradicts anything else, so each is refused by the one rule that is about it. */
describe('a bundle that is consistent in itself, but', () => {
  const image = sample.inventory.images[0]!;
  const readJson = async (expected: {
    digest: `sha256:${string}`;
    size: number;
  }): Promise<Record<string, unknown>> =>
    JSON.parse((await sample.store.readBytes(expected, 1e6)).toString()) as Record<string, unknown>;
  const described = (bytes: Buffer): { digest: `sha256:${string}`; size: number } => ({
    digest: digestOf(bytes),
    size: bytes.length,
  });
  const forge = async (change: (inventory: Inventory) => void, ...contents: Buffer[]): Promise<string> =>
    judge(await consistent(sample, change, new Map(contents.map((c) => [digestOf(c), c])), alice.key));

  it('changed in nothing, is accepted', async () => {
    expect(await forge(() => {})).toBe('accepted');
    expect(await forge((i) => (i.name = 'other'))).toBe('accepted');
  });

  it('its image manifest has another type than its descriptor says (CVE-2021-41190)', async () => {
    const docker = 'application/vnd.docker.distribution.manifest.v2+json';
    expect(await forge((i) => (i.images[0]!.manifest.mediaType = docker))).toMatch(
      /^BUNDLE_MALFORMED: .*its descriptor says another type/,
    );
    const retyped = canonicalJson({ ...(await readJson(image.manifest)), mediaType: docker });
    const set = (mediaType: string) => (i: Inventory) =>
      (i.images[0]!.manifest = { mediaType, ...described(retyped) });
    expect(await forge(set(image.manifest.mediaType), retyped)).toMatch(/^BUNDLE_MALFORMED: .*another type/);
    expect(await forge(set(docker), retyped)).toBe('accepted');
  });

  it('its images are for another platform', async () => {
    expect(await forge((i) => (i.platform = 'linux/arm64'))).toMatch(
      /^BUNDLE_MALFORMED: .*is for linux\/amd64, the bundle for linux\/arm64/,
    );
  });

  it('an image has more layers than its config lists, or fewer', async () => {
    const manifest = await readJson(image.manifest);
    const layers = manifest['layers'] as object[];
    for (const wrong of [layers.slice(1), [...layers, layers[0]!]]) {
      const bytes = canonicalJson({ ...manifest, layers: wrong });
      const outcome = await forge((i) => Object.assign(i.images[0]!.manifest, described(bytes)), bytes);
      expect(outcome).toMatch(/^BUNDLE_MALFORMED: .*layers, but its config lists 2/);
    }
  });

  it('an image manifest is larger than any may be: it is not even read', async () => {
    const long = Buffer.concat([
      canonicalJson(await readJson(image.manifest)),
      Buffer.alloc(4 * 1024 ** 2, ' '),
    ]);
    const made = consistent(
      sample,
      (i) => Object.assign(i.images[0]!.manifest, described(long)),
      new Map([[digestOf(long), long]]),
      alice.key,
    );
    await expect(made).rejects.toMatchObject({ code: 'SOURCE_INVALID' });
    const most = Buffer.concat([canonicalJson(await readJson(image.manifest)), Buffer.alloc(100_000, ' ')]);
    expect(await forge((i) => Object.assign(i.images[0]!.manifest, described(most)), most)).toBe('accepted');
  });

  it('a file of no bytes has a digest that is not that of nothing', async () => {
    const digest = digestOf('something');
    const bytes = await consistent(
      sample,
      (i) => Object.assign(i.models[0]!.files[2]!, { digest, size: 0 }),
      new Map([[digest, Buffer.alloc(0)]]),
      alice.key,
    );
    expect(await judge(bytes)).toMatch(/^CONTENT_MISMATCH: one blob/);
  });

  it('one digest is claimed with two sizes', async () => {
    const { digest } = sample.inventory.configs[0]!;
    const made = consistent(
      sample,
      (i) => Object.assign(i.models[0]!.files[0]!, { digest }),
      new Map(),
      alice.key,
    );
    await expect(made).rejects.toMatchObject({ code: 'BUNDLE_MALFORMED' });
  });
});
