// SPDX-License-Identifier: Apache-2.0
/** The files of a manifest that say whom to trust. Their content is recorded in the lock, by digest. */
import { readFile, stat } from 'node:fs/promises';
import { resolve } from 'node:path';
import type { UpstreamSignature } from '../../bundle/inventory.ts';
import { asSealiftError, SealiftError } from '../../errors.ts';
import { digestOf } from '../../store/digest.ts';
import type { Lock } from '../lockfile.ts';
import type { Manifest } from '../manifest.ts';
import { readAuthorities } from './certificates.ts';
import type { ImageAnchor } from './cosign.ts';
import { readTrustedRoot } from './identity.ts';
import { omsHashOf, readUpstreamKey, type UpstreamKey } from './keys.ts';
import { OMS_FILE, type ModelAnchor } from './oms.ts';

/** Largest of these files, in bytes; each kind has a lower limit of its own. */
const MAX_ANCHOR_BYTES = 1024 * 1024;

/** By name of the image or model; only of those that must be signed. */
export interface Anchors {
  images: ReadonlyMap<string, ImageAnchor>;
  models: ReadonlyMap<string, ModelAnchor & { file: string }>;
}

/** @throws {SealiftError} FILE_MISSING, KEY_INVALID, MANIFEST_INVALID */
export async function readAnchors(manifest: Manifest, baseDir: string): Promise<Anchors> {
  const images = new Map<string, ImageAnchor>();
  for (const [name, { signature }] of Object.entries(manifest.images))
    if (signature) images.set(name, await imageAnchor(`images.${name}.signature`, signature, baseDir));
  const models = new Map<string, ModelAnchor & { file: string }>();
  for (const [name, { signature }] of Object.entries(manifest.models)) {
    if (!signature) continue;
    const anchor = await modelAnchor(`models.${name}.signature`, signature, baseDir);
    models.set(name, { ...anchor, file: signature.file ?? OMS_FILE });
  }
  return { images, models };
}

type ImageDemand = NonNullable<Manifest['images'][string]['signature']>;
type ModelDemand = NonNullable<Manifest['models'][string]['signature']>;

async function imageAnchor(what: string, demand: ImageDemand, baseDir: string): Promise<ImageAnchor> {
  const { key, identity, issuer, trustedRoot } = demand;
  if (key !== undefined) {
    const bytes = await readAnchor(`${what}.key`, key, baseDir);
    return { anchor: digestOf(bytes), key: readUpstreamKey(bytes, key) };
  }
  if (identity === undefined || issuer === undefined || trustedRoot === undefined) throw incomplete(what);
  const bytes = await readAnchor(`${what}.trustedRoot`, trustedRoot, baseDir);
  return {
    anchor: digestOf(bytes),
    identity: { subject: identity, issuer, trust: readTrustedRoot(bytes, trustedRoot) },
  };
}

async function modelAnchor(what: string, demand: ModelDemand, baseDir: string): Promise<ModelAnchor> {
  const { key, certificateRoot } = demand;
  if (key !== undefined) {
    const bytes = await readAnchor(`${what}.key`, key, baseDir);
    return { anchor: digestOf(bytes), key: ecdsaOnly(readUpstreamKey(bytes, key), key) };
  }
  if (certificateRoot === undefined) throw incomplete(what);
  const bytes = await readAnchor(`${what}.certificateRoot`, certificateRoot, baseDir);
  return { anchor: digestOf(bytes), authorities: readAuthorities(bytes, certificateRoot) };
}

function ecdsaOnly(key: UpstreamKey, file: string): UpstreamKey {
  if (omsHashOf(key.key) !== undefined) return key;
  throw new SealiftError(
    'KEY_INVALID',
    `${file} is no ECDSA key, and model signatures are made with nothing else`,
  );
}

/** The manifest's reader refuses this with a line number; here for a manifest that was made in code. */
const incomplete = (what: string): SealiftError =>
  new SealiftError('MANIFEST_INVALID', `${what} names nobody to trust`);

async function readAnchor(what: string, path: string, baseDir: string): Promise<Buffer> {
  const full = resolve(baseDir, path);
  try {
    const info = await stat(full);
    if (info.isFile() && info.size <= MAX_ANCHOR_BYTES) return await readFile(full);
  } catch (error) {
    throw asSealiftError(error, `reading ${what}`);
  }
  throw new SealiftError(
    'MANIFEST_INVALID',
    `${what}: ${path} is not a file of at most ${MAX_ANCHOR_BYTES} bytes`,
  );
}

/**
 * Demands that a lock was made under the anchors that the manifest has today: a key file that was replaced after
 * the lock would otherwise look as if it had vouched.
 * @throws {SealiftError} LOCK_STALE
 */
export function checkAnchors(lock: Lock, { images, models }: Anchors): void {
  for (const { name, signature } of lock.images) demandSame(`image ${name}`, signature, images.get(name));
  for (const { name, signature } of lock.models) demandSame(`model ${name}`, signature, models.get(name));
}

function demandSame(
  what: string,
  locked: UpstreamSignature | undefined,
  asked: ImageAnchor | ModelAnchor | undefined,
): void {
  if (locked?.anchor === asked?.anchor && (asked === undefined || fits(locked!, asked))) return;
  throw new SealiftError('LOCK_STALE', `${what} was locked under another demand for a signature`, {
    details: [
      ['locked with', locked?.anchor ?? 'none'],
      ['asked for', asked?.anchor ?? 'none'],
    ],
    hint: 'run `sealift lock`, review what it prints, then build',
  });
}

/** The lock is a file that can be edited; what it claims must at least be what was asked for. */
function fits({ by }: UpstreamSignature, asked: ImageAnchor | ModelAnchor): boolean {
  if ('key' in asked) return by === asked.key.fingerprint;
  if (typeof by === 'string') return false;
  if (!('identity' in asked)) return 'certificate' in by;
  return 'identity' in by && by.identity === asked.identity.subject && by.issuer === asked.identity.issuer;
}
