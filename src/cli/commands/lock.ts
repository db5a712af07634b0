// SPDX-License-Identifier: Apache-2.0
import type { KeyObject } from 'node:crypto';
import { describeSigner, type UpstreamSignature } from '../../bundle/inventory.ts';
import type { Manifest } from '../../build/manifest.ts';
import { diffLocks, lockBytes, resolveLock, type Lock, type LockChange } from '../../build/lock.ts';
import { SealiftError } from '../../errors.ts';
import type { Emit } from '../../events.ts';
import { runCredentialHelper } from '../credential-helper.ts';
import { writeFileDurably } from '../../store/files.ts';
import { command, type Result } from '../command.ts';
import type { Io } from '../context.ts';
import { count } from '../format.ts';
import { formatBytes } from '../../text.ts';
import { table } from '../output.ts';
import { digestOf } from '../../store/digest.ts';
import { loadKey, PASSPHRASE_OPTIONS, passphraseFlags, type PassphraseSource } from '../secrets.ts';
import {
  openSources,
  readLock,
  readManifest,
  SOURCE_OPTIONS,
  sourceFlags,
  type SourceFlags,
} from '../sources.ts';

interface LockOptions {
  manifest: string | undefined;
  frozen: boolean;
  modelKey: string | undefined;
  passphrase: PassphraseSource;
  sources: SourceFlags;
}

export const lock = command<LockOptions>({
  name: 'lock',
  summary: 'Resolve a manifest to digests and commits',
  about: [
    'Resolves every tag to the digest of its image and every revision to a commit with size and sha256 of each file, writes them to the lock beside the manifest (demo.yaml: demo.lock.json), and says what changed since the last lock. Review that, and commit the lock: `sealift build` carries exactly what it names.',
    'Where the manifest demands a signature of an image (cosign) or a model (OMS), it is checked here, and the lock says who signed. Models with `sign: true` are signed with --model-key: a model.sig is carried with them that `model_signing verify` accepts. It stays until the files or the key change; until then no key is needed.',
    'With --frozen nothing is written, and a lock that would change is a failure.',
  ],
  positional: { name: 'MANIFEST', about: 'the manifest (default: sealift.yaml)', required: false },
  options: [
    { flags: '--frozen', about: 'fail when the lock would change' },
    { flags: '--model-key <FILE>', about: 'sign models that say sign: true with this private key' },
    ...PASSPHRASE_OPTIONS,
    ...SOURCE_OPTIONS,
  ],
  examples: [
    ['sealift lock', 'locks sealift.yaml into sealift.lock.json'],
    ['sealift lock demo.yaml --frozen', 'in CI: has anything moved since the lock?'],
  ],
  exits: [12, 20],
  parse: (given) => ({
    manifest: given.positional,
    frozen: given.is('frozen'),
    modelKey: given.text('modelKey'),
    passphrase: passphraseFlags(given),
    sources: sourceFlags(given),
  }),
  run: runLock,
});

async function runLock(options: LockOptions, io: Io): Promise<Result> {
  const file = await readManifest(options.manifest);
  const previous = await readPrevious(file.lockFile, options.frozen, io.emit);
  const modelKey = await readModelKey(options, file.manifest, io);
  const context = await openSources(options.sources, file, io, runCredentialHelper(io));
  const fresh = await resolveLock(file.manifest, context, previous, io.now(), undefined, modelKey);
  const bytes = lockBytes(fresh);
  const same = previous !== undefined && lockBytes(previous).equals(bytes);
  const changes = previous === undefined ? [] : diffLocks(previous, fresh);
  if (!same && options.frozen) throw wouldChange(file.lockFile, changes);
  if (!same) await writeFileDurably(file.lockFile, bytes);
  return {
    schema: 'sealift/lock/v1',
    data: {
      lock: file.lockFile,
      written: !same,
      first: previous === undefined,
      changes,
      ...sumsOf(fresh),
      signatures: signaturesOf(fresh),
    },
    text: [...summary(file.lockFile, previous, same), ...changeLines(changes), ...contents(fresh)],
  };
}

/** @throws {SealiftError} USAGE when nothing is there to be signed, and what reading a key throws */
async function readModelKey(
  { modelKey, passphrase }: LockOptions,
  manifest: Manifest,
  io: Io,
): Promise<KeyObject | undefined> {
  if (modelKey === undefined) return undefined;
  if (Object.values(manifest.models).some(({ sign }) => sign === true))
    return loadKey(modelKey, passphrase, io);
  throw new SealiftError('USAGE', '--model-key is given, and no model of the manifest is to be signed', {
    hint: 'add sign: true to the model, or leave --model-key out',
  });
}

/** The lock so far. One that cannot be read is written anew, unless it is to be held to. */
async function readPrevious(lockFile: string, frozen: boolean, emit: Emit): Promise<Lock | undefined> {
  try {
    return await readLock(lockFile);
  } catch (error) {
    const usable =
      error instanceof SealiftError && (error.code === 'LOCK_MISSING' || error.code === 'LOCK_INVALID');
    if (!usable || frozen) throw error;
    if (error.code === 'LOCK_INVALID') {
      const message = `${error.message}; it is written anew, and nothing could be compared: review all of it`;
      emit({ type: 'warning', code: 'LOCK_UNREADABLE', message });
    }
    return undefined;
  }
}

function wouldChange(lockFile: string, changes: readonly LockChange[]): SealiftError {
  return new SealiftError('LOCK_STALE', `${lockFile} would change, and --frozen forbids that`, {
    details: changes.map(({ kind, name, text }) => [`${kind} ${name}`, text]),
    hint: 'run `sealift lock` without --frozen, and review what it prints',
  });
}

function sumsOf({ images, models }: Lock): { images: number; models: number; files: number; bytes: number } {
  const files = models.flatMap((model) => model.files);
  const bytes = files.reduce((sum, { size }) => sum + size, 0);
  return { images: images.length, models: models.length, files: files.length, bytes };
}

/** Whose signatures were verified. */
function signaturesOf({ images, models }: Lock): object[] {
  const all = [
    ...images.map(({ name, signature }) => ({ type: 'image', name, signature })),
    ...models.map(({ name, signature }) => ({ type: 'model', name, signature })),
  ];
  return all.flatMap(({ signature, ...of }) => (signature ? [{ ...of, ...signature }] : []));
}

function summary(lockFile: string, previous: Lock | undefined, same: boolean): string[] {
  if (previous === undefined) return [`wrote ${lockFile}`];
  return [same ? `${lockFile} is up to date` : `wrote ${lockFile}`];
}

function changeLines(changes: readonly LockChange[]): string[] {
  if (changes.length === 0) return [];
  return [
    '',
    'changed since the last lock:',
    ...changes.map(({ kind, name, text }) => `  ${kind} ${name}: ${text}`),
  ];
}

const signedBy = ({ signature }: { signature?: UpstreamSignature | undefined }): string[][] =>
  signature ? [['', '', `signed by ${describeSigner(signature.by)}`]] : [];

function contents(locked: Lock): string[] {
  const { files, bytes } = sumsOf(locked);
  const rows = [
    ...locked.images.flatMap((image) => [
      ['image', image.name, `${image.from}  ${image.manifest.digest}`],
      ...signedBy(image),
    ]),
    ...locked.models.flatMap((model) => [
      ['model', model.name, `${model.from}  ${model.revision}`],
      ...signedBy(model),
      ...(model.oms ? [['', '', `model.sig by key ${digestOf(Buffer.from(model.oms.key, 'base64'))}`]] : []),
    ]),
    ...locked.configs.map((config) => ['config', config.name, config.digest]),
  ];
  return ['', ...table(rows), '', `${count(files, 'model file')}, ${formatBytes(bytes)}`];
}
