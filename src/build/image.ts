// SPDX-License-Identifier: Apache-2.0
import type { Descriptor } from '../bundle/inventory.ts';
import { MAX_IMAGE_JSON_BYTES } from '../bundle/limits.ts';
import { parseImageManifest, type ImageManifest } from '../bundle/oci.ts';
import { SealiftError } from '../errors.ts';
import { digestOf } from '../store/digest.ts';
import { checkImage } from './sources/image.ts';
import type { ResolvedImage, SourceContext } from './sources/source.ts';

/**
 * Brings an image's manifest and config into the store and checks that they fit each other and the platform, so
 * that what the enclave would refuse is refused here.
 * @throws {SealiftError} SOURCE_INVALID, SOURCE_CHANGED, PLATFORM_NOT_FOUND
 */
export async function storeImageMeta(
  name: string,
  resolved: ResolvedImage,
  context: SourceContext,
): Promise<ImageManifest> {
  const what = `image ${name}`;
  const { manifest, manifestBytes } = resolved;
  if (digestOf(manifestBytes) !== manifest.digest || manifestBytes.length !== manifest.size) {
    throw new SealiftError('SOURCE_INVALID', `${what}: the manifest is not the one that its digest names`);
  }
  await checkImage(resolved, context, what);
  await context.store.addBytes(manifestBytes);
  return parseImageManifest(manifestBytes, `the manifest of ${what}`, 'SOURCE_INVALID');
}

/** A manifest that is in the store already; undefined when it has to be fetched. */
export async function storedManifest(
  name: string,
  manifest: Descriptor,
  { store, emit }: Pick<SourceContext, 'store' | 'emit'>,
): Promise<ImageManifest | undefined> {
  const bytes = await store.readIfSound(manifest, MAX_IMAGE_JSON_BYTES, emit);
  return bytes && parseImageManifest(bytes, `the manifest of image ${name}`, 'SOURCE_INVALID');
}
