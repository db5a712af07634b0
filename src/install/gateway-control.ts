// SPDX-License-Identifier: Apache-2.0
/** The running gateway: finding it, and telling it to read its files again without losing a connection. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { SealiftError } from '../errors.ts';
import type { Service } from '../engines/index.ts';
import type { Digest } from '../store/digest.ts';
import { writeFileDurably } from '../store/files.ts';
import type { EngineClient, EngineContainer } from './engine-client.ts';
import { GATEWAY_TARGET } from './gateway.ts';
import { absent } from './home.ts';
import { PROMETHEUS } from './monitoring-names.ts';
import { digestOfFiles } from './release.ts';
import { filesUnder } from './release-folder.ts';
import { gatewayService } from './targets/compose.ts';
import { plainLine } from './text.ts';

const NGINX_MS = 30_000;
const POLL_MS = 50;
/** nginx's master waits 100 ms between its new workers and its old ones. */
const BLIND_MS = 2000;

/** The gateway's container in a project, running. @throws {SealiftError} SERVICE_UNHEALTHY */
export async function gatewayContainer(
  engine: EngineClient,
  project: string,
  services: readonly Pick<Service, 'name'>[],
): Promise<EngineContainer> {
  const found = (await engine.containers(project)).find((c) => c.service === gatewayService(services));
  if (found?.state === 'running') return found;
  throw new SealiftError('SERVICE_UNHEALTHY', `the gateway of ${project} does not run`, {
    hint: 'sealift status says what does; the same install, run again, starts it',
  });
}

/**
 * Lets nginx judge the files of the release's folder, and read them: open requests end under the old ones. What has been
 * read is noted, because nginx does not tell.
 * @throws {SealiftError} GATEWAY_REFUSED with nginx's own words; then it goes on with what it had
 */
export async function loadGateway(
  engine: EngineClient,
  { project, gateway: container }: { project: string; gateway: string },
  folder: string,
): Promise<void> {
  const loaded = await gatewayDigest(folder);
  const before = await workers(engine, container);
  for (const argument of [['-t'], ['-s', 'reload']]) {
    const argv = ['nginx', '-e', 'stderr', '-c', `${GATEWAY_TARGET}/nginx.conf`, ...argument];
    const { code, stderr } = await engine.exec(container, argv, '', NGINX_MS);
    if (code !== 0) throw refused(stderr);
  }
  await untilReplaced(engine, container, before);
  // Prometheus reads its files again at this signal; Grafana looks at its own from time to time.
  for (const { id, service, state } of await engine.containers(project))
    if (service === PROMETHEUS && state === 'running') await engine.signal(id, 'SIGHUP');
  await writeFileDurably(loadedFile(folder), `${loaded}\n`);
}

/** Workers that take connections: those that end say so in their titles (ngx_process_cycle.c). */
async function workers(engine: EngineClient, container: string): Promise<string[]> {
  const processes = [...(await engine.processes(container))];
  return processes.flatMap(([pid, command]) => (command.trim() === 'nginx: worker process' ? [pid] : []));
}

/** nginx answers at once and changes its workers a moment later; until then a key that was taken away is let in. */
async function untilReplaced(engine: EngineClient, container: string, old: readonly string[]): Promise<void> {
  if (old.length === 0) return sleep(BLIND_MS); // an engine that cannot list processes
  const end = performance.now() + NGINX_MS;
  for (;;) {
    const now = await workers(engine, container);
    if (now.length > 0 && !now.some((pid) => old.includes(pid))) return;
    if (performance.now() > end)
      throw new SealiftError(
        'GATEWAY_REFUSED',
        `the gateway did not change its workers in ${NGINX_MS / 1000} s`,
        {
          hint: 'sealift reload tries again; docker logs of the gateway may say why',
        },
      );
    await sleep(POLL_MS);
  }
}

function refused(said: string): SealiftError {
  const lines = said.split('\n').filter((line) => line.trim() !== '');
  return new SealiftError('GATEWAY_REFUSED', 'nginx does not take the new configuration', {
    details: lines.slice(-4).map((line) => ['nginx', plainLine(line)] as const),
    hint: 'the gateway goes on as it was; look at the certificate, the keys and site.yaml',
  });
}

/** Whether the gateway has read what is in the release's folder now. */
export async function isLoaded(folder: string): Promise<boolean> {
  const noted = await readFile(loadedFile(folder), 'utf8').catch(absent);
  return noted?.trim() === (await gatewayDigest(folder));
}

/** Of a release's folder: what its gateway has read last. */
export const loadedFile = (folder: string): string => join(folder, 'gateway.loaded');

async function gatewayDigest(folder: string): Promise<Digest> {
  const names = (
    await Promise.all(['gateway', 'secrets/gateway', 'monitoring'].map((part) => filesUnder(folder, part)))
  ).flat();
  const read = names.map(async (name) => [name, { bytes: await readFile(join(folder, name)) }] as const);
  return digestOfFiles(await Promise.all(read));
}
