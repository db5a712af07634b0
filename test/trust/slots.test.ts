// SPDX-License-Identifier: Apache-2.0
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeSlot, encodeSlot, SLOT_BYTES } from '../../src/trust/slots.ts';
import { codeOf, rawSlot, refusalOf } from './helpers.ts';

const filler = (n: number): string => `{"a":"${'é'.repeat(n)}"}`;
const kindOf = (slot: Uint8Array): string => decodeSlot(slot).kind;

describe('slots (FORMAT.md §3.1)', () => {
  it('give back what was put in, and are always of one size', () => {
    const object = fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 }));
    fc.assert(
      fc.property(object, (value) => {
        const slot = encodeSlot(JSON.stringify(value));
        expect(slot.length).toBe(SLOT_BYTES);
        expect(decodeSlot(slot)).toEqual({ kind: 'bundle', json: JSON.parse(JSON.stringify(value)) });
      }),
    );
  });

  it('are only spaces when empty', () => {
    expect(encodeSlot(undefined).equals(Buffer.alloc(SLOT_BYTES, ' '))).toBe(true);
    expect(decodeSlot(encodeSlot(undefined))).toEqual({ kind: 'empty' });
  });

  it('take the file that cosign writes, with a line feed at its end', () => {
    expect(encodeSlot('{"a": 1}\n')).toEqual(encodeSlot('{"a": 1}'));
  });

  it('hold JSON of up to 16,384 bytes, counted as UTF-8', () => {
    expect(kindOf(encodeSlot(filler(8188)))).toBe('bundle');
    expect(Buffer.byteLength(filler(8188))).toBe(SLOT_BYTES);
    expect(codeOf(() => encodeSlot(filler(8189)))).toBe('BAD_SIGNATURE');
    expect(codeOf(() => encodeSlot(`{}${' '.repeat(SLOT_BYTES)}{}`))).toBe('BAD_SIGNATURE');
  });

  it('take JSON objects only', () => {
    for (const text of ['', '[]', '"x"', '1', '{', '{"a":1} {"b":2}', 'MEUCIQ==']) {
      expect(codeOf(() => encodeSlot(text))).toBe('BAD_SIGNATURE');
    }
  });

  it('say why something is not put into one', () => {
    expect(refusalOf(() => encodeSlot('{"a":1,"a":2}')).message).toMatch(
      /as a Sigstore bundle is: the slot .*a/,
    );
    expect(refusalOf(() => encodeSlot('MEUCIQ==')).message).toMatch(/is: the slot holds something/);
    expect(refusalOf(() => encodeSlot('  ')).message).toMatch(/as a Sigstore bundle is$/);
  });

  it('say what is wrong with what they hold', () => {
    const reasonOf = (text: string): string => {
      const slot = decodeSlot(rawSlot(text));
      return slot.kind === 'malformed' ? slot.reason : slot.kind;
    };
    expect(reasonOf('{"a":}')).toMatch(/^the slot /);
    expect(reasonOf('x')).toMatch(/neither a JSON object nor padding/);
  });

  it('are malformed when anything but spaces stands around the JSON', () => {
    for (const text of [
      ' {}',
      '\n{}',
      '{}\n',
      '{}\t',
      '{}\0',
      '\0',
      '{}x',
      'x',
      '\uFEFF{}',
      '{}'.padEnd(16_383) + '}',
    ]) {
      expect(kindOf(rawSlot(text))).toBe('malformed');
    }
    expect(kindOf(Buffer.alloc(SLOT_BYTES))).toBe('malformed');
    expect(kindOf(Buffer.from(rawSlot('{"a":"\xff"}').toString('latin1'), 'latin1'))).toBe('malformed');
  });

  it('are malformed when they are too short or too long', () => {
    for (const n of [0, 1, 511, SLOT_BYTES - 1, SLOT_BYTES + 1]) {
      expect(kindOf(Buffer.alloc(n, ' '))).toBe('malformed');
    }
  });

  it('are malformed after any one flipped bit in an empty slot', () => {
    const flip = fc.tuple(fc.nat(SLOT_BYTES - 1), fc.nat(7));
    fc.assert(
      fc.property(flip, ([at, bit]) => {
        const slot = encodeSlot(undefined);
        slot[at] = (slot[at] ?? 0) ^ (1 << bit);
        expect(kindOf(slot)).toBe('malformed');
      }),
    );
  });

  it('never make the reader throw', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        const slot = Buffer.alloc(SLOT_BYTES, ' ');
        slot.set(bytes);
        expect(['empty', 'bundle', 'malformed']).toContain(kindOf(slot));
      }),
    );
  });
});
