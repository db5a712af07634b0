// SPDX-License-Identifier: Apache-2.0
/**
 * Prometheus and Grafana beside the services, when a bundle carries them: what to scrape, when to raise an alert, a
 * dashboard for each engine. All of it is files that the two read at their start; nothing is clicked together.
 */
import { stringify } from 'yaml';
import type { Inventory } from '../bundle/inventory.ts';
import { ENGINES, type Metrics, type Service } from '../engines/index.ts';
import { MONITORING_SECRETS, MONITORING_TARGET, PROMETHEUS, PROMETHEUS_PORT } from './monitoring-names.ts';
import { containersOf } from './targets/compose.ts';

export interface MonitoringInput {
  inventory: Pick<Inventory, 'name' | 'version' | 'monitoring'>;
  services: readonly Service[];
  /** When the gateway's certificate ends. */
  expires: Date;
}

/** Files by path relative to the release's folder; none when the bundle carries no monitoring. */
export function renderMonitoring(input: MonitoringInput): Map<string, string> {
  const { monitoring } = input.inventory;
  const files = new Map<string, string>();
  if (monitoring === undefined) return files;
  files.set('monitoring/prometheus.yml', yaml(prometheusConfig(input)));
  files.set('monitoring/alerts.yml', yaml(alertRules(input)));
  if (monitoring.grafana === undefined) return files;
  files.set('monitoring/provisioning/datasources/prometheus.yml', yaml(datasource()));
  files.set('monitoring/provisioning/dashboards/sealift.yml', yaml(dashboardProvider()));
  for (const engine of new Set(input.services.map((service) => service.engine)))
    files.set(`monitoring/dashboards/${engine}.json`, `${JSON.stringify(dashboard(engine), null, 2)}\n`);
  return files;
}

const yaml = (document: unknown): string =>
  `# Written by sealift; a new install replaces it.\n${stringify(document, { lineWidth: 0 })}`;

function prometheusConfig({ services }: MonitoringInput): unknown {
  const own = { job_name: 'prometheus', static_configs: [{ targets: [`127.0.0.1:${PROMETHEUS_PORT}`] }] };
  return {
    global: { scrape_interval: '15s', evaluation_interval: '15s' },
    rule_files: [`${MONITORING_TARGET}/alerts.yml`],
    scrape_configs: [
      own,
      ...services.map((service) => ({
        job_name: service.name,
        metrics_path: service.metricsPath,
        authorization: { credentials_file: `${MONITORING_SECRETS}/${service.name}.key` },
        static_configs: [
          {
            targets: containersOf(service).map((name) => `${name}:${service.port}`),
            labels: { engine: service.engine, model: service.servedModel },
          },
        ],
      })),
    ],
  };
}

interface Alert {
  alert: string;
  expr: string;
  for: string;
  labels: { severity: 'critical' | 'warning'; service: string };
  annotations: { summary: string; action: string };
}

/** What each alert is about; RUNBOOK.md lists the same. */
export function alertsOf({ services, expires }: MonitoringInput): Alert[] {
  return [...services.flatMap(serviceAlerts), certificateAlert(expires)];
}

function alertRules(input: MonitoringInput): unknown {
  return { groups: [{ name: 'sealift', rules: alertsOf(input) }] };
}

const MINUTES_10 = '10m';

function serviceAlerts(service: Service): Alert[] {
  const { name } = service;
  const { firstToken, waiting, cache } = ENGINES[service.engine]?.metrics ?? {};
  const job = `{job="${name}"}`;
  const warning = (alert: string, expr: string, summary: string, action: string): Alert => ({
    alert,
    expr,
    for: MINUTES_10,
    labels: { severity: 'warning', service: name },
    annotations: { summary: `${name}: ${summary}`, action },
  });
  return [
    {
      alert: 'EngineDown',
      expr: `up${job} == 0`,
      for: '2m',
      labels: { severity: 'critical', service: name },
      annotations: {
        summary: `${name}: the engine does not answer`,
        action: 'sealift status, then the log of its container',
      },
    },
    ...(firstToken === undefined
      ? []
      : [
          warning(
            'SlowFirstToken',
            `histogram_quantile(0.95, sum by (le) (rate(${firstToken}_bucket${job}[5m]))) > 10`,
            'one request in twenty waits more than 10 s for its first token',
            'fewer requests at a time (limits in site.yaml), shorter prompts, or one more replica',
          ),
        ]),
    ...(waiting === undefined
      ? []
      : [
          warning(
            'RequestsWait',
            `${waiting}${job} > 20`,
            'more than 20 requests wait',
            'the same as for SlowFirstToken; a client that floods is in the log of the gateway',
          ),
        ]),
    ...(cache === undefined
      ? []
      : [
          warning(
            'CacheFull',
            `${cache}${job} > 0.95`,
            'the KV cache is full, and requests are put off',
            'shorter contexts, or GPUs with more memory: sealift doctor BUNDLE shows the arithmetic',
          ),
        ]),
  ];
}

const certificateAlert = (expires: Date): Alert => ({
  alert: 'CertificateEnds',
  expr: `vector(${Math.floor(expires.getTime() / 1000)}) - time() < 30 * 86400`,
  for: '1h',
  labels: { severity: 'warning', service: 'gateway' },
  annotations: {
    summary: 'the certificate of the gateway ends in less than 30 days',
    action: 'put a new one in its place, then: sealift reload',
  },
});

const datasource = (): unknown => ({
  apiVersion: 1,
  datasources: [
    {
      name: 'Prometheus',
      uid: 'prometheus',
      type: 'prometheus',
      access: 'proxy',
      url: `http://${PROMETHEUS}:${PROMETHEUS_PORT}`,
      isDefault: true,
      editable: false,
    },
  ],
});

const dashboardProvider = (): unknown => ({
  apiVersion: 1,
  providers: [
    {
      name: 'sealift',
      type: 'file',
      disableDeletion: true,
      allowUiUpdates: false,
      options: { path: `${MONITORING_TARGET}/dashboards` },
    },
  ],
});

interface Panel {
  title: string;
  expr: string;
  legend: string;
  unit: string;
}

function panelsOf({ firstToken, waiting, running, cache, generated, prompted }: Metrics): Panel[] {
  const rate = (counter: string): string => `sum by (job) (rate(${counter}{job=~"$service"}[5m]))`;
  const gauge = (name: string): string => `sum by (job) (${name}{job=~"$service"})`;
  const quantile = (q: number): string =>
    `histogram_quantile(${q}, sum by (le, job) (rate(${firstToken}_bucket{job=~"$service"}[5m])))`;
  const some = (name: string | undefined, panel: (name: string) => Panel): Panel[] =>
    name === undefined ? [] : [panel(name)];
  return [
    { title: 'Up', expr: 'up{job=~"$service"}', legend: '{{instance}}', unit: 'short' },
    ...some(generated, (name) => ({
      title: 'Tokens said a second',
      expr: rate(name),
      legend: '{{job}}',
      unit: 'short',
    })),
    ...some(prompted, (name) => ({
      title: 'Tokens read a second',
      expr: rate(name),
      legend: '{{job}}',
      unit: 'short',
    })),
    ...some(firstToken, () => ({
      title: 'First token, median',
      expr: quantile(0.5),
      legend: '{{job}}',
      unit: 's',
    })),
    ...some(firstToken, () => ({
      title: 'First token, 95 of 100',
      expr: quantile(0.95),
      legend: '{{job}}',
      unit: 's',
    })),
    ...some(running, (name) => ({
      title: 'Requests under way',
      expr: gauge(name),
      legend: '{{job}}',
      unit: 'short',
    })),
    ...some(waiting, (name) => ({
      title: 'Requests that wait',
      expr: gauge(name),
      legend: '{{job}}',
      unit: 'short',
    })),
    ...some(cache, (name) => ({
      title: 'KV cache taken',
      expr: `max by (job) (${name}{job=~"$service"})`,
      legend: '{{job}}',
      unit: 'percentunit',
    })),
    {
      title: 'Memory of the server',
      expr: 'process_resident_memory_bytes{job=~"$service"}',
      legend: '{{instance}}',
      unit: 'bytes',
    },
  ];
}

/** Grafana's own form (grafana.com/docs, dashboard JSON model); two panels a row. */
function dashboard(engine: string): unknown {
  const { title, metrics } = ENGINES[engine] ?? { title: engine, metrics: {} };
  const source = { type: 'prometheus', uid: 'prometheus' };
  return {
    uid: `sealift-${engine}`,
    title,
    tags: ['sealift'],
    timezone: 'browser',
    schemaVersion: 39,
    refresh: '30s',
    time: { from: 'now-6h', to: 'now' },
    templating: {
      list: [
        {
          name: 'service',
          type: 'query',
          datasource: source,
          query: `label_values(up{engine="${engine}"}, job)`,
          multi: true,
          includeAll: true,
          refresh: 2,
          current: { text: 'All', value: '$__all' },
        },
      ],
    },
    panels: panelsOf(metrics).map(({ title: name, expr, legend, unit }, i) => ({
      id: i + 1,
      title: name,
      type: 'timeseries',
      datasource: source,
      gridPos: { x: (i % 2) * 12, y: Math.floor(i / 2) * 8, w: 12, h: 8 },
      fieldConfig: { defaults: { unit, min: 0 }, overrides: [] },
      targets: [{ refId: 'A', datasource: source, expr, legendFormat: legend }],
    })),
  };
}
