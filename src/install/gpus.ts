// SPDX-License-Identifier: Apache-2.0
/** Which GPUs each replica of each service gets: as site.yaml says, and in order of the services where it is silent. */
import { didYouMean } from '../document.ts';
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

/**
 * What site.yaml says of GPUs must be meant, before anything is installed by it. What runs already, and what is gone back
 * to, is rendered by shareGpus alone: a release before the last may have had other services.
 * @throws {SealiftError} SITE_INVALID when it names a service that is not there, or gives a GPU to two that are not said to share it
 */
export function demandMeant(
  services: readonly Pick<Sharer, 'name'>[],
  { gpus, sharedGpus }: Pick<Site, 'gpus' | 'sharedGpus'>,
): void {
  const known = services.map(({ name }) => name);
  if (known.length === 0) return; // models alone, for another bundle of this home
  const stranger = Object.keys(gpus).find((name) => !known.includes(name));
  if (stranger !== undefined)
    throw new SealiftError('SITE_INVALID', `site.yaml gives GPUs to ${stranger}, which is no service here`, {
      hint: didYouMean(stranger, known) ?? `services of the bundle: ${known.join(', ')}`,
    });
  const owners = new Map<string, string>();
  for (const [name, own] of Object.entries(gpus))
    for (const gpu of own) {
      const other = owners.get(gpu);
      if (other !== undefined && other !== name && !sharedGpus.includes(gpu))
        throw new SealiftError('SITE_INVALID', `site.yaml gives GPU ${gpu} to ${other} and to ${name}`, {
          hint: `each engine takes nearly all of a GPU unless it is told otherwise; when they are to share it, say so: sharedGpus: [${gpu}]`,
        });
      owners.set(gpu, name);
    }
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
