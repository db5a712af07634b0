// SPDX-License-Identifier: Apache-2.0
/** Semantic Versioning 2.0.0 §11, on which the refusal of rollbacks stands (THREATS.md T11). */
import * as fc from 'fast-check';
import { expect, it } from 'vitest';
import { compareVersions } from '../../src/trust/policy.ts';

/** Each before the next; the middle is the specification's own example. */
const ORDER = [
  '0.0.0-0',
  '0.0.0',
  '0.0.9',
  '0.0.10',
  '0.9.0',
  '0.10.0',
  '1.0.0-0',
  '1.0.0-1',
  '1.0.0-9',
  '1.0.0-10',
  '1.0.0-9007199254740992',
  '1.0.0-9007199254740993',
  '1.0.0--',
  '1.0.0--1',
  '1.0.0-1a',
  '1.0.0-A',
  '1.0.0-alpha',
  '1.0.0-alpha.1',
  '1.0.0-alpha.1.0',
  '1.0.0-alpha.beta',
  '1.0.0-beta',
  '1.0.0-beta.2',
  '1.0.0-beta.11',
  '1.0.0-rc.1',
  '1.0.0-rc.1.x',
  '1.0.0',
  '1.0.1-0',
  '1.0.1',
  '2.0.0-a-b',
  '2.0.0',
  '10.0.0',
  '999999999.0.0',
];

it('every version comes before all that follow it here', () => {
  for (const [i, a] of ORDER.entries())
    for (const [j, b] of ORDER.entries())
      expect(Math.sign(compareVersions(a, b)), `${a} and ${b}`).toBe(Math.sign(i - j));
});

it('build metadata and leading zeros of numbers do not count', () => {
  expect(compareVersions('1.0.0+a', '1.0.0+b')).toBe(0);
  expect(compareVersions('1.0.0-rc.1+a', '1.0.0-rc.1')).toBe(0);
  expect(compareVersions('1.0.0+a-b', '1.0.0')).toBe(0);
  expect(compareVersions('1.0.0-007', '1.0.0-7')).toBe(0);
  expect(compareVersions('1.0.0-00', '1.0.0-0')).toBe(0);
  expect(compareVersions('1.0.0-0100', '1.0.0-99')).toBeGreaterThan(0);
});

const identifier = fc.oneof(fc.nat(120).map(String), fc.stringMatching(/^[0-9a-zA-B-]{1,3}$/));
const version = fc
  .tuple(fc.nat(2), fc.nat(2), fc.nat(11), fc.array(identifier, { maxLength: 3 }))
  .map(([a, b, c, pre]) => `${a}.${b}.${c}${pre.length > 0 ? `-${pre.join('.')}` : ''}`);

it('is an order: of any three, none is before itself, and going around leads nowhere', () => {
  fc.assert(
    fc.property(version, version, version, (a, b, c) => {
      const sign = (x: string, y: string): number => Math.sign(compareVersions(x, y));
      expect(sign(a, a)).toBe(0);
      expect(sign(a, b) + sign(b, a)).toBe(0);
      if (sign(a, b) <= 0 && sign(b, c) <= 0) expect(sign(a, c)).toBeLessThanOrEqual(0);
    }),
    { seed: 20261123, numRuns: 500 },
  );
});
