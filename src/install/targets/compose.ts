// SPDX-License-Identifier: Apache-2.0
/**
 * compose.yaml from services. Only keys that Compose 2.26 to 2.40 were seen to obey (oci.md §7). Images are
 * named by the ID that was proved, never by a tag that somebody could move, and nothing may be pulled. Engines
 * are on a network without a way out; the gateway is on it too, and on one that the host publishes.
 */
import { stringify } from 'yaml';
import type { Inventory, MonitoringSpec } from '../../bundle/inventory.ts';
import { digestOf, type Digest } from '../../store/digest.ts';
import type { Service } from '../../engines/index.ts';
import { canonicalJson } from '../../json.ts';
import { ALIVE_PORT, GATEWAY_PORT, GATEWAY_TARGET, SECRETS_TARGET } from '../gateway.ts';
import { shareGpus } from '../gpus.ts';
import {
  DCGM_COUNTERS,
  DCGM_EXPORTER,
  DCGM_EXPORTER_PORT,
  DCGM_TARGET,
  GRAFANA,
  GRAFANA_PATH,
  GRAFANA_PORT,
  HOME_MOUNT,
  MONITORING_SECRETS,
  MONITORING_TARGET,
  MONITORS,
  NODE_EXPORTER,
  NODE_EXPORTER_PORT,
  PROMETHEUS,
  PROMETHEUS_PORT,
} from '../monitoring-names.ts';
import { gatewayUrl, type Site } from '../site.ts';

export interface ComposeInput {
  project: string;
  release: string;
  bundle: Digest;
  /** For each service and monitor, what changes when a file changes that its containers read only when they start. */
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
      ...monitors(input, [...new Set([...shares.values()].flat(2))]),
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
    healthcheck: health(service.healthCommand, service.readyTimeoutSeconds),
    ...gpuReservation(devices),
  };
}

/**
 * The first check comes after one interval, and an operator waits for it. Half a minute of failures makes a service unhealthy.
 * @param startSeconds in which failures do not count
 */
const health = (command: readonly string[], startSeconds: number): Record<string, unknown> => ({
  test: ['CMD', ...command],
  interval: '3s',
  timeout: '5s',
  retries: 10,
  start_period: `${startSeconds}s`,
});

/** By number or UUID, because a mere count would give the first GPUs to every service. */
const gpuReservation = (devices: readonly string[]): Record<string, unknown> =>
  devices.length === 0
    ? {}
    : {
        deploy: {
          resources: {
            reservations: {
              devices: [{ driver: 'nvidia', device_ids: [...devices], capabilities: ['gpu'] }],
            },
          },
        },
      };

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
    healthcheck: health(
      ['curl', '-q', '--silent', '--fail', '--output', '/dev/null', `http://127.0.0.1:${ALIVE_PORT}/alive`],
      30,
    ),
  };
}

/** Containers that watch the others, as Compose calls them, with the name of the image that each runs. */
const monitorImages = (monitoring: Inventory['monitoring']): [container: string, image: string][] =>
  Object.entries(MONITORS).flatMap(([key, container]): [string, string][] => {
    const image = monitoring?.[key as keyof MonitoringSpec];
    return image === undefined ? [] : [[container, image]];
  });

/** Containers that watch the others, as Compose calls them. */
export const monitorsOf = (monitoring: Inventory['monitoring']): string[] =>
  monitorImages(monitoring).map(([container]) => container);

/** All containers of a release, as Compose calls them, with the name of the image that each runs. */
export function imagesOf(
  services: readonly Pick<Service, 'name' | 'image' | 'replicas'>[],
  gatewayImage: string,
  monitoring: Inventory['monitoring'],
): [container: string, image: string][] {
  return [
    ...services.flatMap((s) => containersOf(s).map((container): [string, string] => [container, s.image])),
    [gatewayService(services), gatewayImage],
    ...monitorImages(monitoring),
  ];
}

/** They reach the engines, and nothing else. @param gpus those of all services, by number or UUID */
function monitors(input: ComposeInput, gpus: readonly string[]): [string, Record<string, unknown>][] {
  const parts: Readonly<Record<string, () => Record<string, unknown>>> = {
    [PROMETHEUS]: () => prometheus(input),
    [GRAFANA]: () => grafana(input),
    [NODE_EXPORTER]: () => nodeExporter(input),
    [DCGM_EXPORTER]: () => dcgmExporter(input, gpus),
  };
  return monitorImages(input.monitoring).map(([name, image]) => {
    const definition = { ...base(input, image), networks: ['engines'], ...parts[name]!() };
    return [name, labelled(input, definition, input.files.get(name))];
  });
}

const monitorHealth = (...test: string[]): Record<string, unknown> => ({
  healthcheck: health(test, 120),
});

/** As root without rights, so that they can read secrets that are root's alone, and keep data at a place of their own. */
const withSecrets = (input: ComposeInput, name: string, target: string): Record<string, unknown> => ({
  user: '0:0',
  ...(input.ownedByRoot ? {} : { cap_add: ['DAC_OVERRIDE'] }),
  volumes: [
    bind(`${input.releaseFolder}/monitoring`, MONITORING_TARGET),
    bind(`${input.releaseFolder}/secrets/monitoring`, MONITORING_SECRETS),
    { ...bind(input.cacheFolder(name, 0), target), read_only: false },
  ],
});

const prometheus = (input: ComposeInput): Record<string, unknown> => ({
  ...withSecrets(input, PROMETHEUS, '/prometheus'),
  ...monitorHealth('promtool', 'query', 'instant', `http://127.0.0.1:${PROMETHEUS_PORT}`, 'vector(1)'),
  command: [
    `--config.file=${MONITORING_TARGET}/prometheus.yml`,
    '--storage.tsdb.path=/prometheus',
    '--storage.tsdb.retention.time=30d',
    '--storage.tsdb.retention.size=8GB',
  ],
});

const wget = (url: string): Record<string, unknown> => monitorHealth('wget', '-q', '-O', '/dev/null', url);

const grafana = (input: ComposeInput): Record<string, unknown> => ({
  ...withSecrets(input, GRAFANA, '/var/lib/grafana'),
  ...wget(`http://127.0.0.1:${GRAFANA_PORT}/api/health`),
  environment: grafanaEnvironment(input),
});

/**
 * Its README mounts the host's `/`, from which a break-in could read every file. statfs(2) needs no more than one mount
 * from a file system: an empty folder of the home, and the container's root, which the engine lays where its data is.
 * No other collector runs (`--collector.disable-defaults`), and the expressions name what only containers have, so that
 * a root of the type overlay is not left out. The image has busybox (its Dockerfile), and with that wget.
 */
const nodeExporter = (input: ComposeInput): Record<string, unknown> => ({
  user: '65534:65534',
  read_only: true,
  command: [
    '--collector.disable-defaults',
    '--collector.filesystem',
    '--collector.filesystem.mount-points-exclude=^/(dev|etc|proc|run|sys)($|/)',
    '--collector.filesystem.fs-types-exclude=^(proc|sysfs|tmpfs)$',
  ],
  volumes: [bind(input.cacheFolder(NODE_EXPORTER, 0), HOME_MOUNT)],
  ...wget(`http://127.0.0.1:${NODE_EXPORTER_PORT}/`),
});

/**
 * It sees the GPUs of this release's services. SYS_ADMIN is for profiling metrics alone (docker/Dockerfile of
 * github.com/NVIDIA/dcgm-exporter), and the list of counters has none; NO_SETCAP keeps its entry point from giving itself
 * that right, which older ones do not survive without it. Some hosts say that release 3.6.0 does not start without it
 * (issue 407 there); no GPU was there to try. The entry point runs ldconfig, so it is root, and its root file system
 * writable. The images have bash and neither wget nor curl; /health answers 200 (internal/pkg/server).
 */
const dcgmExporter = (input: ComposeInput, devices: readonly string[]): Record<string, unknown> => ({
  user: '0:0',
  command: ['-f', `${DCGM_TARGET}/${DCGM_COUNTERS.name}`],
  environment: { NO_SETCAP: '1' },
  volumes: [bind(`${input.releaseFolder}/${DCGM_COUNTERS.folder}`, DCGM_TARGET)],
  ...gpuReservation(devices),
  ...monitorHealth(
    'bash',
    '-c',
    `exec 3<>/dev/tcp/127.0.0.1/${DCGM_EXPORTER_PORT} && printf 'GET /health HTTP/1.0\\r\\n\\r\\n' >&3 && read -r -t 4 line <&3 && [[ $line == *' 200 '* ]]`,
  ),
});

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
