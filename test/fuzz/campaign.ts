// SPDX-License-Identifier: Apache-2.0
/**
 * Many damaged inputs into one reader. Whatever comes, it must answer with a value or with one of the errors that
 * it promises, soon, and without holding on to memory; and what it accepts must be what was signed, or well-formed.
 *
 * SEALIFT_TEST_FUZZ   inputs for each reader (scripts/fuzz raises it)
 * SEALIFT_TEST_SEED   repeats a run
 */
import { randomInt } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { SealiftError, type ErrorCode } from '../../src/errors.ts';
import { Random } from '../support/random.ts';
import { tempDir } from '../support/workspace.ts';

const INPUTS = Number(process.env['SEALIFT_TEST_FUZZ'] ?? 1000);
const SEED = Number(process.env['SEALIFT_TEST_SEED'] ?? randomInt(2 ** 31));

/** Most processor time that one input may take, in milliseconds; a busy machine does not count. */
const MAX_CPU_MS = 1000;

/** Most that the process may grow between the first tenth of a campaign and its end, in bytes. */
const MAX_GROWTH = 256 * 1024 * 1024;

export interface Campaign {
  /** Share of SEALIFT_TEST_FUZZ that this reader gets; 1 unless it is slow. */
  share?: number;
  /** One damaged input. */
  make: (random: Random) => Buffer;
  /** Reads it, and throws anything but a SealiftError when it accepts what it must not. */
  read: (input: Buffer) => unknown;
  /** Every code that the reader may answer with. */
  codes: readonly ErrorCode[];
}

/** A campaign as a test; it prints how the inputs ended. */
export function campaign(name: string, { share = 1, make, read, codes }: Campaign): void {
  const inputs = Math.round(INPUTS * share);
  it.runIf(inputs > 0)(
    `${name}: ${inputs} damaged inputs`,
    async () => {
      const outcomes = new Map<string, number>();
      let slowest = 0;
      let settled = 0;
      for (let i = 0; i < inputs; i++) {
        if (i === Math.ceil(inputs / 10)) settled = process.memoryUsage.rss();
        const input = make(new Random(SEED, name, i));
        const started = process.cpuUsage();
        const outcome = await outcomeOf(read, input, codes, `${name}, input ${i}`);
        const { user, system } = process.cpuUsage(started);
        const ms = (user + system) / 1000;
        if (ms > MAX_CPU_MS) keep(input, `${name}, input ${i} took ${ms} ms`);
        slowest = Math.max(slowest, ms);
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      }
      const growth = process.memoryUsage.rss() - settled;
      report(name, inputs, outcomes, slowest, growth);
      expect(growth, 'bytes of memory that were kept').toBeLessThan(MAX_GROWTH);
    },
    60_000 + inputs * MAX_CPU_MS,
  );
}

async function outcomeOf(
  read: Campaign['read'],
  input: Buffer,
  codes: readonly ErrorCode[],
  what: string,
): Promise<string> {
  try {
    await read(input);
    return 'accepted';
  } catch (thrown) {
    if (thrown instanceof SealiftError && codes.includes(thrown.code)) return thrown.code;
    return keep(input, what, thrown);
  }
}

/** Leaves the input where a person can look at it, and fails. */
function keep(input: Buffer, what: string, cause?: unknown): never {
  const file = join(tempDir('fuzz'), 'input');
  writeFileSync(file, input);
  const head = input.subarray(0, 4000).toString('base64');
  const text = cause instanceof Error ? `: ${cause.stack}` : '';
  throw new Error(`${what} (SEALIFT_TEST_SEED=${SEED} repeats it)${text}\nbegins (base64): ${head}`, {
    cause,
  });
}

function report(
  name: string,
  inputs: number,
  outcomes: ReadonlyMap<string, number>,
  slowest: number,
  growth: number,
): void {
  const counts = [...outcomes]
    .toSorted(([, a], [, b]) => b - a)
    .map(([outcome, n]) => `${outcome} ${n}`)
    .join(', ');
  process.stderr.write(
    `fuzz ${name}: ${inputs} inputs, seed ${SEED}: ${counts}; slowest ${slowest.toFixed(0)} ms, memory ${(growth / 1e6).toFixed(0)} MB\n`,
  );
}
