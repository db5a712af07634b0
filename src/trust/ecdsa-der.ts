// SPDX-License-Identifier: Apache-2.0
/**
 * Bare ECDSA signatures, as tools other than sealift write them into a file or a pipe. Only their form; whether
 * one is good is for whoever has the key. Outside only.
 */

/** DER ECDSA-Sig-Value (RFC 3279 §2.2.3), or what was found instead. */
export type BareSignature = { der: Buffer } | { problem: string; hint?: string };

/** Of a curve of 256 bits: two integers of at most 33 bytes with their heads. */
const MAX_DER_BYTES = 72;
const RAW_BYTES = 64;

/** Takes DER, or base64 of DER with any white space. */
export function readBareSignature(content: Uint8Array): BareSignature {
  const bytes = Buffer.from(content);
  if (bytes.length === 0) return { problem: 'nothing' };
  const decoded = isDer(bytes) ? bytes : fromBase64(bytes);
  if (decoded !== undefined && isDer(decoded)) return { der: decoded };
  if (bytes.length === RAW_BYTES || decoded?.length === RAW_BYTES) {
    return {
      problem: 'a raw signature (r and s, 64 bytes) instead of DER',
      hint: 'ask the tool for DER: pkcs11-tool takes --signature-format openssl',
    };
  }
  return { problem: `${bytes.length} bytes that are neither a DER ECDSA signature nor its base64` };
}

function fromBase64(bytes: Buffer): Buffer | undefined {
  if (bytes.length > 4 * MAX_DER_BYTES) return undefined;
  const text = bytes.toString('latin1').replaceAll(/\s/g, '');
  return /^[A-Za-z0-9+/]+={0,2}$/.test(text) ? Buffer.from(text, 'base64') : undefined;
}

/** One SEQUENCE of two INTEGERs, all with lengths in the short form, and nothing after it. */
function isDer(bytes: Buffer): boolean {
  if (bytes.length < 8 || bytes.length > MAX_DER_BYTES) return false;
  const rEnd = 4 + bytes[3]!;
  return (
    bytes[0] === 0x30 &&
    bytes[1] === bytes.length - 2 &&
    bytes[2] === 0x02 &&
    bytes[rEnd] === 0x02 &&
    rEnd + 2 + (bytes[rEnd + 1] ?? 0) === bytes.length
  );
}
