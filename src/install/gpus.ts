// SPDX-License-Identifier: Apache-2.0
/** Which GPUs each replica of each service gets: as site.yaml says, and in order of the services where it is silent. */
import { SealiftError } from '../errors.ts';
import type { Service } from '../engines/index.ts';
import type { Site } from './site.ts';

type Sharer = Pick<Service, 'name' | 'gpus' | 'replicas'>;

/**
 * @returns for each service, a list for each replica of indices or UUIDs of GPUs
 * @throws {SealiftError} SITE_INVALID when site.yaml gives a service another number of GPUs than it needs
 */
export function shareGpus(
  services: readonly Sharer[],
  { gpus }: Pick<Site, 'gpus'>,
): Map<string, string[][]> {
  const given = new Set(Object.values(gpus).flat());
  demandClear(services, gpus);
  let next = 0;
  const free = (): string => {
    while (given.has(String(next))) next++;
    return String(next++);
  };
  return new Map(
    services.map((service) => {
      const own = gpus[service.name];
      const needed = service.gpus * service.replicas;
      if (own !== undefined && own.length !== needed) throw wrongNumber(service, own.length);
      const all = own ?? Array.from({ length: needed }, free);
      return [service.name, chunks(all, service.gpus, service.replicas)];
    }),
  );
}

/** A UUID may be any of the numbers that silent services would get, and one GPU twice in a service is a slip. */
function demandClear(services: readonly Sharer[], gpus: Site['gpus']): void {
  const silent = services.find(({ name, gpus: count }) => count > 0 && gpus[name] === undefined);
  for (const { name } of services) {
    const own = gpus[name] ?? [];
    const problem =
      new Set(own).size < own.length
        ? `gives service ${name} one GPU twice`
        : silent !== undefined && own.some((gpu) => gpu.startsWith('GPU-'))
          ? `names GPUs of ${name} by UUID, and none for ${silent.name}`
          : undefined;
    if (problem !== undefined)
      throw new SealiftError('SITE_INVALID', `site.yaml ${problem}`, {
        hint: 'with UUIDs, say for every service which GPUs it gets: nvidia-smi -L lists them',
      });
  }
}

const chunks = (all: readonly string[], size: number, count: number): string[][] =>
  Array.from({ length: count }, (_, i) => all.slice(i * size, (i + 1) * size));

const wrongNumber = ({ name, gpus, replicas }: Sharer, given: number): SealiftError =>
  new SealiftError(
    'SITE_INVALID',
    `site.yaml gives service ${name} ${given} GPUs, and it needs ${gpus * replicas}`,
    {
      hint:
        replicas === 1
          ? 'see gpus in site.yaml'
          : `${replicas} replicas with ${gpus} each; see gpus in site.yaml`,
    },
  );
