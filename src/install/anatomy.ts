// SPDX-License-Identifier: Apache-2.0
/** What a container engine says of how a container was made. */
import type Docker from 'dockerode';

/** How a container was made, as far as it decides what it runs and what it can reach. */
export interface Anatomy {
  entrypoint: readonly string[];
  command: readonly string[];
  /** `NAME=VALUE`; there are secrets among them. */
  env: readonly string[];
  /** Those of them that the engine gives every container by itself. */
  ownEnv: readonly string[];
  user: string;
  mounts: readonly { kind: string; source: string; target: string; readOnly: boolean }[];
  networks: readonly string[];
  /** `address:port->port`, as the host publishes them. */
  ports: readonly string[];
  privileged: boolean;
  readOnlyRoot: boolean;
  capabilities: readonly string[];
  /** Whether every capability was dropped before some were added. */
  dropsAll: boolean;
  noNewPrivileges: boolean;
  /** Options that switch a protection off, such as `seccomp=unconfined`. */
  unprotected: readonly string[];
  /** Devices of the host, and GPUs as they were asked for: indices or UUIDs. */
  devices: readonly string[];
  gpus: readonly string[];
  /** Namespaces that it shares with the host or with another container, such as `network`. */
  hostNamespaces: readonly string[];
}

export const listOf = (value: string | string[] | null | undefined): string[] =>
  typeof value === 'string' ? [value] : (value ?? []);

export const networksOf = ({ NetworkSettings }: Docker.ContainerInspectInfo): string[] =>
  Object.keys(NetworkSettings.Networks).sort();

export function anatomyOf(container: Docker.ContainerInspectInfo): Anatomy {
  const { Config, HostConfig, Mounts } = container;
  const { PidMode, IpcMode, NetworkMode, UTSMode, UsernsMode } = HostConfig;
  const modes = { pid: PidMode, ipc: IpcMode, network: NetworkMode, uts: UTSMode, user: UsernsMode };
  const published = (HostConfig.PortBindings ?? {}) as Record<
    string,
    { HostIp?: string; HostPort?: string }[]
  >;
  return {
    entrypoint: listOf(Config.Entrypoint),
    command: listOf(Config.Cmd),
    env: Config.Env ?? [],
    ownEnv: [],
    user: Config.User,
    mounts: Mounts.map((m) => ({
      kind: m.Type ?? '',
      source: m.Source,
      target: m.Destination,
      readOnly: !m.RW,
    })),
    networks: networksOf(container),
    ports: Object.entries(published)
      .flatMap(([port, hosts]) =>
        hosts.map((h) => `${h.HostIp ?? ''}:${h.HostPort ?? ''}->${port.split('/')[0]}`),
      )
      .sort(),
    privileged: HostConfig.Privileged === true,
    readOnlyRoot: HostConfig.ReadonlyRootfs === true,
    capabilities: ((HostConfig.CapAdd ?? []) as string[]).map((name) => name.replace(/^CAP_/, '')).sort(),
    dropsAll: ((HostConfig.CapDrop ?? []) as string[]).some((name) => name === 'ALL'),
    unprotected: ((HostConfig.SecurityOpt ?? []) as string[]).filter((o) =>
      /unconfined|label[:=]disable/.test(o),
    ),
    devices: ((HostConfig.Devices ?? []) as { PathOnHost: string }[]).map((d) => d.PathOnHost).sort(),
    gpus: ((HostConfig.DeviceRequests ?? []) as { DeviceIDs?: string[]; Count?: number }[]).flatMap(
      (r) => r.DeviceIDs ?? [`any ${r.Count ?? 0}`],
    ),
    noNewPrivileges: ((HostConfig.SecurityOpt ?? []) as string[]).some((o) =>
      /^no-new-privileges(:true)?$/.test(o),
    ),
    hostNamespaces: Object.entries(modes).flatMap(([name, mode]) =>
      typeof mode === 'string' && /^(host$|container:|ns:)/.test(mode) ? [name] : [],
    ),
  };
}

/** What Podman says of a container in its own API, and not in Docker's. */
export interface PodmanDetails {
  /** null: none */
  BoundingCaps: string[] | null;
}

/** Homes of users that the image does not know, of root and of nobody. Another one was asked for by somebody. */
const OWN_HOMES = ['HOME=/', 'HOME=/root', 'HOME=/home', 'HOME=/nonexistent'];

/**
 * Podman tells capabilities as differences to the ones that its own configuration gives, an entry point as one line
 * that it splits at spaces, and variables with those that it adds. The bounding set, the command line and the
 * container's ID are told as they are.
 */
export function podmanAnatomyOf(
  container: Docker.ContainerInspectInfo,
  { BoundingCaps }: PodmanDetails,
): Anatomy {
  const anatomy = anatomyOf(container);
  const argv = [container.Path, ...container.Args];
  const own = ['container=podman', 'TERM=xterm', `HOSTNAME=${container.Config.Hostname}`, ...OWN_HOMES];
  return {
    ...anatomy,
    entrypoint: argv.slice(0, argv.length - anatomy.command.length),
    ownEnv: anatomy.env.filter((line) => own.includes(line)),
    capabilities: (BoundingCaps ?? []).map((name) => name.replace(/^CAP_/, '')).sort(),
    dropsAll: true, // nothing but the bounding set is left
  };
}
