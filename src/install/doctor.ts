// SPDX-License-Identifier: Apache-2.0
/**
 * What of a host would get in the way, each with what to do. Facts are judged here and not read (host-facts.ts), so that
 * every host can be imagined in a test.
 */
import { contextOf, kvPerToken, reckon, type Fit } from '../engines/fit.ts';
import { rowOf, type Service, type ServiceSpec } from '../engines/index.ts';
import type { CheckOutcome } from '../events.ts';
import { formatBytes } from '../text.ts';
import type { Gpu, HostFacts } from './host-facts.ts';

export interface Diagnosis {
  check: string;
  outcome: CheckOutcome;
  detail: string;
  /** What to do; undefined when all is well. */
  advice?: string;
  /** Reckoned, not known: an install goes on all the same, and its health check has the last word. */
  estimate?: true;
}

/** What a bundle asks of a host beside what preflight looks at. */
export interface Asked {
  services: readonly AskedService[];
}

export interface AskedService {
  service: Service;
  spec: ServiceSpec;
  /** Bytes of the model's weights. */
  weights: number;
  /** config.json of the model, when it has one. */
  config: Readonly<Record<string, unknown>> | undefined;
  /** CUDA of the image, such as `13.0`; undefined when its variables do not say. */
  cuda: string | undefined;
  /** Of each replica: indices or UUIDs of GPUs. */
  gpus: readonly (readonly string[])[];
}

const ok = (check: string, detail: string): Diagnosis => ({ check, outcome: 'ok', detail });
const warning = (check: string, detail: string, advice: string): Diagnosis => ({
  check,
  outcome: 'warning',
  detail,
  advice,
});
/** A failure that the doctor reckons with, and cannot be sure of. */
const likely = (check: string, detail: string, advice: string): Diagnosis => ({
  ...failed(check, detail, advice),
  estimate: true,
});
const failed = (check: string, detail: string, advice: string): Diagnosis => ({
  check,
  outcome: 'failed',
  detail,
  advice,
});

/** Everything that can be said of a host, for the services that it is to run; none when it is looked at alone. */
export function diagnose(facts: HostFacts, asked: Asked): Diagnosis[] {
  const wantsGpus = asked.services.some(({ service }) => service.gpus > 0);
  return [
    ...rights(facts),
    ...confinement(facts),
    ...(wantsGpus || facts.driver !== undefined ? gpuHost(facts, asked, wantsGpus) : []),
    ...(wantsGpus && facts.gpus !== undefined && facts.gpus.length > 0 ? gpuShares(facts.gpus, asked) : []),
    ...sharing(asked, facts.gpus ?? []),
    ...asked.services.flatMap((one) => memoryOf(one, facts)),
    ...isolation(facts),
  ];
}

function rights({ uid, engine }: HostFacts): Diagnosis[] {
  if (engine?.security.includes('rootless') === true) return rightsOfUser(uid);
  if (uid === 0) return [ok('rights', 'root')];
  return [
    warning(
      'rights',
      `user ${uid}, who must be able to write the home and to use the engine's socket`,
      'run as root, or give the user both: who may use the socket is root on this host all the same',
    ),
  ];
}

/** With an engine without root: root inside its containers is the user, and its ports are passed on by a program. */
function rightsOfUser(uid: number): Diagnosis[] {
  if (uid === 0)
    return [
      failed(
        'rights',
        'root, and the engine belongs to a user: what root alone may read, its containers cannot',
        'run sealift as that user, with a home of its own (--home)',
      ),
    ];
  return [
    ok('rights', `user ${uid}, as whom the engine runs`),
    warning(
      'clients',
      'an engine without root passes connections on: all clients have one address, of the engine itself',
      'leave the networks under metrics and monitoring in site.yaml empty, and reckon with one limit by address for all',
    ),
  ];
}

function confinement({ engine, selinux, apparmor }: HostFacts): Diagnosis[] {
  if (engine === undefined) return [];
  const found: Diagnosis[] = [];
  if (engine.cgroups === undefined)
    found.push(
      warning(
        'cgroups',
        'the engine does not say which control groups it uses',
        'mount them (cgroup2 on /sys/fs/cgroup) and restart the engine: without them GPUs and limits may not work',
      ),
    );
  else found.push(ok('cgroups', `version ${engine.cgroups}`));
  if (selinux === 'enforcing' && !engine.security.includes('selinux'))
    found.push(
      warning(
        'SELinux',
        'enforcing, and the engine does not label containers',
        'set "selinux-enabled": true in /etc/docker/daemon.json and restart the engine; the home needs the type container_file_t: chcon -Rt container_file_t HOME',
      ),
    );
  else if (selinux !== undefined)
    found.push(
      selinux === 'enforcing'
        ? warning(
            'SELinux',
            'enforcing',
            'containers read the home only with its type: chcon -Rt container_file_t HOME (semanage fcontext makes it last)',
          )
        : ok('SELinux', selinux),
    );
  if (apparmor)
    found.push(
      engine.security.includes('apparmor')
        ? ok('AppArmor', "containers run under the engine's profile")
        : warning(
            'AppArmor',
            'enabled, and the engine does not use it',
            'install the package apparmor and restart the engine',
          ),
    );
  return found;
}

/** Lowest driver for each major version of CUDA (docs.nvidia.com/cuda, CUDA Toolkit release notes, minor version compatibility). */
const DRIVERS: Readonly<Record<string, string>> = { 11: '450.80.02', 12: '525.60.13', 13: '580.65.06' };

function gpuHost(
  { driver, gpus, gpuRuntime, engine }: HostFacts,
  { services }: Asked,
  wanted: boolean,
): Diagnosis[] {
  if (driver === undefined)
    return [
      failed(
        'GPU driver',
        "NVIDIA's kernel module is not loaded",
        'install the driver from packages that were carried in, then: modprobe nvidia. lspci -d 10de: shows whether there is a GPU at all',
      ),
    ];
  const needs = services
    .flatMap(({ cuda }) => DRIVERS[cuda?.split('.')[0] ?? ''] ?? [])
    .toSorted(compareVersions);
  const least = needs.at(-1);
  const found: Diagnosis[] = [
    least !== undefined && compareVersions(driver, least) < 0
      ? likely(
          'GPU driver',
          `${driver} is too old: the images have CUDA ${cudasOf(services)}, which needs ${least} or newer`,
          `carry in and install a driver from ${least.split('.')[0]} on, then restart the host`,
        )
      : ok('GPU driver', `${driver}${least === undefined ? '' : `, and the images need ${least} or newer`}`),
  ];
  if (gpus === undefined)
    found.push(
      failed(
        'GPUs',
        'nvidia-smi is not on PATH, or fails',
        "run nvidia-smi and look at what it says; it comes with the driver's packages",
      ),
    );
  else {
    found.push(
      gpus.length === 0
        ? failed(
            'GPUs',
            'none',
            'lspci -d 10de: shows what is plugged in; dmesg | grep -i nvrm says what the driver thinks of it',
          )
        : ok('GPUs', listOf(gpus)),
    );
    const off = gpus.filter(({ persistence }) => !persistence).map(({ index }) => index);
    if (off.length > 0)
      found.push(
        warning(
          'persistence',
          `off for GPU ${off.join(', ')}: the driver starts anew whenever nobody uses them`,
          'systemctl enable --now nvidia-persistenced   (or nvidia-smi -pm 1 after each start)',
        ),
      );
  }
  if (wanted && engine !== undefined) found.push(gpuGiver(engine, gpuRuntime));
  return found;
}

const cudasOf = (services: readonly AskedService[]): string =>
  [...new Set(services.flatMap(({ cuda }) => cuda ?? []))].sort().join(' and ');

const listOf = (gpus: readonly Gpu[]): string =>
  gpus
    .map(
      ({ index, name, memory }) =>
        `${index}: ${name}, ${memory === undefined ? 'memory unknown' : formatBytes(memory)}`,
    )
    .join('; ');

/** Numbers between dots, one by one. */
function compareVersions(a: string, b: string): number {
  const [left, right] = [a, b].map((text) => text.split('.').map(Number));
  for (let i = 0; i < Math.max(left!.length, right!.length); i++) {
    const difference = (left![i] ?? 0) - (right![i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

const gpuNamed = (gpus: readonly Gpu[], name: string): Gpu | undefined =>
  gpus.find(
    ({ index, uuid }) =>
      index === name || uuid === name || (name.startsWith('GPU-') && uuid.startsWith(name)),
  );

/** What gives GPUs to containers. */
function gpuGiver({ takesGpuRequests }: NonNullable<HostFacts['engine']>, runtime?: string): Diagnosis {
  if (!takesGpuRequests)
    return failed(
      'GPU runtime',
      'Podman gives GPUs to containers by CDI alone, and sealift does not ask for that',
      'run services with GPUs on Docker (--engine /var/run/docker.sock), and others here',
    );
  if (runtime !== undefined) return ok('GPU runtime', runtime);
  return failed(
    'GPU runtime',
    'the engine cannot give GPUs to containers',
    'install nvidia-container-toolkit from packages that were carried in, then: nvidia-ctk runtime configure --runtime=docker && systemctl restart docker',
  );
}

/** A GPU in use by others leaves less than an engine reckons with, and it then does not start. */
const MUCH_USED = 0.05;

function gpuShares(gpus: readonly Gpu[], { services }: Asked): Diagnosis[] {
  const wanted = services.flatMap(({ service, gpus: shares }) =>
    shares.flat().map((gpu) => ({ gpu, service: service.name })),
  );
  const missing = wanted.filter(({ gpu }) => gpuNamed(gpus, gpu) === undefined);
  const found: Diagnosis[] = [];
  if (missing.length > 0)
    found.push(
      failed(
        'GPU shares',
        `${missing.map(({ gpu, service }) => `GPU ${gpu} for ${service}`).join(', ')}: not in this host, which has ${gpus.length}`,
        'gpus in site.yaml says which service gets which; nvidia-smi -L lists them. With fewer GPUs than the bundle asks for, it needs another bundle',
      ),
    );
  const names = new Set(wanted.map(({ gpu }) => gpuNamed(gpus, gpu)).filter((gpu) => gpu !== undefined));
  for (const { index, used, memory } of names)
    if (memory !== undefined && used > MUCH_USED * memory)
      found.push(
        warning(
          'GPU in use',
          `GPU ${index}: ${formatBytes(used)} of ${formatBytes(memory)} are used already`,
          'nvidia-smi shows by whom; when it is the release that is replaced, all is well',
        ),
      );
  if (found.length === 0)
    found.push(
      ok(
        'GPU shares',
        services
          .map((s) => `${s.service.name}: ${s.gpus.map((g) => g.join('+')).join(', ') || 'none'}`)
          .join('; '),
      ),
    );
  return found;
}

/** GPUs that several containers get: what each of them takes for itself, as far as its engine has an option for that. */
function sharing({ services }: Asked, gpus: readonly Gpu[]): Diagnosis[] {
  const taken = new Map<string, { name: string; part: number | undefined; option: string | undefined }[]>();
  for (const { service, spec, gpus: shares } of services) {
    const { fraction: option, defaultFraction } = rowOf(spec).memory;
    const part = option === undefined ? undefined : Number(spec.options[option] ?? defaultFraction);
    for (const gpu of shares.flat()) {
      const index = gpuNamed(gpus, gpu)?.index ?? gpu;
      taken.set(index, [...(taken.get(index) ?? []), { name: service.name, part, option }]);
    }
  }
  return [...taken]
    .filter(([, parts]) => parts.length > 1)
    .map(([gpu, parts]) => {
      const sum = parts.reduce((all, { part = 0 }) => all + part, 0);
      const shown = parts.map(({ name, part }) => `${name} ${part ?? 'as much as it needs'}`).join(' + ');
      const options = [...new Set(parts.flatMap(({ option }) => option ?? []))].join(', ');
      const detail = `GPU ${gpu}: ${shown}${parts.every(({ part }) => part !== undefined) ? ` = ${Number(sum.toFixed(3))}` : ''} of its memory`;
      if (sum > 1)
        return likely(
          'GPU sharing',
          `${detail}, and there is 1`,
          `smaller parts in the manifest (${options}), or a GPU of its own for each in site.yaml`,
        );
      return warning(
        'GPU sharing',
        detail,
        'they share the computing as well, so each is slower while the other works; a GPU of its own for each in site.yaml avoids that',
      );
    });
}

function memoryOf(one: AskedService, facts: HostFacts): Diagnosis[] {
  return one.service.gpus === 0 ? hostMemory(one, facts) : gpuMemory(one, facts);
}

/** On a host without GPUs weights lie in RAM, of each replica once; a file that is mapped is shared. */
function hostMemory({ service, weights }: AskedService, { memory }: HostFacts): Diagnosis[] {
  if (memory === undefined) return [];
  const name = `memory of ${service.name}`;
  const said = `weights ${formatBytes(weights)}, RAM ${formatBytes(memory.available)} free of ${formatBytes(memory.total)}`;
  if (weights > memory.total)
    return [
      likely(
        name,
        said,
        'the model does not fit into the RAM of this host: a smaller one, or one with fewer bits, or more RAM',
      ),
    ];
  if (weights > memory.available)
    return [warning(name, said, 'stop what uses the RAM, or the host will swap')];
  return [ok(name, said)];
}

function gpuMemory({ service, spec, weights, config, gpus }: AskedService, facts: HostFacts): Diagnosis[] {
  const found = gpus.flat().map((name) => gpuNamed(facts.gpus ?? [], name));
  if (found.length === 0 || found.some((gpu) => gpu?.memory === undefined)) return []; // said already, or unknown
  const { memory } = rowOf(spec);
  if (memory.offload.some((option) => option in spec.options)) return []; // how much stays outside is not known
  const asked = (option: string | undefined): string | number | boolean | undefined =>
    option === undefined ? undefined : spec.options[option];
  const fraction = Number(asked(memory.fraction) ?? memory.defaultFraction);
  const kv = config && kvPerToken(config, kvNumberBytes(String(asked(memory.kvType) ?? 'auto')));
  const context = Number(asked(memory.context)) || (config && contextOf(config));
  const smallest = Math.min(...found.map((gpu) => gpu!.memory!));
  const fit = reckon({ weights, kv, context, gpus: service.gpus, memory: smallest, fraction });
  const sum = arithmetic(fit, { smallest, fraction, context, how: kv?.how, gpus: service.gpus });
  const name = `memory of ${service.name}`;
  if (fit.verdict === 'no')
    return [
      likely(
        name,
        `the weights do not fit: ${sum}`,
        'more GPUs for the service (gpus in the manifest), larger ones, or a model with fewer bits',
      ),
    ];
  if (fit.verdict === 'short')
    return [
      warning(
        name,
        `not one request of full length fits: ${sum}`,
        `a shorter context (${memory.context} in the manifest)${memory.kvType === undefined ? '' : `, ${memory.kvType}: fp8`}, or more GPUs; the engine will say so when it starts, or refuse to`,
      ),
    ];
  return [ok(name, sum)];
}

const kvNumberBytes = (type: string): number => (/fp8|q8|int8|e4m3|e5m2/.test(type) ? 1 : 2);

function arithmetic(
  { weights, kv, allowance, usable, sequences }: Fit,
  {
    smallest,
    fraction,
    context,
    how,
    gpus,
  }: {
    smallest: number;
    fraction: number;
    context: number | undefined;
    how: string | undefined;
    gpus: number;
  },
): string {
  const cache =
    kv === undefined
      ? 'KV cache unknown (config.json does not say)'
      : `KV cache ${formatBytes(kv)} for one request of ${context} tokens (${how}${gpus > 1 ? `, over ${gpus} GPUs` : ''})`;
  const all = weights + allowance + (kv ?? 0);
  const many = sequences === undefined ? '' : `; ${sequences} such requests at a time`;
  return `weights ${formatBytes(weights)} + ${cache} + allowance ${formatBytes(allowance)} = ${formatBytes(all)} of ${formatBytes(usable)} (${fraction} x ${formatBytes(smallest)}) on each GPU${many}`;
}

/** Whether this is an island, by what the host is set up to do. No packet is sent to find out (probe.ts sends some, when asked). */
function isolation({ network }: HostFacts): Diagnosis[] {
  const { links, defaultRoutes, nameservers } = network;
  const found: Diagnosis[] = [];
  if (defaultRoutes.length === 0)
    found.push(ok('isolation', `no default route; links: ${links.join(', ') || 'only loopback'}`));
  else
    found.push(
      warning(
        'isolation',
        `there is a default route, by ${defaultRoutes.join(' and ')}: packets to any address leave this host`,
        'when the network behind it is the isolated one, all is well; else take the cable out, or the route: ip route del default',
      ),
    );
  const outside = nameservers.filter((address) => !/^(127\.|::1$)/.test(address));
  if (outside.length > 0)
    found.push(
      warning(
        'name servers',
        `${outside.join(', ')} in /etc/resolv.conf: names that programs look up are told to them`,
        'they should be servers of the enclave; sealift itself looks up no name',
      ),
    );
  return found;
}
