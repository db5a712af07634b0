// SPDX-License-Identifier: Apache-2.0
import { SealiftError } from '../../errors.ts';
import { digestOf, type Digest } from '../../store/digest.ts';
import { MAX_SUMS_BYTES } from '../../bundle/limits.ts';
import { peekBundle } from '../../bundle/peek.ts';
import { attachSignature, readSignedHead } from '../../bundle/slots-file.ts';
import { parseSums } from '../../bundle/sums.ts';
import { readMessageSignature } from '../../trust/message-signature.ts';
import { SLOT_BYTES } from '../../trust/slots.ts';
import { command, type Given, type Result } from '../command.ts';
import type { Io } from '../context.ts';
import { demandAbsent, findBundle, readBytes, readText } from '../files.ts';
import { writeNew } from '../new-file.ts';
import { loadSigners, PASSPHRASE_OPTIONS, passphraseFlags, type PassphraseSource } from '../secrets.ts';

export type SignOptions =
  | { mode: 'bundle'; bundle: string; key: string; passphrase: PassphraseSource }
  | { mode: 'attach'; bundle: string; signature: string }
  | { mode: 'detached'; sums: string; key: string; out: string; passphrase: PassphraseSource };

export const sign = command<SignOptions>({
  name: 'sign',
  summary: 'Add a signature to a bundle',
  about: [
    'Signs the SHA256SUMS of a bundle and puts the signature into one of its eight slots, in place: the rest of the file is neither read nor written, whatever its size.',
    'A person who does not have the bundle at hand signs only its SHA256SUMS (`tar -xf BUNDLE SHA256SUMS`) with --detached, and the result is attached with --attach. Whether a signature counts is decided by the trust policy where the bundle is installed.',
  ],
  positional: { name: 'BUNDLE', about: 'the bundle, or the folder that holds it', required: false },
  options: [
    { flags: '--key <FILE>', about: 'the private key' },
    ...PASSPHRASE_OPTIONS,
    { flags: '--attach <FILE>', about: 'put a signature made elsewhere into a free slot' },
    { flags: '--detached <FILE>', about: 'sign this SHA256SUMS instead of a bundle' },
    { flags: '-o, --output <FILE>', about: 'where --detached writes the signature' },
  ],
  examples: [
    ['sealift sign qwen3-coder-1.4.0.sealift.tar --key second.key', 'countersign a bundle in place'],
    [
      'sealift sign --detached SHA256SUMS --key second.key -o second.sigstore.json',
      'sign where the bundle is not',
    ],
    ['sealift sign qwen3-coder-1.4.0.sealift.tar --attach second.sigstore.json', 'attach the result'],
  ],
  exits: [11, 12, 13],
  parse: parseSign,
  run: (options, io) => {
    if (options.mode === 'attach') return attach(options.bundle, options.signature);
    return options.mode === 'bundle' ? signBundle(options, io) : signDetached(options, io);
  },
});

function parseSign(given: Given): SignOptions {
  const detached = given.text('detached');
  const attached = given.text('attach');
  const bundle = given.positional;
  const passphrase = passphraseFlags(given);
  if (detached !== undefined) {
    if (bundle !== undefined || attached !== undefined) {
      throw new SealiftError('USAGE', '--detached signs a SHA256SUMS file: no bundle, no --attach');
    }
    return {
      mode: 'detached',
      sums: detached,
      key: keyOf(given),
      out: given.need('output', '-o FILE'),
      passphrase,
    };
  }
  if (bundle === undefined)
    throw new SealiftError('USAGE', 'the bundle is missing', { hint: 'sealift sign BUNDLE --key FILE' });
  if (given.text('output') !== undefined)
    throw new SealiftError('USAGE', '-o goes with --detached: a bundle is signed in place');
  if (attached === undefined) return { mode: 'bundle', bundle, key: keyOf(given), passphrase };
  if (given.text('key') !== undefined)
    throw new SealiftError('USAGE', '--attach and --key exclude each other');
  return { mode: 'attach', bundle, signature: attached };
}

function keyOf(given: Given): string {
  const key = given.text('key');
  if (key === undefined)
    throw new SealiftError('KEY_MISSING', 'no key was given', { hint: 'add --key FILE' });
  return key;
}

async function signBundle(options: SignOptions & { mode: 'bundle' }, io: Io): Promise<Result> {
  const path = await findBundle(options.bundle);
  // Also refuses to sign a bundle whose inventory is not the one that its SHA256SUMS lists.
  const { digest, inventory } = await peekBundle(path);
  const [signer] = await loadSigners([options.key], options.passphrase, io);
  const { sums } = await readSignedHead(path);
  demandSame(digest, digestOf(sums), path);
  const slot = await attachSignature(path, await signer!.sign(sums));
  return signed({
    bundle: path,
    name: inventory.name,
    version: inventory.version,
    digest,
    slot,
    key: signer!.name,
  });
}

async function signDetached(options: SignOptions & { mode: 'detached' }, io: Io): Promise<Result> {
  await demandAbsent(options.out);
  const sums = await readBytes(options.sums, 'the file', MAX_SUMS_BYTES);
  parseSums(sums);
  const [signer] = await loadSigners([options.key], options.passphrase, io);
  await writeNew(options.out, `${await signer!.sign(sums)}\n`);
  return signed({ signature: options.out, digest: digestOf(sums), key: signer!.name });
}

async function attach(bundle: string, file: string): Promise<Result> {
  const path = await findBundle(bundle);
  const { digest, inventory } = await peekBundle(path);
  const json = (await readText(file, 'the signature')).trimEnd();
  if (Buffer.byteLength(json) > SLOT_BYTES) {
    throw new SealiftError('BAD_SIGNATURE', `${file} is larger than a slot (${SLOT_BYTES} bytes)`);
  }
  demandSame(claimedDigest(json, file), digest, path);
  const slot = await attachSignature(path, json);
  return signed({ bundle: path, name: inventory.name, version: inventory.version, digest, slot });
}

/** What the signature says it was made over; whether it was is for the trust policy of the enclave. */
function claimedDigest(json: string, file: string): Digest {
  try {
    return `sha256:${readMessageSignature(JSON.parse(json)).claimedDigest.toString('hex')}`;
  } catch (cause) {
    throw new SealiftError('BAD_SIGNATURE', `${file} is not a Sigstore bundle v0.3 with a messageSignature`, {
      cause,
    });
  }
}

function demandSame(signedDigest: Digest, digest: Digest, path: string): void {
  if (signedDigest === digest) return;
  throw new SealiftError('BAD_SIGNATURE', `the signature was made over another bundle than ${path}`, {
    details: [
      ['signed', signedDigest],
      ['bundle', digest],
    ],
  });
}

function signed(data: Record<string, string | number>): Result {
  const text = Object.entries(data).map(([label, value]) => `${label.padEnd(10)} ${value}`);
  return { schema: 'sealift/sign/v1', data, text };
}
