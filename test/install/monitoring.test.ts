// SPDX-License-Identifier: Apache-2.0
/** Prometheus and Grafana beside the services: the files, judged by promtool, and a real Prometheus that scrapes. */
import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
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
import { assembleGrafana, assemblePrometheus } from '../support/monitoring-images.ts';
import { HOST_NAME, makeCertificate } from '../support/stack.ts';
import { run, runOk, tempDir } from '../support/workspace.ts';
import { CHAT, installer, makeBundle, makeHome, policy, siteText, type Installer } from './rig.ts';

const MONITORING = { prometheus: 'prometheus', grafana: 'grafana' };

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
          { name: 'engine', ref: 'docker.io/vllm/vllm-openai:v0.27.1', layout: layouts.engine },
          { name: 'gateway', ref: 'docker.io/library/nginx:1.29-alpine', layout: layouts.gateway },
          {
            name: 'grafana',
            ref: 'docker.io/grafana/grafana:12.3.0',
            layout: await assembleGrafana(join(work, 'grafana')),
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

  it('runs with all four containers, as the receipt and the audit say', async () => {
    const { services, drift } = await readStatus({ home, socket: engine.socket });
    expect(services.map((s) => s.service)).toEqual([
      'chat',
      'gateway',
      'monitoring_prometheus',
      'monitoring_grafana',
    ]);
    expect(drift).toEqual([]);
    expect((await audit({ home, socket: engine.socket, policy, now: new Date() })).findings).toEqual([]);
  });

  it('scrapes the engine, and knows its alerts', async () => {
    await expect.poll(() => query('up{job="chat"}'), { timeout: 40_000, interval: 1000 }).toMatch(/=> 1 @/);
    expect(await query('up{job="chat"}')).toContain('model="tiny"');
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
      /\| EngineDown \| the engine does not answer \|/,
    );
    await uninstall(me.input);
    expect((await docker('ps', '--all', '--quiet')).trim()).toBe('');
  });
});
