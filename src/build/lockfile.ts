// SPDX-License-Identifier: Apache-2.0
/** The lock as a file: what a manifest resolved to. Canonical JSON, committed beside the manifest, read in diffs. */
import * as z from 'zod';
import { DigestSchema, Inventory, InventoryModel } from '../bundle/inventory.ts';
import { SealiftError } from '../errors.ts';
import { canonicalJson, parseJson } from '../json.ts';

/** Longest lock that is read, in bytes; a file of a model takes about 200. */
export const MAX_LOCK_BYTES = 64 * 1024 * 1024;

const Base64 = z.string().regex(/^[A-Za-z0-9+/]{1,512}={0,2}$/, 'expected base64');

/** What model.sig cannot be derived from: ECDSA signatures are random, and a build must not be. */
const LockedOms = z.strictObject({
  key: Base64.describe('DER SubjectPublicKeyInfo of the key that signed'),
  signature: Base64.describe('DER ECDSA over the statement that the files make'),
});

/** Images, models and configs stand in the lock as they will stand in the bundle's inventory. */
export const LockSchema = Inventory.pick({
  apiVersion: true,
  created: true,
  platform: true,
  images: true,
  configs: true,
}).extend({
  models: z.array(InventoryModel.extend({ oms: LockedOms.optional() })),
  kind: z.literal('Lock'),
  manifest: DigestSchema.describe('manifestDigest of the manifest that was locked'),
});

export type Lock = z.infer<typeof LockSchema>;
export type LockedImage = Lock['images'][number];
export type LockedModel = Lock['models'][number];
export type LockedConfig = Lock['configs'][number];

/** Where the lock of a manifest is: `demo.yaml` → `demo.lock.json`. */
export function lockPath(manifestPath: string): string {
  return `${manifestPath.replace(/\.ya?ml$/i, '')}.lock.json`;
}

/** The bytes of the lock file. Equal locks have equal bytes. */
export function lockBytes(lock: Lock): Buffer {
  return canonicalJson(lock);
}

/**
 * Reads a lock.
 * @param file the file's name, used in messages only
 * @throws {SealiftError} LOCK_INVALID
 */
export function parseLock(bytes: Uint8Array, file: string): Lock {
  const parsed = LockSchema.safeParse(parseJson(bytes, file, 'LOCK_INVALID', MAX_LOCK_BYTES));
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw invalid(
      `${file}: ${issue?.path.map(String).join('.') || 'the lock'}: ${issue?.message ?? 'not valid'}`,
    );
  }
  refuseRepeats(parsed.data, file);
  return parsed.data;
}

/** A hand-edited or badly merged lock may name one thing twice; the later one would win unseen. */
function refuseRepeats(lock: Lock, file: string): void {
  const lists: [string, string[]][] = [
    ['image', lock.images.map((image) => image.name)],
    ['model', lock.models.map((model) => model.name)],
    ['config', lock.configs.map((config) => config.name)],
    ...lock.models.map((model): [string, string[]] => [`${model.name} file`, model.files.map((f) => f.path)]),
  ];
  for (const [kind, names] of lists) {
    const repeated = names.find((name, i) => i > 0 && name <= names[i - 1]!);
    if (repeated !== undefined) throw invalid(`${file}: ${kind} '${repeated}' is repeated or out of order`);
  }
}

const invalid = (message: string): SealiftError =>
  new SealiftError('LOCK_INVALID', message, { hint: 'run `sealift lock` again' });
