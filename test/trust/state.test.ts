// SPDX-License-Identifier: Apache-2.0
/** trust-state.json: its reader, and the time by which a host judges. */
import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { SealiftError } from '../../src/errors.ts';
import {
  clockWarning,
  demandAdopted,
  hostTime,
  isoSeconds,
  latestOf,
  parseTrustState,
  policyId,
  standingOf,
  trustStateBytes,
  type TrustState,
} from '../../src/trust/state.ts';
import { person, policyOf, refusalOf } from './helpers.ts';

const policy = policyOf([person('alice')]);
const other = policyOf([person('bob')]);
const state: TrustState = { policy: policyId(policy), latestTime: new Date('2026-11-23T10:00:00Z') };

const digests = fc
  .array(fc.constantFrom(...'0123456789abcdef'), { minLength: 64, maxLength: 64 })
  .map((hex) => `sha256:${hex.join('')}` as const);
const ids = fc.record({ version: fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }), digest: digests });
const times = fc
  .integer({ min: 0, max: Date.UTC(9999, 11, 31, 23, 59, 59) / 1000 })
  .map((seconds) => new Date(seconds * 1000));
const states: fc.Arbitrary<TrustState> = fc.record(
  { policy: ids, latestTime: times, next: ids },
  { requiredKeys: ['policy', 'latestTime'] },
);

describe('the file', () => {
  it('is read as it was written, and written the same again', () => {
    fc.assert(
      fc.property(states, (given) => {
        const bytes = trustStateBytes(given);
        expect(parseTrustState(bytes, 'f')).toEqual({ ...given });
        expect(trustStateBytes(parseTrustState(bytes, 'f'))).toEqual(bytes);
      }),
    );
  });

  /** Whatever stands in the file, it is read or refused with the one error, which says what to do. */
  const readOrRefused = (bytes: Uint8Array): boolean => {
    try {
      parseTrustState(bytes, 'trust-state.json');
      return true;
    } catch (error) {
      if (!(error instanceof SealiftError)) throw error;
      expect(error.code).toBe('IO_ERROR');
      expect(error.message).toMatch(/^trust-state\.json is damaged/);
      return false;
    }
  };

  it('is refused in one way when it is anything else', () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => !readOrRefused(bytes)));
    fc.assert(fc.property(fc.json(), (text) => !readOrRefused(Buffer.from(text))));
  });

  it('is read or refused, never taken for another one, when a byte of it changes or it is cut off', () => {
    fc.assert(
      fc.property(states, fc.nat(), fc.integer({ min: 1, max: 255 }), (given, at, mask) => {
        const bytes = trustStateBytes(given);
        const changed = Buffer.from(bytes);
        changed[at % bytes.length]! ^= mask;
        readOrRefused(changed);
        expect(readOrRefused(bytes.subarray(0, at % (bytes.length - 1)))).toBe(false);
      }),
    );
  });

  it.each([
    ['empty', ''],
    ['of another schema', JSON.stringify({ schema: 'sealift/trust-state/v2' })],
    ['with a member too many', change({ more: 1 })],
    ['with fractions of a second', change({ latestTime: '2026-11-23T10:00:00.5Z' })],
    ['with a day that does not exist', change({ latestTime: '2026-02-30T10:00:00Z' })],
    ['with a time in no zone', change({ latestTime: '2026-11-23T10:00:00' })],
    ['with version 0', change({ policy: { ...state.policy, version: 0 } })],
    ['with a list for a digest', change({ policy: { ...state.policy, digest: [state.policy.digest] } })],
    ['with a number for a digest', change({ policy: { ...state.policy, digest: 7 } })],
    [
      'with a digest that is too long',
      change({ policy: { ...state.policy, digest: `${state.policy.digest}0` } }),
    ],
    ['with text before a digest', change({ policy: { ...state.policy, digest: `x${state.policy.digest}` } })],
    ['nested too deeply', '['.repeat(5000)],
    ['much too large', change({}) + ' '.repeat(70_000)],
  ])('is refused when it is %s', (_, text) => {
    const error = refusalOf(() => parseTrustState(Buffer.from(text), 'trust-state.json'));
    expect(error).toMatchObject({ code: 'IO_ERROR', hint: expect.stringContaining('backup') as string });
  });

  function change(more: object): string {
    return JSON.stringify({ ...(JSON.parse(trustStateBytes(state).toString()) as object), ...more });
  }
});

describe('the policy that stands in the home', () => {
  it.each([
    ['first-use', policy, undefined],
    ['adopted', policy, state],
    ['updating', other, { ...state, next: policyId(other) }],
    ['adopted', policy, { ...state, next: policyId(other) }],
    ['changed', other, state],
    ['changed', other, { ...state, next: policyId(policyOf([person('carol')])) }],
  ] as const)('is %s', (standing, found, known) => {
    expect(standingOf(found, known)).toBe(standing);
    const demand = (): void => demandAdopted(found, known, 'trust.yaml');
    if (standing !== 'changed') return demand();
    expect(refusalOf(demand)).toMatchObject({
      code: 'POLICY_CHANGED',
      details: [
        ['adopted', `version 3 ${policy.fingerprint}`],
        ['found', `version 3 ${other.fingerprint}`],
      ],
    });
  });
});

describe('the time by which a host judges', () => {
  const at = (text: string): Date => new Date(text);

  it('is the clock, or what it has seen when that is later', () => {
    expect(hostTime(at('2020-01-01T00:00:00Z'), undefined).judged).toEqual(at('2020-01-01T00:00:00Z'));
    expect(hostTime(at('2020-01-01T00:00:00Z'), state).judged).toEqual(state.latestTime);
    expect(hostTime(at('2027-01-01T00:00:00Z'), state).judged).toEqual(at('2027-01-01T00:00:00Z'));
    expect(hostTime(new Date(Number.NaN), state).judged.getTime()).toBeNaN(); // and verify.ts refuses that
  });

  it('is said when the clock is behind, with both times, but not for a few seconds', () => {
    expect(clockWarning(hostTime(at('2026-11-23T09:59:30Z'), state))).toBeUndefined();
    expect(clockWarning(hostTime(at('2027-01-01T00:00:00Z'), state))).toBeUndefined();
    const warning = clockWarning(hostTime(at('2020-01-01T00:00:00Z'), state));
    expect(warning).toContain('says 2020-01-01T00:00:00Z');
    expect(warning).toContain('seen 2026-11-23T10:00:00Z');
  });

  it('goes up only', () => {
    expect(latestOf(undefined, at('2026-01-01T00:00:00.999Z'), new Date(Number.NaN))).toEqual(
      at('2026-01-01T00:00:00Z'),
    );
    expect(latestOf(undefined, new Date(Number.NaN))).toBeUndefined();
    fc.assert(
      fc.property(times, fc.array(times), (first, rest) => {
        const latest = latestOf(first, ...rest)!;
        for (const time of [first, ...rest]) expect(latest >= time).toBe(true);
      }),
    );
  });

  it.each([8.64e15, Date.UTC(10_000, 0), -62_167_219_200_001])(
    'of a year that the file has no form for is left out (%d)',
    (time) => {
      const latestTime = latestOf(state.latestTime, new Date(time))!;
      expect(latestTime).toEqual(state.latestTime);
      expect(latestOf(new Date(time))).toBeUndefined();
      for (const last of ['9999-12-31T23:59:59Z', '0000-01-01T00:00:00Z', '1969-12-31T23:59:59Z']) {
        const bytes = trustStateBytes({ ...state, latestTime: latestOf(at(last))! });
        expect(parseTrustState(bytes, 'f').latestTime).toEqual(at(last));
      }
    },
  );

  it('is written without fractions, never rounded up', () => {
    expect(isoSeconds(at('2026-11-23T10:00:00.999Z'))).toBe('2026-11-23T10:00:00Z');
  });
});
