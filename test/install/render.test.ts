// SPDX-License-Identifier: Apache-2.0
/** What is rendered from an inventory and a site: services, compose.yaml, nginx.conf. nginx itself judges the latter. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { createHash } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { servicesOf, type Service } from '../../src/engines/index.ts';
import { tellApart } from '../../src/install/api-keys.ts';
import { renderApiKeys, renderNginx, renderUpstream, SECRETS_TARGET } from '../../src/install/gateway.ts';
import { demandMeant, shareGpus } from '../../src/install/gpus.ts';
import { nameService } from '../../src/install/name-service.ts';
import { parseSite } from '../../src/install/site.ts';
import {
  gatewayService,
  projectName,
  renderCompose,
  type ComposeInput,
} from '../../src/install/targets/compose.ts';
import type { Digest } from '../../src/store/digest.ts';
import { inventoryOf, modelOf } from '../engines/samples.ts';
import { makeCertificate } from '../support/stack.ts';
import { findCommand, run, tempDir } from '../support/workspace.ts';
import { siteText } from './rig.ts';

const names = nameService('docker', 'sealift-demo');
const digest = (c: string): Digest => `sha256:${c.repeat(64)}`;
const site = parseSite(siteText(8443), 'site.yaml');

const chat = { name: 'chat', engine: 'vllm', image: 'engine', model: 'tiny' };
const tiny = modelOf('tiny', ['model.safetensors', 'tiny.gguf']);
const servicesFrom = (...specs: object[]): Service[] => servicesOf(inventoryOf(specs, [tiny]));

const composeInput = (services: Service[], more: Partial<ComposeInput> = {}): ComposeInput => ({
  project: 'sealift-demo',
  release: 'demo-1.0.0',
  bundle: digest('b'),
  files: new Map([['chat', digest('f')]]),
  services,
  imageIds: new Map([
    ['engine', digest('e')],
    ['gateway', digest('a')],
  ]),
  gatewayImage: 'gateway',
  monitoring: undefined,
  site,
  enginesSubnet: undefined,
  modelFolders: new Map([['tiny', '/home/models/tiny/c']]),
  configFolder: '/home/configs/c',
  cacheFolder: (service, i) => `/home/caches/demo/${service}-${i}`,
  releaseFolder: '/home/releases/demo-1.0.0',
  ownedByRoot: true,
  ...more,
});

interface Rendered {
  services: Record<string, Record<string, unknown>>;
  networks: Record<string, Record<string, unknown>>;
}
const rendered = (...args: Parameters<typeof composeInput>): Rendered =>
  parse(renderCompose(composeInput(...args))) as Rendered;

describe('compose.yaml', () => {
  const file = rendered(servicesFrom(chat));

  it('starts proved images only, and never pulls', () => {
    for (const service of Object.values(file.services))
      expect(service).toMatchObject({ pull_policy: 'never', cap_drop: ['ALL'] });
    expect(file.services['chat']!['image']).toBe(digest('e'));
    expect(file.services['gateway']!['image']).toBe(digest('a'));
  });

  it("has no spaces in the words of health checks, where Podman's API splits them", () => {
    for (const engine of ['vllm', 'sglang', 'localai', 'llama-cpp']) {
      const options = engine === 'localai' ? { backend: 'llama-cpp' } : {};
      const { services } = rendered(servicesFrom({ ...chat, engine, options }), {
        monitoring: { prometheus: 'engine', grafana: 'engine' },
      });
      const words = Object.values(services).flatMap((s) => (s['healthcheck'] as { test: string[] }).test);
      expect(words.filter((word) => /\s/.test(word))).toEqual([]);
    }
  });

  it('gives engines a network without a way out, and publishes the gateway alone', () => {
    expect(file.networks['engines']).toEqual({ internal: true });
    expect(file.services['chat']).toMatchObject({ networks: ['engines'], user: '2000:0' });
    expect(file.services['chat']).not.toHaveProperty('ports');
    expect(file.services['gateway']).toMatchObject({ networks: ['engines', 'edge'], read_only: true });
    expect(file.services['gateway']!['ports']).toEqual([
      { target: 8443, published: '8443', host_ip: '127.0.0.1', protocol: 'tcp' },
    ]);
  });

  it('gives engines a network of a known range where the resolver is on its bridge', () => {
    const { subnet, resolver } = nameService('podman', 'sealift-demo');
    expect(nameService('podman', 'sealift-other').subnet).not.toBe(subnet);
    expect({ subnet, resolver }).toEqual({ subnet: '198.18.10.64/26', resolver: '198.18.10.65' });
    const { networks } = rendered(servicesFrom(chat), { enginesSubnet: subnet });
    expect(networks['engines']).toEqual({ internal: true, ipam: { config: [{ subnet }] } });
    expect(renderNginx(servicesFrom(chat), site, { subnet, resolver })).toContain(
      'resolver 198.18.10.65 valid=5s',
    );
  });

  it('mounts the model read-only and refuses to make up a missing folder', () => {
    expect(file.services['chat']!['volumes']).toContainEqual({
      type: 'bind',
      source: '/home/models/tiny/c',
      target: '/models/tiny',
      read_only: true,
      bind: { create_host_path: false },
    });
  });

  it('mounts what configures an engine, and replaces an entry point that does not serve', () => {
    const [local, other] = servicesFrom(
      { ...chat, engine: 'localai', options: { backend: 'llama-cpp' } },
      { ...chat, name: 'other', engine: 'sglang' },
    );
    const two = rendered([{ ...local!, configsTarget: '/configs' }, other!]);
    const mounts = two.services['chat']!['volumes'] as {
      source: string;
      target: string;
      read_only: boolean;
    }[];
    expect(mounts.filter(({ read_only }) => read_only).map(({ source, target }) => [source, target])).toEqual(
      [
        ['/home/models/tiny/c', '/models/tiny'],
        ['/home/configs/c', '/configs'],
        ['/home/releases/demo-1.0.0/engines/chat-0', '/etc/sealift/models.yaml'],
      ],
    );
    expect(two.services['chat']).not.toHaveProperty('entrypoint');
    expect(two.services['other']!['entrypoint']).toEqual(
      [...other!.entrypoint!].map((a) => a.replaceAll('$', '$$$$')),
    );
  });

  it('gives every service GPUs of its own', () => {
    const two = rendered(servicesFrom({ ...chat, gpus: 2 }, { ...chat, name: 'embed', gpus: 1 }));
    const devices = (name: string): unknown =>
      (
        two.services[name] as {
          deploy: { resources: { reservations: { devices: { device_ids: string[] }[] } } };
        }
      ).deploy.resources.reservations.devices[0]!.device_ids;
    expect([devices('chat'), devices('embed')]).toEqual([['0', '1'], ['2']]);
  });

  it('runs replicas side by side, each with GPUs and caches of its own, under one name', () => {
    const [service] = servicesFrom({ ...chat, gpus: 1, replicas: 2 });
    const { services } = rendered([service!], {
      site: parseSite(siteText(8443, 'gpus: { chat: [3, GPU-8f6d3a11-0000] }'), 'site.yaml'),
    });
    expect(Object.keys(services)).toEqual(['chat_1', 'chat_2', 'gateway']);
    for (const [i, gpu] of ['3', 'GPU-8f6d3a11-0000'].entries()) {
      expect(services[`chat_${i + 1}`]).toMatchObject({
        networks: { engines: { aliases: ['chat'] } },
        deploy: { resources: { reservations: { devices: [{ device_ids: [gpu] }] } } },
      });
      expect(JSON.stringify(services[`chat_${i + 1}`])).toContain(`/home/caches/demo/chat_${i + 1}-0`);
    }
  });

  it('gives the lowest GPUs that site.yaml leaves, and refuses another number than a service needs', () => {
    const sharers = [
      { name: 'chat', gpus: 2, replicas: 1 },
      { name: 'embed', gpus: 1, replicas: 2 },
    ];
    const share = (gpus: Record<string, string[]>): unknown =>
      Object.fromEntries(shareGpus(sharers, { gpus }));
    expect(share({})).toEqual({ chat: [['0', '1']], embed: [['2'], ['3']] });
    expect(share({ embed: ['0', '2'] })).toEqual({ chat: [['1', '3']], embed: [['0'], ['2']] });
    expect(() => share({ embed: ['0'] })).toThrow(/embed 1 GPUs, and it needs 2/);
  });

  it('refuses GPUs for a service that is not there, and one GPU for two, unless they are said to share it', () => {
    const sharers = [{ name: 'chat' }, { name: 'embed' }];
    const meant = (gpus: Record<string, string[]>, sharedGpus: string[] = []): (() => void) => {
      return () => demandMeant(sharers, { gpus, sharedGpus });
    };
    const refused = (message: string, hint: string): unknown =>
      expect.objectContaining({
        code: 'SITE_INVALID',
        message,
        hint: expect.stringContaining(hint) as string,
      });
    expect(meant({ chat: ['0'], embed: ['1'] })).not.toThrow();
    expect(meant({ chta: ['0'] })).toThrow(
      refused('site.yaml gives GPUs to chta, which is no service here', "did you mean 'chat'?"),
    );
    expect(meant({ rerank: ['0'] })).toThrow(
      refused(
        'site.yaml gives GPUs to rerank, which is no service here',
        'services of the bundle: chat, embed',
      ),
    );
    expect(() => demandMeant([], { gpus: { chat: ['0'] }, sharedGpus: [] })).not.toThrow();
    const both = { chat: ['0', '1'], embed: ['1'] };
    expect(meant(both)).toThrow(
      refused('site.yaml gives GPU 1 to chat and to embed', 'say so: sharedGpus: [1]'),
    );
    expect(meant(both, ['0'])).toThrow();
    expect(meant(both, ['1'])).not.toThrow();
  });

  it('changes the label of a container only with what that container was started from', () => {
    const label = (services: Record<string, Record<string, unknown>>, name: string): unknown =>
      (services[name]!['labels'] as Record<string, string>)['dev.sealift.files'];
    const before = rendered(servicesFrom(chat)).services;
    const moved = rendered(servicesFrom(chat), { site: parseSite(siteText(9443), 'site.yaml') }).services;
    expect(label(moved, 'chat')).toBe(label(before, 'chat'));
    expect(label(moved, 'gateway')).not.toBe(label(before, 'gateway'));
    const keyed = rendered(servicesFrom(chat), { files: new Map([['chat', digest('0')]]) }).services;
    expect(label(keyed, 'chat')).not.toBe(label(before, 'chat'));
    expect(label(keyed, 'gateway')).toBe(label(before, 'gateway'));
  });

  it('lets no dollar of a bundle be replaced by Compose', () => {
    const text = renderCompose(
      composeInput(servicesFrom({ ...chat, options: { 'chat-template': '${HOME} $PATH $$' } })),
    );
    expect(text).toContain('$${HOME} $$PATH $$$$');
  });

  it('holds no secret', () => {
    expect(renderCompose(composeInput(servicesFrom(chat)))).not.toMatch(/API_KEY=|Bearer/);
  });

  it('names project and gateway so that nothing collides', () => {
    expect([projectName('a.b'), projectName('a-b')]).toEqual(['sealift-a_b', 'sealift-a-b']);
    expect(gatewayService([{ name: 'gateway' }])).toBe('gateway-nginx');
  });

  describe('with exporters', () => {
    const monitoring = {
      prometheus: 'prometheus',
      nodeExporter: 'node-exporter',
      dcgmExporter: 'dcgm-exporter',
    };
    const more = (counters: Digest): Partial<ComposeInput> => ({
      monitoring,
      files: new Map([['monitoring_dcgm_exporter', counters]]),
    });
    const two = servicesFrom(
      { ...chat, gpus: 1, replicas: 2 },
      { ...chat, name: 'embed', gpus: 1 },
      { ...chat, name: 'small' },
    );
    const { services } = rendered(two, more(digest('1')));

    it('lets them reach the engines alone, without a port, a key or a capability', () => {
      for (const name of ['monitoring_node_exporter', 'monitoring_dcgm_exporter']) {
        expect(services[name]).toMatchObject({ networks: ['engines'], cap_drop: ['ALL'] });
        expect(Object.keys(services[name]!)).not.toEqual(expect.arrayContaining(['cap_add']));
        expect(services[name]).not.toHaveProperty('ports');
        expect(JSON.stringify(services[name]!['volumes'])).not.toMatch(/secrets|"read_only":false/);
      }
    });

    it('shows node_exporter an empty folder of the home and no other of the host', () => {
      expect(services['monitoring_node_exporter']).toMatchObject({ user: '65534:65534', read_only: true });
      const mounts = services['monitoring_node_exporter']!['volumes'] as { source: string }[];
      expect(mounts.map(({ source }) => source)).toEqual(['/home/caches/demo/monitoring_node_exporter-0']);
    });

    it('gives dcgm-exporter the GPUs of the services, each once, and none where there are none', () => {
      const devices = [{ driver: 'nvidia', device_ids: ['0', '1', '2'], capabilities: ['gpu'] }];
      expect(services['monitoring_dcgm_exporter']!['deploy']).toEqual({
        resources: { reservations: { devices } },
      });
      const none = rendered(servicesFrom(chat), more(digest('1'))).services['monitoring_dcgm_exporter'];
      expect(none).not.toHaveProperty('deploy');
    });

    it('makes dcgm-exporter anew when its counters change, since it reads them when it starts', () => {
      const label = (counters: Digest): unknown =>
        rendered(two, more(counters)).services['monitoring_dcgm_exporter']!['labels'];
      expect(label(digest('1'))).not.toEqual(label(digest('2')));
    });
  });
});

/** The rendered file as the host's nginx sees it: paths and user of this machine, everything else as it is. */
async function nginxSays(services: Service[], more = ''): Promise<string> {
  const dir = tempDir('nginx');
  mkdirSync(join(dir, 'secrets'));
  await makeCertificate(join(dir, 'secrets/tls.crt'), join(dir, 'secrets/tls.key'));
  writeFileSync(
    join(dir, 'secrets/api-keys.conf'),
    renderApiKeys([{ name: 'default', key: 'sk-a.b+c/d_e~f-0123456789==' }]),
  );
  for (const { name } of services)
    writeFileSync(join(dir, `secrets/upstream-${name}.conf`), renderUpstream('0'.repeat(64)));
  const conf = renderNginx(services, parseSite(siteText(8443, more), 'site.yaml'), names)
    .replace(/ \/tmp\//g, ` ${dir}/`)
    .replaceAll(SECRETS_TARGET, join(dir, 'secrets'))
    .replace('/dev/stdout', join(dir, 'access.log')) // here stdout may be a socket, which nginx cannot open
    .replace('user nginx;', 'user root;');
  writeFileSync(join(dir, 'nginx.conf'), conf);
  const ran = await run(findCommand('nginx')!, ['-t', '-e', 'stderr', '-c', join(dir, 'nginx.conf')]);
  expect(ran.code, ran.stderr).toBe(0);
  return conf;
}

describe('nginx.conf', () => {
  it('is accepted by nginx', async () => {
    const conf = await nginxSays(servicesFrom(chat), 'metrics: { allow: [10.0.0.0/8, "fd00::/8"] }');
    expect(conf).toContain('allow 10.0.0.0/8;');
    expect(conf).toContain('server_tokens off;');
  });

  it('gives more than one service a path each', async () => {
    const conf = await nginxSays(servicesFrom(chat, { ...chat, name: 'embed.v2' }));
    for (const path of ['/v1/models', '/chat/v1/models', '/embed.v2/v1/models', '/embed.v2/health'])
      expect(conf).toContain(`location = ${path} {`);
    expect(conf.match(/location = \/v1\/models /g)).toHaveLength(1);
    expect(conf).toContain('"path":"/embed.v2"');
  });

  it('lets through what the engine row lists, and nothing else', async () => {
    const conf = await nginxSays(servicesFrom(chat));
    const paths = [...conf.matchAll(/location = (\S+) \{/g)].map((m) => m[1]);
    expect(paths.toSorted((a, b) => (a! < b! ? -1 : 1))).toEqual([
      '/alive',
      '/health',
      '/metrics',
      '/unauthorized',
      '/v1/chat/completions',
      '/v1/completions',
      '/v1/embeddings',
      '/v1/models',
      '/v1/responses',
      '/wrong-method',
    ]);
    expect(conf).toContain('location = /unauthorized { internal;');
    expect(conf).toContain('location / { try_files /nonexistent =404; }');
  });

  it('refuses a name that could end a directive', () => {
    expect(() => renderNginx([{ ...servicesFrom(chat)[0]!, name: 'a; return 200' }], site, names)).toThrow(
      TypeError,
    );
  });

  it('holds no key, but what keys hash to', () => {
    const conf = renderApiKeys([
      { name: 'a', key: 'Key.With+Signs0123456789' },
      { name: 'b', key: 'key-other-0123456789' },
    ]);
    expect(conf).not.toMatch(/Signs|other/);
    expect(conf).toContain(`"${createHash('md5').update('key-other-0123456789').digest('base64url')}"`);
    expect(conf).toContain('"~^(?<head>.{4})"');
  });

  it('tells keys apart by as few characters as possible, whatever their case', () => {
    const tell = (...keys: string[]): unknown => tellApart(keys.map((key, i) => ({ name: `k${i}`, key })));
    expect(tell('sk-aaaaaaaaaaaaaaaaaaaaaa', 'sk-Abbbbbbbbbbbbbbbbbbbbb')).toEqual({
      prefix: 5,
      heads: ['sk-aa', 'sk-Ab'],
    });
    expect(tell('x'.repeat(20))).toEqual({ prefix: 4, heads: ['xxxx'] });
    expect(() => tell('same-begin-01234567890a', 'same-begin-01234567890b')).toThrow(
      expect.objectContaining({ code: 'SITE_INVALID' }),
    );
  });

  it('limits what one key and one address may ask', async () => {
    const conf = await nginxSays(
      servicesFrom(chat),
      'limits: { perKey: { requestsPerMinute: 30, burst: 5, concurrent: 2 }, bodyMiB: 8 }',
    );
    expect(conf).toContain('zone=key:10m rate=30r/m;');
    expect(conf).toContain('limit_req zone=key burst=5 nodelay;');
    expect(conf).toContain('limit_conn open 2;');
    expect(conf).toContain('limit_req zone=address burst=100 nodelay;');
    expect(conf).toContain('client_max_body_size 8m;');
  });
});
