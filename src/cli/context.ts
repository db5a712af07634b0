// SPDX-License-Identifier: Apache-2.0
/**
 * What a command gets from the world: streams, settings, clock, signal. The only reader of process.env in
 * sealift (a lint rule and a test forbid it elsewhere), so the table below is the whole truth about variables.
 */
import { homedir } from 'node:os';
import { join } from 'node:path';
import { SealiftError } from '../errors.ts';
import type { Emit } from '../events.ts';
import type { Output, Sink } from './output.ts';
import type { Prompter, TerminalInput } from './prompt.ts';

interface Variable {
  name: string;
  /** Which side of the air gap reads it. */
  side: 'both' | 'outside' | 'inside';
  about: string;
}

/**
 * Every environment variable that sealift reads. None of them takes a key or a passphrase, switches a check
 * off, names a trust policy or answers a question.
 */
export const ENVIRONMENT = [
  { name: 'SEALIFT_PROGRESS', side: 'both', about: 'auto, tty, plain, json or none; --progress wins' },
  {
    name: 'SEALIFT_HOME',
    side: 'inside',
    about: 'folder of the installation; --home wins (default /var/lib/sealift)',
  },
  { name: 'SEALIFT_STORE', side: 'outside', about: 'folder of downloaded blobs; --store wins' },
  {
    name: 'XDG_CACHE_HOME',
    side: 'outside',
    about: 'the store is $XDG_CACHE_HOME/sealift when nothing names it (default ~/.cache)',
  },
  {
    name: 'DOCKER_HOST',
    side: 'both',
    about: "unix:///path of the engine's socket; --engine wins (default /var/run/docker.sock)",
  },
  {
    name: 'DOCKER_CONFIG',
    side: 'outside',
    about: 'folder of config.json with registry credentials (default ~/.docker)',
  },
  { name: 'HTTPS_PROXY', side: 'outside', about: 'proxy for https:// sources; also in lower case' },
  { name: 'HTTP_PROXY', side: 'outside', about: 'proxy for http:// sources; also in lower case' },
  { name: 'NO_PROXY', side: 'outside', about: 'hosts that are reached without a proxy; also in lower case' },
  {
    name: 'NODE_EXTRA_CA_CERTS',
    side: 'outside',
    about: 'file of certificates that the runtime trusts in addition',
  },
  { name: 'NO_COLOR', side: 'both', about: 'any value: no colour; --color wins' },
  { name: 'FORCE_COLOR', side: 'both', about: 'colour even when stderr or stdout is not a terminal' },
  { name: 'TERM', side: 'both', about: '`dumb` means plain progress and no colour' },
  { name: 'HOME', side: 'both', about: 'home folder of the user, for the defaults above' },
  { name: 'PATH', side: 'both', about: 'where docker, its Compose plug-in and credential helpers are found' },
] as const satisfies readonly Variable[];

type VariableName = (typeof ENVIRONMENT)[number]['name'];

/** Values of the variables of the table, and of their lower-case forms where curl's convention has them. */
export type Environment = Readonly<Partial<Record<VariableName, string>>>;

/** Picks the variables of the table out of an environment; empty values count as absent. */
export function readEnvironment(env: NodeJS.ProcessEnv = process.env): Environment {
  const found: Partial<Record<VariableName, string>> = {};
  for (const { name } of ENVIRONMENT) {
    const value = (name.endsWith('_PROXY') ? env[name.toLowerCase()] : undefined) ?? env[name];
    if (value !== undefined && value !== '') found[name] = value;
  }
  return found;
}

/**
 * Everything, for docker's credential helpers and signing commands alone: they need a session bus, a display, cloud
 * variables, the PIN of a token.
 */
export function wholeEnvironment(env: NodeJS.ProcessEnv = process.env): Record<string, string> {
  const set = Object.entries(env).filter((pair): pair is [string, string] => pair[1] !== undefined);
  return Object.fromEntries(set);
}

/** The process as `runCli` sees it; tests give their own. */
export interface Host {
  stdin: TerminalInput;
  stdout: Sink;
  stderr: Sink;
  env: Environment;
  now: () => Date;
  /** Aborted by the first Ctrl-C. */
  signal: AbortSignal;
}

/** What the run function of a command gets. */
export interface Io {
  out: Output;
  emit: Emit;
  prompt: Prompter;
  env: Environment;
  now: () => Date;
  signal: AbortSignal;
}

const DEFAULT_HOME = '/var/lib/sealift';
const DEFAULT_SOCKET = '/var/run/docker.sock';

export const homeFolder = (flag: string | undefined, env: Environment): string =>
  flag ?? env.SEALIFT_HOME ?? DEFAULT_HOME;

export function storeFolder(flag: string | undefined, env: Environment): string {
  const cache = env.XDG_CACHE_HOME ?? join(env.HOME ?? homedir(), '.cache');
  return flag ?? env.SEALIFT_STORE ?? join(cache, 'sealift');
}

export const dockerConfigFolder = (env: Environment): string =>
  env.DOCKER_CONFIG ?? join(env.HOME ?? homedir(), '.docker');

/**
 * Path of the engine's socket. Only unix sockets: an engine over the network is out of reach in an enclave,
 * and an image that travels over TCP has left this host.
 * @throws {SealiftError} ENGINE_UNSUPPORTED
 */
export function engineSocket(flag: string | undefined, env: Environment): string {
  const given = flag ?? env.DOCKER_HOST;
  if (given === undefined) return DEFAULT_SOCKET;
  if (given.startsWith('unix://')) return given.slice('unix://'.length);
  if (/^[a-z+]+:\/\//i.test(given)) {
    const from = flag === undefined ? 'DOCKER_HOST' : '--engine';
    throw new SealiftError('ENGINE_UNSUPPORTED', `${from} is ${given}, and only unix sockets are supported`, {
      hint: 'name the socket: --engine /var/run/docker.sock',
    });
  }
  return given;
}
