// SPDX-License-Identifier: Apache-2.0
import { SealiftError } from '../../errors.ts';
import { Home } from '../../install/home.ts';
import { makeHostKey } from '../../install/host-key.ts';
import { exists } from '../../store/files.ts';
import { command } from '../command.ts';
import { homeFolder } from '../context.ts';
import { HOME_OPTION } from '../host-options.ts';

export const trustHostKey = command<{ home: string | undefined }>({
  name: 'trust host-key',
  summary: 'Make the key with which this host signs its receipts, or show the one it has',
  about: [
    'Makes an ECDSA P-256 key in secrets/host.key of the home, readable by its owner alone and not encrypted, as the key of a TLS server, and puts its public half into host.pub. From then on every install also writes receipt.sigstore.json, which anybody who has host.pub can check with cosign or openssl.',
    'A key that is there is kept: the command then only says which it is. Compare the fingerprint with the auditors by another way than the media on which host.pub travels.',
  ],
  options: [HOME_OPTION],
  examples: [['sealift trust host-key', 'once on every host']],
  exits: [],
  parse: (given) => ({ home: given.text('home') }),
  run: async ({ home: folder }, io) => {
    const home = new Home(homeFolder(folder, io.env));
    if (!(await exists(home.root)))
      throw new SealiftError('FILE_MISSING', `there is no home ${home.root}`, {
        hint: 'name it with --home DIR, or make the folder first: it is where trust.yaml and site.yaml go',
      });
    const { fingerprint: print, made } = await makeHostKey(home);
    return {
      schema: 'sealift/host-key/v1',
      data: { made, key: home.hostKeyFile, publicKey: home.hostPublicFile, fingerprint: print },
      text: [
        `private key  ${home.hostKeyFile}${made ? '' : '  (it was there already)'}`,
        `public key   ${home.hostPublicFile}  (for auditors)`,
        `fingerprint  ${print}`,
        ...(made && (await home.current()) !== undefined
          ? ['next         install the current bundle again: its receipt is then signed']
          : []),
      ],
    };
  },
});
