// SPDX-License-Identifier: Apache-2.0
/** How a container differs from what compose.yaml asks for. Values of variables are never said: some are secrets. */
import { parse } from 'yaml';
import * as z from 'zod';
import type { Anatomy } from '../anatomy.ts';
import type { EngineImage } from '../engine-client.ts';
import { BUNDLE_LABEL, FILES_LABEL, RELEASE_LABEL } from './compose.ts';

const Definition = z.object({
  image: z.string(),
  entrypoint: z.array(z.string()).optional(),
  command: z.array(z.string()).default([]),
  environment: z.record(z.string(), z.string()).default({}),
  user: z.string().default(''),
  networks: z.union([
    z.array(z.string()),
    z.record(z.string(), z.unknown()).transform((n) => Object.keys(n)),
  ]),
  ports: z.array(z.object({ target: z.number(), published: z.string(), host_ip: z.string() })).default([]),
  read_only: z.boolean().default(false),
  cap_add: z.array(z.string()).default([]),
  deploy: z
    .object({
      resources: z.object({
        reservations: z.object({ devices: z.array(z.object({ device_ids: z.array(z.string()) })) }),
      }),
    })
    .optional(),
  volumes: z.array(z.object({ source: z.string(), target: z.string(), read_only: z.boolean() })).default([]),
  labels: z.object({ [BUNDLE_LABEL]: z.string(), [RELEASE_LABEL]: z.string(), [FILES_LABEL]: z.string() }),
});
export type Definition = z.infer<typeof Definition>;

const ComposeFile = z.object({ services: z.record(z.string(), Definition) });

/** The services of a compose.yaml of ours, with dollars as they are meant. */
export function definitionsOf(text: string): Map<string, Definition> {
  const { services } = ComposeFile.parse(parse(text));
  return new Map(Object.entries(services).map(([name, service]) => [name, meant(service) as Definition]));
}

/** Compose reads `$$` as a dollar. */
function meant(value: unknown): unknown {
  if (typeof value === 'string') return value.replaceAll('$$', '$');
  if (Array.isArray(value)) return value.map(meant);
  if (value === null || typeof value !== 'object') return value;
  return Object.fromEntries(Object.entries(value).map(([key, v]) => [key, meant(v)]));
}

export interface Compared {
  project: string;
  definition: Definition;
  container: Anatomy;
  image: EngineImage | undefined;
  /** The variable that carries the engine's key, and what it must be. */
  secret: { variable: string; value: string } | undefined;
}

/** As the engine calls them, sorted. */
export const wantedNetworks = ({ networks }: Definition, project: string): string[] =>
  networks.map((name) => `${project}_${name}`).toSorted();

/** One line for each difference; none when the container is what was asked for. */
export function containerDrift(compared: Compared): string[] {
  const { definition, container, image, project } = compared;
  const networks = wantedNetworks(definition, project);
  const ports = definition.ports.map((p) => `${p.host_ip}:${p.published}->${p.target}`);
  return [
    ...differs('arguments', container.command, definition.command),
    ...differs('entry point', container.entrypoint, definition.entrypoint ?? image?.entrypoint ?? []),
    ...differs('networks', container.networks, networks),
    ...differs('published ports', container.ports, ports),
    ...differs('added capabilities', container.capabilities, definition.cap_add.toSorted()),
    ...(definition.user === '' || container.user === definition.user
      ? []
      : [`it runs as user ${container.user || 'of the image'}, not ${definition.user}`]),
    ...(container.privileged ? ['it is privileged'] : []),
    ...container.hostNamespaces.map(
      (name) => `it shares the ${name} namespace of the host or of another container`,
    ),
    ...(container.noNewPrivileges ? [] : ['it may gain privileges']),
    ...(container.dropsAll ? [] : ['it kept the capabilities that every container gets']),
    ...container.unprotected.map((option) => `a protection is switched off: ${option}`),
    ...differs('devices', container.devices, []),
    ...differs(
      'GPUs',
      container.gpus,
      definition.deploy?.resources.reservations.devices.flatMap((d) => d.device_ids) ?? [],
    ),
    ...(definition.read_only && !container.readOnlyRoot ? ['its root file system is writable'] : []),
    ...mountDrift(compared),
    ...variableDrift(compared),
  ];
}

function differs(what: string, found: readonly string[], wanted: readonly string[]): string[] {
  const same = found.length === wanted.length && found.every((value, i) => value === wanted[i]);
  return same ? [] : [`other ${what}: ${JSON.stringify(found)}, not ${JSON.stringify(wanted)}`];
}

function mountDrift({ definition, container, image }: Compared): string[] {
  const say = (m: { source: string; target: string; readOnly: boolean }): string =>
    `${m.source} on ${m.target}${m.readOnly ? '' : ' (writable)'}`;
  const wanted = definition.volumes.map((v) => say({ ...v, readOnly: v.read_only }));
  // A volume without a name at a place that the image declares; Docker makes one by itself.
  const own = container.mounts.filter((m) => m.kind !== 'volume' || !image?.volumes.includes(m.target));
  const found = own.filter((m) => m.kind !== 'tmpfs').map(say);
  return [
    ...wanted.filter((mount) => !found.includes(mount)).map((mount) => `it lacks the mount of ${mount}`),
    ...found.filter((mount) => !wanted.includes(mount)).map((mount) => `it has another mount: ${mount}`),
  ];
}

function variableDrift({ definition, container, image, secret }: Compared): string[] {
  const wanted = new Map(Object.entries(definition.environment));
  if (secret !== undefined) wanted.set(secret.variable, secret.value);
  const found = new Map(container.env.map((line) => split(line)));
  const given = new Map([...container.ownEnv, ...(image?.env ?? [])].map((line) => split(line)));
  return [
    ...[...wanted].flatMap(([name, value]) =>
      found.get(name) === value ? [] : [`variable ${name} is not what it was started with`],
    ),
    ...[...found].flatMap(([name, value]) =>
      wanted.has(name) || given.get(name) === value
        ? []
        : [`it has a variable ${name} that was not asked for`],
    ),
  ];
}

const split = (line: string): [string, string] => {
  const at = line.indexOf('=');
  return at === -1 ? [line, ''] : [line.slice(0, at), line.slice(at + 1)];
};
