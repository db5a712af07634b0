// SPDX-License-Identifier: Apache-2.0
/**
 * The signature on a receipt: a DSSE envelope over its bytes in a Sigstore bundle v0.3, which
 * `cosign verify-blob-attestation` reads, and openssl after two lines of shell (README). The one place of the
 * enclave program that signs anything, and it signs receipts only.
 */
import { sign, verify, type KeyObject } from 'node:crypto';
import { isDeepStrictEqual } from 'node:util';
import { BUNDLE_V03_MEDIA_TYPE, bundleFromJSON, bundleToJSON, toDSSEBundle } from '@sigstore/bundle';
import { SealiftError } from '../errors.ts';
import { parseJsonOneWay } from '../json.ts';
import { keyHint } from '../trust/keys.ts';
import type { HostKey } from './host-key.ts';

const PAYLOAD_TYPE = 'application/vnd.in-toto+json';

/**
 * One line of JSON. Checked before it is handed out: a receipt that an auditor refuses is worse than none.
 * @param statement the bytes of the receipt, which are signed as they are and never written anew
 */
export function attest(statement: Uint8Array, { privateKey, publicKey }: HostKey): string {
  const payload = Buffer.from(statement);
  const bundle = toDSSEBundle({
    artifact: payload,
    artifactType: PAYLOAD_TYPE,
    keyHint: keyHint(publicKey),
    signature: sign('sha256', preAuthEncoding(payload), { key: privateKey, dsaEncoding: 'der' }),
  });
  // The library copies the hint in here too, and cosign then finds no signature of the key.
  bundle.content.dsseEnvelope.signatures[0]!.keyid = '';
  const json = JSON.stringify(bundleToJSON(bundle));
  if (isAttestedBy(publicKey, statement, Buffer.from(json))) return json;
  throw new SealiftError(
    'UNEXPECTED',
    'the signature of the receipt does not verify with the key that made it',
  );
}

/** True when `json` is such a bundle by `key` over exactly `statement`. Whatever goes wrong is a no. */
export function isAttestedBy(key: KeyObject, statement: Uint8Array, json: Uint8Array): boolean {
  try {
    const parsed = parseJsonOneWay(json, 'the signature', 'BAD_SIGNATURE', json.length);
    const bundle = bundleFromJSON(parsed);
    // Auditors look for members by name and take base64 as it stands; sealift alone writes this file, and in one form.
    if (!isDeepStrictEqual(parsed, bundleToJSON(bundle))) return false;
    if (bundle.mediaType !== BUNDLE_V03_MEDIA_TYPE || bundle.content.$case !== 'dsseEnvelope') return false;
    const { payload, payloadType, signatures } = bundle.content.dsseEnvelope;
    const [signature, ...more] = signatures;
    if (signature === undefined || more.length > 0 || payloadType !== PAYLOAD_TYPE) return false;
    if (!payload.equals(statement)) return false;
    return verify('sha256', preAuthEncoding(payload), { key, dsaEncoding: 'der' }, signature.sig);
  } catch {
    return false;
  }
}

/** What DSSE signs (DSSE v1, "protocol"): the type and the payload, each with its length before it. */
function preAuthEncoding(payload: Buffer): Buffer {
  const head = `DSSEv1 ${PAYLOAD_TYPE.length} ${PAYLOAD_TYPE} ${payload.length} `;
  return Buffer.concat([Buffer.from(head), payload]);
}
