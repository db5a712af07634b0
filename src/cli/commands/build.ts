// SPDX-License-Identifier: Apache-2.0
import { buildBundle } from '../../build/build.ts';
import { readInstaller } from '../../build/installer.ts';
import { SealiftError } from '../../errors.ts';
import { command, type Given, type Result } from '../command.ts';
import type { Io } from '../context.ts';
import { runCredentialHelper } from '../credential-helper.ts';
import { formatBytes } from '../../text.ts';
import { styled, type Line } from '../output.ts';
import { PASSPHRASE_OPTIONS, passphraseFlags } from '../secrets.ts';
import { loadSigners, SIGNER_OPTION, type SignerFlags } from '../signers.ts';
import {
  openSources,
  readLock,
  readManifest,
  SOURCE_OPTIONS,
  sourceFlags,
  type SourceFlags,
} from '../sources.ts';
import { PARITY_OPTION, parityOf, VOLUME_SIZE_OPTION, volumeSizeOf } from '../volumes.ts';

interface BuildOptions {
  manifest: string | undefined;
  /** undefined: NAME-VERSION.sealift.tar in the current folder. */
  output: string | undefined;
  volumeBytes: number | undefined;
  parity: number;
  soleCopy: boolean;
  base: string | undefined;
  installer: string | undefined;
  signers: SignerFlags;
  sources: SourceFlags;
}

export const build = command<BuildOptions>({
  name: 'build',
  summary: 'Build and sign the bundle that a lock describes',
  about: [
    'Fetches what the store lacks, checks every byte against the lock, and writes one signed bundle. The same lock gives the same bundle, bit for bit, apart from its signatures. A build that was stopped goes on where it was when it is run again.',
    'With --base the bundle is a delta: layers and files that the base has are left out, and an enclave takes it only when it holds them, intact. The base is a bundle, its bundle.json, or the receipt.json of a release that was brought back from the enclave; `sealift diff` shows what it carries.',
    'With --with-installer that program goes along, beside the bundle, with a READ-ME-FIRST.txt that says how to check it before it is run. Its digest is in the provenance, so the signatures of the bundle vouch for it.',
    'With --sole-copy what is fetched is written once, into the bundle alone, and what the store has of it (all that is larger than a megabyte) leaves it when the bundle is whole. That takes half the disk; the next build fetches everything anew.',
    'With --volume-size the bundle is written in volumes (NAME.001 and on), as by `sealift split`.',
    'Each --key and each --signer signs. More signatures can be added later with `sealift sign`, in place.',
  ],
  positional: { name: 'MANIFEST', about: 'the manifest (default: sealift.yaml)', required: false },
  options: [
    { flags: '-o, --output <FILE>', about: 'the bundle to write (default: NAME-VERSION.sealift.tar)' },
    { flags: '--key <FILE>', about: 'sign with this private key', repeat: true },
    ...PASSPHRASE_OPTIONS,
    { ...SIGNER_OPTION, repeat: true },
    { flags: '--unsigned', about: 'write a bundle without a signature, to be signed before it crosses' },
    VOLUME_SIZE_OPTION,
    PARITY_OPTION,
    {
      flags: '--sole-copy',
      about: 'fetch into the bundle alone: nothing of it stays in the store',
    },
    { flags: '--base <FILE>', about: 'leave out what this bundle, bundle.json or receipt has' },
    { flags: '--with-installer <FILE>', about: "put this program beside the bundle (the enclave's sealift)" },
    ...SOURCE_OPTIONS,
  ],
  examples: [
    [
      'sealift build --key release.key -o qwen3-coder-1.4.0.sealift.tar',
      'from sealift.yaml and sealift.lock.json',
    ],
    ['sealift build demo.yaml --unsigned', 'to be signed on another machine'],
  ],
  exits: [12, 20],
  parse: (given) => ({
    manifest: given.positional,
    output: outputOf(given),
    volumeBytes: volumeSizeOf(given),
    parity: parityOf(given),
    soleCopy: given.is('soleCopy'),
    base: given.text('base'),
    installer: given.text('withInstaller'),
    signers: signersOf(given),
    sources: sourceFlags(given),
  }),
  run: runBuild,
});

function outputOf(given: Given): string | undefined {
  const output = given.text('output');
  if (output === '-') throw new SealiftError('USAGE', 'a bundle is not written to stdout: name a file');
  return output;
}

function signersOf(given: Given): SignerFlags {
  const flags = {
    keys: given.list('key'),
    documents: given.list('signer'),
    passphrase: passphraseFlags(given),
  };
  const some = flags.keys.length + flags.documents.length > 0;
  if (some && given.is('unsigned')) {
    throw new SealiftError('USAGE', '--unsigned excludes --key and --signer');
  }
  if (some || given.is('unsigned')) return flags;
  throw new SealiftError('KEY_MISSING', 'no signing key was given', {
    hint: 'add --key FILE (`sealift keygen` makes one) or --signer FILE, or --unsigned to sign later',
  });
}

async function runBuild(options: BuildOptions, io: Io): Promise<Result> {
  const file = await readManifest(options.manifest);
  const { name, version } = file.manifest.metadata;
  const lock = await readLock(file.lockFile);
  const signers = await loadSigners(options.signers, io);
  demandDistinct(signers.map((signer) => signer.name));
  const context = await openSources(options.sources, file, io, runCredentialHelper(io));
  const out = options.output ?? `${name}-${version}.sealift.tar`;
  const { emit, signal } = io;
  const { volumeBytes, parity, base, soleCopy } = options;
  const installer = options.installer === undefined ? undefined : await readInstaller(options.installer);
  const what = {
    manifest: file.manifest,
    lock,
    context,
    out,
    volumeBytes,
    parity,
    soleCopy,
    base,
    installer,
    signers,
  };
  const built = await buildBundle({ ...what, emit, signal });
  // Only now does a keyless signer know its name.
  const signedBy = signers.map((signer) => signer.name);
  return {
    schema: 'sealift/build/v1',
    data: {
      bundle: { ...built, name, version },
      signedBy,
      ...(installer && { installer: { name: installer.name, digest: installer.digest } }),
    },
    text: [
      `bundle  ${built.path}`,
      `digest  ${built.digest}`,
      `size    ${formatBytes(built.size)}`,
      ...(installer === undefined ? [] : [`beside  ${installer.name}  ${installer.digest}`]),
      ...signatureLines(signedBy, built.path),
    ],
  };
}

/** A signer counts once: a second signature by the same one would only look like a second person. */
function demandDistinct(names: readonly string[]): void {
  const twice = names.find((name, i) => names.indexOf(name) !== i);
  if (twice === undefined) return;
  throw new SealiftError('USAGE', 'the same signer is given twice', {
    details: [['signer', twice]],
    hint: 'name each key once; a second signature counts only from another key',
  });
}

function signatureLines(names: readonly string[], out: string): Line[] {
  if (names.length > 0) return names.map((name) => `signed  ${name}`);
  return [
    [styled('yellow', 'NOT SIGNED'), `  no enclave will accept it before: sealift sign ${out} --key FILE`],
  ];
}
