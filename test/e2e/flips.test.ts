// SPDX-License-Identifier: Apache-2.0
/**
 * One flipped bit anywhere in a bundle: the install is refused with the right code and leaves nothing, in the
 * engine or in the home. Every install runs in this process, as the command does it, on a real engine.
 */
import { closeSync, openSync, readdirSync, readFileSync, readlinkSync, statSync } from 'node:fs';
import { join, relative } from 'node:path';
import { createHash, randomInt } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { tinyModel } from '../../fixtures/model.ts';
import type { Inventory } from '../../src/bundle/inventory.ts';
import { openBundle } from '../../src/bundle/open.ts';
import { SealiftError, type ErrorCode } from '../../src/errors.ts';
import type { Home } from '../../src/install/home.ts';
import { uninstall } from '../../src/install/uninstall.ts';
import { digestOf } from '../../src/store/digest.ts';
import {
  CHAT,
  installer,
  makeBundle,
  makeHome,
  policy,
  type Installer,
  type RigBundle,
} from '../install/rig.ts';
import { engineRequest, startDocker, type DockerEngine } from '../support/docker.ts';
import { chooseFlips, flipBit, regionsOf, type Flip, type Region } from '../support/flips.ts';
import { tinyImage } from '../support/images.ts';
import { tempDir } from '../support/workspace.ts';

/** Flips in all; scripts/soak raises it. */
const FLIPS = Number(process.env['SEALIFT_TEST_FLIPS'] ?? 300);
const SEED = Number(process.env['SEALIFT_TEST_SEED'] ?? randomInt(2 ** 31));

type Outcome = ErrorCode | 'installed';
type Expectation = Outcome | ((flip: Flip, archive: Buffer) => Outcome);

/**
 * What the reader must say about a flip in each region (FORMAT.md §7.3 gives the order in which it looks).
 * A header that is not the canonical one is never believed, also not about its size, so no flip in one can look
 * like a bundle that ends too early: its checksum or the regenerated header differs first.
 */
const EXPECTED: Readonly<Record<string, Expectation>> = {
  // Without the name of the first member the file is something else, not a damaged bundle.
  'first name': 'NOT_A_BUNDLE',
  'header: SHA256SUMS': 'BUNDLE_MALFORMED',
  // Judged before anything in it is believed: what was signed were other bytes.
  SHA256SUMS: 'BAD_SIGNATURE',
  'padding: SHA256SUMS': 'BUNDLE_MALFORMED',
  'header: slots': 'BUNDLE_MALFORMED',
  'used slot: JSON': (flip, archive) => slotOutcome(flip, archive),
  // The bundle's only signature is no longer one JSON object and spaces (§3.1), and nothing else vouches for it.
  'used slot: spaces': 'BAD_SIGNATURE',
  // §3.4: whoever holds the media can fill a free slot, so it is reported, and the other signature decides.
  'unused slot': 'installed',
  'header: documents': 'BUNDLE_MALFORMED',
  'bundle.json': 'CONTENT_MISMATCH',
  'provenance.json': 'CONTENT_MISMATCH',
  'oci-layout': 'CONTENT_MISMATCH',
  'index.json': 'CONTENT_MISMATCH',
  'manifest.json': 'CONTENT_MISMATCH',
  'padding: documents': 'BUNDLE_MALFORMED',
  'header: blobs': 'BUNDLE_MALFORMED',
  'image manifest': 'CONTENT_MISMATCH',
  'image config': 'CONTENT_MISMATCH',
  'generated blob': 'CONTENT_MISMATCH',
  'layer: gzip': 'CONTENT_MISMATCH',
  'layer: zstd': 'CONTENT_MISMATCH',
  'model: weights': 'CONTENT_MISMATCH',
  'model: other file': 'CONTENT_MISMATCH',
  'config file': 'CONTENT_MISMATCH',
  'padding: blobs': 'BUNDLE_MALFORMED',
  'end mark': 'BUNDLE_MALFORMED',
};

/** A slot that is intact but for its hint names a key that nobody trusts; anything else is a damaged signature. */
function slotOutcome(flip: Flip, archive: Buffer): Outcome {
  const start = archive.lastIndexOf('{"mediaType"', flip.position);
  const end = archive.indexOf(' ', start);
  const text = Buffer.from(archive.subarray(start, end));
  const hintOf = (json: SlotJson): string => json.verificationMaterial.publicKey.hint;
  const before = JSON.parse(text.toString()) as SlotJson;
  text[flip.position - start]! ^= 1 << flip.bit;
  try {
    const after = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(text)) as SlotJson;
    const restored = JSON.stringify(after).replace(
      JSON.stringify(hintOf(after)),
      JSON.stringify(hintOf(before)),
    );
    return restored === JSON.stringify(before) ? 'UNTRUSTED_SIGNER' : 'BAD_SIGNATURE';
  } catch {
    return 'BAD_SIGNATURE';
  }
}

type SlotJson = { verificationMaterial: { publicKey: { hint: string } } };

/** Bytes that do not compress, the same in every run, so that a seed finds the same bits again. */
const noise = (size: number): Buffer =>
  createHash('shake256', { outputLength: size }).update(String(size)).digest();

const engineFolder = tempDir('flips-engine');
let engine: DockerEngine;
let home: Home;
let me: Installer;

beforeAll(async () => {
  engine = await startDocker({ dir: engineFolder });
  ({ home } = await makeHome());
  me = installer(home, engine.socket);
});

afterAll(async () => {
  await engine?.stop();
});

/** A bundle that lies open for flipping, and its bytes as they were written. */
interface Subject {
  bundle: RigBundle;
  archive: Buffer;
  regions: Region[];
  fd: number;
}

async function makeSubject(name: string, more: Partial<Inventory> = {}): Promise<Subject> {
  // Parts of more than one MiB: what a flip in the last piece of one spoils has left the bundle for the most part.
  const images = [
    tinyImage({ name: 'engine', payload: noise(1_300_000), shared: true }),
    tinyImage({ name: 'gateway', payload: noise(60_000), compression: 'zstd', shared: true }),
  ].map((image) => ({
    name: image.name,
    ref: `registry.example.org/${name}/${image.name}:1`,
    layout: image.dir,
  }));
  const model = tinyModel();
  model.set('large.safetensors', { bytes: noise(1_200_000), lfs: true });
  const made = await makeBundle({ name, images, model, more });
  const archive = readFileSync(made.path);
  const bundle = { ...made, open: () => open(made.path) };
  return { bundle, archive, regions: regionsOf(archive), fd: openSync(made.path, 'r+') };
}

/** As `install` does it, with the home's memory against rollbacks. */
async function open(path: string): ReturnType<typeof openBundle> {
  const installed = await home.installed();
  return openBundle(path, { policy, now: new Date(), installed: (name) => installed.get(name) });
}

async function install({ bundle }: Subject): Promise<string> {
  try {
    await me.install(bundle);
    return 'installed';
  } catch (error) {
    return error instanceof SealiftError ? error.code : `untyped: ${String(error)}`;
  }
}

const ask = async <T>(path: string): Promise<T> =>
  JSON.parse((await engineRequest(engine.socket, 'GET', path)).body) as T;

/** Everything that an install could leave: the engine's images and containers, and every name in the home. */
async function remains(): Promise<string[]> {
  const list = async (what: string): Promise<string[]> =>
    (await ask<{ Id: string; RepoTags?: string[] }[]>(`/${what}/json?all=1`)).map(
      ({ Id, RepoTags }) => `${what}: ${Id} ${RepoTags?.join(' ')}`,
    );
  const names = readdirSync(home.root, { recursive: true, withFileTypes: true }).map((entry) => {
    const path = join(entry.parentPath, entry.name);
    const name = relative(home.root, path);
    if (entry.isSymbolicLink()) return `${name} -> ${readlinkSync(path)}`;
    return entry.isDirectory() ? `${name}/` : `${name} ${statSync(path).size}`;
  });
  const all = [...(await list('images')), ...(await list('containers')), ...names];
  // The home's own folders may be there or not; what is in one has a name of its own.
  return all.filter((name) => !/^(models|configs|releases|caches|spool|docker-config)\/$/.test(name)).sort();
}

/** What must never be left of a bundle, whatever else an earlier install or uninstall has left on purpose. */
const OF_A_BUNDLE =
  /^(images|containers): |^current|^journal|^lock|^(models|configs|releases|spool|partial|blobs\/sha256)\/./;

/** Installs, proves that there is something to leave, and takes it away again. */
async function installAndRemove(subject: Subject): Promise<void> {
  expect(await install(subject)).toBe('installed');
  const there = await remains();
  expect(there.filter((name) => name.startsWith('images: '))).toHaveLength(2);
  expect(there).toContain('current -> releases/flips-1.0.0');
  await uninstall(me.input);
}

/** Flips, installs, flips back; what is wrong with the outcome, or undefined. */
async function judge(flip: Flip, subject: Subject, clean: string[]): Promise<string | undefined> {
  const expected = expectedOf(flip, subject.archive);
  flipBit(subject.fd, flip);
  const outcome = await install(subject).finally(() => flipBit(subject.fd, flip));
  if (outcome === 'installed') await uninstall(me.input);
  const left = (await remains()).filter((name) => !clean.includes(name));
  const at = `byte ${flip.position}, bit ${flip.bit} (${flip.region})`;
  if (outcome !== expected) return `${at}: ${outcome} instead of ${expected}`;
  return left.length === 0 ? undefined : `${at}: ${outcome}, and left ${left.join(', ')}`;
}

function expectedOf(flip: Flip, archive: Buffer): Outcome {
  const expected = EXPECTED[flip.region]!;
  return typeof expected === 'function' ? expected(flip, archive) : expected;
}

/** All flips one after the other; a line for each that went wrong. */
async function judgeAll(flips: readonly Flip[], subject: Subject, clean: string[]): Promise<string[]> {
  const tally = new Map<string, Map<string, number>>();
  const wrong: string[] = [];
  const started = performance.now();
  for (const flip of flips) {
    const problem = await judge(flip, subject, clean);
    if (problem !== undefined) wrong.push(problem);
    count(tally, flip.region, problem === undefined ? expectedOf(flip, subject.archive) : 'WRONG');
  }
  process.stdout.write(report(subject, flips.length, tally, performance.now() - started));
  return wrong;
}

function count(tally: Map<string, Map<string, number>>, region: string, outcome: string): void {
  const outcomes = tally.get(region) ?? new Map<string, number>();
  tally.set(region, outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1));
}

function report(
  { bundle, archive, regions }: Subject,
  flips: number,
  tally: ReadonlyMap<string, ReadonlyMap<string, number>>,
  ms: number,
): string {
  const rows = regions
    .filter(({ name }) => tally.has(name))
    .map(({ name, size }) => {
      const outcomes = [...tally.get(name)!].map(([outcome, times]) => `${times} ${outcome}`);
      return `  ${name.padEnd(22)}${String(size).padStart(9)} bytes  ${outcomes.join(', ')}\n`;
    });
  const head = `${flips} flips in ${bundle.inventory.name} of ${archive.length} bytes, ${(ms / 1000).toFixed(0)} s, SEALIFT_TEST_SEED=${SEED}\n`;
  return head + rows.join('');
}

it(`${FLIPS} flipped bits, one at a time, in every region`, { timeout: 3_600_000 }, async () => {
  const subject = await makeSubject('flips');
  const { archive, regions, bundle, fd } = subject;
  expect(regions.map((region) => region.name).toSorted()).toEqual(Object.keys(EXPECTED).toSorted());
  expect(regions.reduce((sum, { size }) => sum + size, 0)).toBe(archive.length);
  await installAndRemove(subject);
  const clean = await remains();
  expect(clean.filter((name) => OF_A_BUNDLE.test(name))).toEqual([]);

  const wrong = await judgeAll(chooseFlips(regions, FLIPS, SEED), subject, clean);
  expect(wrong, `SEALIFT_TEST_SEED=${SEED}`).toEqual([]);

  // The file is as it was, and neither it nor the home nor the engine has suffered.
  expect(digestOf(readFileSync(bundle.path))).toBe(digestOf(archive));
  expect(await ask('/system/df')).toMatchObject({ LayersSize: 0 });
  await installAndRemove(subject);
  expect(await remains()).toEqual(clean);
  closeSync(fd);
});

/** Regions whose bytes are first read after the plan is made, when files have been placed and images loaded. */
const LATE = ['layer: gzip', 'layer: zstd', 'model: weights', 'model: other file', 'config file'];

it('and no container is ever made for a bundle with services', async () => {
  const subject = await makeSubject('served', CHAT);
  const late = subject.regions.filter(({ name }) => LATE.includes(name));
  const clean = await remains();
  // The engine keeps a folder here for every container: one that comes and goes changes the time.
  const containers = (): number => statSync(join(engineFolder, 'data/containers')).mtimeMs;
  const before = containers();
  const wrong = await judgeAll(chooseFlips(late, Math.ceil(FLIPS / 10), SEED), subject, clean);
  expect(wrong, `SEALIFT_TEST_SEED=${SEED}`).toEqual([]);
  expect(containers()).toBe(before);
  closeSync(subject.fd);
});
