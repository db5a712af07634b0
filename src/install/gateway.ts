// SPDX-License-Identifier: Apache-2.0
/**
 * nginx.conf of the gateway, complete: nothing of the image's own configuration is used. TLS, one key for
 * each client, an allow-list of paths, and everything else 404. Works with nginx 1.22 and later. Secrets are in
 * included files at 0600, so that this file can be shown to anyone. Names are of the inventory's `Name` form
 * and paths come from the engine rows; `quoted` guards all the same.
 */
import type { Service } from '../engines/index.ts';
import type { ApiKey, Site } from './site.ts';

/** Inside the container: not below 1024, so that nginx needs no capability to bind. */
export const GATEWAY_PORT = 8443;
/** Plain HTTP on the container's own loopback, for its health check alone. */
export const ALIVE_PORT = 8081;
/** Where the folder with the secrets is mounted. */
export const SECRETS_TARGET = '/etc/nginx/sealift';

/** The gateway resolves service names when a request comes, so that engines may restart with another address. */
const DOCKER_DNS = '127.0.0.11';
/** Images and long contexts are inlined into requests. */
const MAX_BODY = '64m';
/** A model may think for a long time between two tokens, or before the first. */
const READ_TIMEOUT = '3600s';

const ERRORS: readonly (readonly [status: number, message: string, type: string])[] = [
  [400, 'the request is malformed', 'invalid_request_error'],
  [401, 'a valid API key is needed: Authorization: Bearer KEY', 'authentication_error'],
  [403, 'not allowed', 'permission_error'],
  [404, 'there is no such path', 'not_found_error'],
  [405, 'this method is not allowed here', 'invalid_request_error'],
  [413, `the request is larger than ${MAX_BODY}`, 'invalid_request_error'],
  [500, 'the gateway failed', 'server_error'],
  [502, 'the model server does not answer', 'server_error'],
  [503, 'the model server is not ready', 'server_error'],
  [504, 'the model server took too long', 'server_error'],
];

export function renderNginx(services: readonly Service[], site: Site): string {
  const locations = services.flatMap((service, i) =>
    serviceLocations(service, i === 0 ? '' : undefined, services.length > 1, site),
  );
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
  resolver ${DOCKER_DNS} valid=5s ipv6=off;
  resolver_timeout 5s;

  # Who, what, how long; never what was asked or answered, and of a key only its name.
  log_format access escape=json '{"time":"$time_iso8601","id":"$request_id","client":"$remote_addr","key":"$api_key_name",'
    '"method":"$request_method","path":"$uri","status":$status,"bytes":$body_bytes_sent,"seconds":$request_time,'
    '"upstream":"$upstream_addr","upstream_seconds":"$upstream_response_time"}';
  access_log /dev/stdout access;

  map $http_authorization $api_key_name {
    default "";
    include ${SECRETS_TARGET}/api-keys.conf;
  }

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

${indent(proxyDirectives(), 4)}

${indent(errorPages(), 4)}

${indent(locations.join('\n'), 4)}
    location / { return 404; }
  }
}
`;
}

const tlsDirectives = (): string => `ssl_certificate ${SECRETS_TARGET}/tls.crt;
ssl_certificate_key ${SECRETS_TARGET}/tls.key;
ssl_protocols TLSv1.2 TLSv1.3;
ssl_ciphers ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305;
ssl_prefer_server_ciphers off;
ssl_session_cache shared:tls:10m;
ssl_session_tickets off;

add_header Strict-Transport-Security "max-age=31536000" always;
add_header X-Content-Type-Options nosniff always;`;

const proxyDirectives = (): string => `client_max_body_size ${MAX_BODY};
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
    ...service.apiPaths.map((api) => apiLocation(service, prefix, api.path, api.method)),
    healthLocation(service, prefix),
    metricsLocation(service, prefix, site),
  ]);
}

function apiLocation(service: Service, prefix: string, path: string, method: string): string {
  return `location = ${quoted(prefix + path)} {
  if ($api_key_name = "") { return 401; }
  if ($request_method != ${method}) { return 405; }
  ${upstream(service, `${path}$is_args$args`)}
  include ${SECRETS_TARGET}/upstream-${service.name}.conf;
}`;
}

/** Open to all, so that load balancers can ask; it says nothing but ready or not. */
function healthLocation(service: Service, prefix: string): string {
  return `location = ${quoted(`${prefix}/health`)} {
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
${site.metrics.allow.map((network) => `  allow ${network};\n`).join('')}  deny all;
  ${upstream(service, service.metricsPath)}
  include ${SECRETS_TARGET}/upstream-${service.name}.conf;
}`;
}

/** A variable in proxy_pass makes nginx resolve the name for each request instead of once at its start. */
const upstream = (service: Service, path: string): string =>
  `set $engine ${quoted(`http://${service.name}:${service.port}`)};\n  proxy_pass $engine${path};`;

function errorPages(): string {
  return ERRORS.map(([status, message, type]) => {
    const body = JSON.stringify({ error: { message, type, code: status } });
    const challenge = status === 401 ? ' add_header WWW-Authenticate Bearer always;' : '';
    // 494 and 495 to 497 are nginx's own: too large a header, and faults of TLS.
    const codes = status === 400 ? '400 494 495 496 497 =400' : String(status);
    return `error_page ${codes} @e${status};\nlocation @e${status} { default_type application/json;${challenge} return ${status} '${body}'; }`;
  }).join('\n');
}

/** Lines of the map from the Authorization header to the name of the key. Regular expressions, because plain strings of a map ignore case. */
export function renderApiKeys(keys: readonly ApiKey[]): string {
  return keys
    .map(({ name, key }) => `"~^[Bb]earer +${key.replace(/[.+]/g, '[$&]')}$" ${quoted(name)};\n`)
    .join('');
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
