// SPDX-License-Identifier: Apache-2.0
/**
 * `site.yaml`: what only the enclave knows. A person of the enclave writes it; nothing in it comes from a
 * bundle.
 */
import { readFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import * as z from 'zod';
import { Name } from '../bundle/inventory.ts';
import { readDocument } from '../document.ts';
import { SealiftError } from '../errors.ts';
import { absent, type Home } from './home.ts';

export const HostName = z
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

const count = (most: number): z.ZodNumber => z.number().int().min(1).max(most);

/** Of requests: a steady rate, and how many may come at once before it holds. */
const Rate = z.strictObject({
  requestsPerMinute: count(60_000).default(600),
  burst: count(10_000).default(100),
});

const concurrent = (usual: number): z.ZodDefault<z.ZodNumber> =>
  count(10_000).default(usual).describe('Requests under way at a time');

const Limits = z.strictObject({
  perKey: Rate.extend({ concurrent: concurrent(64) }).prefault({}),
  perAddress: Rate.extend({ concurrent: concurrent(256) })
    .prefault({})
    .describe('Counts requests without a key, too'),
  bodyMiB: count(4096)
    .default(64)
    .describe('Largest request, in MiB; images and long contexts are inlined into requests'),
});

const Gpu = z
  .union([
    z.number().int().min(0).max(1023),
    z.string().regex(/^GPU-[0-9a-f-]{8,64}$/, 'expected a number, or a UUID such as GPU-8f6d…'),
  ])
  .transform(String);

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
  gpus: z
    .record(Name, z.array(Gpu).max(1024))
    .default({})
    .describe('Which GPUs a service gets, by number or UUID; the others get the lowest that are left'),
  sharedGpus: z
    .array(Gpu)
    .max(1024)
    .default([])
    .describe('GPUs that `gpus` may give to several services, each of which takes a part of the memory'),
  monitoring: z
    .strictObject({ allow: z.array(Network).max(64).default([]) })
    .prefault({})
    .describe('Networks that may open Grafana, under /grafana/; nobody by default'),
  limits: Limits.prefault({}).describe('More than this is answered with 429, or with 413'),
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

/** Where clients reach the gateway; without the port when it is the one of https. */
export const gatewayUrl = ({ hostName, listen }: Site): string =>
  `https://${hostName}${listen.port === 443 ? '' : `:${listen.port}`}`;
