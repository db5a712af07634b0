// SPDX-License-Identifier: Apache-2.0
/**
 * compose.yaml from services. Only keys that Compose 2.26 to 2.40 were seen to obey (oci.md §7). Images are
 * named by the ID that was proved, never by a tag that somebody could move, and nothing may be pulled. Engines
 * are on a network without a way out; the gateway is on it too, and on one that the host publishes.
 */
import { stringify } from 'yaml';
import type { Inventory } from '../../bundle/inventory.ts';
import { digestOf, type Digest } from '../../store/digest.ts';
import type { Service } from '../../engines/index.ts';
import { canonicalJson } from '../../json.ts';
import { ALIVE_PORT, GATEWAY_PORT, GATEWAY_TARGET, SECRETS_TARGET } from '../gateway.ts';
import { shareGpus } from '../gpus.ts';
import {
  GRAFANA,
  GRAFANA_PATH,
  GRAFANA_PORT,
  MONITORING_SECRETS,
  MONITORING_TARGET,
  PROMETHEUS,
  PROMETHEUS_PORT,
} from '../monitoring-names.ts';
import { gatewayUrl, type Site } from '../site.ts';

export interface ComposeInput {
  project: string;
  release: string;
  bundle: Digest;
  /** For each service, what changes when a file changes that its containers read only when they start. */
  files: ReadonlyMap<string, Digest>;
  services: readonly Service[];
  /** Proved image IDs by the names that the inventory gives the images. */
  imageIds: ReadonlyMap<string, Digest>;
  gatewayImage: string;
  monitoring: Inventory['monitoring'];
  site: Site;
  /** Range of the engines' network; undefined leaves the choice to the engine. */
  enginesSubnet: string | undefined;
  /** Absolute paths. */
  modelFolders: ReadonlyMap<string, string>;
  /** Of the bundle's configs. */
  configFolder: string;
  cacheFolder: (container: string, index: number) => string;
  releaseFolder: string;
  /** False when the secrets belong to another user than the container's root, who then needs to override that. */
  ownedByRoot: boolean;
}

/** Label that ties containers to the bundle that they came from. */
export const BUNDLE_LABEL = 'dev.sealift.bundle';
/** Label that says which release a container belongs to: what runs is known by it, not by `current`. */
export const RELEASE_LABEL = 'dev.sealift.release';
/** Label that changes with anything that a container was started from, so that one that differs is replaced. */
export const FILES_LABEL = 'dev.sealift.files';

/** Project names have no dots; names of bundles have no underscores, so two bundles never share a project. */
export const projectName = (bundleName: string): string => `sealift-${bundleName.replaceAll('.', '_')}`;

/** The gateway's name among the services, which a bundle may have given to one of its own. */
export function gatewayService(services: readonly Pick<Service, 'name'>[]): string {
  const names = new Set(services.map(({ name }) => name));
  let name = 'gateway';
  while (names.has(name)) name = `${name}-nginx`;
  return name;
}

/** What Compose calls the containers of a service; names of services have no underscores, so none collides. */
export const containersOf = ({ name, replicas }: Pick<Service, 'name' | 'replicas'>): string[] =>
  replicas === 1 ? [name] : Array.from({ length: replicas }, (_, i) => `${name}_${i + 1}`);

/** A file that configures an engine, relative to the release's folder. */
export const configFile = (service: string, index: number): string => `engines/${service}-${index}`;

export function renderCompose(input: ComposeInput): string {
  const shares = shareGpus(input.services, input.site);
  const engines = input.services.flatMap((service) =>
    containersOf(service).map((container, i) => {
      const definition = engineService(input, service, container, shares.get(service.name)![i]!);
      return [container, labelled(input, definition, input.files.get(service.name))] as const;
    }),
  );
  const document = {
    name: input.project,
    services: Object.fromEntries([
      ...engines,
      [gatewayService(input.services), labelled(input, gateway(input))],
      ...monitors(input),
    ]),
    networks: {
      engines: {
        internal: true,
        ...(input.enginesSubnet === undefined ? {} : { ipam: { config: [{ subnet: input.enginesSubnet }] } }),
      },
      // Answers to clients leave, new connections from here do not get an address that anybody would answer.
      edge: { driver_opts: { 'com.docker.network.bridge.enable_ip_masquerade': 'false' } },
    },
  };
  return `# Written by sealift; a new install replaces it.\n${stringify(literal(document), { lineWidth: 0 })}`;
}

/** A definition with the labels that say what it is, and that it is the same as before. */
const labelled = (
  { bundle, release }: ComposeInput,
  definition: Record<string, unknown>,
  files?: Digest,
): Record<string, unknown> => ({
  ...definition,
  labels: {
    [BUNDLE_LABEL]: bundle,
    [RELEASE_LABEL]: release,
    [FILES_LABEL]: digestOf(canonicalJson({ definition, ...(files === undefined ? {} : { files }) })),
  },
});

function engineService(
  input: ComposeInput,
  service: Service,
  container: string,
  devices: readonly string[],
): Record<string, unknown> {
  const caches = service.caches.map(({ target }, i) => ({
    ...bind(input.cacheFolder(container, i), target),
    read_only: false,
  }));
  return {
    ...base(input, service.image),
    ...(service.entrypoint === undefined ? {} : { entrypoint: [...service.entrypoint] }),
    command: [...service.command],
    environment: service.env,
    env_file: [`${input.releaseFolder}/secrets/${service.name}.env`],
    user: `${service.user.uid}:${service.user.gid}`,
    networks: service.replicas === 1 ? ['engines'] : { engines: { aliases: [service.name] } },
    volumes: [
      ...service.models.map(({ model, target }) => bind(input.modelFolders.get(model)!, target)),
      ...(service.configsTarget === undefined ? [] : [bind(input.configFolder, service.configsTarget)]),
      ...service.files.map(({ target }, i) =>
        bind(`${input.releaseFolder}/${configFile(service.name, i)}`, target),
      ),
      ...caches,
    ],
    ...(service.shmBytes === undefined ? {} : { shm_size: service.shmBytes }),
    healthcheck: {
      test: ['CMD', ...service.healthCommand],
      interval: '5s',
      timeout: '5s',
      retries: 6,
      start_period: `${service.readyTimeoutSeconds}s`,
    },
    ...(devices.length === 0
      ? {}
      : { deploy: { resources: { reservations: { devices: [gpus(devices)] } } } }),
  };
}

/** By number or UUID, because a mere count would give the first GPUs to every service. */
const gpus = (devices: readonly string[]): unknown => ({
  driver: 'nvidia',
  device_ids: [...devices],
  capabilities: ['gpu'],
});

function gateway(input: ComposeInput): Record<string, unknown> {
  const { address, port } = input.site.listen;
  return {
    ...base(input, input.gatewayImage),
    // The image's own entry point edits configuration files; this one has nothing to edit.
    entrypoint: ['nginx', '-e', 'stderr', '-c', `${GATEWAY_TARGET}/nginx.conf`],
    command: [],
    networks: ['engines', 'edge'],
    ports: [{ target: GATEWAY_PORT, published: String(port), host_ip: address, protocol: 'tcp' }],
    read_only: true,
    tmpfs: ['/tmp:mode=1777,size=8g'],
    // Master as root, workers as nginx: setuid and setgid for that, chown for the workers' temporary folders.
    cap_add: ['CHOWN', 'SETGID', 'SETUID', ...(input.ownedByRoot ? [] : ['DAC_OVERRIDE'])],
    stop_signal: 'SIGQUIT',
    volumes: [
      bind(`${input.releaseFolder}/gateway`, GATEWAY_TARGET),
      bind(`${input.releaseFolder}/secrets/gateway`, SECRETS_TARGET),
    ],
    healthcheck: {
      test: [
        'CMD',
        'curl',
        '-q',
        '--silent',
        '--fail',
        '--output',
        '/dev/null',
        `http://127.0.0.1:${ALIVE_PORT}/alive`,
      ],
      interval: '5s',
      timeout: '5s',
      retries: 6,
      start_period: '30s',
    },
  };
}

/** Containers that watch the others, as Compose calls them. */
export const monitorsOf = (monitoring: Inventory['monitoring']): string[] => [
  ...(monitoring === undefined ? [] : [PROMETHEUS]),
  ...(monitoring?.grafana === undefined ? [] : [GRAFANA]),
];

/** All containers of a release, as Compose calls them, with the name of the image that each runs. */
export function imagesOf(
  services: readonly Pick<Service, 'name' | 'image' | 'replicas'>[],
  gatewayImage: string,
  monitoring: Inventory['monitoring'],
): [container: string, image: string][] {
  return [
    ...services.flatMap((s) => containersOf(s).map((container): [string, string] => [container, s.image])),
    [gatewayService(services), gatewayImage],
    ...monitorsOf(monitoring).map((name): [string, string] => [
      name,
      name === PROMETHEUS ? monitoring!.prometheus : monitoring!.grafana!,
    ]),
  ];
}

/** As root without rights, so that they can read secrets that are root's alone. They reach the engines, and nothing else. */
function monitors(input: ComposeInput): [string, Record<string, unknown>][] {
  const { monitoring, releaseFolder } = input;
  const mounts = (name: string, target: string): unknown[] => [
    bind(`${releaseFolder}/monitoring`, MONITORING_TARGET),
    bind(`${releaseFolder}/secrets/monitoring`, MONITORING_SECRETS),
    { ...bind(input.cacheFolder(name, 0), target), read_only: false },
  ];
  const common = (image: string, test: string[]): Record<string, unknown> => ({
    ...base(input, image),
    user: '0:0',
    networks: ['engines'],
    ...(input.ownedByRoot ? {} : { cap_add: ['DAC_OVERRIDE'] }),
    healthcheck: { test: ['CMD', ...test], interval: '5s', timeout: '5s', retries: 6, start_period: '120s' },
  });
  return monitorsOf(monitoring).map((name) => {
    const definition =
      name === PROMETHEUS
        ? {
            ...common(monitoring!.prometheus, [
              'promtool',
              'query',
              'instant',
              `http://127.0.0.1:${PROMETHEUS_PORT}`,
              'vector(1)',
            ]),
            command: [
              `--config.file=${MONITORING_TARGET}/prometheus.yml`,
              '--storage.tsdb.path=/prometheus',
              '--storage.tsdb.retention.time=30d',
              '--storage.tsdb.retention.size=8GB',
            ],
            volumes: mounts(name, '/prometheus'),
          }
        : {
            ...common(monitoring!.grafana!, [
              'wget',
              '-q',
              '-O',
              '/dev/null',
              `http://127.0.0.1:${GRAFANA_PORT}/api/health`,
            ]),
            environment: grafanaEnvironment(input),
            volumes: mounts(name, '/var/lib/grafana'),
          };
    return [name, labelled(input, definition)];
  });
}

/** Nothing is reported, looked up or fetched (grafana.com/docs, configure Grafana); the password comes from a file. */
const grafanaEnvironment = ({ site }: ComposeInput): Record<string, string> => ({
  GF_PATHS_PROVISIONING: `${MONITORING_TARGET}/provisioning`,
  GF_SECURITY_ADMIN_PASSWORD__FILE: `${MONITORING_SECRETS}/grafana-admin`,
  GF_SECURITY_DISABLE_GRAVATAR: 'true',
  GF_SERVER_ROOT_URL: `${gatewayUrl(site)}${GRAFANA_PATH}`,
  GF_SERVER_SERVE_FROM_SUB_PATH: 'true',
  GF_USERS_ALLOW_SIGN_UP: 'false',
  GF_ANALYTICS_REPORTING_ENABLED: 'false',
  GF_ANALYTICS_CHECK_FOR_UPDATES: 'false',
  GF_ANALYTICS_CHECK_FOR_PLUGIN_UPDATES: 'false',
  GF_ANALYTICS_FEEDBACK_LINKS_ENABLED: 'false',
  GF_NEWS_NEWS_FEED_ENABLED: 'false',
  GF_PLUGINS_PLUGIN_ADMIN_ENABLED: 'false',
  GF_SNAPSHOTS_EXTERNAL_ENABLED: 'false',
});

function base(input: ComposeInput, image: string): Record<string, unknown> {
  return {
    image: input.imageIds.get(image)!,
    pull_policy: 'never',
    restart: 'unless-stopped',
    cap_drop: ['ALL'],
    security_opt: ['no-new-privileges:true'],
    logging: { driver: 'json-file', options: { 'max-size': '20m', 'max-file': '5' } },
  };
}

const bind = (source: string, target: string): Record<string, unknown> => ({
  type: 'bind',
  source,
  target,
  read_only: true,
  bind: { create_host_path: false },
});

/** Compose replaces $NAME in every string; doubled, a dollar stands for itself. */
function literal(value: unknown): unknown {
  if (typeof value === 'string') return value.replaceAll('$', '$$$$');
  if (Array.isArray(value)) return value.map(literal);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, v]) => [key, literal(v)]));
}
