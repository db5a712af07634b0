// SPDX-License-Identifier: Apache-2.0
/** Signatures of models when a lock is made: the maker's is demanded, our own is made or kept. */
import { createPublicKey, type KeyObject } from 'node:crypto';
import type { UpstreamSignature } from '../bundle/inventory.ts';
import { SealiftError } from '../errors.ts';
import { digestOf } from '../store/digest.ts';
import type { LockedModel } from './lockfile.ts';
import type { Manifest } from './manifest.ts';
import type { Anchors } from './upstream/anchors.ts';
import { verifyModelSignature } from './upstream/model-signature.ts';
import {
  hasNothingToSign,
  MAX_OMS_BYTES,
  OMS_FILE,
  omsFile,
  signOms,
  type OmsSignature,
} from './upstream/oms.ts';

type File = LockedModel['files'][number];

/** What a lock is made under, beside the manifest and its sources. */
export interface LockTrust {
  anchors: Anchors;
  /** The private key for models with `sign: true`; ECDSA P-256. */
  modelKey: KeyObject | undefined;
  previous: readonly LockedModel[];
  now: Date;
}

/**
 * Demands the model's own signature when the manifest does.
 * @param read the content of a file of the model, carried or not; undefined when there is no such file
 * @throws {SealiftError} UPSTREAM_NOT_SIGNED, UPSTREAM_UNTRUSTED, UPSTREAM_BAD_SIGNATURE, and what `read` throws
 */
export async function demandSignature(
  name: string,
  files: readonly File[],
  { anchors, now }: LockTrust,
  read: (path: string, maxBytes: number) => Promise<Buffer | undefined>,
): Promise<UpstreamSignature | undefined> {
  const anchor = anchors.models.get(name);
  if (anchor === undefined) return undefined;
  return verifyModelSignature(name, await read(anchor.file, MAX_OMS_BYTES), files, anchor, now);
}

/**
 * Adds model.sig to the files when the manifest asks for it. A signature of the last lock that still fits is kept,
 * so that locking again changes nothing and needs no key.
 * @throws {SealiftError} KEY_MISSING, MANIFEST_INVALID
 */
export function withOwnSignature(
  name: string,
  entry: Manifest['models'][string],
  files: readonly File[],
  trust: LockTrust,
): { files: File[]; oms?: OmsSignature } {
  if (entry.sign !== true) return { files: [...files] };
  refuseUnsignable(name, files);
  const kept = keptSignature(name, files, trust);
  const oms = kept ?? signOms(name, files, demandKey(name, trust));
  const bytes = omsFile(name, files, oms);
  const file = { path: OMS_FILE, digest: digestOf(bytes), size: bytes.length };
  return { files: [...files, file].toSorted((a, b) => (a.path < b.path ? -1 : 1)), oms };
}

function refuseUnsignable(name: string, files: readonly File[]): void {
  if (files.some(({ path }) => path === OMS_FILE || path.startsWith(`${OMS_FILE}/`))) {
    throw new SealiftError('MANIFEST_INVALID', `model ${name} brings a ${OMS_FILE} of its own`, {
      hint: `leave it out with exclude: [${OMS_FILE}], or do not ask for another with sign: true`,
    });
  }
  if (hasNothingToSign(files))
    throw new SealiftError(
      'MANIFEST_INVALID',
      `model ${name} has no file that a model signature could cover`,
    );
}

function keptSignature(
  name: string,
  files: readonly File[],
  { previous, modelKey }: LockTrust,
): OmsSignature | undefined {
  const oms = previous.find((model) => model.name === name)?.oms;
  if (oms === undefined || (modelKey !== undefined && publicDer(modelKey) !== oms.key)) return undefined;
  try {
    omsFile(name, files, oms);
    return oms;
  } catch {
    return undefined; // over other files, as after any change of the model
  }
}

function demandKey(name: string, { modelKey, previous }: LockTrust): KeyObject {
  if (modelKey !== undefined) return modelKey;
  const again = previous.some((model) => model.name === name && model.oms !== undefined);
  throw new SealiftError(
    'KEY_MISSING',
    `model ${name} is to be signed${again ? ' again, because its files changed' : ''}, and no key was given`,
    { hint: 'add --model-key FILE (`sealift keygen` makes one), or take sign: true out of the manifest' },
  );
}

const publicDer = (key: KeyObject): string =>
  createPublicKey(key).export({ type: 'spki', format: 'der' }).toString('base64');

/**
 * The model.sig that a lock stands for.
 * @throws {SealiftError} LOCK_INVALID when its signature is not over the files that it names
 */
export function ownSignature({ name, files, oms }: LockedModel): { file: File; bytes: Buffer } | undefined {
  if (oms === undefined) return undefined;
  const others = files.filter(({ path }) => path !== OMS_FILE);
  const file = files.find(({ path }) => path === OMS_FILE);
  try {
    const bytes = omsFile(name, others, oms);
    if (file?.digest === digestOf(bytes)) return { file, bytes };
  } catch {
    // told below
  }
  throw new SealiftError('LOCK_INVALID', `the lock's signature of model ${name} is not over its files`, {
    hint: 'run `sealift lock` again',
  });
}
