// SPDX-License-Identifier: Apache-2.0
/** Image manifests and configs as they come from outside, read within bounds (OCI image-spec v1.1 manifest.md, config.md). */
import * as z from 'zod';
import { SealiftError, type ErrorCode } from '../errors.ts';
import { parseJson } from '../json.ts';
import { isDigest, type Digest } from '../store/digest.ts';
import { DigestSchema, Line, Size, type Descriptor } from './inventory.ts';
import { MAX_IMAGE_JSON_BYTES, MAX_LAYERS } from './limits.ts';

export const MANIFEST_TYPES: readonly string[] = [
  'application/vnd.oci.image.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v2+json',
];

/** Upstream documents carry more than we read, so unknown keys are allowed here, unlike in our own documents. */
const UpstreamDescriptor = z.object({
  mediaType: Line,
  digest: DigestSchema,
  size: Size,
  urls: z.array(z.string()).optional(),
});

const UpstreamManifest = z.object({
  schemaVersion: z.literal(2),
  mediaType: z.string().optional(),
  config: UpstreamDescriptor,
  layers: z.array(UpstreamDescriptor).max(MAX_LAYERS),
  // A document that is an index as well would be read as one by half of the tools (CVE-2021-41190).
  manifests: z.undefined().optional(),
});

const UpstreamConfig = z.object({
  architecture: z.string(),
  os: z.string(),
  rootfs: z.object({
    type: z.literal('layers'),
    diff_ids: z.array(z.custom<Digest>(isDigest)).max(MAX_LAYERS),
  }),
});

export interface ImageManifest {
  schemaVersion: 2;
  mediaType: string;
  config: Descriptor;
  layers: Descriptor[];
}

/**
 * @param what names the document in messages
 * @param code the code of the error that is thrown: SOURCE_INVALID outside, BUNDLE_MALFORMED for a bundle's own
 */
export function parseImageManifest(bytes: Uint8Array, what: string, code: ErrorCode): ImageManifest {
  const parsed = UpstreamManifest.safeParse(parseJson(bytes, what, code, MAX_IMAGE_JSON_BYTES));
  if (!parsed.success)
    throw new SealiftError(
      code,
      `${what} is not an image manifest: ${z.prettifyError(parsed.error).split('\n')[0]}`,
    );
  const { config, layers, mediaType = MANIFEST_TYPES[0]! } = parsed.data;
  if (!MANIFEST_TYPES.includes(mediaType))
    throw new SealiftError(code, `${what} has the unsupported media type ${mediaType}`);
  const foreign = [config, ...layers].find(
    (d) => d.urls?.length || /foreign|nondistributable/.test(d.mediaType),
  );
  if (foreign)
    throw new SealiftError(
      code,
      `${what} has a layer that is not distributed with the image: ${foreign.digest}`,
    );
  return { schemaVersion: 2, mediaType, config: bare(config), layers: layers.map(bare) };
}

export interface ImageConfig {
  architecture: string;
  os: string;
  diffIds: Digest[];
}

export function parseImageConfig(bytes: Uint8Array, what: string, code: ErrorCode): ImageConfig {
  const parsed = UpstreamConfig.safeParse(parseJson(bytes, what, code, MAX_IMAGE_JSON_BYTES));
  if (!parsed.success)
    throw new SealiftError(
      code,
      `${what} is not an image config: ${z.prettifyError(parsed.error).split('\n')[0]}`,
    );
  const { architecture, os, rootfs } = parsed.data;
  return { architecture, os, diffIds: rootfs.diff_ids };
}

const bare = ({ mediaType, digest, size }: Descriptor): Descriptor => ({ mediaType, digest, size });
