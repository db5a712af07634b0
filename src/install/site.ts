// SPDX-License-Identifier: Apache-2.0
/**
 * `site.yaml`: what only the enclave knows. A person of the enclave writes it; nothing in it comes from a
 * bundle. And the file of API keys that it may name.
 */
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { resolve } from 'node:path';
import * as z from 'zod';
import { Name } from '../bundle/inventory.ts';
import { readDocument } from '../document.ts';
import { SealiftError } from '../errors.ts';
import { absent, type Home } from './home.ts';

const HostName = z
  .string()
  .max(253)
  .regex(
    /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$/i,
    'expected a host name such as llm.example.org',
  );

/** `10.0.0.0/8`, `fd00::/8` or a single address. */
const Network = z.string().refine(isNetwork, 'expected a network such as 10.0.0.0/8');

function isNetwork(text: string): boolean {
  const [address = '', bits, ...rest] = text.split('/');
  const family = isIP(address);
  if (family === 0 || rest.length > 0) return false;
  return bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (family === 4 ? 32 : 128));
}

const FilePath = z
  .string()
  .min(1)
  .max(4096)
  .regex(/^[^\p{Cc}]+$/u, 'expected a path');

export const Site = z.strictObject({
  apiVersion: z.literal('sealift.dev/v1'),
  kind: z.literal('Site'),
  hostName: HostName.describe('Name under which clients reach this host; the certificate should be for it'),
  listen: z
    .strictObject({
      address: z
        .string()
        .refine((a) => isIP(a) !== 0, 'expected an IP address of this host, or 0.0.0.0')
        .default('0.0.0.0'),
      port: z.number().int().min(1).max(65535).default(443),
    })
    .default({ address: '0.0.0.0', port: 443 })
    .describe('Where the gateway listens'),
  tls: z
    .strictObject({ certificate: FilePath, key: FilePath })
    .describe('PEM files, absolute or relative to the home; the certificate with its chain'),
  apiKeys: FilePath.optional().describe(
    'File with a line `name key` for each client; by default one is made',
  ),
  metrics: z
    .strictObject({ allow: z.array(Network).max(64).default([]) })
    .default({ allow: [] })
    .describe('Networks that may read /metrics without a key; nobody by default'),
});
export type Site = z.infer<typeof Site>;

/** @throws {SealiftError} SITE_INVALID */
export const parseSite = (text: string, file: string): Site => readDocument(text, file, Site, 'SITE_INVALID');

/** @throws {SealiftError} SITE_MISSING, SITE_INVALID */
export async function readSite(home: Home): Promise<Site> {
  const text = await readFile(home.siteFile, 'utf8').catch(absent);
  if (text !== undefined) return parseSite(text, home.siteFile);
  throw new SealiftError('SITE_MISSING', `${home.siteFile} does not exist`, {
    hint: 'it says the host name, the port and the certificate of this host: `sealift help site` prints one to start from',
  });
}

export interface ApiKey {
  name: string;
  key: string;
}

/** The characters of a bearer token (RFC 6750 §2.1), long enough that guessing is hopeless. */
const API_KEY = /^[A-Za-z0-9._~+/-]{20,256}=*$/;
const MAX_KEYS = 1000;

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
  if (keys.length > 0 && keys.length <= MAX_KEYS) return keys;
  throw new SealiftError('SITE_INVALID', `${file} has ${keys.length} keys; 1 to ${MAX_KEYS} are possible`);
}

/** Content of a new file of keys, with one key named `default`. */
export const newApiKeys = (): string =>
  `# Clients of this host: NAME KEY. After a change: sealift install BUNDLE again.\ndefault sk-${randomBytes(24).toString('hex')}\n`;
