// SPDX-License-Identifier: Apache-2.0
/** Image references in the form that docker users write (distribution/reference grammar). */
import { SealiftError } from '../../errors.ts';
import { printable } from '../../text.ts';
import { isDigest, type Digest } from '../../store/digest.ts';

export interface Reference {
  /** As it stands in the full name: `docker.io`, `registry.example:5000`. */
  registry: string;
  /** With `library/` filled in. */
  repository: string;
  tag: string | undefined;
  digest: Digest | undefined;
}

const REGISTRY = /^[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:\d{1,5})?$/;
const REPOSITORY = /^[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$/;
const TAG = /^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$/;
const MAX_REPOSITORY_LENGTH = 255;
const DOCKER_HUB: ReadonlySet<string> = new Set(['docker.io', 'index.docker.io', 'registry-1.docker.io']);

/**
 * Parses `[registry/]repository[:tag][@sha256:…]`; a reference with neither tag nor digest means `latest`.
 * @throws {SealiftError} MANIFEST_INVALID
 */
export function parseReference(text: string): Reference {
  const at = text.indexOf('@');
  const digest = at === -1 ? undefined : text.slice(at + 1);
  const { name, tag } = splitTag(at === -1 ? text : text.slice(0, at));
  const { registry, repository } = splitRegistry(name);
  if (digest !== undefined && !isDigest(digest))
    throw invalid(text, `'${digest}' is not sha256:<64 hex digits>`);
  if (tag !== undefined && !TAG.test(tag)) throw invalid(text, `'${tag}' is not a tag`);
  if (!REGISTRY.test(registry)) throw invalid(text, `'${registry}' is not a registry host`);
  if (!REPOSITORY.test(repository) || repository.length > MAX_REPOSITORY_LENGTH) {
    const hint = repository === repository.toLowerCase() ? '' : ': repository names are lower case';
    throw invalid(text, `'${repository}' is not a repository${hint}`);
  }
  return { registry, repository, tag: tag ?? (digest === undefined ? 'latest' : undefined), digest };
}

/** The one name of a registry: lower case, and `docker.io` for each of Docker Hub's hosts. */
export function registryName(host: string): string {
  const name = host.toLowerCase();
  return DOCKER_HUB.has(name) ? 'docker.io' : name;
}

/** `registry/repository:tag`, or undefined for a reference by digest alone. */
export function fullName({ registry, repository, tag }: Reference): string | undefined {
  return tag === undefined ? undefined : `${registry}/${repository}:${tag}`;
}

/** The reference for messages, with tag and digest. */
export function describeReference(reference: Reference): string {
  const { registry, repository, tag, digest } = reference;
  return `${registry}/${repository}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`;
}

/** The host that serves a registry's API; Docker Hub's is not the one in its name. */
export function apiHost(registry: string): string {
  return registry === 'docker.io' ? 'registry-1.docker.io' : registry;
}

function splitTag(text: string): { name: string; tag: string | undefined } {
  const colon = text.lastIndexOf(':');
  if (colon <= text.lastIndexOf('/')) return { name: text, tag: undefined };
  return { name: text.slice(0, colon), tag: text.slice(colon + 1) };
}

/** The first part is a registry if it has a dot or a port, or is localhost. */
function splitRegistry(name: string): { registry: string; repository: string } {
  const slash = name.indexOf('/');
  const first = slash === -1 ? '' : name.slice(0, slash);
  const isHost = /[.:]/.test(first) || first === 'localhost';
  const registry = isHost ? registryName(first) : 'docker.io';
  const repository = isHost ? name.slice(slash + 1) : name;
  if (registry !== 'docker.io') return { registry, repository };
  return {
    registry,
    repository: repository.includes('/') ? repository : `library/${repository}`,
  };
}

function invalid(text: string, reason: string): SealiftError {
  const shown = printable(text, 300);
  return new SealiftError('MANIFEST_INVALID', `'${shown}' is not an image reference: ${reason}`, {
    hint: 'write it as registry/repository:tag, such as docker.io/library/nginx:1.29-alpine',
  });
}
