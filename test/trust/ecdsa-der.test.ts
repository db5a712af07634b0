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
    expect(readBareSignature(form)).toMatchObject({ problem: expect.stringContaining('64 bytes') as string });
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
