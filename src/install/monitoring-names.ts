// SPDX-License-Identifier: Apache-2.0
/** Names and places that gateway, compose.yaml and the files of the monitoring share. */
/** Names of services have no underscores, so a bundle cannot have given one of these. */
export const PROMETHEUS = 'monitoring_prometheus';
export const GRAFANA = 'monitoring_grafana';
export const PROMETHEUS_PORT = 9090;
export const GRAFANA_PORT = 3000;
/** Under which the gateway has Grafana. */
export const GRAFANA_PATH = '/grafana/';
/** Where the folder with the rendered files is mounted in both. */
export const MONITORING_TARGET = '/etc/sealift/monitoring';
/** Where keys and passwords are. */
export const MONITORING_SECRETS = '/etc/sealift/secrets';
