// SPDX-License-Identifier: Apache-2.0
import { SealiftError } from '../../errors.ts';
import type { Digest } from '../../store/digest.ts';
import {
  attachSignature,
  demandNewSigner,
  demandWritable,
  freeSlot,
  readSignable,
  type SignableBundle,
} from '../../bundle/slots-file.ts';
import { loadPublicKey } from '../../trust/keys.ts';
import type { Signer } from '../../trust/sign.ts';
import { command, type Given, type Result } from '../command.ts';
import type { Io } from '../context.ts';
import { demandAbsent, findBundle, readText } from '../files.ts';
import { writeNew } from '../new-file.ts';
import { PASSPHRASE_OPTIONS, passphraseFlags } from '../secrets.ts';
import { readSignableFile, readSignature, type CheckKey } from '../signable.ts';
import { loadSigners, SIGNER_OPTION, type SignerFlags } from '../signers.ts';

export type SignOptions =
  | { mode: 'bundle'; bundle: string; signer: SignerFlags }
  | { mode: 'attach'; bundle: string; signature: string; publicKey: string | undefined }
  | { mode: 'detached'; file: string; signer: SignerFlags; out: string };

export const sign = command<SignOptions>({
  name: 'sign',
  summary: 'Add a signature to a bundle',
  about: [
    'Signs the SHA256SUMS of a bundle and puts the signature into one of its eight slots, in place: the rest of the file is neither read nor written, whatever its size. Of a split bundle, name the first volume (.001).',
    'A person who does not have the bundle at hand signs only its SHA256SUMS (`tar -xf BUNDLE SHA256SUMS`) with --detached, and the result is attached with --attach. --attach also takes what `cosign sign-blob --bundle` wrote, and with --public-key what `openssl dgst -sha256 -sign` wrote. Whether a signature counts is decided by the trust policy where the bundle is installed.',
    '--detached signs a new trust policy, too, for `sealift trust update`. It signs nothing else.',
  ],
  positional: { name: 'BUNDLE', about: 'the bundle, or the folder that holds it', required: false },
  options: [
    { flags: '--key <FILE>', about: 'the private key: of sealift, openssl or cosign' },
    ...PASSPHRASE_OPTIONS,
    SIGNER_OPTION,
    { flags: '--attach <FILE>', about: 'put a signature made elsewhere into a free slot' },
    { flags: '--public-key <FILE>', about: 'whose signature --attach must be; needed for a bare one' },
    { flags: '--detached <FILE>', about: 'sign this SHA256SUMS or trust policy instead of a bundle' },
    { flags: '-o, --output <FILE>', about: 'where --detached writes the signature' },
  ],
  examples: [
    ['sealift sign qwen3-coder-1.4.0.sealift.tar --key second.key', 'countersign a bundle in place'],
    ['sealift sign qwen3-coder-1.4.0.sealift.tar --signer yubikey.yaml', 'with a hardware key'],
    [
      'sealift sign --detached SHA256SUMS --key second.key -o second.sigstore.json',
      'sign where the bundle is not',
    ],
    ['sealift sign qwen3-coder-1.4.0.sealift.tar --attach second.sigstore.json', 'attach the result'],
    [
      'sealift sign qwen3-coder-1.4.0.sealift.tar --attach second.sig --public-key second.pub',
      'attach what `openssl dgst -sha256 -sign second.key -out second.sig SHA256SUMS` made',
    ],
  ],
  exits: [11, 12, 13],
  parse: parseSign,
  run: (options, io) => {
    if (options.mode === 'attach') return attach(options);
    return options.mode === 'bundle' ? signBundle(options, io) : signDetached(options, io);
  },
});

function parseSign(given: Given): SignOptions {
  const file = given.text('detached');
  const signature = given.text('attach');
  const bundle = given.positional;
  const publicKey = given.text('publicKey');
  if (publicKey !== undefined && signature === undefined)
    throw new SealiftError('USAGE', '--public-key goes with --attach');
  if (file !== undefined) {
    if (bundle !== undefined || signature !== undefined) {
      throw new SealiftError('USAGE', '--detached signs a file: no bundle, no --attach');
    }
    return { mode: 'detached', file, signer: signerOf(given), out: given.need('output', '-o FILE') };
  }
  if (bundle === undefined)
    throw new SealiftError('USAGE', 'the bundle is missing', { hint: 'sealift sign BUNDLE --key FILE' });
  if (given.text('output') !== undefined)
    throw new SealiftError('USAGE', '-o goes with --detached: a bundle is signed in place');
  if (signature === undefined) return { mode: 'bundle', bundle, signer: signerOf(given) };
  if (given.text('key') !== undefined || given.text('signer') !== undefined)
    throw new SealiftError('USAGE', '--attach takes a finished signature: no --key, no --signer');
  return { mode: 'attach', bundle, signature, publicKey };
}

function signerOf(given: Given): SignerFlags {
  const [key, document] = [given.text('key'), given.text('signer')];
  if (key !== undefined && document !== undefined)
    throw new SealiftError('USAGE', '--key and --signer exclude each other: sign once with each');
  if (key === undefined && document === undefined)
    throw new SealiftError('KEY_MISSING', 'no key was given', { hint: 'add --key FILE or --signer FILE' });
  const only = (value: string | undefined): string[] => (value === undefined ? [] : [value]);
  return { keys: only(key), documents: only(document), passphrase: passphraseFlags(given) };
}

async function onlySigner(flags: SignerFlags, io: Io): Promise<Signer> {
  const [signer] = await loadSigners(flags, io);
  return signer!;
}

/** What can fail without the person fails before the person is asked for a PIN, a touch or a token. */
async function signBundle(options: SignOptions & { mode: 'bundle' }, io: Io): Promise<Result> {
  const path = await findBundle(options.bundle);
  const bundle = await readSignable(path);
  freeSlot(bundle.slots, path);
  await demandWritable(path);
  const signer = await onlySigner(options.signer, io);
  demandNewSigner(bundle.slots, { by: signer.name, digest: bundle.digest }, path);
  io.out.note(`sealift: signing ${whatOf(bundle)}`);
  const slot = await attachSignature(path, await signer.sign(bundle.sums), bundle.digest);
  return signed({ bundle: path, ...describe(bundle), slot, ...by(signer.name) });
}

async function signDetached(options: SignOptions & { mode: 'detached' }, io: Io): Promise<Result> {
  await demandAbsent(options.out);
  const { kind, bytes, digest, version } = await readSignableFile(options.file);
  const signer = await onlySigner(options.signer, io);
  const what = kind === 'SHA256SUMS' ? 'the SHA256SUMS of a bundle' : `trust policy version ${version}`;
  io.out.note(`sealift: signing ${what}, ${digest}`);
  await writeNew(options.out, `${await signer.sign(bytes)}\n`);
  return signed({ signature: options.out, kind, ...(version && { version }), digest, ...by(signer.name) });
}

async function attach(options: SignOptions & { mode: 'attach' }): Promise<Result> {
  const path = await findBundle(options.bundle);
  const bundle = await readSignable(path);
  const check = options.publicKey === undefined ? undefined : await readCheckKey(options.publicKey);
  const { json, claim } = await readSignature(options.signature, bundle.sums, check);
  const slot = await attachSignature(path, json, bundle.digest);
  const checked = check !== undefined || claim.identity !== undefined;
  return signed({ bundle: path, ...describe(bundle), slot, ...by(claim.by), checked });
}

async function readCheckKey(file: string): Promise<CheckKey> {
  return { key: loadPublicKey(await readText(file, 'the public key'), file), file };
}

const describe = ({
  inventory,
  digest,
}: SignableBundle): { name?: string; version?: string; digest: Digest } => ({
  ...(inventory && { name: inventory.name, version: inventory.version }),
  digest,
});

const whatOf = ({ inventory, digest }: SignableBundle): string =>
  inventory === undefined ? digest : `${inventory.name} ${inventory.version}, ${digest}`;

/** `key` as well, which this command printed before there were signers without one. */
const by = (name: Signer['name']): { signer: string; key?: string } => ({
  signer: name,
  ...(name.startsWith('sha256:') && { key: name }),
});

type Data = Record<string, string | number | boolean>;

function signed(data: Data): Result {
  const shown = Object.entries(data).filter(([label]) => label !== 'key');
  const text = shown.map(([label, value]) => `${label.padEnd(10)} ${value}`);
  return { schema: 'sealift/sign/v1', data, text };
}
