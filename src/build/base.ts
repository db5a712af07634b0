// SPDX-License-Identifier: Apache-2.0
/** The base of a delta, as a person has it: a bundle, its bundle.json, or a receipt brought back from the enclave. */
import { open, readFile, stat } from 'node:fs/promises';
import * as z from 'zod';
import { piecesOf, readContents } from '../bundle/delta.ts';
import {
  DigestSchema,
  Name,
  parseInventory,
  Size,
  Version,
  type DeltaBase,
  type Inventory,
} from '../bundle/inventory.ts';
import { MAX_DOCUMENT_BYTES, MAX_IMAGE_JSON_BYTES } from '../bundle/limits.ts';
import { parseImageManifest, type ImageManifest } from '../bundle/oci.ts';
import { asSealiftError, SealiftError } from '../errors.ts';
import { parseJson } from '../json.ts';
import type { Digest, Expected } from '../store/digest.ts';
import type { Store } from '../store/store.ts';

/** What an enclave holds when it has the base. */
export interface Base {
  name: string;
  version: string;
  digest: Digest | undefined;
  held: ReadonlyMap<Digest, number>;
}

/** The part of a receipt (install/receipt.ts) that says what the host holds. */
const HeldReceipt = z.object({
  predicate: z.object({
    sealift_receipt: z.object({
      bundle: z.object({ name: Name, version: Version, digest: DigestSchema }),
      holds: z.array(z.object({ digest: DigestSchema, size: Size })),
    }),
  }),
});

/**
 * @param store has the manifests of images that a bundle.json names
 * @throws {SealiftError} BASE_INVALID, FILE_MISSING, and the codes of reading a bundle
 */
export async function readBase(path: string, store: Store): Promise<Base> {
  if (!(await looksLikeJson(path))) {
    const contents = await readContents(path);
    const { name, version } = contents.inventory;
    return { name, version, digest: contents.digest, held: heldOf(piecesOf(contents)) };
  }
  const bytes = await readFile(path);
  const receipt = HeldReceipt.safeParse(parseJson(bytes, path, 'BASE_INVALID', MAX_DOCUMENT_BYTES));
  if (receipt.success) {
    const { bundle, holds } = receipt.data.predicate.sealift_receipt;
    return { ...bundle, held: heldOf(holds) };
  }
  const inventory = inventoryIn(bytes, path);
  const { name, version } = inventory;
  return {
    name,
    version,
    digest: undefined,
    held: heldOf(piecesOf({ inventory, manifests: await manifestsOf(inventory, store) })),
  };
}

const heldOf = (blobs: readonly Expected[]): Map<Digest, number> =>
  new Map(blobs.map(({ digest, size }) => [digest, size]));

async function looksLikeJson(path: string): Promise<boolean> {
  try {
    const { size } = await stat(path);
    const handle = await open(path, 'r');
    try {
      const first = Buffer.alloc(1);
      await handle.read(first, 0, 1, 0);
      return first.toString() === '{' && size <= MAX_DOCUMENT_BYTES;
    } finally {
      await handle.close();
    }
  } catch (error) {
    throw asSealiftError(error, `reading the base ${path}`);
  }
}

function inventoryIn(bytes: Buffer, path: string): Inventory {
  try {
    return parseInventory(bytes);
  } catch (cause) {
    throw new SealiftError(
      'BASE_INVALID',
      `${path} is neither a bundle, nor a bundle.json, nor a receipt that says what its host holds`,
      {
        hint: 'name the base bundle, its bundle.json, or the receipt.json of the installed release',
        cause,
      },
    );
  }
}

async function manifestsOf(inventory: Inventory, store: Store): Promise<Map<Digest, ImageManifest>> {
  const manifests = new Map<Digest, ImageManifest>();
  for (const { name, manifest } of inventory.images) {
    if (!(await store.has(manifest)))
      throw new SealiftError(
        'BASE_INVALID',
        `the store has no manifest of image ${name} of the base, so its layers are not known`,
        {
          hint: 'name the base bundle itself, or a receipt, instead of its bundle.json',
        },
      );
    const bytes = await store.readBytes(manifest, MAX_IMAGE_JSON_BYTES);
    manifests.set(
      manifest.digest,
      parseImageManifest(bytes, `the manifest of image ${name}`, 'BASE_INVALID'),
    );
  }
  return manifests;
}

/** The inventory of a delta: what the base has of `pieces` is left out. */
export function deltaOn(inventory: Inventory, base: Base, pieces: readonly Expected[]): Inventory {
  const omits = pieces
    .filter(({ digest, size }) => base.held.get(digest) === size)
    .map(({ digest, size }) => ({ digest, size }))
    .toSorted((a, b) => (a.digest < b.digest ? -1 : 1));
  const { name, version, digest } = base;
  const described: DeltaBase = { name, version, ...(digest && { digest }), omits };
  return { ...inventory, base: described };
}
