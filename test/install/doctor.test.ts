// SPDX-License-Identifier: Apache-2.0
/** Hosts that are imagined: what the doctor says of each, and that it says what to do. */
import { chmodSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { servicesOf } from '../../src/engines/index.ts';
import { diagnose, type Asked, type Diagnosis } from '../../src/install/doctor.ts';
import type { EngineClient } from '../../src/install/engine-client.ts';
import { shareGpus } from '../../src/install/gpus.ts';
import { readHostFacts, type Gpu, type HostFacts } from '../../src/install/host-facts.ts';
import { inventoryOf, modelOf } from '../engines/samples.ts';
import { tempDir } from '../support/workspace.ts';

const GIB = 1024 ** 3;
const LLAMA_8B = {
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  hidden_size: 4096,
  max_position_embeddings: 131_072,
};

const gpu = (index: number, more: Partial<Gpu> = {}): Gpu => ({
  index: String(index),
  uuid: `GPU-0000000${index}-aaaa-bbbb-cccc-dddddddddddd`,
  name: 'NVIDIA H100 80GB HBM3',
  memory: 80 * GIB,
  used: 0,
  persistence: true,
  ...more,
});

/** A host with which nothing is wrong. */
const good: HostFacts = {
  uid: 0,
  memory: { total: 512 * GIB, available: 500 * GIB },
  driver: '580.95.05',
  gpus: [gpu(0), gpu(1)],
  gpuRuntime: 'the runtime nvidia',
  engine: { cgroups: '2', security: ['apparmor', 'seccomp'], takesGpuRequests: true },
  network: { links: ['eth0'], defaultRoutes: [], nameservers: [] },
  selinux: undefined,
  apparmor: true,
};

/** Llama 3.1 8B on one GPU, unless said otherwise. */
function asked(
  options: { gpus?: number; weights?: number; context?: number; cuda?: string; replicas?: number } = {},
): Asked {
  const { gpus = 1, weights = 16.1e9, context = 32_768, cuda = '13.0', replicas = 1 } = options;
  const spec = {
    name: 'chat',
    engine: 'vllm',
    image: 'engine',
    model: 'tiny',
    gpus,
    replicas,
    options: { 'max-model-len': context },
  };
  const inventory = inventoryOf([spec], [modelOf('tiny', ['model.safetensors'])]);
  const [service] = servicesOf(inventory);
  const shares = shareGpus([service!], { gpus: {} }).get('chat')!;
  return {
    services: [
      { service: service!, spec: inventory.services[0]!, weights, config: LLAMA_8B, cuda, gpus: shares },
    ],
  };
}

const of = (facts: Partial<HostFacts>, what = asked()): Map<string, Diagnosis> =>
  new Map(diagnose({ ...good, ...facts }, what).map((d) => [d.check, d]));
const bad = (all: Map<string, Diagnosis>): Diagnosis[] =>
  [...all.values()].filter(({ outcome }) => outcome !== 'ok');

describe('a host with which nothing is wrong', () => {
  it('is said to be so, with the arithmetic', () => {
    const all = of({});
    expect(bad(all)).toEqual([]);
    expect(all.get('memory of chat')!.detail).toBe(
      'weights 16.1 GB + KV cache 4.3 GB for one request of 32768 tokens (32 layers x 2 x 8 heads x 128 x 2 bytes) + allowance 1.6 GB = 22.0 GB of 79.0 GB (0.92 x 85.9 GB) on each GPU; 14 such requests at a time',
    );
  });

  it('needs no GPU for services that want none', () => {
    expect(
      bad(of({ driver: undefined, gpus: undefined, gpuRuntime: undefined }, asked({ gpus: 0 }))),
    ).toEqual([]);
  });
});

describe('a GPU that two services get', () => {
  const two = (first: number | undefined, second: number | undefined): Asked => {
    const one = (name: string, part: number | undefined): Asked['services'][number] => {
      const [only] = asked({ weights: 1e9 }).services;
      const options = {
        ...only!.spec.options,
        ...(part === undefined ? {} : { 'gpu-memory-utilization': part }),
      };
      return {
        ...only!,
        service: { ...only!.service, name },
        spec: { ...only!.spec, options },
        gpus: [['0']],
      };
    };
    return { services: [one('chat', first), one('embed', second)] };
  };

  it('is shown with what each takes of its memory', () => {
    expect(of({}, two(0.6, 0.3)).get('GPU sharing')).toMatchObject({
      outcome: 'warning',
      detail: 'GPU 0: chat 0.6 + embed 0.3 = 0.9 of its memory',
    });
  });

  it('is too little when both take what nobody told them not to', () => {
    const found = of({}, two(undefined, undefined)).get('GPU sharing');
    expect(found).toMatchObject({
      outcome: 'failed',
      estimate: true,
      detail: 'GPU 0: chat 0.92 + embed 0.92 = 1.84 of its memory, and there is 1',
      advice: expect.stringContaining('gpu-memory-utilization') as string,
    });
  });

  it('is one GPU by number and by UUID, and none when each has its own', () => {
    const [chat, embed] = two(0.6, 0.6).services;
    const named = (name: string): Asked => ({ services: [chat!, { ...embed!, gpus: [[name]] }] });
    expect(of({}, named(gpu(0).uuid)).get('GPU sharing')).toMatchObject({ outcome: 'failed' });
    expect(of({}, named('1')).has('GPU sharing')).toBe(false);
  });
});

describe.each<
  [
    fault: string,
    facts: Partial<HostFacts>,
    what: Asked,
    check: string,
    outcome: string,
    says: RegExp,
    advice: RegExp,
  ]
>([
  [
    'no GPU driver',
    { driver: undefined, gpus: undefined },
    asked(),
    'GPU driver',
    'failed',
    /not loaded/,
    /modprobe nvidia/,
  ],
  ['no GPU', { gpus: [] }, asked(), 'GPUs', 'failed', /^none$/, /lspci/],
  ['no nvidia-smi', { gpus: undefined }, asked(), 'GPUs', 'failed', /nvidia-smi/, /run nvidia-smi/],
  [
    'an old driver',
    { driver: '550.54.15' },
    asked(),
    'GPU driver',
    'failed',
    /550\.54\.15 is too old.*CUDA 13\.0.*580\.65\.06 or newer/,
    /driver from 580 on/,
  ],
  [
    'a driver that is too old even for CUDA 12',
    { driver: '470.82.01' },
    asked({ cuda: '12.8' }),
    'GPU driver',
    'failed',
    /525\.60\.13/,
    /525/,
  ],
  [
    'no GPU runtime',
    { gpuRuntime: undefined },
    asked(),
    'GPU runtime',
    'failed',
    /cannot give GPUs/,
    /nvidia-ctk runtime configure/,
  ],
  [
    "a user's engine, and root",
    { engine: { ...good.engine!, security: ['apparmor', 'rootless'] } },
    asked(),
    'rights',
    'failed',
    /belongs to a user/,
    /as that user/,
  ],
  [
    "a user's engine, and the user",
    { uid: 1000, engine: { ...good.engine!, security: ['apparmor', 'rootless'] } },
    asked(),
    'clients',
    'warning',
    /one address/,
    /metrics/,
  ],
  [
    'Podman, which does not heed requests for GPUs',
    { engine: { ...good.engine!, takesGpuRequests: false } },
    asked(),
    'GPU runtime',
    'failed',
    /CDI/,
    /on Docker/,
  ],
  [
    'too few GPUs',
    { gpus: [gpu(0)] },
    asked({ gpus: 2 }),
    'GPU shares',
    'failed',
    /GPU 1 for chat.*which has 1/,
    /gpus in site\.yaml/,
  ],
  [
    'a GPU that others use',
    { gpus: [gpu(0, { used: 20 * GIB }), gpu(1)] },
    asked(),
    'GPU in use',
    'warning',
    /GPU 0: 21\.5 GB of 85\.9 GB/,
    /nvidia-smi/,
  ],
  [
    'a GPU that is too small for the weights',
    { gpus: [gpu(0, { memory: 16 * GIB })] },
    asked(),
    'memory of chat',
    'failed',
    /the weights do not fit: weights 16\.1 GB/,
    /more GPUs|fewer bits/,
  ],
  [
    'a GPU that is too small for the context',
    { gpus: [gpu(0, { memory: 24 * GIB })] },
    asked({ context: 131_072 }),
    'memory of chat',
    'warning',
    /not one request of full length/,
    /max-model-len/,
  ],
  [
    'persistence off',
    { gpus: [gpu(0), gpu(1, { persistence: false })] },
    asked(),
    'persistence',
    'warning',
    /off for GPU 1/,
    /nvidia-persistenced/,
  ],
  [
    'too little RAM',
    { memory: { total: 8 * GIB, available: 7 * GIB } },
    asked({ gpus: 0 }),
    'memory of chat',
    'failed',
    /RAM 7\.5 GB free of 8\.6 GB/,
    /more RAM/,
  ],
  [
    'RAM that others use',
    { memory: { total: 32 * GIB, available: 8 * GIB } },
    asked({ gpus: 0 }),
    'memory of chat',
    'warning',
    /8\.6 GB free/,
    /swap/,
  ],
  [
    'a connected network',
    { network: { links: ['eth0'], defaultRoutes: ['192.0.2.1 on eth0'], nameservers: [] } },
    asked(),
    'isolation',
    'warning',
    /default route, by 192\.0\.2\.1 on eth0/,
    /ip route del default/,
  ],
  [
    'name servers',
    { network: { links: ['eth0'], defaultRoutes: [], nameservers: ['127.0.0.53', '192.0.2.53'] } },
    asked(),
    'name servers',
    'warning',
    /^192\.0\.2\.53 in/,
    /of the enclave/,
  ],
  [
    'SELinux without labels',
    { selinux: 'enforcing' },
    asked(),
    'SELinux',
    'warning',
    /does not label/,
    /selinux-enabled/,
  ],
  [
    'AppArmor that is not used',
    { engine: { ...good.engine!, security: ['seccomp'] } },
    asked(),
    'AppArmor',
    'warning',
    /does not use it/,
    /apparmor/,
  ],
  [
    'no control groups',
    { engine: { ...good.engine!, cgroups: undefined } },
    asked(),
    'cgroups',
    'warning',
    /control groups/,
    /mount/,
  ],
  ['another user than root', { uid: 1000 }, asked(), 'rights', 'warning', /user 1000/, /run as root/],
])('%s', (_, facts, what, check, outcome, says, advice) => {
  it(`is found, alone, and comes with what to do`, () => {
    const found = bad(of(facts, what));
    expect(found.map((d) => d.check)).toEqual([check]);
    expect(found[0]).toMatchObject({
      outcome,
      detail: expect.stringMatching(says) as string,
      advice: expect.stringMatching(advice) as string,
    });
  });
});

describe('facts', () => {
  const write = (root: string, files: Record<string, string>): void => {
    for (const [name, text] of Object.entries(files)) {
      mkdirSync(dirname(join(root, name)), { recursive: true });
      writeFileSync(join(root, name), text);
    }
  };
  const smi = (text: string, code = 0): string => {
    const bin = tempDir('smi');
    writeFileSync(
      join(bin, 'nvidia-smi'),
      `#!/bin/sh\necho "$@" | grep -q query-gpu= || exit 9\ncat <<'END'\n${text}\nEND\nexit ${code}\n`,
    );
    chmodSync(join(bin, 'nvidia-smi'), 0o755);
    return `${bin}:/usr/bin:/bin`;
  };
  const engine = {
    facts: { runtimes: ['runc', 'nvidia'], cgroups: '2', security: ['seccomp'], takesGpuRequests: true },
  } as unknown as EngineClient;

  it('are read from /proc, /sys, /etc, nvidia-smi and the engine', async () => {
    const root = tempDir('host');
    write(root, {
      'proc/driver/nvidia/version':
        'NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build  (dvs-builder@U22)\nGCC version:  gcc version 12.3.0\n',
      'proc/meminfo': 'MemTotal:       528154312 kB\nMemFree:        1234 kB\nMemAvailable:   500000000 kB\n',
      'proc/net/route':
        'Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\neth0\t00000000\t010200C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\neth0\t000200C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n',
      'proc/net/ipv6_route': `${'0'.repeat(32)} 00 ${'0'.repeat(32)} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n${'0'.repeat(32)} 00 ${'0'.repeat(32)} 00 ${'0'.repeat(32)} ffffffff 00000001 00000000 00200200       lo\n`,
      'sys/class/net/eth0/operstate': 'up\n',
      'sys/class/net/eth1/operstate': 'down\n',
      'sys/class/net/lo/operstate': 'unknown\n',
      'sys/fs/selinux/enforce': '1',
      'sys/module/apparmor/parameters/enabled': 'N\n',
      'etc/resolv.conf': '# made by hand\nnameserver 192.0.2.53\nsearch example.org\n',
    });
    const path = smi(
      '0, GPU-8f6d3a11-1, NVIDIA H100 80GB HBM3, 81559, 4, Enabled\n1, GPU-8f6d3a11-2, NVIDIA H100 80GB HBM3, 81559, 512, Disabled',
    );
    expect(await readHostFacts({ path, engine, root, uid: 0 })).toEqual({
      uid: 0,
      memory: { total: 528154312 * 1024, available: 500000000 * 1024 },
      driver: '580.95.05',
      gpus: [
        {
          index: '0',
          uuid: 'GPU-8f6d3a11-1',
          name: 'NVIDIA H100 80GB HBM3',
          memory: 81559 * 1024 ** 2,
          used: 4 * 1024 ** 2,
          persistence: true,
        },
        {
          index: '1',
          uuid: 'GPU-8f6d3a11-2',
          name: 'NVIDIA H100 80GB HBM3',
          memory: 81559 * 1024 ** 2,
          used: 512 * 1024 ** 2,
          persistence: false,
        },
      ],
      gpuRuntime: 'the runtime nvidia',
      engine: { cgroups: '2', security: ['seccomp'], takesGpuRequests: true },
      network: {
        links: ['eth0'],
        defaultRoutes: ['192.0.2.1 on eth0', 'fe80:0000:0000:0000:0000:0000:0000:0001 on eth0'],
        nameservers: ['192.0.2.53'],
      },
      selinux: 'enforcing',
      apparmor: false,
    });
  });

  it('are few on a host that has nothing', async () => {
    const facts = await readHostFacts({
      path: '/nonexistent',
      engine: undefined,
      root: tempDir('empty'),
      uid: 1,
    });
    expect(facts).toMatchObject({
      memory: undefined,
      driver: undefined,
      gpus: undefined,
      gpuRuntime: undefined,
      engine: undefined,
    });
    expect(facts.network).toEqual({ links: [], defaultRoutes: [], nameservers: [] });
  });

  it('take a nvidia-smi that fails for none', async () => {
    const path = smi('NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.', 9);
    expect((await readHostFacts({ path, engine: undefined, root: tempDir('failed') })).gpus).toBeUndefined();
  });

  it('read the proprietary module as well', async () => {
    const root = tempDir('proprietary');
    write(root, {
      'proc/driver/nvidia/version':
        'NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n',
    });
    expect((await readHostFacts({ path: '', engine: undefined, root })).driver).toBe('535.183.01');
  });
});
