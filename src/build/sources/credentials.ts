// SPDX-License-Identifier: Apache-2.0
/**
 * Registry credentials where `docker login` leaves them: `config.json` and credential helpers. No secret ever
 * enters a message: errors here name the file, the host and the helper, never what they said.
 */
import { readFile } from 'node:fs/promises';
import { SealiftError } from '../../errors.ts';
import { objectOf } from '../../json.ts';

/** The key under which docker files its own hub. */
const DOCKER_HUB_KEY = 'https://index.docker.io/v1/';

export type Credential =
  | { kind: 'password'; username: string; password: string }
  /** An OAuth2 refresh token, to be exchanged at the token service. */
  | { kind: 'identity-token'; token: string }
  /** A bearer token for the registry itself. */
  | { kind: 'registry-token'; token: string };

/**
 * Runs a credential helper (`docker-credential-<name> get`, the registry on its stdin).
 * Processes are started in install/host.ts only, so the command line passes this function in.
 */
export type RunHelper = (program: string, input: string) => Promise<{ exitCode: number; stdout: string }>;

export interface CredentialsOptions {
  /** Path of docker's config.json. */
  configFile?: string | undefined;
  runHelper?: RunHelper | undefined;
}

interface AuthEntry {
  auth?: unknown;
  username?: unknown;
  password?: unknown;
  identitytoken?: unknown;
  registrytoken?: unknown;
}

interface DockerConfig {
  auths: Record<string, AuthEntry>;
  credHelpers: Record<string, unknown>;
  credsStore: unknown;
}

export class Credentials {
  readonly #options: CredentialsOptions;
  #config: Promise<DockerConfig> | undefined;

  constructor(options: CredentialsOptions = {}) {
    this.#options = options;
  }

  /**
   * What is known for a registry host (`docker.io`, `registry.example:5000`): the host's own helper first, then
   * the general helper, then the file, as docker does.
   * @throws {SealiftError} UNAUTHORIZED when the file or the helper is broken
   */
  async forRegistry(registry: string): Promise<Credential | undefined> {
    this.#config ??= this.#read();
    const config = await this.#config;
    const key = findKey(config.credHelpers, registry);
    const helper = key === undefined ? config.credsStore : config.credHelpers[key];
    const entryKey = findKey(config.auths, registry);
    if (typeof helper === 'string' && helper !== '') {
      const answer = await this.#ask(
        helper,
        registry === 'docker.io' ? DOCKER_HUB_KEY : (entryKey ?? registry),
      );
      if (answer !== undefined) return answer;
    }
    return entryKey === undefined ? undefined : fromEntry(config.auths[entryKey]!);
  }

  async #read(): Promise<DockerConfig> {
    const file = this.#options.configFile;
    if (file === undefined) return emptyConfig();
    let bytes: Buffer;
    try {
      bytes = await readFile(file);
    } catch (error) {
      if (['ENOENT', 'ENOTDIR'].includes((error as NodeJS.ErrnoException).code ?? '')) return emptyConfig();
      throw new SealiftError('UNAUTHORIZED', `${file} cannot be read`, { cause: error });
    }
    const { auths, credHelpers, credsStore } = parseQuietly(bytes.toString('utf8')) ?? unreadable(file);
    return {
      auths: asRecord(auths) as DockerConfig['auths'],
      credHelpers: asRecord(credHelpers),
      credsStore,
    };
  }

  async #ask(helper: string, server: string): Promise<Credential | undefined> {
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]*$/.test(helper)) {
      throw new SealiftError(
        'UNAUTHORIZED',
        `${this.#options.configFile} names an impossible credential helper`,
      );
    }
    if (this.#options.runHelper === undefined) return undefined;
    const program = `docker-credential-${helper}`;
    const { exitCode, stdout } = await this.#options.runHelper(program, server);
    // The protocol's only way to say "none" (docker-credential-helpers, credentials/error.go).
    if (exitCode !== 0 && /credentials not found/i.test(stdout)) return undefined;
    const answer = exitCode === 0 ? fromHelper(stdout) : undefined;
    if (answer !== undefined) return answer;
    throw new SealiftError('UNAUTHORIZED', `${program} gave no usable credentials for ${server}`, {
      hint: `try it: echo ${server} | ${program} get`,
    });
  }
}

function emptyConfig(): DockerConfig {
  return { auths: {}, credHelpers: {}, credsStore: undefined };
}

/** JSON without the parser's own message, which would quote the secret around the mistake. */
function parseQuietly(text: string): Record<string, unknown> | undefined {
  try {
    return asRecord(JSON.parse(text));
  } catch {
    return undefined;
  }
}

function unreadable(file: string): never {
  throw new SealiftError('UNAUTHORIZED', `${file} is not valid JSON`, { hint: 'repair it, or log in again' });
}

const asRecord = (value: unknown): Readonly<Record<string, unknown>> => objectOf(value) ?? {};

/**
 * Keys are hosts, or URLs with the API's version as their path. A key with another path (podman files logins
 * for one namespace so) must not be sent to the whole host.
 */
function findKey(entries: Record<string, unknown>, registry: string): string | undefined {
  const keys = Object.keys(entries);
  return keys.find((key) => key === registry) ?? keys.find((key) => hostOfKey(key) === registry);
}

function hostOfKey(key: string): string | undefined {
  const match = /^(?:https?:\/\/)?([^/]+)(?:\/(?:v[12]\/?)?)?$/.exec(key.toLowerCase());
  const host = match?.[1];
  return host === 'index.docker.io' || host === 'registry-1.docker.io' ? 'docker.io' : host;
}

function fromEntry(entry: AuthEntry): Credential | undefined {
  const { identitytoken, registrytoken, username, password, auth } = asRecord(entry) as AuthEntry;
  if (isText(registrytoken)) return { kind: 'registry-token', token: registrytoken };
  if (isText(identitytoken)) return { kind: 'identity-token', token: identitytoken };
  if (isText(auth)) return fromBasic(auth);
  if (isText(username) && isText(password)) return { kind: 'password', username, password };
  return undefined;
}

/** `base64(user:password)`; old docker versions padded it with NULs. */
function fromBasic(auth: string): Credential | undefined {
  const text = Buffer.from(auth, 'base64').toString('utf8').replace(/\0+$/, '');
  const colon = text.indexOf(':');
  if (colon <= 0) return undefined;
  return { kind: 'password', username: text.slice(0, colon), password: text.slice(colon + 1) };
}

function fromHelper(stdout: string): Credential | undefined {
  const { Username: username, Secret: secret } = parseQuietly(stdout) ?? {};
  if (!isText(username) || !isText(secret)) return undefined;
  if (username === '<token>') return { kind: 'identity-token', token: secret };
  return { kind: 'password', username, password: secret };
}

const isText = (value: unknown): value is string => typeof value === 'string' && value !== '';
