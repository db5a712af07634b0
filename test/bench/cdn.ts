// SPDX-License-Identifier: Apache-2.0
/** A real server for what hubs redirect to: nginx sends files with sendfile, and takes little from the two cores. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort, makeDir, startServer, waitFor } from '../support/workspace.ts';

export interface Cdn {
  url: string;
  stop(): Promise<void>;
}

/** Serves the files of a folder under `/repos/OWNER/NAME/COMMIT/`. */
export async function startCdn(dir: string, files: string): Promise<Cdn> {
  const folder = makeDir(dir);
  // Another address, as from the hub's own CDN: what a client must not send there depends on the host.
  const host = `127.0.0.2:${await freePort()}`;
  const temporary = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'];
  const lines = [
    'daemon off; user root; worker_processes 1;',
    `pid ${folder}/pid; error_log ${folder}/error.log;`,
    'events {}',
    'http {',
    '  access_log off; sendfile on; tcp_nopush on; etag on; default_type application/octet-stream;',
    ...temporary.map((name) => `  ${name}_temp_path ${folder}/${name};`),
    '  server {',
    `    listen ${host};`,
    '    location /repos/ {',
    `      root ${files};`,
    '      rewrite ^/repos/[^/]+/[^/]+/[^/]+/(.*)$ /$1 break;',
    '    }',
    '  }',
    '}',
    '',
  ];
  const config = join(folder, 'nginx.conf');
  writeFileSync(config, lines.join('\n'));
  const logFile = join(folder, 'nginx.log');
  const server = startServer('nginx', ['-e', join(folder, 'error.log'), '-c', config], { logFile });
  const url = `http://${host}`;
  const answers = (): Promise<true | undefined> =>
    fetch(url).then(
      () => true as const,
      () => undefined,
    );
  await waitFor('nginx', answers, {
    failed: () => (server.process.exitCode === null ? undefined : server.output().slice(-1000)),
  });
  return { url, stop: () => server.stop() };
}
