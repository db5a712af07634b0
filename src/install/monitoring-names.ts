// SPDX-License-Identifier: Apache-2.0
/** Names and places that gateway, compose.yaml and the files of the monitoring share. */
import type { MonitoringSpec } from '../bundle/inventory.ts';

// Names of services have no underscores, so a bundle cannot have given one of these.
export const PROMETHEUS = 'monitoring_prometheus';
export const GRAFANA = 'monitoring_grafana';
export const NODE_EXPORTER = 'monitoring_node_exporter';
export const DCGM_EXPORTER = 'monitoring_dcgm_exporter';

/** Containers that watch the others, by the key under which a bundle names the image of each. */
export const MONITORS: Readonly<Record<keyof MonitoringSpec, string>> = {
  prometheus: PROMETHEUS,
  grafana: GRAFANA,
  nodeExporter: NODE_EXPORTER,
  dcgmExporter: DCGM_EXPORTER,
};

export const PROMETHEUS_PORT = 9090;
export const GRAFANA_PORT = 3000;
/** github.com/prometheus/node_exporter, README */
export const NODE_EXPORTER_PORT = 9100;
/** docs.nvidia.com/datacenter/dcgm, dcgm-exporter command reference */
export const DCGM_EXPORTER_PORT = 9400;
/** Under which the gateway has Grafana. */
export const GRAFANA_PATH = '/grafana/';
/** Where the folder with the rendered files is mounted in Prometheus and Grafana. */
export const MONITORING_TARGET = '/etc/sealift/monitoring';
/** Where keys and passwords are. */
export const MONITORING_SECRETS = '/etc/sealift/secrets';

/** Which GPU metrics are read; in a folder of its own, since a file that is mounted alone cannot be replaced. */
export const DCGM_COUNTERS = { folder: 'monitoring/dcgm-exporter', name: 'counters.csv' } as const;
export const DCGM_TARGET = '/etc/sealift/dcgm-exporter';

/**
 * Mount points in node_exporter's container by which the file systems that matter are known: an empty folder of the
 * home, and the container's own root, which lies where the engine keeps images and containers.
 */
export const HOME_MOUNT = '/sealift/home';
export const ENGINE_MOUNT = '/';
