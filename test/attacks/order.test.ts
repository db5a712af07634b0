// SPDX-License-Identifier: Apache-2.0
/** How far a bundle is read before each verdict (FORMAT.md §7.3), by counting; and media that change meanwhile (T9). */
import { existsSync, openSync, readdirSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { openBundle, type OpenOptions } from '../../src/bundle/open.ts';
import { Home } from '../../src/install/home.ts';
import type { World } from '../../src/install/step.ts';
import { modelStep } from '../../src/install/steps/model.ts';
import { digestOf } from '../../src/store/digest.ts';
import { Store } from '../../src/store/store.ts';
import { split } from '../support/members.ts';
import { MemorySource, openMemory } from '../support/memory.ts';
import { person, policyOf, sampleBundle, type Person } from '../support/sample.ts';
import { tempDir } from '../support/workspace.ts';

const [alice, bob, stranger] = ['alice', 'bob', 'stranger'].map(person) as [Person, Person, Person];
const now = new Date('2026-11-23T12:00:00Z');
const sample = await sampleBundle();
const signedBy = async (...people: Person[]): Promise<Buffer> => readFileSync(await sample.write(people));
const byAlice = await signedBy(alice);
const byNobody = await signedBy();
const byStranger = await signedBy(stranger);
const byBoth = await signedBy(alice, stranger);

/** Offset of the header of a member; everything before it is what comes earlier. */
const startOf = (name: string): number => byAlice.indexOf(`${name}\0`);
const END_OF_SLOTS = startOf('bundle.json');
const END_OF_DOCUMENTS = startOf(split(byAlice)[14]!.name);

async function furthest(bytes: Buffer, options: Partial<OpenOptions>): Promise<[string, number]> {
  const source = new MemorySource(bytes);
  const outcome = await openMemory(source, { policy: policyOf([alice, bob], 2), now, ...options }).then(
    () => 'accepted',
    (error: { code: string }) => error.code,
  );
  return [outcome, source.furthest];
}

describe('nothing behind the slots is read', () => {
  it.each<[string, Buffer, Partial<OpenOptions>]>([
    ['NOT_SIGNED', byNobody, {}],
    ['UNTRUSTED_SIGNER', byStranger, {}],
    ['THRESHOLD_NOT_MET', byAlice, {}],
    ['THRESHOLD_NOT_MET', byBoth, {}],
    ['SIGNER_REVOKED', byAlice, { policy: policyOf([alice], 1, revoked('keys', spki(alice))) }],
    ['SIGNER_EXPIRED', byAlice, { policy: policyOf([alice], 1, '    notAfter: 2026-01-01T00:00:00Z\n') }],
  ])('of a bundle that is refused with %s', async (code, bytes, options) => {
    expect(await furthest(bytes, options)).toEqual([code, END_OF_SLOTS]);
  });
});

describe('nothing behind the documents is read', () => {
  const policy = policyOf([alice]);
  it.each<[string, Partial<OpenOptions>]>([
    ['BUNDLE_REVOKED', { policy: policyOf([alice], 1, revoked('bundles', sample.plan.digest)) }],
    ['NOT_FOR_THIS_HOST', { policy: policyOf([alice], 1, 'channel: stable\n') }],
    ['NOT_FOR_THIS_HOST', { policy: policyOf([alice], 1, 'names: [other]\n') }],
    ['VERSION_REFUSED', { policy: policyOf([alice], 1, 'bundles: { sample: { minVersion: 1.2.4 } }\n') }],
    ['VERSION_REFUSED', { policy, installed: () => ({ version: '1.2.4', digest: digestOf('x') }) }],
    ['VERSION_REFUSED', { policy, installed: () => ({ version: '1.2.3', digest: digestOf('x') }) }],
  ])('of a bundle that is refused with %s', async (code, options) => {
    const [outcome, end] = await furthest(byAlice, options);
    expect(outcome).toBe(code);
    expect(end).toBeGreaterThan(END_OF_SLOTS);
    expect(end).toBeLessThanOrEqual(END_OF_DOCUMENTS);
  });

  it('and the count is one that can be exceeded: an accepted bundle is read to its end', async () => {
    expect(await furthest(byAlice, { policy })).toEqual(['accepted', byAlice.length]);
  });
});

function spki({ publicPem }: Person): string {
  return digestOf(Buffer.from(publicPem.replace(/-----.*-----|\s/g, ''), 'base64'));
}

function revoked(what: string, digest: string): string {
  return `revoked: { ${what}: ["${digest}"] }\n`;
}

describe('media swapped between check and use, on the way into the store', () => {
  const model = sample.inventory.models[0]!;
  const weights = model.files.find((file) => file.path === 'model.safetensors')!;

  /** Installs the model from a bundle whose bytes change, on the same inode, once it has been opened. */
  async function placed(change: (fd: number) => void): Promise<{ error: unknown; store: Store; home: Home }> {
    const path = `${tempDir('swap')}/x.tar`;
    writeFileSync(path, byAlice);
    const home = new Home(tempDir('swap-home'));
    await home.prepare();
    const store = await Store.open(home.root);
    const bundle = await openBundle(path, { policy: policyOf([alice]), now });
    const step = await modelStep({ home, store } as World, bundle, model, 'models/tiny/x');
    change(openSync(path, 'r+'));
    const error: unknown = await step.apply(() => {}).catch((thrown: unknown) => thrown);
    await bundle.close();
    return { error, store, home };
  }

  it('the same content is placed, so that the refusals below are earned', async () => {
    const { error, home } = await placed(() => {});
    expect(error).toBeUndefined();
    expect(digestOf(readFileSync(home.path('models/tiny/x/model.safetensors')))).toBe(weights.digest);
  });

  it.each<[string, number, string]>([
    ['one byte of the weights', byAlice.lastIndexOf('wwww'), 'v'],
    ['the first byte of the weights', byAlice.indexOf('wwww'), 'v'],
    ['a small file', byAlice.indexOf('{"a":1}'), '{"a":2}'],
  ])('%s: refused, nothing placed, and nothing of it kept', async (_, at, text) => {
    const { error, store, home } = await placed((fd) => writeSync(fd, text, at));
    expect(error).toMatchObject({ code: 'CONTENT_MISMATCH' });
    expect(existsSync(home.path('models/tiny/x'))).toBe(false);
    for (const name of readdirSync(`${store.root}/blobs/sha256`))
      expect(digestOf(readFileSync(`${store.root}/blobs/sha256/${name}`))).toBe(`sha256:${name}`);
  });
});
