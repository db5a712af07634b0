// SPDX-License-Identifier: Apache-2.0
/**
 * Whether this host reaches what an operator names, tried for once and only when asked. The host's own programs try it,
 * getent and bash, because sealift itself opens nothing but unix sockets.
 */
import { isIP } from 'node:net';
import { SealiftError } from '../errors.ts';
import type { Diagnosis } from './doctor.ts';
import { findProgram, run, TookTooLong, type Ran } from './host.ts';
import { HostName } from './site.ts';
import { plainLine } from './text.ts';

/** What must not be reachable. */
export interface ProbeTarget {
  /** A name, or an IPv4 or IPv6 address without brackets. */
  host: string;
  port: number;
}

const DEFAULT_PORT = 443;
/** For all servers of resolv.conf together, which are given two seconds each. */
const LOOKUP_MS = 15_000;
/** A server that answers at all does so sooner; a firewall that drops packets never does. */
const CONNECT_MS = 5_000;
/** Of the addresses of one name, in each family: one family may have no way out, and the other one have it. */
const MAX_ADDRESSES = 3;

/**
 * @param text `HOST`, `HOST:PORT`, `[IPv6]` or `[IPv6]:PORT`
 * @throws {SealiftError} USAGE
 */
export function parseProbeTarget(text: string): ProbeTarget {
  if (isIP(text) === 6) throw notATarget(text, `an IPv6 address stands in brackets: --probe '[${text}]'`);
  const [, bracketed, plain, digits = String(DEFAULT_PORT)] =
    /^(?:\[([^[\]]*)\]|([^:[\]]*))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const port = Number(digits);
  const isHost =
    bracketed === undefined
      ? isIP(plain ?? '') === 4 || (HostName.safeParse(plain).success && !/^[\d.]+$/.test(plain!))
      : isIP(bracketed) === 6;
  if (!isHost || port < 1 || port > 65_535)
    throw notATarget(text, 'a name or an address, and a port if it is not 443: --probe example.org:80');
  return { host: bracketed ?? plain!, port };
}

const notATarget = (text: string, hint: string): SealiftError =>
  new SealiftError('USAGE', `--probe ${text}: expected HOST or HOST:PORT`, { hint });

/**
 * Looks a name up, and opens a connection to each address, over which nothing is sent.
 * @param path PATH for finding getent and bash
 * @throws {SealiftError} INTERRUPTED
 */
export async function probe(target: ProbeTarget, path: string, signal?: AbortSignal): Promise<Diagnosis[]> {
  const tools = { path, signal };
  if (isIP(target.host) !== 0) return [await reach(target, [target.host], tools)];
  const { addresses, diagnosis } = await lookUp(target.host, tools);
  return addresses.length === 0 ? [diagnosis] : [diagnosis, await reach(target, addresses, tools)];
}

interface Tools {
  path: string;
  signal: AbortSignal | undefined;
}

interface LookedUp {
  addresses: readonly string[];
  diagnosis: Diagnosis;
}

async function lookUp(host: string, tools: Tools): Promise<LookedUp> {
  const check = `name ${host}`;
  const env = { RES_OPTIONS: 'timeout:2 attempts:1' };
  const ran = await start(['getent', 'ahosts', host], { ...tools, env, timeoutMs: LOOKUP_MS });
  // getent(1): 2 is a name that was not found.
  if (typeof ran === 'object' && ran.code === 2)
    return { addresses: [], diagnosis: { check, outcome: 'ok', detail: 'nobody says what its address is' } };
  if (typeof ran === 'string' || ran.code !== 0)
    return { addresses: [], diagnosis: untried(check, 'getent', ran) };
  const words = [...ran.stdout.matchAll(/^(\S+)/gm)].map(([word]) => word);
  const addresses = someOfEachFamily([...new Set(words)]);
  return {
    addresses,
    diagnosis: {
      check,
      outcome: 'warning',
      detail: `somebody says that its address is ${addresses.join(', ')}`,
      advice:
        'when /etc/hosts does, all is well; a name server that knows names of the outside asks there: questions leave the enclave, and data can leave in them',
    },
  };
}

/** In the order of getent, which is the host's own preference. */
const someOfEachFamily = (words: readonly string[]): string[] =>
  words.filter((word, i) => {
    const family = isIP(word);
    const before = words.slice(0, i).filter((other) => isIP(other) === family).length;
    return family !== 0 && before < MAX_ADDRESSES;
  });

/** One connection: nothing but the handshake. What bash is to run is the same for every target, which is in its arguments. */
const CONNECT = 'exec 3<>"/dev/tcp/$1/$2"';

/** Words of strerror(3) for an attempt that brought no answer, or never left this host. */
const NO_WAY =
  /Network is unreachable|No route to host|Connection timed out|Permission denied|Operation not permitted|Cannot assign requested address|Address family not supported/;

async function reach(
  { host, port }: ProbeTarget,
  addresses: readonly string[],
  tools: Tools,
): Promise<Diagnosis> {
  const where = isIP(host) === 6 ? `[${host}]:${port}` : `${host}:${port}`;
  const check = `reach ${where}`;
  const tries = await Promise.all(
    addresses.map(async (address) => {
      const argv = ['bash', '--norc', '--noprofile', '-c', CONNECT, 'probe', address, String(port)] as const;
      return { address, ran: await start(argv, { ...tools, timeoutMs: CONNECT_MS }) };
    }),
  );
  const open = tries.find(({ ran }) => typeof ran === 'object' && ran.code === 0);
  if (open !== undefined)
    return {
      check,
      outcome: 'failed',
      detail: `this host reaches ${where}${open.address === host ? '' : ` (${open.address})`}: it is not isolated`,
      advice:
        'ip route get ADDRESS says by which link: take its cable out, or its route, or have the firewall between drop what leaves',
    };
  const refused = tries.find(({ ran }) => wordsOf(ran).includes('Connection refused'));
  if (refused !== undefined)
    return {
      check,
      outcome: 'warning',
      detail: `${refused.address} refuses port ${port}: packets get there, or to a firewall that answers for it`,
      advice: 'try a port that is open there, or have the firewall drop packets without an answer',
    };
  const unclear = tries.find(({ ran }) => ran !== 'late' && !NO_WAY.test(wordsOf(ran)));
  if (unclear !== undefined) return untried(check, 'bash', unclear.ran);
  const reasons = new Set(tries.map(({ ran }) => (ran === 'late' ? SILENCE : wordsOf(ran))));
  return { check, outcome: 'ok', detail: `no answer: ${[...reasons].join(', ')}` };
}

const SILENCE = `silence for ${CONNECT_MS / 1000} s`;

/** `failed` when it could not be started. */
type Outcome = Ran | 'late' | 'missing' | 'failed';

/** The end of what it said: `bash: line 1: /dev/tcp/192.0.2.1/443: Network is unreachable`. */
const wordsOf = (ran: Outcome): string =>
  typeof ran === 'string' ? '' : plainLine(ran.stderr.trim().split(': ').at(-1) ?? '');

const untried = (check: string, program: string, ran: Outcome): Diagnosis => ({
  check,
  outcome: 'warning',
  detail: `this could not be tried: ${why(program, ran)}`,
  advice: `the probe needs getent, and a bash that has /dev/tcp; or try it by hand`,
});

function why(program: string, ran: Outcome): string {
  if (ran === 'missing') return `${program} is not on PATH`;
  if (ran === 'failed') return `${program} does not start`;
  if (ran === 'late') return `${program} got no answer for a long time`;
  return `${program} says: ${wordsOf(ran)}`;
}

interface Start extends Tools {
  env?: Readonly<Record<string, string>>;
  /** In milliseconds, after which it is killed. */
  timeoutMs: number;
}

async function start(
  [name, ...args]: readonly [string, ...string[]],
  { path, signal, env, timeoutMs }: Start,
): Promise<Outcome> {
  const program = await findProgram(name, path);
  if (program === undefined) return 'missing';
  const options = {
    env: { PATH: path, LC_ALL: 'C', ...env },
    timeoutMs,
    cwd: '/',
    ...(signal && { signal }),
  };
  try {
    return await run([program, ...args], options);
  } catch (error) {
    if (error instanceof SealiftError && error.code === 'INTERRUPTED') throw error;
    return error instanceof TookTooLong ? 'late' : 'failed';
  }
}
