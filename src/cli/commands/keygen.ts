// SPDX-License-Identifier: Apache-2.0
import { rm } from 'node:fs/promises';
import { SealiftError } from '../../errors.ts';
import { writeNew } from '../new-file.ts';
import { generateKeyPair } from '../../trust/private-keys.ts';
import { command } from '../command.ts';
import { demandAbsent } from '../files.ts';
import { newPassphrase, PASSPHRASE_OPTIONS, passphraseFlags, type PassphraseSource } from '../secrets.ts';

interface KeygenOptions {
  keyFile: string;
  publicFile: string;
  passphrase: PassphraseSource;
}

/** `release.key` → `release.pub`; other names get `.pub` behind them. */
const publicName = (keyFile: string): string => `${keyFile.replace(/\.(key|pem)$/, '')}.pub`;

export const keygen = command<KeygenOptions>({
  name: 'keygen',
  summary: 'Make a signing key pair',
  about: [
    'Makes an ECDSA P-256 key. The private half is encrypted PKCS#8 PEM with mode 0600, which openssl reads too (and cosign after `cosign import-key-pair`); the public half goes into the trust policy of every host that is to accept bundles signed with it.',
    'The passphrase is asked twice on the terminal, or read from a file or a file descriptor. Existing files are never overwritten.',
  ],
  options: [
    { flags: '-o, --output <FILE>', about: 'the private key; the public key is put beside it as .pub' },
    ...PASSPHRASE_OPTIONS,
  ],
  examples: [
    ['sealift keygen -o release.key', 'writes release.key and release.pub'],
    ['sealift keygen -o release.key --passphrase-fd 3 3<<<"$SECRET"', 'without a terminal'],
  ],
  exits: [],
  parse: (given) => {
    const keyFile = given.need('output', '-o FILE');
    if (keyFile.endsWith('.pub')) throw new SealiftError('USAGE', '-o names the private key, not the .pub');
    return { keyFile, publicFile: publicName(keyFile), passphrase: passphraseFlags(given) };
  },
  run: async ({ keyFile, publicFile, passphrase }, io) => {
    await demandAbsent(keyFile);
    await demandAbsent(publicFile);
    const pair = generateKeyPair(await newPassphrase(passphrase, io));
    await writeNew(keyFile, pair.privateKeyPem, 0o600);
    try {
      await writeNew(publicFile, pair.publicKeyPem, 0o644);
    } catch (error) {
      await rm(keyFile, { force: true });
      throw error;
    }
    return {
      schema: 'sealift/keygen/v1',
      data: { key: keyFile, publicKey: publicFile, fingerprint: pair.fingerprint },
      text: [
        `private key  ${keyFile} (keep it, and its passphrase, on the staging side)`,
        `public key   ${publicFile} (for trust.yaml of the enclave: sealift help trust)`,
        `fingerprint  ${pair.fingerprint}`,
      ],
    };
  },
});
