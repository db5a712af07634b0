// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { compareVersions } from '../../src/trust/semver.ts';

describe('compareVersions', () => {
  // The chain of https://semver.org/#spec-item-11, and numbers beyond 2^53.
  const chain = [
    '0.9.9',
    '1.0.0-0',
    '1.0.0-9',
    '1.0.0-10',
    '1.0.0-9007199254740993',
    '1.0.0-9007199254740994',
    '1.0.0-alpha',
    '1.0.0-alpha.1',
    '1.0.0-alpha.beta',
    '1.0.0-beta',
    '1.0.0-beta.2',
    '1.0.0-beta.11',
    '1.0.0-rc.1',
    '1.0.0-rc-1.x',
    '1.0.0',
    '1.0.1',
    '1.2.0',
    '1.10.0',
    '2.0.0-alpha',
    '2.0.0',
    '10.0.0',
  ];

  it('orders every pair of a known chain', () => {
    for (const [i, a] of chain.entries()) {
      for (const [j, b] of chain.entries())
        expect([a, b, Math.sign(compareVersions(a, b))]).toEqual([a, b, Math.sign(i - j)]);
    }
  });

  it('ignores build metadata and leading zeros', () => {
    expect(compareVersions('1.0.0+a-b', '1.0.0')).toBe(0);
    expect(compareVersions('1.0.0-01', '1.0.0-1')).toBe(0);
  });
});
