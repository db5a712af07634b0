// SPDX-License-Identifier: Apache-2.0
/** Passphrases and keys. They come from a file, a file descriptor or the terminal; never from argv or env. */
import type { KeyObject } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { asSealiftError, SealiftError } from '../errors.ts';
import { isEncryptedKey, loadPrivateKey } from '../trust/private-keys.ts';
import { keySigner, type Signer } from '../trust/sign.ts';
import type { Given, OptionSpec } from './command.ts';
import type { Io } from './context.ts';
import { readText } from './files.ts';

export const PASSPHRASE_OPTIONS: readonly OptionSpec[] = [
  { flags: '--passphrase-file <FILE>', about: 'read the passphrase of the key from a file' },
  { flags: '--passphrase-fd <N>', about: 'read the passphrase of the key from an open file descriptor' },
];

export interface PassphraseSource {
  file: string | undefined;
  fd: number | undefined;
}

/** Longest passphrase that is read, in bytes, with its line feed. */
const MAX_PASSPHRASE_BYTES = 4096;

/** @throws {SealiftError} USAGE */
export function passphraseFlags(given: Given): PassphraseSource {
  const file = given.text('passphraseFile');
  const fd = given.text('passphraseFd');
  if (file !== undefined && fd !== undefined) {
    throw new SealiftError('USAGE', '--passphrase-file and --passphrase-fd exclude each other');
  }
  if (fd !== undefined && !/^\d{1,5}$/.test(fd)) {
    throw new SealiftError(
      'USAGE',
      `--passphrase-fd is '${fd}', expected the number of an open file descriptor`,
    );
  }
  return { file, fd: fd === undefined ? undefined : Number(fd) };
}

/** The passphrase that a file or descriptor gives; undefined when none was named. One trailing line feed is dropped. */
async function givenPassphrase(source: PassphraseSource): Promise<string | undefined> {
  if (source.file !== undefined) return firstLine(await readText(source.file, 'the passphrase file'));
  if (source.fd !== undefined) return firstLine(await readDescriptor(source.fd));
  return undefined;
}

const firstLine = (text: string): string => text.replace(/\r?\n$/, '');

async function readDescriptor(fd: number): Promise<string> {
  const chunks: Buffer[] = [];
  let size = 0;
  try {
    for await (const chunk of createReadStream('', { fd, autoClose: false })) {
      chunks.push(chunk as Buffer);
      size += (chunk as Buffer).length;
      if (size > MAX_PASSPHRASE_BYTES) throw new SealiftError('USAGE', 'the passphrase is too long');
    }
  } catch (thrown) {
    throw asSealiftError(thrown, `reading the passphrase from file descriptor ${fd}`);
  }
  return Buffer.concat(chunks).toString();
}

const NO_TERMINAL = 'give --passphrase-file or --passphrase-fd';

/** A passphrase for a new key: given, or asked twice. */
export async function newPassphrase(source: PassphraseSource, io: Io): Promise<string> {
  const given = await givenPassphrase(source);
  if (given !== undefined) return given;
  if (!io.prompt.available) {
    throw new SealiftError('USAGE', 'there is no terminal to ask for a passphrase', { hint: NO_TERMINAL });
  }
  const first = await io.prompt.secret('passphrase for the new key');
  if ((await io.prompt.secret('the same again')) !== first) {
    throw new SealiftError('WRONG_PASSPHRASE', 'the two passphrases differ');
  }
  return first;
}

/**
 * Reads signing keys and opens them, asking for passphrases now rather than after hours of work.
 * @throws {SealiftError} FILE_MISSING, KEY_INVALID, WRONG_PASSPHRASE, USAGE
 */
export async function loadKeys(
  files: readonly string[],
  source: PassphraseSource,
  io: Io,
): Promise<Signer[]> {
  const given = await givenPassphrase(source);
  const signers: Signer[] = [];
  for (const file of files) signers.push(keySigner(await openKey(file, given, io)));
  return signers;
}

/**
 * Reads one private key, for what is signed in another form than a bundle.
 * @throws {SealiftError} FILE_MISSING, KEY_INVALID, WRONG_PASSPHRASE, USAGE
 */
export async function loadKey(file: string, source: PassphraseSource, io: Io): Promise<KeyObject> {
  return openKey(file, await givenPassphrase(source), io);
}

async function openKey(file: string, given: string | undefined, io: Io): Promise<KeyObject> {
  const pem = await readText(file, 'the key', 'FILE_MISSING', 'check the path; `sealift keygen` makes a key');
  const passphrase = given ?? (isEncryptedKey(pem) ? await askFor(file, io) : undefined);
  return loadPrivateKey(pem, passphrase, file);
}

async function askFor(file: string, io: Io): Promise<string> {
  if (!io.prompt.available) {
    throw new SealiftError(
      'WRONG_PASSPHRASE',
      `${file} is encrypted, and there is no terminal to ask for its passphrase`,
      {
        hint: NO_TERMINAL,
      },
    );
  }
  return io.prompt.secret(`passphrase for ${file}`);
}
