// SPDX-License-Identifier: Apache-2.0
/**
 * The host's own key, `secrets/host.key`, with which it signs its receipts. Not encrypted, like the key of a TLS
 * server: nobody is there to type a passphrase, and who reads it as root can write receipts anyway. It signs
 * nothing that any host trusts.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from 'node:crypto';
import { mkdir, readFile, stat } from 'node:fs/promises';
import { SealiftError } from '../errors.ts';
import { fsyncDir, writeFileDurably } from '../store/files.ts';
import { fingerprint, loadPublicKey, publicKeyOf, type Fingerprint } from '../trust/keys.ts';
import { absent, type Home } from './home.ts';

export interface HostKey {
  privateKey: KeyObject;
  publicKey: KeyObject;
  fingerprint: Fingerprint;
}

/**
 * @returns undefined when the host has no key
 * @throws {SealiftError} KEY_INVALID when the file is there and cannot be used
 */
export async function readHostKey(home: Home): Promise<HostKey | undefined> {
  const file = home.hostKeyFile;
  const pem = await readFile(file, 'utf8').catch(absent);
  if (pem === undefined) return undefined;
  if (((await stat(file)).mode & 0o077) !== 0) {
    throw new SealiftError('KEY_INVALID', `${file} can be read by others than its owner`, {
      hint: `chmod 600 ${file}; when somebody may have read it: move it and ${home.hostPublicFile} away, then sealift trust host-key`,
    });
  }
  return parseHostKey(pem, file);
}

function parseHostKey(pem: string, file: string): HostKey {
  try {
    const privateKey = createPrivateKey(pem);
    const publicKey = publicKeyOf(createPublicKey(privateKey), file);
    return { privateKey, publicKey, fingerprint: fingerprint(publicKey) };
  } catch (cause) {
    if (cause instanceof SealiftError) throw cause;
    throw new SealiftError(
      'KEY_INVALID',
      `${file} is damaged, or not an unencrypted private key in PEM form`,
      {
        hint: 'restore it from a backup; or move it away: receipts are then not signed, and `sealift trust host-key` makes another',
        cause,
      },
    );
  }
}

/** The public half, for those who may not read the key. @throws {SealiftError} KEY_INVALID */
export async function readHostPublicKey(home: Home): Promise<KeyObject | undefined> {
  const pem = await readFile(home.hostPublicFile, 'utf8').catch(absent);
  return pem === undefined ? undefined : loadPublicKey(pem, home.hostPublicFile);
}

/**
 * Makes the key, or puts the public half beside one that is there already. The key is never overwritten.
 * @throws {SealiftError} FILE_EXISTS when host.pub belongs to another key; KEY_INVALID, LOCKED
 */
export async function makeHostKey(home: Home): Promise<{ fingerprint: Fingerprint; made: boolean }> {
  const unlock = await home.lock('trust host-key');
  try {
    const found = await readHostKey(home);
    const key = found ?? newHostKey();
    await demandOwnPublicHalf(home, key);
    if (found === undefined) {
      await mkdir(home.path('secrets'), { recursive: true, mode: 0o700 });
      await writeFileDurably(
        home.hostKeyFile,
        key.privateKey.export({ type: 'pkcs8', format: 'pem' }),
        0o600,
      );
      await fsyncDir(home.root);
    }
    await writeFileDurably(home.hostPublicFile, key.publicKey.export({ type: 'spki', format: 'pem' }));
    return { fingerprint: key.fingerprint, made: found === undefined };
  } finally {
    await unlock();
  }
}

function newHostKey(): HostKey {
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  return { privateKey, publicKey, fingerprint: fingerprint(publicKey) };
}

async function demandOwnPublicHalf(home: Home, key: HostKey): Promise<void> {
  const published = await readHostPublicKey(home);
  if (published === undefined || fingerprint(published) === key.fingerprint) return;
  throw new SealiftError(
    'FILE_EXISTS',
    `${home.hostPublicFile} is there already and belongs to another key, ${fingerprint(published)}`,
    {
      hint: 'auditors may still need it for older receipts: move it away under a name of its own, then run this again',
    },
  );
}
