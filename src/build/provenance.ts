// SPDX-License-Identifier: Apache-2.0
/**
 * `provenance.json`: an in-toto Statement v1 with SLSA provenance v1 (slsa.dev/spec/v1.0/provenance). It says what
 * went in; Build L1, no more. Deterministic: no clock, no host, nothing but the lock and the manifest.
 */
import type { Inventory } from '../bundle/inventory.ts';
import { canonicalJson } from '../json.ts';
import { digestOf, hexOf, isDigest } from '../store/digest.ts';
import { VERSION } from '../version.ts';
import { lockBytes, type Lock, type LockedImage, type LockedModel } from './lockfile.ts';
import type { Manifest } from './manifest.ts';

const BUILD_TYPE = 'https://sealift.dev/build/v1';
const BUILDER = 'https://sealift.dev/builder/v1';
/** The hub that `pkg:huggingface` means without a repository_url (purl-spec, huggingface). */
const DEFAULT_HUB = 'https://huggingface.co';

/** A ResourceDescriptor of in-toto v1. */
interface Resource {
  name: string;
  uri?: string;
  digest?: Readonly<Record<string, string>>;
  mediaType?: string;
  annotations?: Readonly<Record<string, string>>;
}

/** The statement's bytes; its one subject is `bundle.json`, which names every blob with its sha256. */
export function provenanceOf(inventory: Inventory, manifest: Manifest, lock: Lock): Buffer {
  const subject = [{ name: 'bundle.json', digest: { sha256: hexOf(digestOf(canonicalJson(inventory))) } }];
  return canonicalJson({
    _type: 'https://in-toto.io/Statement/v1',
    subject,
    predicateType: 'https://slsa.dev/provenance/v1',
    predicate: {
      buildDefinition: {
        buildType: BUILD_TYPE,
        externalParameters: parametersOf(manifest, lock),
        resolvedDependencies: dependenciesOf(lock),
      },
      runDetails: { builder: { id: BUILDER, version: { sealift: VERSION } } },
    },
  });
}

/** What the person asked for: the two files by digest, and what shapes the content. */
function parametersOf(manifest: Manifest, lock: Lock): unknown {
  const filters = Object.entries(manifest.models).filter(([, { include, exclude }]) => include ?? exclude);
  return {
    manifest: { digest: { sha256: hexOf(lock.manifest) } },
    lock: { digest: { sha256: hexOf(digestOf(lockBytes(lock))) } },
    platform: lock.platform,
    filters: Object.fromEntries(filters.map(([name, { include, exclude }]) => [name, { include, exclude }])),
  };
}

function dependenciesOf(lock: Lock): Resource[] {
  return [
    ...lock.images.map((image) => imageResource(image, lock.platform)),
    ...lock.models.map(modelResource),
    ...lock.configs.map(({ name, digest }) => ({
      name: `configs/${name}`,
      digest: { sha256: hexOf(digest) },
    })),
  ];
}

function imageResource(image: LockedImage, platform: string): Resource {
  const { digest, mediaType } = image.manifest;
  return {
    name: `images/${image.name}`,
    uri: imagePurl(image, platform),
    digest: { sha256: hexOf(digest) },
    mediaType,
    annotations: { from: image.from, ...(image.index === undefined ? {} : { index: image.index }) },
  };
}

/** pkg:oci: no namespace, the last part of the repository as name, the digest as version (purl-spec, oci). */
function imagePurl({ ref, from, manifest }: LockedImage, platform: string): string {
  const colon = ref.lastIndexOf(':');
  const repository = ref.slice(0, colon);
  const name = repository.slice(repository.lastIndexOf('/') + 1).toLowerCase();
  // Only a registry vouches for its name; an engine's or a file's is a label that anybody can put there.
  const isRegistry = !/^(docker-daemon|oci|oci-archive):/.test(from);
  return purl(`oci/${encodeURIComponent(name)}@${encodeURIComponent(manifest.digest)}`, {
    arch: platform.split('/')[1],
    repository_url: isRegistry ? repository : undefined,
    tag: ref.slice(colon + 1),
  });
}

function modelResource({ name, hub, repo, revision, from, license }: LockedModel): Resource {
  const digest = isDigest(revision) ? { sha256: hexOf(revision) } : { gitCommit: revision };
  const annotations = { from, ...(license === undefined ? {} : { license }) };
  if (repo === undefined) return { name: `models/${name}`, digest, annotations };
  const path = repo.split('/').map(encodeURIComponent).join('/');
  const other = hub === undefined || hub.replace(/\/+$/, '') === DEFAULT_HUB ? undefined : hub;
  return {
    name: `models/${name}`,
    uri: purl(`huggingface/${path}@${encodeURIComponent(revision.toLowerCase())}`, { repository_url: other }),
    digest,
    annotations,
  };
}

/** Qualifiers sorted by key; '/' and ':' stay readable in their values (purl-spec, encoding). */
function purl(path: string, qualifiers: Readonly<Record<string, string | undefined>>): string {
  const pairs = Object.entries(qualifiers)
    .filter((pair): pair is [string, string] => pair[1] !== undefined)
    .toSorted(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, value]) => `${key}=${encodeURIComponent(value).replace(/%2F/g, '/').replace(/%3A/g, ':')}`);
  return `pkg:${path}${pairs.length === 0 ? '' : `?${pairs.join('&')}`}`;
}
