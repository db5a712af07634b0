// SPDX-License-Identifier: Apache-2.0
/** `keys list|add|rotate|remove`: the file of API keys, and the gateway that is to go by it. */
import { Name } from '../../bundle/inventory.ts';
import { asSealiftError, SealiftError } from '../../errors.ts';
import { apiKeysFile, changeApiKey, readApiKeys } from '../../install/api-keys.ts';
import { readSite } from '../../install/site.ts';
import { reload } from '../../install/reload.ts';
import { command, type Command, type CommandSpec } from '../command.ts';
import { HOST_OPTIONS, hostFlags, hostPaths, type HostFlags } from '../host-options.ts';
import { table } from '../output.ts';
import { reloaded } from './reload.ts';

type Change = Parameters<typeof changeApiKey>[1];

export const keysList = command<{ host: HostFlags }>({
  name: 'keys list',
  summary: 'List the names of the API keys',
  about: ['Prints names, never keys: those stand in the file that is named, which its owner alone can read.'],
  options: HOST_OPTIONS,
  examples: [['sealift keys list', 'who has a key']],
  exits: [],
  parse: (given) => ({ host: hostFlags(given) }),
  run: async ({ host }, io) => {
    const { home } = hostPaths(host, io.env);
    const file = apiKeysFile(await readSite(home), home);
    const names = ((await readApiKeys(file)) ?? []).map(({ name }) => name);
    return {
      schema: 'sealift/keys/v1',
      data: { file, names },
      text: table([['file', file], ...names.map((n) => ['key', n])]),
    };
  },
});

interface ChangeOptions {
  host: HostFlags;
  name: string;
}

/** What the three commands that change the file have in common. */
function changing(
  change: Change,
  words: Pick<CommandSpec<ChangeOptions>, 'summary' | 'about' | 'examples'>,
): Command {
  return command<ChangeOptions>({
    name: `keys ${change}`,
    ...words,
    positional: {
      name: 'NAME',
      about: 'name of the key; it stands in the log of the gateway',
      required: true,
    },
    options: HOST_OPTIONS,
    exits: [20, 21],
    parse: (given) => ({ host: hostFlags(given), name: demandName(given.positional!) }),
    run: async ({ host, name }, io) => {
      const { home, socket } = hostPaths(host, io.env);
      const file = apiKeysFile(await readSite(home), home);
      const unlock = await home.lock(`keys ${change}`);
      try {
        await changeApiKey(file, change, name);
      } finally {
        await unlock();
      }
      const where = change === 'remove' ? [] : [`key of ${name}  in ${file}`];
      if ((await home.current()) === undefined) {
        const text = [...where, 'nothing is installed yet: it counts from the install on'];
        return { schema: 'sealift/keys/v1', data: { file, changed: name, reloaded: false }, text };
      }
      const result = reloaded(
        await reload({ home, socket, now: io.now(), only: 'keys' }).catch((error: unknown) => {
          throw stillOld(error, file);
        }),
      );
      return {
        schema: 'sealift/keys/v1',
        data: { file, changed: name, reloaded: true, ...result.data },
        text: [...where, ...result.text],
      };
    },
  });
}

/** The file is changed, and the gateway is not: who takes a key away must know. */
function stillOld(error: unknown, file: string): SealiftError {
  const { code, message, details, hint } = asSealiftError(error, 'reloading the gateway');
  return new SealiftError(
    code,
    `${file} is changed, and the gateway STILL GOES BY THE OLD KEYS: ${message}`,
    {
      details,
      hint: `${hint === undefined ? '' : `${hint}; `}then: sealift reload`,
      cause: error,
    },
  );
}

function demandName(name: string): string {
  if (Name.safeParse(name).success) return name;
  throw new SealiftError(
    'USAGE',
    `'${name}' is not a name for a key: a-z, 0-9, '-' and '.', starting with a letter`,
  );
}

const NOT_SHOWN =
  'The key itself is not shown: it stands in the file that is named, for its owner alone to read.';

export const keysAdd = changing('add', {
  summary: 'Make an API key for one more client',
  about: [
    `Makes a random key under a name, and lets the running gateway read it without a restart. ${NOT_SHOWN}`,
  ],
  examples: [['sealift keys add team-b', 'for a client of its own']],
});

export const keysRotate = changing('rotate', {
  summary: 'Replace an API key by a new one',
  about: [
    `Gives the name a new random key. The old one is refused from that moment on, and no engine is restarted. ${NOT_SHOWN}`,
    'For a change without a gap, add a second key under another name, hand it out, and remove the first.',
  ],
  examples: [['sealift keys rotate default', 'when a key has become known']],
});

export const keysRemove = changing('remove', {
  summary: 'Take an API key away',
  about: ['The key is refused from that moment on; requests that are being answered go on to their end.'],
  examples: [['sealift keys remove team-b', 'when a client is gone']],
});
