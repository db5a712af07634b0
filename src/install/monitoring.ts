// SPDX-License-Identifier: Apache-2.0
/**
 * Prometheus, Grafana and exporters beside the services, when a bundle carries them: what to scrape, when to raise an
 * alert, a dashboard for each engine. All of it is files that they read at their start; nothing is clicked together.
 */
import { stringify } from 'yaml';
import type { Inventory } from '../bundle/inventory.ts';
import { ENGINES, type Metrics, type Service } from '../engines/index.ts';
import {
  DCGM_COUNTERS,
  DCGM_EXPORTER,
  DCGM_EXPORTER_PORT,
  ENGINE_MOUNT,
  HOME_MOUNT,
  MONITORING_SECRETS,
  MONITORING_TARGET,
  NODE_EXPORTER,
  NODE_EXPORTER_PORT,
  PROMETHEUS,
  PROMETHEUS_PORT,
} from './monitoring-names.ts';
import { containersOf } from './targets/compose.ts';

type Monitoring = Inventory['monitoring'];

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
  if (monitoring.dcgmExporter !== undefined)
    files.set(`${DCGM_COUNTERS.folder}/${DCGM_COUNTERS.name}`, GPU_COUNTERS);
  if (monitoring.grafana === undefined) return files;
  files.set('monitoring/provisioning/datasources/prometheus.yml', yaml(datasource()));
  files.set('monitoring/provisioning/dashboards/sealift.yml', yaml(dashboardProvider()));
  for (const engine of new Set(input.services.map((service) => service.engine)))
    files.set(
      `monitoring/dashboards/${engine}.json`,
      `${JSON.stringify(dashboard(engine, monitoring), null, 2)}\n`,
    );
  return files;
}

const yaml = (document: unknown): string =>
  `# Written by sealift; a new install replaces it.\n${stringify(document, { lineWidth: 0 })}`;

/**
 * One line for each metric: DCGM's field, Prometheus' type, help (etc/default-counters.csv of dcgm-exporter, where the
 * memory is said to be in MiB). A list of our own, because those of some releases ask for rights that nothing here needs.
 */
const GPU_COUNTERS = `# Written by sealift; a new install replaces it.
DCGM_FI_DEV_FB_FREE, gauge, Framebuffer memory free (in MiB).
DCGM_FI_DEV_FB_USED, gauge, Framebuffer memory used (in MiB).
DCGM_FI_DEV_GPU_UTIL, gauge, GPU utilization (in %).
`;

/** The exporters that a bundle carries, as Prometheus calls their jobs, with the port of each. */
const exportersOf = (monitoring: Monitoring): [string, number][] => [
  ...(monitoring?.nodeExporter === undefined
    ? []
    : [[NODE_EXPORTER, NODE_EXPORTER_PORT] as [string, number]]),
  ...(monitoring?.dcgmExporter === undefined
    ? []
    : [[DCGM_EXPORTER, DCGM_EXPORTER_PORT] as [string, number]]),
];

function prometheusConfig({ services, inventory }: MonitoringInput): unknown {
  const plain = (job: string, target: string): unknown => ({
    job_name: job,
    static_configs: [{ targets: [target] }],
  });
  return {
    global: { scrape_interval: '15s', evaluation_interval: '15s' },
    rule_files: [`${MONITORING_TARGET}/alerts.yml`],
    scrape_configs: [
      plain(PROMETHEUS, `127.0.0.1:${PROMETHEUS_PORT}`),
      ...exportersOf(inventory.monitoring).map(([name, port]) => plain(name, `${name}:${port}`)),
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
export function alertsOf({ services, expires, inventory: { monitoring } }: MonitoringInput): Alert[] {
  return [
    ...services.flatMap(serviceAlerts),
    certificateAlert(expires),
    ...exportersOf(monitoring).map(([name]) => exporterAlert(name)),
    ...(monitoring?.nodeExporter === undefined ? [] : DISKS.map(diskAlert)),
    ...(monitoring?.dcgmExporter === undefined ? [] : [gpuAlert]),
  ];
}

function alertRules(input: MonitoringInput): unknown {
  return { groups: [{ name: 'sealift', rules: alertsOf(input) }] };
}

const MINUTES_10 = '10m';

/** Of what lasts; its summary begins with the name of what it is about. */
const warning = (service: string, alert: string, expr: string, summary: string, action: string): Alert => ({
  alert,
  expr,
  for: MINUTES_10,
  labels: { severity: 'warning', service },
  annotations: { summary: `${service}: ${summary}`, action },
});

function serviceAlerts(service: Service): Alert[] {
  const { name } = service;
  const { firstToken, waiting, cache } = ENGINES[service.engine]?.metrics ?? {};
  const job = `{job="${name}"}`;
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
            name,
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
            name,
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
            name,
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

/** Without it the alerts that are made of its metrics would be silent, and nobody would know. */
const exporterAlert = (name: string): Alert =>
  warning(
    name,
    'ExporterDown',
    `up{job="${name}"} == 0`,
    'the exporter does not answer, so nobody watches the disks or the GPUs',
    'sealift status, then the log of its container',
  );

interface Disk {
  title: string;
  mount: string;
}

const DISKS: readonly Disk[] = [
  { title: "the home's disk", mount: HOME_MOUNT },
  { title: "the engine's disk", mount: ENGINE_MOUNT },
];

/** node_filesystem_avail_bytes is what users other than root have (node_exporter, collector/filesystem_common.go). */
const ofDisk = (metric: 'avail' | 'size', { mount }: Disk): string =>
  `node_filesystem_${metric}_bytes{job="${NODE_EXPORTER}", mountpoint="${mount}"}`;

/** A share, because what is little depends on the disk; and early, when a log or a cache fills it while nobody looks. */
function diskAlert(disk: Disk): Alert {
  const free = ofDisk('avail', disk);
  const share = `${free} / ${ofDisk('size', disk)}`;
  return warning(
    disk.title,
    'DiskFull',
    `${share} < 0.05 or (${share} < 0.2 and predict_linear(${free}[6h], 86400) < 0)`,
    'less than 5 % is free, or it will be full within a day',
    'sealift gc removes releases that nobody will go back to; `system df` of docker or podman and du show what else is there',
  );
}

/**
 * Engines take most of the memory when they start, and on purpose (vLLM 90 % by default): only the last of it is a sign.
 * FREE and USED are without what the driver reserves.
 */
const GPU_MEMORY = `DCGM_FI_DEV_FB_USED{job="${DCGM_EXPORTER}"} / (DCGM_FI_DEV_FB_USED{job="${DCGM_EXPORTER}"} + DCGM_FI_DEV_FB_FREE{job="${DCGM_EXPORTER}"})`;

const gpuAlert: Alert = {
  alert: 'GpuMemory',
  expr: `${GPU_MEMORY} > 0.98`,
  for: MINUTES_10,
  labels: { severity: 'warning', service: 'host' },
  annotations: {
    summary:
      'GPU {{ $labels.gpu }}: less than 2 % of its memory is free, and the next larger request may end the engine',
    action:
      'nvidia-smi shows who has it; an option of the engine that takes less, or one service fewer on that GPU',
  },
};

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

/** Disks and GPUs belong to the host, and so to each dashboard. */
const hostPanels = (monitoring: Monitoring): Panel[] => [
  ...(monitoring?.nodeExporter === undefined
    ? []
    : DISKS.map((disk) => ({
        title: `Free on ${disk.title}`,
        expr: ofDisk('avail', disk),
        legend: 'free',
        unit: 'bytes',
      }))),
  ...(monitoring?.dcgmExporter === undefined
    ? []
    : [
        { title: 'GPU memory taken', expr: GPU_MEMORY, legend: 'GPU {{gpu}}', unit: 'percentunit' },
        {
          title: 'GPU at work',
          expr: `DCGM_FI_DEV_GPU_UTIL{job="${DCGM_EXPORTER}"}`,
          legend: 'GPU {{gpu}}',
          unit: 'percent',
        },
      ]),
];

/** Grafana's own form (grafana.com/docs, dashboard JSON model); two panels a row. */
function dashboard(engine: string, monitoring: Monitoring): unknown {
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
    panels: [...panelsOf(metrics), ...hostPanels(monitoring)].map(
      ({ title: name, expr, legend, unit }, i) => ({
        id: i + 1,
        title: name,
        type: 'timeseries',
        datasource: source,
        gridPos: { x: (i % 2) * 12, y: Math.floor(i / 2) * 8, w: 12, h: 8 },
        fieldConfig: { defaults: { unit, min: 0 }, overrides: [] },
        targets: [{ refId: 'A', datasource: source, expr, legendFormat: legend }],
      }),
    ),
  };
}
