// SPDX-License-Identifier: Apache-2.0
/** Every length that a reader allows, in bytes, with the reason (FORMAT.md §8). */

const MIB = 1024 * 1024;

/** About 230,000 blobs: a model of 200,000 files is beyond anything seen. */
export const MAX_SUMS_BYTES = 32 * MIB;

/** `bundle.json`, `index.json`: about as many entries as SHA256SUMS, at some 200 bytes each. */
export const MAX_DOCUMENT_BYTES = 64 * MIB;

/** An image's manifest or config: containers/image and crane stop at 4 MiB too. */
export const MAX_IMAGE_JSON_BYTES = 4 * MIB;

/** Layers of one image; engines stop at 127. */
export const MAX_LAYERS = 512;
