// SPDX-License-Identifier: Apache-2.0
/** A signature as the format has it, made without the code under test. */
import { createHash, createPublicKey, sign, type KeyObject } from 'node:crypto';

export const sha256 = (bytes: Uint8Array | string): Buffer => createHash('sha256').update(bytes).digest();

/** A Sigstore bundle v0.3 over `bytes` (FORMAT.md §3.2), as the parts that it is made of. */
export function signatureParts(bytes: Uint8Array, key: KeyObject): Record<string, unknown> {
  const spki = createPublicKey(key as never).export({ type: 'spki', format: 'der' });
  return {
    mediaType: 'application/vnd.dev.sigstore.bundle.v0.3+json',
    verificationMaterial: { publicKey: { hint: sha256(spki).toString('base64') } },
    messageSignature: {
      messageDigest: { algorithm: 'SHA2_256', digest: sha256(bytes).toString('base64') },
      signature: sign('sha256', bytes, key).toString('base64'),
    },
  };
}

/** Text as a slot holds it: padded with spaces to 16,384 bytes, of which a character may take several. */
export function slotOf(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([bytes, Buffer.alloc(Math.max(0, 16_384 - bytes.length), ' ')]);
}
