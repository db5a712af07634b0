// SPDX-License-Identifier: Apache-2.0
/** The checks of a host that need no engine; test/install/engine has the others. */
import { expect, it } from 'vitest';
import type { VerifiedBundle } from '../../src/bundle/open.ts';
import { laterThanHere } from '../../src/install/preflight.ts';

const HERE = '2026-11-23T12:00:00Z';

function bundleOf(created: string, ...signedAt: string[]): VerifiedBundle {
  const accepted = [{}, ...signedAt.map((time) => ({ signedAt: new Date(time) }))];
  return { judgedAt: new Date(HERE), inventory: { created }, verdict: { accepted } } as VerifiedBundle;
}

it('a bundle that was made or stamped later than it is here is said to move the time', () => {
  expect(laterThanHere(bundleOf(HERE, HERE))).toBeUndefined();
  expect(laterThanHere(bundleOf('2026-11-23T12:59:59Z'))).toBeUndefined();
  for (const bundle of [bundleOf('2030-01-02T03:04:05Z', HERE), bundleOf(HERE, HERE, '2030-01-02T03:04:05Z')])
    expect(laterThanHere(bundle)).toMatch(
      /signed at 2030-01-02T03:04:05Z, and here it is 2026-11-23T12:00:00Z/,
    );
});
