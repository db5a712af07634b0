// SPDX-License-Identifier: Apache-2.0
/** What registries and layouts share: telling indexes from manifests, and choosing the platform. */
import * as z from 'zod';
import { MANIFEST_TYPES, parseImageConfig, parseImageManifest } from '../../bundle/oci.ts';
import { DigestSchema, Size, type Descriptor } from '../../bundle/inventory.ts';
import { printable } from '../../text.ts';
import { SealiftError } from '../../errors.ts';
import { parseJson } from '../../json.ts';
import { digestOf, type Digest, type Expected } from '../../store/digest.ts';
import type { ResolvedImage, SourceContext } from './source.ts';

/** Largest manifest or index, in bytes; crane and containers/image stop there too. */
export const MAX_MANIFEST_BYTES = 4 * 1024 * 1024;
/** Largest image config, in bytes. */
export const MAX_CONFIG_BYTES = 4 * 1024 * 1024;

export const INDEX_TYPES: readonly string[] = [
  'application/vnd.oci.image.index.v1+json',
  'application/vnd.docker.distribution.manifest.list.v2+json',
];

/** For the Accept header: everything that is understood, images first. */
export const ACCEPT_MANIFESTS = [...MANIFEST_TYPES, ...INDEX_TYPES].join(', ');

const IndexEntry = z.object({
  mediaType: z.string().default(MANIFEST_TYPES[0]!),
  digest: DigestSchema,
  size: Size,
  platform: z.object({ os: z.string(), architecture: z.string(), variant: z.string().optional() }).optional(),
  annotations: z.record(z.string(), z.string()).optional(),
});
export type IndexEntry = z.infer<typeof IndexEntry>;

const Index = z.object({ manifests: z.array(IndexEntry).max(4096) });

export type ManifestDocument =
  { kind: 'image'; mediaType: string } | { kind: 'index'; mediaType: string; entries: IndexEntry[] };

/**
 * Tells what a document of a registry or layout is. The media type inside counts more than what the transport
 * says; a document that could be read as both kinds is refused (GHSA-xmmx-7jpf-fx42).
 * @param declared the Content-Type or the descriptor's media type, if any
 * @throws {SealiftError} SOURCE_INVALID
 */
export function readManifestDocument(
  bytes: Uint8Array,
  declared: string | undefined,
  what: string,
): ManifestDocument {
  const json = parseJson(bytes, what, 'SOURCE_INVALID', MAX_MANIFEST_BYTES) as Record<string, unknown> | null;
  const inside = typeof json?.['mediaType'] === 'string' ? json['mediaType'] : undefined;
  refuseSchema1(json, inside ?? declared, what);
  const hasManifests = Array.isArray(json?.['manifests']);
  const hasLayers = json?.['layers'] !== undefined || json?.['config'] !== undefined;
  if (hasManifests && hasLayers) {
    throw new SealiftError(
      'SOURCE_INVALID',
      `${what} claims to be an index and an image manifest at the same time`,
    );
  }
  const mediaType = inside ?? knownType(declared) ?? (hasManifests ? INDEX_TYPES[0]! : MANIFEST_TYPES[0]!);
  if (INDEX_TYPES.includes(mediaType)) return { kind: 'index', mediaType, entries: parseIndex(json, what) };
  if (MANIFEST_TYPES.includes(mediaType)) return { kind: 'image', mediaType };
  throw new SealiftError(
    'SOURCE_INVALID',
    `${what} has the unsupported media type ${printable(mediaType, 200)}`,
  );
}

const knownType = (type: string | undefined): string | undefined => {
  const bare = type?.split(';')[0]?.trim();
  return bare !== undefined && [...INDEX_TYPES, ...MANIFEST_TYPES].includes(bare) ? bare : undefined;
};

function refuseSchema1(json: Record<string, unknown> | null, type: string | undefined, what: string): void {
  if (json?.['schemaVersion'] !== 1 && !/distribution\.manifest\.v1\+/.test(type ?? '')) return;
  throw new SealiftError(
    'SOURCE_INVALID',
    `${what} is in Docker's schema 1, which does not pin its content`,
    {
      hint: 'push the image again with a Docker of this decade',
    },
  );
}

function parseIndex(json: unknown, what: string): IndexEntry[] {
  const parsed = Index.safeParse(json);
  if (parsed.success) return parsed.data.manifests;
  const reason = z.prettifyError(parsed.error).split('\n')[0];
  throw new SealiftError('SOURCE_INVALID', `${what} is not an image index: ${reason}`);
}

/**
 * The entry for a platform. Variants are not asked for: an entry without one is preferred, then the first.
 * Attestations (`unknown/unknown`) are no images.
 * @throws {SealiftError} PLATFORM_NOT_FOUND, naming what there is
 */
export function selectPlatform(entries: readonly IndexEntry[], platform: string, what: string): Descriptor {
  const images = entries.filter((entry) => !isAttestation(entry));
  const fitting = images.filter((entry) => platformOf(entry) === platform);
  const only = images.length === 1 && images[0]!.platform === undefined ? images[0] : undefined;
  const chosen = fitting.find((entry) => !entry.platform?.variant) ?? fitting[0] ?? only;
  if (chosen === undefined) throw platformMissing(platform, images.map(describePlatform), what);
  if (!MANIFEST_TYPES.includes(chosen.mediaType)) {
    throw new SealiftError(
      'SOURCE_INVALID',
      `${what} nests ${printable(chosen.mediaType, 200)} in its index`,
    );
  }
  return { mediaType: chosen.mediaType, digest: chosen.digest, size: chosen.size };
}

export function isAttestation({ platform, annotations }: IndexEntry): boolean {
  return platform?.os === 'unknown' || annotations?.['vnd.docker.reference.type'] !== undefined;
}

/**
 * Checks a manifest and its config for the platform. Indexes may lie about what they point to, and images
 * without an index have no other place that says it. The config is left in the store, where the lock wants it.
 * @throws {SealiftError} PLATFORM_NOT_FOUND, SOURCE_INVALID, SOURCE_CHANGED
 */
export async function checkImage(
  image: ResolvedImage,
  context: SourceContext,
  what: string,
): Promise<ResolvedImage> {
  const { store, platform, signal, emit } = context;
  const { config, layers } = parseImageManifest(
    image.manifestBytes,
    `the manifest of ${what}`,
    'SOURCE_INVALID',
  );
  const name = `the config of ${what}`;
  if (config.size > MAX_CONFIG_BYTES) {
    throw new SealiftError(
      'SOURCE_INVALID',
      `${name} is ${config.size} bytes, more than the ${MAX_CONFIG_BYTES} allowed`,
    );
  }
  let bytes = await store.readIfSound(config, MAX_CONFIG_BYTES, emit);
  if (bytes === undefined) {
    await store.add(config, image.blob(config), { what: name, signal });
    bytes = await store.readBytes(config, MAX_CONFIG_BYTES);
  }
  const { os, architecture, diffIds } = parseImageConfig(bytes, name, 'SOURCE_INVALID');
  assertPlatform(`${os}/${architecture}`, platform, what);
  if (diffIds.length !== layers.length) {
    throw new SealiftError(
      'SOURCE_INVALID',
      `${what}: its config names ${diffIds.length} layers, its manifest ${layers.length}`,
    );
  }
  return image;
}

/**
 * @param code SOURCE_CHANGED where a digest was asked for, SOURCE_INVALID where a source contradicts itself
 * @throws {SealiftError} when bytes are not what their digest and size say
 */
export function assertBytes(
  bytes: Uint8Array,
  expected: { digest: Digest; size?: number },
  what: string,
  code: 'SOURCE_CHANGED' | 'SOURCE_INVALID' = 'SOURCE_CHANGED',
): Expected {
  const actual = { digest: digestOf(bytes), size: bytes.length };
  if (actual.digest === expected.digest && (expected.size ?? actual.size) === actual.size) return actual;
  throw new SealiftError(code, `${what}: the source sent other bytes than it was asked for`, {
    details: [
      ['expected', expected.digest],
      ['received', actual.digest],
    ],
    hint: 'run again; if it stays so, the source or something on the way to it damages or replaces content',
  });
}

/** @throws {SealiftError} PLATFORM_NOT_FOUND when an image is for another platform */
export function assertPlatform(found: string, platform: string, what: string): void {
  if (found !== platform) throw platformMissing(platform, [printable(found, 200)], what);
}

function platformMissing(platform: string, found: readonly string[], what: string): SealiftError {
  const list = [...new Set(found)].toSorted().join(', ');
  return new SealiftError('PLATFORM_NOT_FOUND', `${what} does not exist for ${platform}`, {
    hint: list === '' ? 'the index lists no image at all' : `it exists for: ${list}`,
  });
}

function platformOf({ platform }: IndexEntry): string {
  return platform === undefined ? 'unknown' : `${platform.os}/${platform.architecture}`;
}

function describePlatform(entry: IndexEntry): string {
  const variant = entry.platform?.variant;
  return printable(`${platformOf(entry)}${variant === undefined ? '' : `/${variant}`}`, 200);
}
