// SPDX-License-Identifier: Apache-2.0
/**
 * What a host is, read from /proc, /sys and /etc, from `nvidia-smi` and from the container engine. Nothing is judged
 * here, and no packet is sent.
 */
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { EngineClient, EngineFacts } from './engine-client.ts';
import { findProgram, run } from './host.ts';
import { plainLine } from './text.ts';

export interface Gpu {
  index: string;
  uuid: string;
  name: string;
  /** Bytes; undefined where the driver does not say, as of GPUs that share the memory of the host. */
  memory: number | undefined;
  /** Bytes that somebody uses already. */
  used: number;
  persistence: boolean;
}

export interface HostFacts {
  uid: number;
  /** Bytes of RAM; undefined where /proc does not say. */
  memory: { total: number; available: number } | undefined;
  /** Version of NVIDIA's kernel module, such as `580.65.06`; undefined when it is not loaded. */
  driver: string | undefined;
  /** undefined: nvidia-smi is not there, or fails. */
  gpus: readonly Gpu[] | undefined;
  /** What the engine can give containers GPUs with; undefined when it has nothing. */
  gpuRuntime: string | undefined;
  engine: Pick<EngineFacts, 'cgroups' | 'security' | 'takesGpuRequests'> | undefined;
  network: Network;
  selinux: 'enforcing' | 'permissive' | undefined;
  apparmor: boolean;
}

export interface Network {
  /** Links that are up, but loopback. */
  links: readonly string[];
  /** `address on link`, of IPv4 and IPv6. */
  defaultRoutes: readonly string[];
  nameservers: readonly string[];
}

export interface FactsInput {
  /** PATH for finding nvidia-smi. */
  path: string;
  engine: EngineClient | undefined;
  /** Folder in which /proc, /sys and /etc are; the root of the host. */
  root?: string;
  uid?: number;
}

const SMI_MS = 30_000;
const MIB = 1024 ** 2;

export async function readHostFacts({
  path,
  engine,
  root = '/',
  uid = process.getuid?.() ?? 0,
}: FactsInput): Promise<HostFacts> {
  const read = (name: string): Promise<string> => readFile(join(root, name), 'utf8').catch(() => '');
  const version = await read('proc/driver/nvidia/version');
  const enforce = await read('sys/fs/selinux/enforce');
  return {
    uid,
    memory: memoryOf(await read('proc/meminfo')),
    driver: /Kernel Module[^\d]*(?:for \S+\s+)?(\d+\.\d+(?:\.\d+)?)/.exec(version)?.[1],
    gpus: await readGpus(path),
    gpuRuntime: await gpuRuntime(engine, path),
    engine: engine && engineFacts(engine),
    network: await readNetwork(root, read),
    selinux: enforce.trim() === '1' ? 'enforcing' : enforce.trim() === '0' ? 'permissive' : undefined,
    apparmor: (await read('sys/module/apparmor/parameters/enabled')).trim() === 'Y',
  };
}

const engineFacts = ({ facts }: EngineClient): HostFacts['engine'] => ({
  cgroups: facts.cgroups,
  security: facts.security,
  takesGpuRequests: facts.takesGpuRequests,
});

/** proc(5): kB are KiB. */
function memoryOf(meminfo: string): HostFacts['memory'] {
  const [total, available] = ['MemTotal', 'MemAvailable'].map((name) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB`, 'm').exec(meminfo)?.[1] ?? 0),
  );
  return total ? { total: total * 1024, available: (available ?? 0) * 1024 } : undefined;
}

async function readGpus(path: string): Promise<Gpu[] | undefined> {
  const smi = await findProgram('nvidia-smi', path);
  if (smi === undefined) return undefined;
  const fields = 'index,uuid,name,memory.total,memory.used,persistence_mode';
  const argv = [smi, `--query-gpu=${fields}`, '--format=csv,noheader,nounits'] as const;
  const ran = await run(argv, { env: { PATH: path, LC_ALL: 'C' }, timeoutMs: SMI_MS }).catch(() => undefined);
  if (ran === undefined || ran.code !== 0) return undefined;
  return ran.stdout.split('\n').flatMap((line) => {
    const [index, uuid, name, total, used, persistence] = line
      .split(',')
      .map((part) => plainLine(part.trim(), 100));
    if (index === undefined || uuid === undefined || name === undefined) return [];
    return [
      {
        index,
        uuid,
        name,
        memory: /^\d+$/.test(total ?? '') ? Number(total) * MIB : undefined,
        used: (Number(used) || 0) * MIB,
        persistence: persistence === 'Enabled',
      },
    ];
  });
}

/** Docker finds GPUs by a runtime that is registered with it, by the hook that it looks for itself, or by CDI. */
async function gpuRuntime(engine: EngineClient | undefined, path: string): Promise<string | undefined> {
  if (engine?.facts.runtimes.includes('nvidia')) return 'the runtime nvidia';
  const hook = await findProgram('nvidia-container-runtime-hook', path);
  return hook && `the hook ${hook}`;
}

async function readNetwork(root: string, read: (name: string) => Promise<string>): Promise<Network> {
  const links = (await readdir(join(root, 'sys/class/net')).catch(() => [])).filter((name) => name !== 'lo');
  const states = await Promise.all(links.map((name) => read(`sys/class/net/${name}/operstate`)));
  const resolv = await read('etc/resolv.conf');
  return {
    links: links.filter((_, i) => states[i]!.trim() === 'up').sort(),
    defaultRoutes: [...routes4(await read('proc/net/route')), ...routes6(await read('proc/net/ipv6_route'))],
    nameservers: [...resolv.matchAll(/^\s*nameserver\s+(\S+)/gm)].map((m) => plainLine(m[1]!, 60)),
  };
}

/** A gateway in the order of the host's bytes, little-endian on all of ours. */
const routes4 = (table: string): string[] =>
  [...table.matchAll(/^(\S+)\t00000000\t([0-9A-F]{8})\t\S+\t\S+\t\S+\t\S+\t00000000\t/gm)].map(
    ([, link, gateway]) => {
      const bytes = gateway!.match(/../g)!.map((hex) => Number.parseInt(hex, 16));
      return `${bytes.toReversed().join('.')} on ${link}`;
    },
  );

/** Routes to ::/0 that are no rejection (flag 0x200, linux/ipv6_route.h). */
const routes6 = (table: string): string[] =>
  [
    ...table.matchAll(
      /^0{32} 00 0{32} 00 ([0-9a-f]{32}) [0-9a-f]{8} [0-9a-f]{8} [0-9a-f]{8} ([0-9a-f]{8})\s+(\S+)$/gm,
    ),
  ].flatMap(([, gateway, flags, link]) =>
    (Number.parseInt(flags!, 16) & 0x200) !== 0 || link === 'lo'
      ? []
      : [`${gateway!.match(/.{4}/g)!.join(':')} on ${link}`],
  );
