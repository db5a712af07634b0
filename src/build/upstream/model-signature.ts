// SPDX-License-Identifier: Apache-2.0
/** A model's own signature against the files that are carried of it. */
import type { UpstreamSignature } from '../../bundle/inventory.ts';
import { SealiftError } from '../../errors.ts';
import { printable } from '../../text.ts';
import { differences, verifyOms, type FileDigest, type ModelAnchor, type SignedModel } from './oms.ts';
import { refusalOf } from './verdict.ts';

/** Files that a refusal lists. */
const MAX_LISTED = 5;

/**
 * Demands that a model's signature is by whom the manifest names, and over every file that is carried.
 * @param bytes of the signature file; undefined when the model has none
 * @throws {SealiftError} UPSTREAM_NOT_SIGNED, UPSTREAM_UNTRUSTED, UPSTREAM_BAD_SIGNATURE
 */
export function verifyModelSignature(
  name: string,
  bytes: Uint8Array | undefined,
  files: readonly FileDigest[],
  anchor: ModelAnchor & { file: string },
  now: Date,
): UpstreamSignature {
  const what = `model ${name}`;
  const found = bytes === undefined ? undefined : verifyOms(bytes, anchor, now);
  if (found === undefined || 'outcome' in found)
    throw refusalOf(what, askedFor(anchor), found === undefined ? [] : [found], anchor.file);
  demandAll(what, files, found, anchor.file);
  return { kind: 'oms', over: found.root, by: found.by, anchor: anchor.anchor };
}

const askedFor = (anchor: ModelAnchor): string =>
  'key' in anchor ? `key ${anchor.key.fingerprint}` : 'a certificate under the root that the manifest names';

function demandAll(
  what: string,
  files: readonly FileDigest[],
  signed: SignedModel,
  signatureFile: string,
): void {
  const { changed, unsigned } = differences(files, signed.files, signatureFile);
  if (changed.length > 0) {
    throw new SealiftError('UPSTREAM_BAD_SIGNATURE', `${what}: ${list(changed)} is not what was signed`, {
      hint: 'do not use it before its maker has explained this',
    });
  }
  if (unsigned.length === 0) return;
  throw new SealiftError(
    'UPSTREAM_BAD_SIGNATURE',
    `${what}: the signature does not cover ${list(unsigned)}`,
    {
      hint: `leave what is not signed out: add it to models.${what.slice('model '.length)}.exclude`,
    },
  );
}

function list(paths: readonly string[]): string {
  const shown = paths.slice(0, MAX_LISTED).map((path) => printable(path, 200));
  return `${shown.join(', ')}${paths.length > MAX_LISTED ? ` and ${paths.length - MAX_LISTED} more` : ''}`;
}
