// SPDX-License-Identifier: Apache-2.0
//
// A bundle cut into regions, and single bits to flip in them. The cut follows node-tar's reading of the headers
// and the documents themselves, not the code under test, and covers every byte of the archive once.
import { readSync, writeSync } from 'node:fs';
import { Header } from 'tar';
import { mulberry32 } from './random.ts';

export type Region = { name: string; ranges: Range[]; size: number };
type Range = { offset: number; size: number };
export type Flip = { region: string; position: number; bit: number };
type Member = { name: string; offset: number; size: number };

const BLOCK = 512;

/** The regions of an archive in the order in which they first occur. */
export function regionsOf(archive: Buffer): Region[] {
  const members = membersOf(archive);
  const kinds = blobKinds(archive, members);
  const regions = new Regions();
  for (const member of members) {
    const group = groupOf(member.name);
    cutHeader(regions, group, member);
    cutContent(regions, group, member, archive, kinds);
    const filler = -member.size & (BLOCK - 1);
    regions.add(`padding: ${group}`, member.offset + member.size, filler);
  }
  const end = members.at(-1)!;
  const mark = end.offset + end.size + (-end.size & (BLOCK - 1));
  regions.add('end mark', mark, archive.length - mark);
  return regions.list();
}

/** Every region's ranges, empty ones left out. */
class Regions {
  readonly #found = new Map<string, Region>();

  add(name: string, offset: number, size: number): void {
    if (size === 0) return;
    const region = this.#found.get(name) ?? { name, ranges: [], size: 0 };
    region.ranges.push({ offset, size });
    region.size += size;
    this.#found.set(name, region);
  }

  list(): Region[] {
    return [...this.#found.values()];
  }
}

function membersOf(archive: Buffer): Member[] {
  const members: Member[] = [];
  for (let at = 0; archive[at] !== 0;) {
    const { path, size, cksumValid } = new Header(archive, at);
    if (path === undefined || size === undefined || !cksumValid) throw new Error(`no header at byte ${at}`);
    members.push({ name: path, offset: at + BLOCK, size });
    at += BLOCK + Math.ceil(size / BLOCK) * BLOCK;
  }
  return members;
}

function groupOf(name: string): string {
  if (name === 'SHA256SUMS') return name;
  if (name.startsWith('signatures/')) return 'slots';
  return name.startsWith('blobs/') ? 'blobs' : 'documents';
}

/** The first member's name is what makes a file a bundle at all, so it is a region of its own. */
function cutHeader(regions: Regions, group: string, { name, offset }: Member): void {
  const magic = group === 'SHA256SUMS' ? name.length + 1 : 0;
  regions.add('first name', offset - BLOCK, magic);
  regions.add(`header: ${group}`, offset - BLOCK + magic, BLOCK - magic);
}

function cutContent(
  regions: Regions,
  group: string,
  { name, offset, size }: Member,
  archive: Buffer,
  kinds: ReadonlyMap<string, string>,
): void {
  if (group === 'slots') {
    const text = archive.toString('latin1', offset, offset + size).trimEnd().length;
    regions.add('used slot: JSON', offset, text);
    regions.add(text > 0 ? 'used slot: spaces' : 'unused slot', offset + text, size - text);
  } else {
    regions.add(kinds.get(name) ?? (group === 'blobs' ? 'generated blob' : name), offset, size);
  }
}

type ImageJson = { config: { digest: string }; layers: { digest: string; mediaType: string }[] };
type BundleJson = {
  images: { manifest: { digest: string } }[];
  models: { files: { path: string; digest: string }[] }[];
  configs: { digest: string }[];
};

/** What each blob is for, by its member's name; manifests and configs that sealift writes itself are left out. */
function blobKinds(archive: Buffer, members: readonly Member[]): Map<string, string> {
  const kinds = new Map<string, string>();
  const nameOf = (digest: string): string => digest.replace(':', '/').replace(/^/, 'blobs/');
  const json = (name: string): unknown => {
    const { offset, size } = members.find((member) => member.name === name)!;
    return JSON.parse(archive.toString('utf8', offset, offset + size));
  };
  const { images, models, configs } = json('bundle.json') as BundleJson;
  for (const { manifest } of images) {
    const { config, layers } = json(nameOf(manifest.digest)) as ImageJson;
    kinds.set(nameOf(manifest.digest), 'image manifest').set(nameOf(config.digest), 'image config');
    for (const { digest, mediaType } of layers)
      kinds.set(nameOf(digest), `layer: ${mediaType.split('+')[1]}`);
  }
  for (const { path, digest } of models.flatMap((model) => model.files))
    kinds.set(nameOf(digest), path.endsWith('.safetensors') ? 'model: weights' : 'model: other file');
  for (const { digest } of configs) kinds.set(nameOf(digest), 'config file');
  return kinds;
}

/** `count` flips, the regions taking turns; position and bit are random, and the same for the same seed. */
export function chooseFlips(regions: readonly Region[], count: number, seed: number): Flip[] {
  const random = mulberry32(seed);
  return Array.from({ length: count }, (_, i) => {
    const region = regions[i % regions.length]!;
    const position = positionIn(region, Math.floor(random() * region.size));
    return { region: region.name, position, bit: Math.floor(random() * 8) };
  });
}

function positionIn({ ranges }: Region, index: number): number {
  let left = index;
  for (const { offset, size } of ranges) {
    if (left < size) return offset + left;
    left -= size;
  }
  throw new RangeError(`${index} is outside of the region`);
}

/** Flips one bit of an open file in place; doing it twice undoes it. */
export function flipBit(fd: number, { position, bit }: Flip): void {
  const byte = Buffer.alloc(1);
  if (readSync(fd, byte, 0, 1, position) !== 1) throw new RangeError(`the file has no byte ${position}`);
  byte[0]! ^= 1 << bit;
  writeSync(fd, byte, 0, 1, position);
}
