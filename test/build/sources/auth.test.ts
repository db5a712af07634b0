// SPDX-License-Identifier: Apache-2.0
import { expect, it } from 'vitest';
import { parseChallenges } from '../../../src/build/sources/auth.ts';

it.each([
  ['Basic realm="a, b"', [{ scheme: 'basic', params: { realm: 'a, b' } }]],
  [
    'Bearer realm="https://a/token",service="s",scope="repository:x/y:pull,push"',
    [
      {
        scheme: 'bearer',
        params: { realm: 'https://a/token', service: 's', scope: 'repository:x/y:pull,push' },
      },
    ],
  ],
  [
    'Negotiate, Basic realm=plain , BEARER Realm = "q\\"uote", error=invalid_token',
    [
      { scheme: 'negotiate', params: {} },
      { scheme: 'basic', params: { realm: 'plain' } },
      { scheme: 'bearer', params: { realm: 'q"uote', error: 'invalid_token' } },
    ],
  ],
  ['', []],
  ['"nonsense', []],
  ['realm="no scheme"', []],
])('%s', (header, challenges) => {
  expect(parseChallenges(header)).toEqual(challenges);
});

it('a hostile header takes no time', () => {
  expect(parseChallenges(`Bearer realm="${'\\'.repeat(100_000)}`)).toHaveLength(1);
  expect(parseChallenges('a,'.repeat(50_000))).toHaveLength(50_000);
});
