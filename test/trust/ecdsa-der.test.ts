// SPDX-License-Identifier: Apache-2.0
import { sign } from 'node:crypto';
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { readBareSignature } from '../../src/trust/ecdsa-der.ts';
import { person, SUMS } from './helpers.ts';

const alice = person('alice');
const der = (): Buffer => sign('sha256', SUMS, alice.privateKey);

it('takes DER and its base64, of every length that signatures have', () => {
  const lengths = new Set<number>();
  for (let i = 0; i < 300; i++) {
    const signature = der();
    lengths.add(signature.length);
    const base64 = signature.toString('base64');
    const forms = [signature, base64, `${base64}\n`, base64.replaceAll(/.{30}/g, '$&\r\n'), ` ${base64}\t`];
    for (const form of forms) expect(readBareSignature(Buffer.from(form))).toEqual({ der: signature });
  }
  expect(lengths.size).toBeGreaterThan(2);
});

it('says what it found instead', () => {
  expect(readBareSignature(Buffer.alloc(0))).toEqual({ problem: 'nothing' });
  const raw = sign('sha256', SUMS, { key: alice.privateKey, dsaEncoding: 'ieee-p1363' });
  for (const form of [raw, Buffer.from(raw.toString('base64'))])
    expect(readBareSignature(form)).toMatchObject({
      problem: expect.stringContaining('a raw signature') as string,
      hint: expect.stringContaining('pkcs11-tool') as string,
    });
  const hex = Buffer.from(der().toString('hex'));
  for (const form of [
    hex,
    Buffer.from('oops'),
    Buffer.alloc(1_000_000, 0x41),
    Buffer.concat([der(), Buffer.of(0)]),
  ])
    expect(readBareSignature(form)).toMatchObject({
      problem: expect.stringContaining('neither a DER') as string,
    });
});

it('wants each byte of the structure, whatever the integers are', () => {
  const signature = der();
  const rEnd = 4 + signature[3]!;
  for (const at of [0, 1, 2, 3, rEnd, rEnd + 1]) {
    for (const change of [1, 0x80]) {
      const changed = Buffer.from(signature);
      changed[at]! ^= change;
      expect(readBareSignature(changed)).toHaveProperty('problem');
    }
  }
});

/** A SEQUENCE of two INTEGERs of these many bytes. */
function integers(r: number, s: number): Buffer {
  const parts = [r, s].map((size) => Buffer.concat([Buffer.of(0x02, size), Buffer.alloc(size, 1)]));
  return Buffer.concat([Buffer.of(0x30, r + s + 4), ...parts]);
}

it.each([
  [1, 1, true],
  [33, 33, true],
  [1, 0, false],
  [34, 33, false],
  [60, 60, false],
])('integers of %i and %i bytes', (r, s, taken) => {
  const bytes = integers(r, s);
  for (const form of [bytes, Buffer.from(bytes.toString('base64'))])
    expect('der' in readBareSignature(form)).toBe(taken);
});

it('takes base64 with white space up to 288 bytes, and nothing else around it', () => {
  const base64 = der().toString('base64');
  const taken = (text: string): boolean => 'der' in readBareSignature(Buffer.from(text));
  expect(taken(base64.padEnd(288))).toBe(true);
  expect(taken(base64.padEnd(289))).toBe(false);
  for (const text of [`!${base64}`, `${base64}!`, `${base64}===`]) expect(taken(text)).toBe(false);
});

it('never throws', () => {
  const mutated = fc.tuple(fc.nat(71), fc.nat(255)).map(([at, byte]) => {
    const bytes = der();
    bytes[at % bytes.length] = byte;
    return bytes;
  });
  fc.assert(
    fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), mutated), (bytes) => {
      const result = readBareSignature(bytes);
      return 'der' in result ? result.der.length <= 72 : result.problem !== '';
    }),
    { numRuns: 5000 },
  );
});
