// SPDX-License-Identifier: Apache-2.0
/** The file of the clients' API keys: a line `NAME KEY` for each. A person may edit it; `sealift keys` does, too. */
import { randomBytes } from 'node:crypto';
import { mkdir, readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { Name } from '../bundle/inventory.ts';
import { SealiftError } from '../errors.ts';
import { writeFileDurably } from '../store/files.ts';
import { absent, type Home } from './home.ts';
import type { Site } from './site.ts';

export interface ApiKey {
  name: string;
  key: string;
}

/** The characters of a bearer token (RFC 6750 §2.1), long enough that guessing is hopeless. */
const API_KEY = /^[A-Za-z0-9._~+/-]{20,256}=*$/;
const MAX_KEYS = 1000;
/** Characters of a key that must be left when others have told the keys apart: 48 bits of hex, 72 of base64. */
const MIN_SECRET = 12;
/** How many characters tell keys apart at least. */
const MIN_HEAD = 4;
/** And at most: nginx looks them up in a table with cells of 128 bytes. */
const MAX_HEAD = 64;

export const apiKeysFile = (site: Site, home: Home): string =>
  site.apiKeys === undefined ? home.apiKeysFile : resolve(home.root, site.apiKeys);

/**
 * Reads the keys of the clients. Values never appear in a message.
 * @returns undefined when the file does not exist
 * @throws {SealiftError} SITE_INVALID, naming file and line
 */
export async function readApiKeys(file: string): Promise<ApiKey[] | undefined> {
  const text = await readFile(file, 'utf8').catch(absent);
  if (text === undefined) return undefined;
  const keys: ApiKey[] = [];
  for (const [i, line] of text.split('\n').entries()) {
    if (/^\s*(#|$)/.test(line)) continue;
    const [name = '', key = '', ...rest] = line.trim().split(/\s+/);
    const known = keys.some((k) => k.name === name || k.key === key);
    if (!Name.safeParse(name).success || !API_KEY.test(key) || rest.length > 0 || known) {
      throw new SealiftError(
        'SITE_INVALID',
        `${file}:${i + 1}: expected a new name and a key of 20 or more letters, digits and ._~+/-`,
        {
          hint: 'one line for each client: NAME KEY   (openssl rand -hex 24 makes a key)',
        },
      );
    }
    keys.push({ name, key });
  }
  if (keys.length > 0 && keys.length <= MAX_KEYS) {
    tellApart(keys);
    return keys;
  }
  throw new SealiftError('SITE_INVALID', `${file} has ${keys.length} keys; 1 to ${MAX_KEYS} are possible`);
}

/**
 * By how many of their first characters keys differ, in whatever case, and those characters: by them the gateway looks
 * a key up, and what follows stays a secret even from somebody who measures how long that takes.
 * @throws {SealiftError} SITE_INVALID when too little would be left to be secret
 */
export function tellApart(keys: readonly ApiKey[]): { prefix: number; heads: string[] } {
  const shortest = Math.min(...keys.map(({ key }) => key.replace(/=+$/, '').length));
  const longest = Math.min(shortest - MIN_SECRET, MAX_HEAD);
  for (let prefix = MIN_HEAD; prefix <= longest; prefix++) {
    const heads = keys.map(({ key }) => key.slice(0, prefix));
    if (new Set(heads.map((head) => head.toLowerCase())).size === keys.length) return { prefix, heads };
  }
  throw new SealiftError('SITE_INVALID', 'two API keys begin alike, so that too little of them is a secret', {
    hint: 'make them at random and long: sealift keys rotate NAME, or openssl rand -hex 24',
  });
}

/**
 * Adds, replaces or removes a key; comments and the other lines stay as they are. For the holder of the home's lock.
 * @throws {SealiftError} KEY_NAME when the name is taken, or not there; SITE_INVALID
 */
export async function changeApiKey(
  file: string,
  change: 'add' | 'rotate' | 'remove',
  name: string,
): Promise<void> {
  const keys = await readApiKeys(file);
  const known = (keys ?? []).some((key) => key.name === name);
  if (change === 'add' ? known : !known) throw wrongName(file, name, keys ?? []);
  if (change === 'remove' && keys?.length === 1)
    throw new SealiftError('KEY_NAME', `${name} is the only key, and without one nobody gets in`, {
      hint: 'sealift keys add NAME, then remove this one; or sealift keys rotate ' + name,
    });
  const text = keys === undefined ? HEAD : await readFile(file, 'utf8');
  const isOf = (line: string): boolean => /^\s*([^\s#]\S*)/.exec(line)?.[1] === name;
  const kept = text.split('\n').flatMap((line) => {
    if (!isOf(line)) return [line];
    return change === 'rotate' ? [`${name} ${newKey()}`] : [];
  });
  if (change === 'add') kept.splice(kept.at(-1) === '' ? -1 : kept.length, 0, `${name} ${newKey()}`);
  await mkdir(dirname(file), { recursive: true, mode: 0o700 });
  await writeFileDurably(file, kept.join('\n'), 0o600);
}

function wrongName(file: string, name: string, keys: readonly ApiKey[]): SealiftError {
  const names = keys.map((key) => key.name).join(', ');
  if (keys.some((key) => key.name === name))
    return new SealiftError('KEY_NAME', `${file} has a key named ${name}`, {
      hint: `another name, or a new value for it: sealift keys rotate ${name}`,
    });
  return new SealiftError('KEY_NAME', `${file} has no key named ${name}`, {
    hint: names === '' ? `sealift keys add ${name}` : `there are: ${names}`,
  });
}

/** A key that nobody can guess: 192 bits. */
const newKey = (): string => `sk-${randomBytes(24).toString('hex')}`;

const HEAD = '# Clients of this host: NAME KEY. After a change by hand: sealift reload.\n';

/** Content of a new file of keys, with one key named `default`. */
export const newApiKeys = (): string => `${HEAD}default ${newKey()}\n`;
