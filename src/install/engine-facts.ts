// SPDX-License-Identifier: Apache-2.0
/** What a container engine says of itself, and what follows from it. */
import type Docker from 'dockerode';
import { plainLine } from './text.ts';

/** Docker, or Podman that speaks Docker's API. What follows from it is decided where engines are asked, and nowhere else. */
export type EngineKind = 'docker' | 'podman';

/** Oldest engine API that is supported: Docker 20.10. */
export const MIN_API: ApiVersion = [1, 41];
/** First API whose classic engines unpack zstd layers: Docker 23. */
const ZSTD_API: ApiVersion = [1, 42];
/** First API that says for each manifest of an image whether its content is there: Docker 28. */
export const MANIFESTS_API: ApiVersion = [1, 48];

/** Oldest Podman that this was tried with, that of Debian 12. */
export const MIN_PODMAN: ApiVersion = [4, 3];

type ApiVersion = readonly [number, number];

/**
 * `classic` engines know an image by the digest of its config, engines with the containerd store by the digest
 * of its manifest.
 */
export type StoreKind = 'classic' | 'containerd';

export interface EngineFacts {
  kind: EngineKind;
  version: string;
  apiVersion: string;
  store: StoreKind;
  /** Such as `linux/amd64`. */
  platform: string;
  /** Podman does, and then cannot export the image, which a delta may need; so it gets such layers unpacked, too. */
  readsZstd: boolean;
  /** Whether it heeds a request for GPUs as Compose makes it; Podman knows CDI alone, and starts the container without. */
  takesGpuRequests: boolean;
  /** Names of runtimes that containers can be run with. */
  runtimes: readonly string[];
  /** Version of control groups, `1` or `2`, when the engine says. */
  cgroups: string | undefined;
  /** Such as `apparmor`, `seccomp`, `selinux`, `rootless`. */
  security: readonly string[];
  /** Whether ports are opened with the rights of a user; Docker's helper without root may have been given more. */
  opensPortsAsUser: boolean;
  /** The engine's data folder as the engine names it; may not exist here when the engine runs elsewhere. */
  rootFolder: string;
}

export interface EngineInfo {
  Runtimes?: Record<string, unknown>;
  CgroupVersion?: string;
  SecurityOptions?: string[];
  /** Of Podman, which does not name it among the options. */
  Rootless?: boolean;
  DriverStatus?: [string, string][];
  DockerRootDir?: string;
}

export function factsOf(version: Docker.DockerVersion, info: EngineInfo): EngineFacts {
  const containerd = (info.DriverStatus ?? []).some(
    ([key, value]) => key === 'driver-type' && value === 'io.containerd.snapshotter.v1',
  );
  const kind = isPodman(version) ? 'podman' : 'docker';
  return {
    kind,
    version: plainLine(version.Version, 64),
    apiVersion: plainLine(version.ApiVersion, 16),
    store: containerd ? 'containerd' : 'classic',
    platform: `${version.Os}/${version.Arch}`,
    readsZstd: kind === 'docker' && (containerd || atLeast(version.ApiVersion, ZSTD_API)),
    takesGpuRequests: kind === 'docker',
    runtimes: Object.keys(info.Runtimes ?? {}),
    cgroups: info.CgroupVersion,
    security: [
      ...(info.SecurityOptions ?? []).map((option) => /^name=([^,]+)/.exec(option)?.[1] ?? option),
      ...(info.Rootless === true ? ['rootless'] : []),
    ],
    opensPortsAsUser: kind === 'podman' && info.Rootless === true,
    rootFolder: info.DockerRootDir ?? '',
  };
}

/** In a few words. Podman has one kind of image store. */
export const describeEngine = ({ kind, version, store }: EngineFacts): string =>
  kind === 'podman' ? `Podman ${version}` : `${version}, ${store} store`;

const isPodman = ({ Components }: Docker.DockerVersion): boolean =>
  (Components ?? []).some(({ Name }) => Name === 'Podman Engine');

export function atLeast(version: string, [major, minor]: ApiVersion): boolean {
  const [haveMajor = 0, haveMinor = 0] = version.split('.').map(Number);
  return haveMajor > major || (haveMajor === major && haveMinor >= minor);
}
