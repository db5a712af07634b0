// SPDX-License-Identifier: Apache-2.0
/**
 * Prometheus, Grafana and exporters beside the services: the files, judged by promtool, a real Prometheus that scrapes, and
 * a real node_exporter that is scraped.
 */
import { mkdirSync, readdirSync, readFileSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ENGINES, servicesOf } from '../../src/engines/index.ts';
import { audit } from '../../src/install/audit.ts';
import type { Home } from '../../src/install/home.ts';
import { renderMonitoring } from '../../src/install/monitoring.ts';
import { reload } from '../../src/install/reload.ts';
import { readStatus } from '../../src/install/status.ts';
import { uninstall } from '../../src/install/uninstall.ts';
import { inventoryOf, modelOf } from '../engines/samples.ts';
import { startDocker, type DockerEngine } from '../support/docker.ts';
import { assembleImages } from '../support/images.ts';
import {
  assembleDcgmExporter,
  assembleGrafana,
  assembleNodeExporter,
  assemblePrometheus,
} from '../support/monitoring-images.ts';
import { HOST_NAME, makeCertificate } from '../support/stack.ts';
import { run, runOk, tempDir } from '../support/workspace.ts';
import {
  CHAT,
  installer,
  type Installer,
  makeBundle,
  makeHome,
  policy,
  siteText,
  stackImages,
} from './rig.ts';

const MONITORING = {
  prometheus: 'prometheus',
  grafana: 'grafana',
  nodeExporter: 'node-exporter',
  dcgmExporter: 'dcgm-exporter',
};

describe('the rendered files', () => {
  const specs = Object.keys(ENGINES).map((engine) => ({
    name: `chat-${engine}`,
    engine,
    image: 'engine',
    model: 'tiny',
    replicas: engine === 'vllm' ? 2 : 1,
    options: engine === 'localai' ? { backend: 'llama-cpp' } : {},
  }));
  const services = servicesOf(inventoryOf(specs, [modelOf('tiny', ['model.safetensors', 'tiny.gguf'])]));
  const input = {
    inventory: { name: 'demo', version: '1.0.0', monitoring: MONITORING },
    services,
    expires: new Date('2030-01-01'),
  };
  const files = renderMonitoring(input);

  it('are none when the bundle carries no monitoring, and no dashboards without Grafana', () => {
    expect(renderMonitoring({ ...input, inventory: { name: 'demo', version: '1.0.0' } }).size).toBe(0);
    const names = [
      ...renderMonitoring({
        ...input,
        inventory: { ...input.inventory, monitoring: { prometheus: 'p' } },
      }).keys(),
    ];
    expect(names).toEqual(['monitoring/prometheus.yml', 'monitoring/alerts.yml']);
  });

  it('speak of disks and GPUs only when the exporters are carried', () => {
    const without = renderMonitoring({
      ...input,
      inventory: { ...input.inventory, monitoring: { prometheus: 'p', grafana: 'g' } },
    });
    expect([...without.values()].join('\n')).not.toMatch(/node_|DCGM|exporter/);
    expect([...files.keys()]).toContain('monitoring/dcgm-exporter/counters.csv');
  });

  it('are taken by promtool', async () => {
    const dir = tempDir('promtool');
    for (const [name, text] of files) {
      mkdirSync(dirname(join(dir, name)), { recursive: true });
      writeFileSync(join(dir, name), text.replaceAll('/etc/sealift/', `${dir}/`));
    }
    mkdirSync(join(dir, 'secrets'));
    for (const { name } of services) writeFileSync(join(dir, `secrets/${name}.key`), 'key');
    const { code, stdout, stderr } = await run('promtool', [
      'check',
      'config',
      join(dir, 'monitoring/prometheus.yml'),
    ]);
    expect(code, stderr).toBe(0);
    expect(stdout + stderr).not.toContain('FAILED');
  });

  it('have a dashboard for each engine, whose queries promtool takes', async () => {
    for (const engine of Object.keys(ENGINES)) {
      const { panels } = JSON.parse(files.get(`monitoring/dashboards/${engine}.json`)!) as {
        panels: { title: string; targets: { expr: string }[]; gridPos: object }[];
      };
      expect(panels.length).toBeGreaterThanOrEqual(2);
      expect(new Set(panels.map(({ gridPos }) => JSON.stringify(gridPos))).size).toBe(panels.length);
      const rules = panels.map(({ targets }, i) => ({ record: `panel:${i}`, expr: targets[0]!.expr }));
      const file = join(tempDir('rules'), 'rules.yml');
      writeFileSync(file, JSON.stringify({ groups: [{ name: engine, rules }] }));
      const { code, stderr } = await run('promtool', ['check', 'rules', file]);
      expect(code, stderr).toBe(0);
    }
  });

  it('raise the alerts that they should, and only then', async () => {
    const dir = tempDir('alerts');
    writeFileSync(join(dir, 'alerts.yml'), files.get('monitoring/alerts.yml')!);
    const series = (name: string, values: string): object => ({ series: name, values });
    const test = {
      rule_files: ['alerts.yml'],
      evaluation_interval: '1m',
      tests: [
        {
          interval: '1m',
          input_series: [
            series('up{job="chat-vllm", instance="a"}', '0x30'),
            series('up{job="chat-sglang", instance="a"}', '1x30'),
            series('vllm:kv_cache_usage_perc{job="chat-vllm", instance="a"}', '0.99x30'),
            series('sglang:token_usage{job="chat-sglang", instance="a"}', '0.5x30'),
            series('sglang:num_queue_reqs{job="chat-sglang", instance="a"}', '50x30'),
          ],
          alert_rule_test: [{ eval_time: '20m', alertname: 'CertificateEnds', exp_alerts: [] }],
          promql_expr_test: [
            {
              expr: 'count(ALERTS{alertstate="firing"})',
              eval_time: '20m',
              exp_samples: [{ labels: '{}', value: 3 }],
            },
            {
              expr: 'count by (alertname, job) (ALERTS{alertstate="firing"})',
              eval_time: '20m',
              exp_samples: [
                { labels: '{alertname="EngineDown", job="chat-vllm"}', value: 1 },
                { labels: '{alertname="CacheFull", job="chat-vllm"}', value: 1 },
                { labels: '{alertname="RequestsWait", job="chat-sglang"}', value: 1 },
              ],
            },
          ],
        },
      ],
    };
    writeFileSync(join(dir, 'test.yml'), JSON.stringify(test));
    const { code, stdout, stderr } = await run('promtool', ['test', 'rules', join(dir, 'test.yml')]);
    expect(code, stdout + stderr).toBe(0);
  });

  /** Alerts after 30 minutes, from series of the host alone, as labels. */
  async function hostAlerts(
    input_series: { series: string; values: string }[],
    expected: string[],
  ): Promise<void> {
    const dir = tempDir('host-alerts');
    writeFileSync(join(dir, 'alerts.yml'), files.get('monitoring/alerts.yml')!);
    const exp_samples = expected.map((labels) => ({ labels, value: 1 }));
    const test = {
      rule_files: ['alerts.yml'],
      evaluation_interval: '1m',
      tests: [
        {
          interval: '1m',
          input_series,
          promql_expr_test: [
            {
              expr: 'count by (alertname, job, mountpoint, gpu) (ALERTS{alertstate="firing"})',
              eval_time: '30m',
              exp_samples,
            },
          ],
        },
      ],
    };
    writeFileSync(join(dir, 'test.yml'), JSON.stringify(test));
    const { code, stdout, stderr } = await run('promtool', ['test', 'rules', join(dir, 'test.yml')]);
    expect(code, stdout + stderr).toBe(0);
  }

  const GIB = 1024 ** 3;
  const disk = (mountpoint: string, size: number, avail: string): { series: string; values: string }[] => {
    const labels = `{job="monitoring_node_exporter", instance="n", device="/dev/sda", fstype="ext4", mountpoint="${mountpoint}"}`;
    return [
      { series: `node_filesystem_size_bytes${labels}`, values: `${size}x40` },
      { series: `node_filesystem_avail_bytes${labels}`, values: avail },
    ];
  };
  const full = (mountpoint: string): string =>
    `{alertname="DiskFull", job="monitoring_node_exporter", mountpoint="${mountpoint}"}`;

  it.each([
    [
      'the home’s disk is nearly full',
      [...disk('/sealift/home', 100 * GIB, `${4 * GIB}x40`)],
      [full('/sealift/home')],
    ],
    ['the engine’s disk is', [...disk('/', 100 * GIB, `${4 * GIB}x40`)], [full('/')]],
    // 10 of 100 GiB, and 10 MiB less each minute: none is left in 17 hours.
    [
      'a disk will be full within a day',
      disk('/', 100 * GIB, `${10 * GIB}-${10 * 1024 ** 2}x40`),
      [full('/')],
    ],
    ['a disk fills slowly', disk('/', 100 * GIB, `${10 * GIB}-${1024 ** 2}x40`), []],
    ['there is room, whatever the speed', disk('/', 100 * GIB, `${90 * GIB}-${GIB}x40`), []],
    ['another disk is full', disk('/boot', 100 * GIB, `0x40`), []],
  ])('raise DiskFull, or do not, when %s', async (_, series, expected) => {
    await hostAlerts(series, expected);
  });

  it('raise GpuMemory for the GPU that is full, and not for one of which an engine has its usual share', async () => {
    const gpu = (index: number, used: number, free: number): { series: string; values: string }[] => {
      const labels = `{job="monitoring_dcgm_exporter", gpu="${index}", UUID="GPU-${index}"}`;
      return [
        { series: `DCGM_FI_DEV_FB_USED${labels}`, values: `${used}x40` },
        { series: `DCGM_FI_DEV_FB_FREE${labels}`, values: `${free}x40` },
      ];
    };
    await hostAlerts(
      [...gpu(0, 76_000, 5_000), ...gpu(1, 80_500, 500)],
      ['{alertname="GpuMemory", job="monitoring_dcgm_exporter", gpu="1"}'],
    );
  });

  it('tell of an exporter that is silent, since its alerts would be, too', async () => {
    await hostAlerts(
      [
        { series: 'up{job="monitoring_node_exporter"}', values: '0x40' },
        { series: 'up{job="monitoring_dcgm_exporter"}', values: '1x40' },
      ],
      ['{alertname="ExporterDown", job="monitoring_node_exporter"}'],
    );
  });

  it('tell of a certificate that ends', () => {
    const rules = files.get('monitoring/alerts.yml')!;
    expect(rules).toContain(`vector(${Date.UTC(2030, 0, 1) / 1000}) - time() < 30 * 86400`);
  });
});

describe('on an engine', () => {
  let engine: DockerEngine;
  let home: Home;
  let port: number;
  let me: Installer;

  beforeAll(async () => {
    const work = tempDir('monitoring');
    const layouts = await assembleImages(join(work, 'images'));
    engine = await startDocker({ dir: join(work, 'engine') });
    ({ home, port } = await makeHome());
    writeFileSync(home.siteFile, siteText(port, 'monitoring: { allow: ["10.0.0.0/8", "172.16.0.0/12"] }\n'));
    me = installer(home, engine.socket);
    await me.install(
      await makeBundle({
        images: [
          {
            name: 'dcgm-exporter',
            ref: 'nvcr.io/nvidia/k8s/dcgm-exporter:4.4.1-4.6.0-ubuntu22.04',
            layout: await assembleDcgmExporter(join(work, 'dcgm-exporter')),
          },
          ...stackImages(layouts),
          {
            name: 'grafana',
            ref: 'docker.io/grafana/grafana:12.3.0',
            layout: await assembleGrafana(join(work, 'grafana')),
          },
          {
            name: 'node-exporter',
            ref: 'quay.io/prometheus/node-exporter:v1.9.1',
            layout: await assembleNodeExporter(join(work, 'node-exporter')),
          },
          {
            name: 'prometheus',
            ref: 'docker.io/prom/prometheus:v3.8.0',
            layout: await assemblePrometheus(join(work, 'prometheus')),
          },
        ],
        more: { ...CHAT, monitoring: MONITORING },
      }),
    );
  }, 180_000);

  afterAll(async () => {
    await engine?.stop();
  }, 60_000);

  const docker = (...args: string[]): Promise<string> => runOk('docker', ['-H', engine.host, ...args]);
  const query = async (expr: string): Promise<string> =>
    docker(
      'exec',
      'sealift-demo-monitoring_prometheus-1',
      'promtool',
      'query',
      'instant',
      'http://127.0.0.1:9090',
      expr,
    );

  it('runs with all six containers, as the receipt and the audit say', async () => {
    const { services, drift } = await readStatus({ home, socket: engine.socket });
    expect(services.map((s) => s.service)).toEqual([
      'chat',
      'gateway',
      'monitoring_prometheus',
      'monitoring_grafana',
      'monitoring_node_exporter',
      'monitoring_dcgm_exporter',
    ]);
    expect(drift).toEqual([]);
    expect((await audit({ home, socket: engine.socket, policy, now: new Date() })).findings).toEqual([]);
  });

  it('scrapes the engine, and knows its alerts', async () => {
    await expect.poll(() => query('up{job="chat"}'), { timeout: 40_000, interval: 1000 }).toMatch(/=> 1 @/);
    expect(await query('up{job="chat"}')).toContain('model="tiny"');
  });

  it('knows from a real node_exporter the space where the home is, and where the engine keeps its data', async () => {
    const free = async (mount: string): Promise<number> => {
      const found = await query(
        `node_filesystem_avail_bytes{job="monitoring_node_exporter", mountpoint="${mount}"}`,
      );
      return Number(/=> (\S+) @/.exec(found)?.[1]);
    };
    await expect.poll(() => free('/sealift/home'), { timeout: 40_000, interval: 1000 }).toBeGreaterThan(0);
    for (const [mount, folder] of [
      ['/sealift/home', home.root],
      ['/', await docker('info', '--format', '{{.DockerRootDir}}')],
    ] as const) {
      const { bavail, bsize, blocks } = statfsSync(folder.trim());
      expect(Math.abs((await free(mount)) - bavail * bsize)).toBeLessThan(0.02 * blocks * bsize);
    }
    const share = 'node_filesystem_avail_bytes / node_filesystem_size_bytes';
    expect((await query(`count(${share})`)).trim()).toMatch(/=> 2 @/);
  });

  it('shows node_exporter nothing of the host but that', async () => {
    const inside = 'sealift-demo-monitoring_node_exporter-1';
    expect(await docker('exec', inside, 'python3', '-S', '-c', 'import posix; print(posix.getuid())')).toBe(
      '65534\n',
    );
    expect(readdirSync(home.path('caches/demo/monitoring_node_exporter-0'))).toEqual([]);
    const { Mounts } = JSON.parse(await docker('inspect', '--format', '{{json .}}', inside)) as {
      Mounts: { Source: string; RW: boolean }[];
    };
    expect(Mounts).toEqual([
      expect.objectContaining({ Source: home.path('caches/demo/monitoring_node_exporter-0'), RW: false }),
    ]);
    expect(
      (
        await query(
          'count(count by (__name__) ({__name__=~"node_.+", __name__!~"node_(filesystem|scrape|exporter).*"}))',
        )
      ).trim(),
    ).toBe('');
  });

  it('raises the alert about a GPU of which dcgm-exporter says that it is full', async () => {
    await expect
      .poll(() => query('count(ALERTS{alertname="GpuMemory", gpu="1"})'), { timeout: 60_000, interval: 1000 })
      .toMatch(/=> 1 @/);
    expect((await query('ALERTS{alertname="GpuMemory", gpu="0"}')).trim()).toBe('');
  });

  it('lets Grafana be seen by the networks of site.yaml alone', async () => {
    const ask = async (path: string): Promise<string> => {
      const trust = ['--cacert', home.path('tls/server.crt'), '--resolve', `${HOST_NAME}:${port}:127.0.0.1`];
      return (
        await run('curl', [
          '-q',
          '-sS',
          ...trust,
          '-w',
          '\n%{http_code}',
          `https://${HOST_NAME}:${port}${path}`,
        ])
      ).stdout;
    };
    expect(await ask('/grafana/d/sealift-vllm')).toMatch(/"path": "\/grafana\/d\/sealift-vllm"[^]*200$/);
    writeFileSync(home.siteFile, siteText(port));
    await reload({ home, socket: engine.socket, now: new Date() });
    expect(await ask('/grafana/')).toMatch(/403$/);
  });

  it('reads a new certificate’s end by a reload', async () => {
    await makeCertificate(home.path('tls/server.crt'), home.path('tls/server.key'));
    const { changed } = await reload({ home, socket: engine.socket, now: new Date() });
    expect(changed).toContain('monitoring/alerts.yml');
    const rules = await docker(
      'exec',
      'sealift-demo-monitoring_prometheus-1',
      'cat',
      '/etc/sealift/monitoring/alerts.yml',
    );
    expect(rules).toBe(readFileSync(home.path('current/monitoring/alerts.yml'), 'utf8'));
  });

  it('keeps its secrets to root, and goes with an uninstall', async () => {
    for (const name of ['chat.key', 'grafana-admin'])
      expect(statSync(home.path('current/secrets/monitoring', name)).mode & 0o777).toBe(0o600);
    expect(readFileSync(home.path('current/RUNBOOK.md'), 'utf8')).toMatch(
      /\| EngineDown \| the engine does not answer \|[^]*\| DiskFull \| less than 5 %[^]*\| GpuMemory \| less than 2 %/,
    );
    await uninstall(me.input);
    expect((await docker('ps', '--all', '--quiet')).trim()).toBe('');
  });
});
