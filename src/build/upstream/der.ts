// SPDX-License-Identifier: Apache-2.0
/** As much DER as it takes to see the extensions of a certificate, which node:crypto does not show. */

export interface Extension {
  critical: boolean;
  /** Content of the extnValue, DER itself. */
  value: Buffer;
}

interface Element {
  tag: number;
  content: Buffer;
}

const SEQUENCE = 0x30;
const INTEGER = 0x02;
const OID = 0x06;
const BOOLEAN = 0x01;
const OCTETS = 0x04;
/** `[3] EXPLICIT`, the last member of a TBSCertificate (RFC 5280 §4.1). */
const EXTENSIONS = 0xa3;

/**
 * The extensions of a certificate by their object identifier's content, in hex.
 * @throws {Error} when it is not DER, or has one twice
 */
export function extensionsOf(certificate: Buffer): ReadonlyMap<string, Extension> {
  const tbs = elements(only(only(certificate, SEQUENCE), SEQUENCE, true));
  const wrapped = tbs.find(({ tag }) => tag === EXTENSIONS);
  const list = wrapped === undefined ? [] : elements(only(wrapped.content, SEQUENCE));
  const extensions = new Map<string, Extension>();
  for (const { content } of list) {
    const parts = elements(content);
    const id = parts.find(({ tag }) => tag === OID)?.content.toString('hex') ?? '';
    const value = parts.find(({ tag }) => tag === OCTETS)?.content;
    if (id === '' || value === undefined || extensions.has(id))
      throw new Error('its certificate is malformed');
    extensions.set(id, {
      critical: parts.some(({ tag, content: [flag] }) => tag === BOOLEAN && flag !== 0),
      value,
    });
  }
  return extensions;
}

/** The first small INTEGER in a SEQUENCE: pathLenConstraint of basicConstraints. */
export function integerIn(sequence: Buffer): number | undefined {
  const found = elements(only(sequence, SEQUENCE)).find(({ tag }) => tag === INTEGER);
  return found === undefined ? undefined : found.content.readUIntBE(0, Math.min(found.content.length, 6));
}

/** @param more whether others may follow it */
function only(bytes: Buffer, tag: number, more = false): Buffer {
  const [first, ...rest] = elements(bytes);
  if (first?.tag !== tag || (rest.length > 0 && !more)) throw new Error('its certificate is malformed');
  return first.content;
}

function elements(bytes: Buffer): Element[] {
  const found: Element[] = [];
  for (let at = 0; at < bytes.length;) {
    const { head, length } = lengthAt(bytes, at + 1);
    const start = at + 1 + head;
    if (start + length > bytes.length) throw new Error('its certificate is malformed');
    found.push({ tag: bytes[at]!, content: bytes.subarray(start, start + length) });
    at = start + length;
  }
  return found;
}

function lengthAt(bytes: Buffer, at: number): { head: number; length: number } {
  const first = bytes[at] ?? 0xff;
  if (first < 0x80) return { head: 1, length: first };
  const count = first & 0x7f;
  if (count === 0 || count > 4 || at + count >= bytes.length) throw new Error('its certificate is malformed');
  return { head: 1 + count, length: bytes.readUIntBE(at + 1, count) };
}
