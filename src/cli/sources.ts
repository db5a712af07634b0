// SPDX-License-Identifier: Apache-2.0
/** What `lock` and `build` share: the flags that say where sources and the store are, and the manifest. */
import { dirname, join, resolve } from 'node:path';
import { MAX_LOCK_BYTES } from '../build/lockfile.ts';
import { lockPath, parseLock, type Lock } from '../build/lock.ts';
import { parseManifest, type Manifest } from '../build/manifest.ts';
import { withoutUserinfo } from '../build/sources/address.ts';
import { Credentials, type RunHelper } from '../build/sources/credentials.ts';
import { registryName } from '../build/sources/reference.ts';
import type { SourceContext } from '../build/sources/source.ts';
import { SealiftError } from '../errors.ts';
import { Store } from '../store/store.ts';
import type { Given, OptionSpec } from './command.ts';
import { dockerConfigFolder, engineSocket, storeFolder, type Io } from './context.ts';
import { readBytes, readText } from './files.ts';

export const DEFAULT_MANIFEST = 'sealift.yaml';
const DEFAULT_HUB = 'https://huggingface.co';

export const SOURCE_OPTIONS: readonly OptionSpec[] = [
  { flags: '--store <DIR>', about: 'where downloads are kept (default: ~/.cache/sealift)' },
  { flags: '--mirror <REGISTRY=URL>', about: 'ask this mirror instead of the registry', repeat: true },
  { flags: '--plain-http <HOST>', about: 'speak to this host without TLS', repeat: true },
  { flags: '--hub <URL>', about: `the hub behind hf: (default: ${DEFAULT_HUB})` },
  { flags: '--hub-token-file <FILE>', about: 'a token for the hub, for private and gated models' },
  { flags: '--engine <SOCKET>', about: 'the engine behind docker-daemon: (default: /var/run/docker.sock)' },
];

export interface SourceFlags {
  store: string | undefined;
  mirrors: ReadonlyMap<string, string>;
  plainHttp: ReadonlySet<string>;
  hubUrl: string;
  /** --hub was there. */
  hubGiven: boolean;
  hubTokenFile: string | undefined;
  engine: string | undefined;
}

/** @throws {SealiftError} USAGE */
export function sourceFlags(given: Given): SourceFlags {
  return {
    store: given.text('store'),
    mirrors: parseMirrors(given.list('mirror')),
    plainHttp: new Set(given.list('plainHttp').map(parseHost)),
    hubUrl: httpUrl(given.text('hub') ?? DEFAULT_HUB, '--hub'),
    hubGiven: given.text('hub') !== undefined,
    hubTokenFile: given.text('hubTokenFile'),
    engine: given.text('engine'),
  };
}

function parseMirrors(texts: readonly string[]): Map<string, string> {
  const mirrors = new Map<string, string>();
  for (const text of texts) {
    const [registry, url] = parseMirror(text);
    if (mirrors.has(registry)) throw new SealiftError('USAGE', `--mirror names ${registry} twice`);
    mirrors.set(registry, url);
  }
  return mirrors;
}

function parseHost(text: string): string {
  if (/^([a-z0-9.-]+|\[[0-9a-f:.]+\])(:\d{1,5})?$/i.test(text)) return text.toLowerCase();
  throw new SealiftError('USAGE', `--plain-http is '${withoutUserinfo(text)}', expected HOST or HOST:PORT`, {
    hint: 'for example: --plain-http registry.example:5000',
  });
}

function parseMirror(text: string): [string, string] {
  const match = /^([a-z0-9.-]+(?::\d+)?)=(.+)$/i.exec(text);
  if (match) return [registryName(match[1]!), httpUrl(match[2]!, '--mirror')];
  throw new SealiftError('USAGE', `--mirror is '${withoutUserinfo(text)}', expected REGISTRY=URL`, {
    hint: 'for example: --mirror docker.io=https://mirror.example',
  });
}

function httpUrl(text: string, flag: string): string {
  const url = URL.parse(text);
  if (url && /^https?:$/.test(url.protocol) && url.username + url.password === '' && url.search === '')
    return text;
  throw new SealiftError(
    'USAGE',
    `${flag} has '${withoutUserinfo(text)}', expected an http(s) URL without user, password or query`,
  );
}

/** The manifest and where its lock is. */
export interface ManifestFile {
  path: string;
  manifest: Manifest;
  lockFile: string;
}

/** @throws {SealiftError} FILE_MISSING, MANIFEST_INVALID */
export async function readManifest(given: string | undefined): Promise<ManifestFile> {
  const path = given ?? DEFAULT_MANIFEST;
  const text = await readText(
    path,
    'the manifest',
    'FILE_MISSING',
    '`sealift init` writes one to start from',
  );
  return { path, manifest: parseManifest(text, path), lockFile: lockPath(path) };
}

/** @throws {SealiftError} LOCK_MISSING, LOCK_INVALID */
export async function readLock(file: string): Promise<Lock> {
  const hint = 'run `sealift lock`, review what it prints, and commit the lock';
  return parseLock(await readBytes(file, 'the lock', MAX_LOCK_BYTES, 'LOCK_MISSING', hint), file);
}

/** The token in a file. None of it enters a message. @throws {SealiftError} USAGE, FILE_MISSING */
async function readToken(file: string): Promise<string> {
  const token = (await readText(file, 'the token file')).trim();
  if (/^[\x21-\x7e]+$/.test(token)) return token;
  throw new SealiftError('USAGE', `${file} holds no token`, {
    hint: 'the file must hold the token alone, on one line',
  });
}

/** Opens the store and gathers what sources need. `runHelper` starts docker-credential-X. */
export async function openSources(
  flags: SourceFlags,
  file: ManifestFile,
  io: Io,
  runHelper: RunHelper,
): Promise<SourceContext> {
  const { env } = io;
  return {
    baseDir: dirname(resolve(file.path)),
    store: await Store.open(storeFolder(flags.store, env), 'cache'),
    platform: file.manifest.platform,
    docker: engineSocket(flags.engine, env),
    credentials: new Credentials({ configFile: join(dockerConfigFolder(env), 'config.json'), runHelper }),
    mirrors: flags.mirrors,
    plainHttp: flags.plainHttp,
    hubToken: flags.hubTokenFile === undefined ? undefined : await readToken(flags.hubTokenFile),
    hubUrl: flags.hubUrl,
    hubGiven: flags.hubGiven,
    network: { proxyEnv: env },
    emit: io.emit,
    signal: io.signal,
  };
}
