// SPDX-License-Identifier: Apache-2.0
/** Split bundles on the command line: sizes, folders, media that are asked for, and which volumes to carry again. */
import { asSealiftError, SealiftError, type ErrorCode } from '../errors.ts';
import { MAX_PARITY } from '../bundle/shards.ts';
import { baseOf, diagnose, VolumeSet, type Media, type VolumeFinding } from '../bundle/volumes.ts';
import type { Given, OptionSpec } from './command.ts';
import type { Io } from './context.ts';

export const VOLUMES_OPTION: OptionSpec = {
  flags: '--volumes <DIR>',
  about: 'a further folder with volumes of the bundle',
  repeat: true,
};

export const VOLUME_SIZE_OPTION: OptionSpec = {
  flags: '--volume-size <SIZE>',
  about: 'cut into volumes of this size: 4GiB-1, 4.7GB, 25GB, or bytes',
};

export const PARITY_OPTION: OptionSpec = {
  flags: '--parity <N>',
  about: 'add N parity volumes: any N lost ones can be rebuilt',
};

/** @throws {SealiftError} USAGE */
export function parityOf(given: Given): number {
  const text = given.text('parity');
  if (text === undefined) return 0;
  if (!/^[1-9]\d?$/.test(text) || Number(text) > MAX_PARITY)
    throw new SealiftError('USAGE', `--parity: expected a number from 1 to ${MAX_PARITY}, not '${text}'`);
  if (given.text('volumeSize') === undefined)
    throw new SealiftError('USAGE', '--parity needs volumes', {
      hint: 'add --volume-size 4GiB-1, or another size',
    });
  return Number(text);
}

const UNITS: Readonly<Record<string, number>> = {
  B: 1,
  kB: 1e3,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
  KiB: 2 ** 10,
  MiB: 2 ** 20,
  GiB: 2 ** 30,
  TiB: 2 ** 40,
};

/** @returns bytes @throws {SealiftError} USAGE */
export function parseSize(text: string, flag: string): number {
  const match = /^(\d{1,12}(?:\.\d{1,6})?)([kKMGT]i?B|B)?(?:-(\d{1,12}))?$/.exec(text);
  const unit = match && UNITS[match[2] ?? 'B'];
  const bytes = match && unit ? Math.floor(Number(match[1]) * unit) - Number(match[3] ?? 0) : 0;
  if (Number.isSafeInteger(bytes) && bytes > 0) return bytes;
  throw new SealiftError('USAGE', `${flag}: '${text}' is not a size`, {
    hint: 'write bytes, or a number with kB, MB, GB, KiB, MiB or GiB, such as 4.7GB or 4GiB-1',
  });
}

export const volumeSizeOf = (given: Given): number | undefined => {
  const text = given.text('volumeSize');
  return text === undefined ? undefined : parseSize(text, '--volume-size');
};

/** Where to look for volumes, and whom to ask. */
export function mediaOf(folders: readonly string[], io: Io): Media {
  const ask = async (names: readonly string[]): Promise<void> =>
    io.prompt.wait(`insert the medium with ${names.join(' or ')}, then press Enter`);
  return { folders, ask: io.prompt.available ? ask : undefined };
}

/** Verdicts that a damaged or missing volume can be the cause of. */
const BY_MEDIA: ReadonlySet<ErrorCode> = new Set([
  'CONTENT_MISMATCH',
  'BUNDLE_MALFORMED',
  'BUNDLE_INCOMPLETE',
  'NOT_A_BUNDLE',
  'IO_ERROR',
]);

/**
 * A verdict on a split bundle, with every volume that is missing or damaged: all of them in one run, so that one more
 * journey is enough.
 */
export async function withVolumes(
  thrown: unknown,
  path: string,
  folders: readonly string[],
  io: Io,
): Promise<SealiftError> {
  const error = asSealiftError(thrown, `reading ${path}`);
  const base = baseOf(path);
  if (base === undefined || !BY_MEDIA.has(error.code) || io.signal.aborted) return error;
  const set = await VolumeSet.of(base, { folders });
  const findings = await diagnose(set, { emit: io.emit, signal: io.signal });
  return findings.length === 0 ? error : told(error, findings);
}

function told(error: SealiftError, findings: readonly VolumeFinding[]): SealiftError {
  const own = error.details.filter(([label]) => label !== 'missing');
  return new SealiftError(error.code, error.message, {
    details: [
      ...own,
      ...findings.map(({ name, problem, detail }) => [problem, `${name}: ${detail}`] as const),
    ],
    hint: `carry again: ${findings.map(({ name }) => name).join(', ')}`,
    cause: error,
  });
}
