// SPDX-License-Identifier: Apache-2.0
/**
 * nginx.conf of the gateway, complete: nothing of the image's own configuration is used. TLS, one key for
 * each client, limits, an allow-list of paths, and everything else 404. Works with nginx 1.22 and later. Secrets are in
 * included files at 0600, so that this file can be shown to anyone. Names are of the inventory's `Name` form
 * and paths come from the engine rows; `quoted` guards all the same.
 */
import { createHash } from 'node:crypto';
import type { Inventory } from '../bundle/inventory.ts';
import type { Service } from '../engines/index.ts';
import { tellApart, type ApiKey } from './api-keys.ts';
import { GRAFANA, GRAFANA_PATH, GRAFANA_PORT } from './monitoring-names.ts';
import type { NameService } from './name-service.ts';
import type { Site } from './site.ts';

/** Inside the container: not below 1024, so that nginx needs no capability to bind. */
export const GATEWAY_PORT = 8443;
/** Plain HTTP on the container's own loopback, for its health check alone. */
export const ALIVE_PORT = 8081;
/** Where the folder with nginx.conf is mounted. A folder, so that a file that replaces another is seen inside. */
export const GATEWAY_TARGET = '/etc/nginx/sealift';
/** Where the folder with the secrets is mounted. */
export const SECRETS_TARGET = '/etc/nginx/sealift-secrets';

/** A model may think for a long time between two tokens, or before the first. */
const READ_TIMEOUT = '3600s';

const ERRORS: readonly (readonly [status: number, message: string, type: string])[] = [
  [400, 'the request is malformed', 'invalid_request_error'],
  [401, 'a valid API key is needed: Authorization: Bearer KEY', 'authentication_error'],
  [403, 'not allowed', 'permission_error'],
  [404, 'there is no such path', 'not_found_error'],
  [405, 'this method is not allowed here', 'invalid_request_error'],
  [413, 'the request is larger than this host takes', 'invalid_request_error'],
  [429, 'too many requests: wait a little', 'rate_limit_error'],
  [500, 'the gateway failed', 'server_error'],
  [502, 'the model server does not answer', 'server_error'],
  [503, 'the model server is not ready', 'server_error'],
  [504, 'the model server took too long', 'server_error'],
];

/** Service names are resolved when a request comes, so that engines may restart with another address. */
export function renderNginx(
  services: readonly Service[],
  site: Site,
  { resolver }: NameService,
  monitoring?: Inventory['monitoring'],
): string {
  const several = services.length > 1;
  const locations = [
    ...(several ? [modelsLocation(services)] : []),
    ...services.flatMap((service, i) => serviceLocations(service, i === 0 ? '' : undefined, several, site)),
    ...(monitoring?.grafana === undefined ? [] : [grafanaLocation(site)]),
  ];
  return `# Written by sealift; a new install replaces it.
daemon off;
user nginx;
worker_processes auto;
pid /tmp/nginx.pid;
error_log stderr warn;

events {
  worker_connections 4096;
}

http {
  # Every path that nginx writes to: the root file system is read-only.
  client_body_temp_path /tmp/client_body;
  proxy_temp_path /tmp/proxy;
  fastcgi_temp_path /tmp/fastcgi;
  uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;

  server_tokens off;
  default_type application/json;
  resolver ${quoted(resolver)} valid=5s ipv6=off;
  resolver_timeout 5s;

${indent(httpMaps(site), 2)}

  server {
    listen 127.0.0.1:${ALIVE_PORT};
    access_log off;
    location = /alive { return 200 "{}"; }
    location / { return 404; }
  }

  server {
    listen ${GATEWAY_PORT} ssl http2;
    server_name ${quoted(site.hostName)};

${indent(tlsDirectives(), 4)}

${indent(proxyDirectives(site), 4)}

${indent(limitDirectives(site), 4)}

${indent(errorPages(), 4)}

${indent(locations.join('\n'), 4)}
    # What ends here passes the limits first; return would come before them.
    location = /unauthorized { internal; try_files /nonexistent =401; }
    location = /wrong-method { internal; try_files /nonexistent =405; }
    location / { try_files /nonexistent =404; }
  }
}
`;
}

/** The log, whose key a request has, and what is counted. */
const httpMaps = (
  site: Site,
): string => `# Who, what, how long; never what was asked or answered, and of a key only its name.
log_format access escape=json '{"time":"$time_iso8601","id":"$request_id","client":"$remote_addr","key":"$api_key_name",'
  '"method":"$request_method","path":"$asked_path","status":$status,"bytes":$body_bytes_sent,"seconds":$request_time,'
  '"upstream":"$upstream_addr","upstream_seconds":"$upstream_response_time"}';
access_log /dev/stdout access;

# Before the first map.
map_hash_max_size 8192;
map_hash_bucket_size 128;

# Without what follows a question mark, which some clients put keys into.
map $request_uri $asked_path { "~^(?<before_query>[^?]*)" $before_query; }

map $http_upgrade $connection_upgrade {
  default upgrade;
  "" close;
}

# A key is looked up by its first characters, and then what it hashes to is compared, so that the time an answer
# takes says nothing of the rest. There is no key in this file nor in the included one.
include ${SECRETS_TARGET}/api-keys.conf;
secure_link $api_key_hash;
secure_link_md5 $api_key;
map $secure_link $api_key_name {
  default "";
  1 $api_key_claimed;
}

${limitZones(site)}`;

const tlsDirectives = (): string => `ssl_certificate ${SECRETS_TARGET}/tls.crt;
ssl_certificate_key ${SECRETS_TARGET}/tls.key;
ssl_protocols TLSv1.2 TLSv1.3;
ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305;
ssl_prefer_server_ciphers off;
ssl_session_cache shared:tls:10m;
ssl_session_tickets off;

${HEADERS.map((header) => `add_header ${header} always;`).join('\n')}`;

/** Of the OWASP REST security list; answers are JSON or a stream of it, and no browser has a reason to keep or frame them. */
const HEADERS = [
  'Strict-Transport-Security "max-age=31536000"',
  'X-Content-Type-Options nosniff',
  'X-Frame-Options DENY',
  "Content-Security-Policy \"default-src 'none'; frame-ancestors 'none'\"",
  'Referrer-Policy no-referrer',
  'Cache-Control no-store',
];

/** Memory for tens of thousands of addresses (nginx: 128 bytes each). */
const ZONE = '10m';

/** An empty key is not counted, so strangers fall under the limit of their address alone. */
const limitZones = ({
  limits,
}: Site): string => `limit_req_zone $api_key_name zone=key:${ZONE} rate=${limits.perKey.requestsPerMinute}r/m;
limit_req_zone $binary_remote_addr zone=address:${ZONE} rate=${limits.perAddress.requestsPerMinute}r/m;
limit_conn_zone $api_key_name zone=open:${ZONE};
limit_conn_zone $binary_remote_addr zone=connections:${ZONE};`;

const limitDirectives = ({
  limits,
}: Site): string => `limit_req zone=key burst=${limits.perKey.burst} nodelay;
limit_req zone=address burst=${limits.perAddress.burst} nodelay;
limit_req_status 429;
limit_conn open ${limits.perKey.concurrent};
limit_conn connections ${limits.perAddress.concurrent};
limit_conn_status 429;`;

const proxyDirectives = ({ limits }: Site): string => `client_max_body_size ${limits.bodyMiB}m;
client_body_buffer_size 1m;

# A token is sent on as soon as it comes.
proxy_http_version 1.1;
proxy_buffering off;
proxy_connect_timeout 5s;
proxy_read_timeout ${READ_TIMEOUT};
proxy_send_timeout ${READ_TIMEOUT};
send_timeout 300s;`;

/** The first service is at the root; with more than one, each is also under its name. */
function serviceLocations(service: Service, root: '' | undefined, several: boolean, site: Site): string[] {
  const prefixes = [...(root === undefined ? [] : [root]), ...(several ? [`/${service.name}`] : [])];
  return prefixes.flatMap((prefix) => [
    ...service.apiPaths
      .filter(({ path }) => !(several && prefix === '' && path === MODELS))
      .map((api) => apiLocation(service, prefix, api.path, api.method)),
    healthLocation(service, prefix),
    metricsLocation(service, prefix, site),
  ]);
}

const MODELS = '/v1/models';

/** With more than one service the list at the root is of all of them, and says under which path each is. */
function modelsLocation(services: readonly Service[]): string {
  const data = services.map(({ name, servedModel }) => ({
    id: quoted(servedModel),
    object: 'model',
    created: 0,
    owned_by: 'sealift',
    path: `/${quoted(name)}`,
  }));
  return `location = ${MODELS} {
  if ($api_key_name = "") { rewrite ^ /unauthorized last; }
  if ($request_method != GET) { rewrite ^ /wrong-method last; }
  try_files /nonexistent @models;
}
location @models { return 200 '${JSON.stringify({ object: 'list', data })}'; }`;
}

function apiLocation(service: Service, prefix: string, path: string, method: string): string {
  return `location = ${quoted(prefix + path)} {
  if ($api_key_name = "") { rewrite ^ /unauthorized last; }
  if ($request_method != ${method}) { rewrite ^ /wrong-method last; }
  ${upstream(service, `${path}$is_args$args`)}
  include ${SECRETS_TARGET}/upstream-${service.name}.conf;
}`;
}

/** Open to all, so that load balancers can ask; it says nothing but ready or not. */
function healthLocation(service: Service, prefix: string): string {
  return `location = ${quoted(`${prefix}/health`)} {
  if ($request_method !~ ^(GET|HEAD)$) { rewrite ^ /wrong-method last; }
  client_max_body_size 1k;
  ${upstream(service, service.healthPath)}
  proxy_method GET;
  proxy_pass_request_body off;
  proxy_set_header Content-Length "";
  proxy_set_header Authorization "";
  access_log off;
}`;
}

function metricsLocation(service: Service, prefix: string, site: Site): string {
  return `location = ${quoted(`${prefix}/metrics`)} {
  client_max_body_size 1k;
${site.metrics.allow.map((network) => `  allow ${network};\n`).join('')}  deny all;
  ${upstream(service, service.metricsPath)}
  include ${SECRETS_TARGET}/upstream-${service.name}.conf;
}`;
}

/** Grafana asks for a password of its own; here only the networks of site.yaml get as far as that. */
const grafanaLocation = ({ monitoring }: Site): string => `location ^~ ${GRAFANA_PATH} {
${monitoring.allow.map((network) => `  allow ${network};\n`).join('')}  deny all;
  set $engine http://${GRAFANA}:${GRAFANA_PORT};
  proxy_pass $engine;
  proxy_set_header Host $http_host;
  proxy_set_header X-Forwarded-Proto https;
  proxy_set_header Upgrade $http_upgrade;
  proxy_set_header Connection $connection_upgrade;
  # A page with scripts of its own, unlike all else here.
  add_header Strict-Transport-Security "max-age=31536000" always;
}`;

/** A variable in proxy_pass makes nginx resolve the name for each request instead of once at its start. */
const upstream = (service: Service, path: string): string =>
  `set $engine ${quoted(`http://${service.name}:${service.port}`)};\n  proxy_pass $engine${path};`;

function errorPages(): string {
  return ERRORS.map(([status, message, type]) => {
    const body = JSON.stringify({ error: { message, type, code: status } });
    // add_header of a location replaces those of the server, so all of them are said again.
    const own = status === 401 ? 'WWW-Authenticate Bearer' : status === 429 ? 'Retry-After 5' : undefined;
    const headers =
      own === undefined ? '' : [...HEADERS, own].map((h) => ` add_header ${h} always;`).join('');
    // 494 and 495 to 497 are nginx's own: too large a header, and faults of TLS.
    const codes = status === 400 ? '400 494 495 496 497 =400' : String(status);
    return `error_page ${codes} @e${status};\nlocation @e${status} { default_type application/json;${headers} return ${status} '${body}'; }`;
  }).join('\n');
}

/**
 * From the Authorization header to the name of a key. A map finds the key's beginning in a hash table; `secure_link`
 * then compares the MD5 of the whole key with the one that is noted here. MD5 is what nginx has: nobody finds
 * the other half of a random key by it (a preimage), which is all that is asked.
 */
export function renderApiKeys(keys: readonly ApiKey[]): string {
  const { prefix, heads } = tellApart(keys);
  const lines = (of: (key: ApiKey) => string): string =>
    // With the backslash nothing that a key begins with is a word of nginx's own; in quotes it is written twice.
    keys.map((key, i) => `  "\\\\${heads[i]}" ${of(key)};\n`).join('');
  return `map $http_authorization $api_key {
  default "";
  "~^[Bb]earer +(?<bearer>[A-Za-z0-9._~+/-]{20,256}=*)$" $bearer;
}
map $api_key $api_key_head {
  default "";
  "~^(?<head>.{${prefix}})" $head;
}
map $api_key_head $api_key_hash {
  default "";
${lines(({ key }) => `"${createHash('md5').update(key).digest('base64url')}"`)}}
map $api_key_head $api_key_claimed {
  default "";
${lines(({ name }) => quoted(name))}}
`;
}

/** Headers towards an engine, with the key that only gateway and engine know. */
export const renderUpstream = (key: string): string => `proxy_set_header Host $host;
proxy_set_header Connection "";
proxy_set_header X-Request-Id $request_id;
proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Forwarded-Proto https;
proxy_set_header Authorization "Bearer ${key}";
`;

/** A parameter of nginx.conf. What is refused here cannot occur in a valid inventory or site. */
function quoted(text: string): string {
  if (!/^[A-Za-z0-9:/._-]+$/.test(text))
    throw new TypeError(`not fit for nginx.conf: ${JSON.stringify(text)}`);
  return text;
}

const indent = (text: string, by: number): string => text.replace(/^(?=.)/gm, ' '.repeat(by));
