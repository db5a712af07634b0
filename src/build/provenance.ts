// SPDX-License-Identifier: Apache-2.0
/**
 * `provenance.json`: an in-toto Statement v1 with SLSA provenance v1 (slsa.dev/spec/v1.0/provenance). It says what
 * went in; Build L1, no more. Deterministic: no clock, no host, nothing but the lock and the manifest.
 */
import { describeSigner, type Inventory, type UpstreamSignature } from '../bundle/inventory.ts';
import { canonicalJson } from '../json.ts';
import { digestOf, hexOf, isDigest, type Digest } from '../store/digest.ts';
import { VERSION } from '../version.ts';
import type { Installer } from './installer.ts';
import { lockBytes, type Lock, type LockedImage, type LockedModel } from './lockfile.ts';
import { isFromRegistry, type Manifest } from './manifest.ts';
import { OMS_FILE } from './upstream/oms.ts';

/** Both are described in FORMAT.md §4.6. */
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
export function provenanceOf(
  inventory: Inventory,
  manifest: Manifest,
  lock: Lock,
  installer?: Pick<Installer, 'name' | 'digest'>,
): Buffer {
  const subject = [{ name: 'bundle.json', digest: { sha256: hexOf(digestOf(canonicalJson(inventory))) } }];
  return canonicalJson({
    _type: 'https://in-toto.io/Statement/v1',
    subject,
    predicateType: 'https://slsa.dev/provenance/v1',
    predicate: {
      buildDefinition: {
        buildType: BUILD_TYPE,
        externalParameters: parametersOf(manifest, lock),
        internalParameters: { format: inventory.apiVersion, created: lock.created },
        resolvedDependencies: dependenciesOf(lock),
      },
      runDetails: {
        builder: { id: BUILDER, version: { sealift: VERSION } },
        // No clock: two builds of one lock are one and the same, and their name is the lock's digest.
        metadata: { invocationId: lockDigest(lock) },
        byproducts: [
          ...lock.models.flatMap(ownSignatureResource),
          ...(installer === undefined ? [] : [installerResource(installer)]),
        ],
      },
    },
  });
}

/** What the person asked for: the two files by digest, and what shapes the content. */
function parametersOf(manifest: Manifest, lock: Lock): unknown {
  const filters = Object.entries(manifest.models).filter(([, { include, exclude }]) => include ?? exclude);
  return {
    manifest: { digest: { sha256: hexOf(lock.manifest) } },
    lock: { digest: { sha256: hexOf(lockDigest(lock)) } },
    platform: lock.platform,
    filters: Object.fromEntries(filters.map(([name, { include, exclude }]) => [name, { include, exclude }])),
  };
}

/** Asked for in three places, and a lock can have megabytes. */
const lockDigests = new WeakMap<Lock, Digest>();

function lockDigest(lock: Lock): Digest {
  const known = lockDigests.get(lock) ?? digestOf(lockBytes(lock));
  lockDigests.set(lock, known);
  return known;
}

function dependenciesOf(lock: Lock): Resource[] {
  return [
    {
      name: 'manifest',
      digest: { sha256: hexOf(lock.manifest) },
      annotations: { of: 'the canonical JSON of what the manifest says (FORMAT.md §7.2)' },
    },
    { name: 'lock', digest: { sha256: hexOf(lockDigest(lock)) } },
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
    annotations: {
      from: image.from,
      ...(image.index === undefined ? {} : { index: image.index }),
      ...signatureNotes(image.signature),
    },
  };
}

/** pkg:oci: no namespace, the last part of the repository as name, the digest as version (purl-spec, oci). */
function imagePurl({ ref, from, manifest }: LockedImage, platform: string): string {
  const colon = ref.lastIndexOf(':');
  const repository = ref.slice(0, colon);
  const name = repository.slice(repository.lastIndexOf('/') + 1).toLowerCase();
  // Only a registry vouches for its name; an engine's or a file's is a label that anybody can put there.
  return purl(`oci/${encodeURIComponent(name)}@${encodeURIComponent(manifest.digest)}`, {
    arch: platform.split('/')[1],
    repository_url: isFromRegistry(from) ? repository : undefined,
    tag: ref.slice(colon + 1),
  });
}

/** What was verified when the lock was made. Here, not among the byproducts: it speaks of what went in. */
function signatureNotes(signature: UpstreamSignature | undefined): Record<string, string> {
  if (signature === undefined) return {};
  const { kind, over, by, anchor } = signature;
  return { signedBy: describeSigner(by), signatureKind: kind, signatureOver: over, signatureAnchor: anchor };
}

/** The model.sig that was made for a model. */
function ownSignatureResource({ name, files, oms }: LockedModel): Resource[] {
  const file = files.find(({ path }) => path === OMS_FILE);
  if (oms === undefined || file === undefined) return [];
  const key = digestOf(Buffer.from(oms.key, 'base64'));
  return [
    { name: `models/${name}/${file.path}`, digest: { sha256: hexOf(file.digest) }, annotations: { key } },
  ];
}

/** The program that crosses beside the bundle. */
const installerResource = ({ name, digest }: Pick<Installer, 'name' | 'digest'>): Resource => ({
  name,
  digest: { sha256: hexOf(digest) },
  annotations: { of: 'the program that crosses beside the bundle, to check and install it' },
});

function modelResource({ name, hub, repo, revision, from, license, signature }: LockedModel): Resource {
  const digest = isDigest(revision) ? { sha256: hexOf(revision) } : { gitCommit: revision };
  const annotations = {
    from,
    ...(license === undefined ? {} : { license }),
    ...signatureNotes(signature),
  };
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
