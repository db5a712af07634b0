// SPDX-License-Identifier: Apache-2.0
/**
 * What follows from the inventory and the image manifests alone (FORMAT.md §5, §6): the OCI layout, the
 * docker-archive index, the manifests of models and configuration files, and the list of blobs in archive order.
 * Writer and reader call the same function; the reader refuses any difference, because classic Docker engines
 * believe manifest.json and containerd believes index.json.
 */
import { SealiftError } from '../errors.ts';
import { canonicalJson } from '../json.ts';
import { digestOf, type Digest, type Expected } from '../store/digest.ts';
import type { Descriptor, Inventory } from './inventory.ts';
import type { ImageManifest } from './oci.ts';
import { blobName } from './sums.ts';

const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const INDEX = 'application/vnd.oci.image.index.v1+json';
/** CNCF ModelPack model-spec v0.0.7. */
const MODEL = 'application/vnd.cncf.model';
const CONFIGS = 'application/vnd.sealift.configs.v1';
const EMPTY = { mediaType: 'application/vnd.oci.empty.v1+json', bytes: Buffer.from('{}') };
const REF_NAME = 'org.opencontainers.image.ref.name';
const TITLE = 'org.opencontainers.image.title';

export interface Layout {
  /** `oci-layout`, `index.json`, `manifest.json`. */
  documents: ReadonlyMap<'oci-layout' | 'index.json' | 'manifest.json', Buffer>;
  /** Blobs that we write ourselves: manifests and configs of models and configuration files. */
  generated: ReadonlyMap<Digest, Buffer>;
  /** Manifests and configs, by digest: first in the archive, so that a reader finds all structure at its start. */
  meta: readonly Expected[];
  /** Layers and files, by digest, without those that are in `meta` already and those that a delta leaves out. */
  content: readonly Expected[];
}

/**
 * @param manifests the parsed manifest of every image of the inventory, by digest
 * @throws {SealiftError} BUNDLE_MALFORMED when one digest is claimed with two sizes
 */
export function deriveLayout(inventory: Inventory, manifests: ReadonlyMap<Digest, ImageManifest>): Layout {
  const blobs = new BlobSet();
  const entries = [
    ...inventory.images.map((image) =>
      imageEntry(image, inventory.platform, manifests.get(image.manifest.digest)!, blobs),
    ),
    ...inventory.models.map((model) => modelEntry(model, inventory, blobs)),
    ...(inventory.configs.length > 0 ? [configsEntry(inventory, blobs)] : []),
  ];
  const documents = new Map([
    ['oci-layout', canonicalJson({ imageLayoutVersion: '1.0.0' })],
    ['index.json', canonicalJson({ schemaVersion: 2, mediaType: INDEX, manifests: entries })],
    [
      'manifest.json',
      canonicalJson(
        inventory.images.map((image) => archiveEntry(image.ref, manifests.get(image.manifest.digest)!)),
      ),
    ],
  ] as const);
  const { meta, content } = blobs.ordered();
  return { documents, generated: blobs.generated, meta, content: withoutOmitted(content, inventory) };
}

/** A delta leaves out layers and files only: what describes them always travels (FORMAT.md §4.7). */
function withoutOmitted(content: readonly Expected[], { base }: Inventory): readonly Expected[] {
  if (base === undefined) return content;
  const sizes = new Map(content.map(({ digest, size }) => [digest, size]));
  for (const { digest, size } of base.omits) {
    if (sizes.get(digest) !== size)
      throw new SealiftError(
        'BUNDLE_MALFORMED',
        `it leaves out ${digest}, which is no layer or file of ${size} bytes of it`,
      );
  }
  const omitted = new Set(base.omits.map(({ digest }) => digest));
  return content.filter(({ digest }) => !omitted.has(digest));
}

/** Collects blobs, each once, and refuses one digest with two sizes. */
class BlobSet {
  readonly generated = new Map<Digest, Buffer>();
  readonly #meta = new Map<Digest, Expected>();
  readonly #content = new Map<Digest, Expected>();

  meta(blob: Expected): void {
    this.#put(this.#meta, blob);
  }

  content(blob: Expected): void {
    this.#put(this.#content, blob);
  }

  write(bytes: Buffer): Expected {
    const blob = { digest: digestOf(bytes), size: bytes.length };
    this.generated.set(blob.digest, bytes);
    this.meta(blob);
    return blob;
  }

  ordered(): Pick<Layout, 'meta' | 'content'> {
    const sorted = (blobs: Iterable<Expected>): Expected[] =>
      [...blobs].sort((a, b) => (a.digest < b.digest ? -1 : 1));
    const content = [...this.#content.values()].filter(({ digest }) => !this.#meta.has(digest));
    return { meta: sorted(this.#meta.values()), content: sorted(content) };
  }

  #put(into: Map<Digest, Expected>, { digest, size }: Expected): void {
    const known = this.#meta.get(digest) ?? this.#content.get(digest);
    if (known && known.size !== size) {
      throw new SealiftError(
        'BUNDLE_MALFORMED',
        `${digest} is claimed with ${known.size} and with ${size} bytes`,
      );
    }
    into.set(digest, { digest, size });
  }
}

function imageEntry(
  image: Inventory['images'][number],
  platform: string,
  manifest: ImageManifest,
  blobs: BlobSet,
): unknown {
  blobs.meta(image.manifest);
  blobs.meta(manifest.config);
  for (const layer of manifest.layers) blobs.content(layer);
  const [os, architecture] = platform.split('/');
  return {
    ...image.manifest,
    platform: { os, architecture },
    annotations: { 'io.containerd.image.name': image.ref, [REF_NAME]: image.ref },
  };
}

function archiveEntry(ref: string, manifest: ImageManifest): unknown {
  return {
    Config: blobName(manifest.config.digest),
    RepoTags: [ref],
    Layers: manifest.layers.map((l) => blobName(l.digest)),
  };
}

/** One raw blob a file, so that blob digest = file sha256 = the hub's LFS oid (FORMAT.md §5.3). */
function modelEntry(model: Inventory['models'][number], inventory: Inventory, blobs: BlobSet): unknown {
  for (const file of model.files) blobs.content(file);
  const layers = model.files.map(({ path, digest, size }) => ({
    mediaType: `${MODEL}.${modelFileKind(path)}.v1.raw`,
    digest,
    size,
    annotations: { 'org.cncf.model.filepath': path, [TITLE]: path },
  }));
  const config = blobs.write(
    canonicalJson({
      descriptor: {
        name: model.name,
        revision: model.revision,
        ...(model.license === undefined ? {} : { licenses: [model.license] }),
      },
      config: {},
      modelfs: { type: 'layers', diffIds: model.files.map((file) => file.digest) },
    }),
  );
  return artifactEntry(
    `${MODEL}.manifest.v1+json`,
    { mediaType: `${MODEL}.config.v1+json`, ...config },
    layers,
    `models/${model.name}:${inventory.version}`,
    blobs,
  );
}

function configsEntry(inventory: Inventory, blobs: BlobSet): unknown {
  for (const file of inventory.configs) blobs.content(file);
  const layers = inventory.configs.map(({ name, digest, size }) => ({
    mediaType: 'application/octet-stream',
    digest,
    size,
    annotations: { [TITLE]: name },
  }));
  const config = { mediaType: EMPTY.mediaType, ...blobs.write(EMPTY.bytes) };
  return artifactEntry(CONFIGS, config, layers, `configs:${inventory.version}`, blobs);
}

function artifactEntry(
  artifactType: string,
  config: Descriptor,
  layers: readonly unknown[],
  name: string,
  blobs: BlobSet,
): unknown {
  const manifest = blobs.write(
    canonicalJson({ schemaVersion: 2, mediaType: MANIFEST, artifactType, config, layers }),
  );
  return { mediaType: MANIFEST, artifactType, ...manifest, annotations: { [REF_NAME]: name } };
}

/** ModelPack's layer kinds, by file name; what is neither weights, text nor code counts as configuration. */
function modelFileKind(path: string): 'weight' | 'weight.config' | 'doc' | 'code' {
  const name = path.slice(path.lastIndexOf('/') + 1);
  if (/\.(safetensors|gguf|bin|pt|pth|ckpt|onnx|npz)$/i.test(name)) return 'weight';
  if (/\.py$/i.test(name)) return 'code';
  if (/^(licen[cs]e|notice|readme|copying)/i.test(name) || /\.(md|txt|pdf|rst)$/i.test(name)) return 'doc';
  return 'weight.config';
}
