// SPDX-License-Identifier: Apache-2.0
/**
 * Many damaged inputs into one reader. Whatever comes, it must answer with a value or with one of the errors that
 * it promises, soon, and without holding on to memory; and what it accepts must be what was signed, or well-formed.
 *
 * SEALIFT_TEST_FUZZ   inputs for each reader (scripts/fuzz raises it)
 * SEALIFT_TEST_SEED   repeats a run, keys and signatures aside: those are new each time
 */
import { randomInt } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect, it } from 'vitest';
import { SealiftError, type ErrorCode } from '../../src/errors.ts';
import { Random } from '../support/random.ts';
import { repoRoot } from '../support/workspace.ts';

const INPUTS = Number(process.env['SEALIFT_TEST_FUZZ'] ?? 1000);
const SEED = Number(process.env['SEALIFT_TEST_SEED'] ?? randomInt(2 ** 31));

/** Most processor time that one input may take, in milliseconds; a busy machine does not count. */
const MAX_CPU_MS = 1000;

/** Most that may be held at the end that was not held after the first tenth of a campaign, in bytes. */
const MAX_KEPT = 64 * 1024 * 1024;

/** Most that the process may be larger in between, garbage included, in bytes. */
const MAX_PEAK = 1024 * 1024 * 1024;

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Bytes that are still held when all garbage is gone. Buffers go a moment after what held them. */
async function held(): Promise<number> {
  for (let round = 0; round < 3; round++) {
    collect();
    await setImmediate();
  }
  const { heapUsed, external } = process.memoryUsage();
  return heapUsed + external;
}

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
      const start = process.memoryUsage.rss();
      let [settled, peak] = [0, 0];
      for (let i = 0; i < inputs; i++) {
        if (i === Math.ceil(inputs / 10)) settled = await held();
        if (i % 64 === 0) peak = Math.max(peak, process.memoryUsage.rss() - start);
        const input = make(new Random(SEED, name, i));
        const started = process.cpuUsage();
        const outcome = await outcomeOf(read, input, codes, `${name}, input ${i}`);
        const { user, system } = process.cpuUsage(started);
        const ms = (user + system) / 1000;
        if (ms > MAX_CPU_MS) keep(input, `${name}, input ${i} took ${ms} ms`);
        slowest = Math.max(slowest, ms);
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      }
      const kept = (await held()) - settled;
      report(
        name,
        inputs,
        outcomes,
        `slowest ${slowest.toFixed(0)} ms, memory ${megabytes(kept)} kept, ${megabytes(peak)} at most`,
      );
      expect(kept, 'bytes of memory that are still held').toBeLessThan(MAX_KEPT);
      expect(peak, 'bytes of memory in between').toBeLessThan(MAX_PEAK);
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

/** Leaves the input under .cache/fuzz, and fails. */
function keep(input: Buffer, what: string, cause?: unknown): never {
  const folder = join(repoRoot, '.cache/fuzz');
  mkdirSync(folder, { recursive: true });
  const file = join(folder, `${SEED}-${what.replace(/[^a-z0-9]+/gi, '-')}`);
  writeFileSync(file, input);
  const text = cause instanceof Error ? `: ${cause.stack}` : '';
  throw new Error(`${what}: the input is in ${file}, SEALIFT_TEST_SEED=${SEED} makes it again${text}`, {
    cause,
  });
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(0)} MB`;

function report(name: string, inputs: number, outcomes: ReadonlyMap<string, number>, cost: string): void {
  const counts = [...outcomes]
    .toSorted(([, a], [, b]) => b - a)
    .map(([outcome, n]) => `${outcome} ${n}`)
    .join(', ');
  process.stderr.write(`fuzz ${name}: ${inputs} inputs, seed ${SEED}: ${counts}; ${cost}\n`);
}
