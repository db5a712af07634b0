// SPDX-License-Identifier: Apache-2.0
/** A bundle with one file of any size, all zeros but for its last byte: gigabytes that take no room on the disk. */
import { createHash } from 'node:crypto';
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { Inventory } from '../../src/bundle/inventory.ts';
import { blobName, slotName } from '../../src/bundle/sums.ts';
import { END_OF_ARCHIVE, memberBytes, tarHeader } from '../../src/bundle/tar.ts';
import { planBundle, type BlobReader } from '../../src/bundle/write.ts';
import { canonicalJson } from '../../src/json.ts';
import type { Digest } from '../../src/store/digest.ts';
import { provenanceOf, type Person } from './sample.ts';
import { signatureParts, slotOf } from './signature.ts';

export interface SparseBundle {
  path: string;
  /** Size of the archive in bytes. */
  size: number;
  /** Where the header of the large member and its content begin. */
  header: number;
  content: number;
}

const LAST = Buffer.from('!');

function digestOfSparse(size: number): Digest {
  const hash = createHash('sha256');
  const zeros = Buffer.alloc(1024 * 1024);
  let left = size - LAST.length;
  for (; left > zeros.length; left -= zeros.length) hash.update(zeros);
  return `sha256:${hash.update(zeros.subarray(0, left)).update(LAST).digest('hex')}`;
}

/** No blob is asked for: there are no images, and the large one is written here. */
const nothing: BlobReader = { readBytes: () => Promise.reject(new TypeError('no blob is needed')) };

/** Writes headers and small members where they belong; what lies between is a hole. */
export async function sparseBundle(path: string, size: number, signer: Person): Promise<SparseBundle> {
  const file = { path: 'model.safetensors', digest: digestOfSparse(size), size };
  const inventory = Inventory.parse({
    apiVersion: 'sealift.dev/v1',
    kind: 'Inventory',
    name: 'large',
    version: '1.0.0',
    platform: 'linux/amd64',
    created: '2026-11-23T10:00:00Z',
    images: [],
    models: [{ name: 'large', from: 'file:x', revision: 'x', files: [file] }],
    configs: [],
    services: [],
  });
  const plan = await planBundle(inventory, provenanceOf(canonicalJson(inventory)), nothing);
  const fd = openSync(path, 'wx');
  let at = 0;
  const put = (name: string, bytes: number, content?: Uint8Array): number => {
    writeSync(fd, tarHeader(name, bytes), 0, 512, at);
    if (content) writeSync(fd, content, 0, content.length, at + 512);
    at += memberBytes(bytes);
    return at - memberBytes(bytes);
  };
  put('SHA256SUMS', plan.sums.length, plan.sums);
  const signature = JSON.stringify(signatureParts(plan.sums, signer.key));
  for (let slot = 0; slot < 8; slot++) put(slotName(slot), 16_384, slotOf(slot === 0 ? signature : ''));
  for (const [name, bytes] of plan.documents) put(name, bytes.length, bytes);
  let header = 0;
  for (const blob of plan.blobs) {
    const own = plan.generated.get(blob.digest);
    const start = put(blobName(blob.digest), blob.size, own);
    if (own === undefined) header = start;
  }
  writeSync(fd, LAST, 0, 1, header + 512 + size - 1);
  ftruncateSync(fd, at + END_OF_ARCHIVE.length);
  closeSync(fd);
  return { path, size: at + END_OF_ARCHIVE.length, header, content: header + 512 };
}
