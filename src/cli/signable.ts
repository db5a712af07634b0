// SPDX-License-Identifier: Apache-2.0
/** What `sign` takes beside a bundle: files to sign elsewhere, and signatures that were made elsewhere. */
import type { KeyObject } from 'node:crypto';
import { MAX_SUMS_BYTES } from '../bundle/limits.ts';
import { parseSums } from '../bundle/sums.ts';
import { SealiftError } from '../errors.ts';
import { parseJson } from '../json.ts';
import { digestOf, type Digest } from '../store/digest.ts';
import { fitsItsCertificate, readClaim, type Claim } from '../trust/claim.ts';
import { readBareSignature } from '../trust/ecdsa-der.ts';
import { fingerprint } from '../trust/keys.ts';
import { isSignedBy, readMessageSignature } from '../trust/message-signature.ts';
import { parseTrustPolicy } from '../trust/policy.ts';
import { policyText } from '../trust/rotate.ts';
import { rawSigner } from '../trust/sign.ts';
import { SLOT_BYTES } from '../trust/slots.ts';
import { readBytes } from './files.ts';

/** A file that `--detached` signs. */
export interface Signable {
  kind: 'SHA256SUMS' | 'TrustPolicy';
  bytes: Buffer;
  digest: Digest;
  /** Of a policy. */
  version?: number;
}

/**
 * Reads a SHA256SUMS or a trust policy. Nothing else is signed: a signature over any file at all is one that
 * somebody can be talked into.
 * @throws {SealiftError} USAGE, BUNDLE_MALFORMED, POLICY_INVALID
 */
export async function readSignableFile(path: string): Promise<Signable> {
  const bytes = await readBytes(path, 'the file', MAX_SUMS_BYTES);
  const digest = digestOf(bytes);
  const start = bytes.subarray(0, 4096).toString();
  if (/^[0-9a-f]{64} {2}/.test(start)) {
    parseSums(bytes);
    return { kind: 'SHA256SUMS', bytes, digest };
  }
  if (/^\s*kind: *["']?TrustPolicy/m.test(start)) {
    const { version } = parseTrustPolicy(policyText(bytes, path), path);
    return { kind: 'TrustPolicy', bytes, digest, version };
  }
  throw new SealiftError(
    'USAGE',
    `${path} is neither a SHA256SUMS nor a trust policy, and nothing else is signed`,
    {
      hint: '`tar -xf BUNDLE SHA256SUMS` takes the first out of a bundle',
    },
  );
}

/** A public key to hold a signature against, and its file's name. */
export interface CheckKey {
  key: KeyObject;
  file: string;
}

/**
 * Reads a signature that was made elsewhere: a Sigstore bundle, as sealift and cosign write it, or with a public
 * key the bare signature of `openssl dgst -sign`. What can be checked without a trust policy is checked.
 * @param sums what it must be over
 * @returns the Sigstore bundle for the slot
 * @throws {SealiftError} BAD_SIGNATURE, USAGE
 */
export async function readSignature(
  path: string,
  sums: Buffer,
  check: CheckKey | undefined,
): Promise<{ json: string; claim: Claim }> {
  const bytes = await readBytes(path, 'the signature', 4 * SLOT_BYTES);
  const text = bytes.toString().trim();
  if (!text.startsWith('{')) {
    const json = await wrapBare(bytes, path, sums, check);
    return { json, claim: readClaim(JSON.parse(json)) };
  }
  if (Buffer.byteLength(text) > SLOT_BYTES) {
    throw new SealiftError('BAD_SIGNATURE', `${path} is larger than a slot (${SLOT_BYTES} bytes)`);
  }
  const parsed = parseJson(Buffer.from(text), path, 'BAD_SIGNATURE', SLOT_BYTES);
  const claim = claimOf(parsed, path);
  demandOver(claim, digestOf(sums), path);
  if (!isGood(parsed, sums, check)) {
    throw new SealiftError(
      'BAD_SIGNATURE',
      `${path} is not a good signature by ${check?.file ?? 'its certificate'}`,
      {
        details: [
          ['it names', claim.by],
          ...(check === undefined ? [] : [['public key', fingerprint(check.key)] as const]),
        ],
      },
    );
  }
  return { json: text, claim };
}

function claimOf(parsed: unknown, path: string): Claim {
  try {
    return readClaim(parsed);
  } catch (cause) {
    const old = typeof parsed === 'object' && parsed !== null && 'base64Signature' in parsed;
    const hint = old
      ? 'it is in the old form of cosign 2: sign with `cosign sign-blob --new-bundle-format --bundle FILE`'
      : '`sealift sign --detached` and `cosign sign-blob --bundle` write one';
    throw new SealiftError('BAD_SIGNATURE', `${path} is not a Sigstore bundle v0.3 with a messageSignature`, {
      hint,
      cause,
    });
  }
}

/** Whether it counts is for the trust policy of the enclave; that it is over this bundle shows here. */
function demandOver({ digest: signedDigest }: Claim, digest: Digest, path: string): void {
  if (signedDigest === digest) return;
  throw new SealiftError('BAD_SIGNATURE', `${path} is a signature over something else than this bundle`, {
    details: [
      ['signed', signedDigest],
      ['bundle', digest],
    ],
  });
}

function isGood(parsed: unknown, sums: Buffer, check: CheckKey | undefined): boolean {
  if (check === undefined) return fitsItsCertificate(parsed, sums);
  const { by } = readClaim(parsed);
  return by === fingerprint(check.key) && isSignedBy(check.key, sums, readMessageSignature(parsed));
}

async function wrapBare(
  bytes: Buffer,
  path: string,
  sums: Buffer,
  check: CheckKey | undefined,
): Promise<string> {
  const bare = readBareSignature(bytes);
  if (!('der' in bare)) {
    throw new SealiftError('BAD_SIGNATURE', `${path} is no signature: it holds ${bare.problem}`, {
      hint:
        bare.hint ?? 'a Sigstore bundle, or what `openssl dgst -sha256 -sign KEY SHA256SUMS` writes, will do',
    });
  }
  if (check === undefined) {
    throw new SealiftError('USAGE', `${path} is a bare signature, which does not say by whom`, {
      hint: 'add --public-key FILE',
    });
  }
  try {
    return await rawSigner(check.key, async () => bare.der).sign(sums);
  } catch (cause) {
    throw new SealiftError('BAD_SIGNATURE', `${path} is not a signature over this bundle by ${check.file}`, {
      details: [['public key', fingerprint(check.key)]],
      hint: 'it must be over the bytes of SHA256SUMS, hashed with SHA-256 once',
      cause,
    });
  }
}
