// SPDX-License-Identifier: Apache-2.0
/**
 * `bundle.json`, the inventory (FORMAT.md §4): what the bundle is, what every blob is for, where it came from.
 * Everything else that describes content (`index.json`, `manifest.json`, the model manifests) is derived from
 * it and from the image manifests, and compared.
 */
import * as z from 'zod';
import { SealiftError } from '../errors.ts';
import { canonicalJson, parseJson } from '../json.ts';
import { isDigest, type Digest } from '../store/digest.ts';
import { MAX_DOCUMENT_BYTES } from './limits.ts';

/** Names of bundles, images, models and services: lower-case DNS labels. */
export const Name = z
  .string()
  .regex(
    /^[a-z]([a-z0-9.-]{0,61}[a-z0-9])?$/,
    "expected a name of a-z, 0-9, '-' and '.', starting with a letter, at most 63 long",
  );

/** Semantic version 2.0.0, without build metadata (two builds of one version would compare equal). */
export const Version = z
  .string()
  .max(64)
  .regex(
    /^(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?$/,
    "expected a semantic version such as '1.4.0'",
  );

export const Platform = z.enum(['linux/amd64', 'linux/arm64']);

/** Longest path of a carried file, in UTF-8 bytes. */
const MAX_PATH_BYTES = 1024;

/** Safe without a closer look, as nearly all are: ASCII, no part begins with a dot, none is longer than 255 bytes. */
const PLAIN_PATH = /^(?:[\w-][\w.-]{0,200}\/)*[\w-][\w.-]{0,200}$/;

/** True for a relative, normalised path that cannot climb out, hide or confuse a terminal (FORMAT.md §4.3). */
export function isSafePath(path: string): boolean {
  if (path.length <= MAX_PATH_BYTES && PLAIN_PATH.test(path)) return true;
  if (path.length === 0 || Buffer.byteLength(path) > MAX_PATH_BYTES || path.startsWith('/')) return false;
  if (/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}\\]/u.test(path)) return false;
  return path
    .split('/')
    .every((part) => part !== '' && part !== '.' && part !== '..' && Buffer.byteLength(part) <= 255);
}

export const SafePath = z
  .string()
  .refine(isSafePath, 'expected a relative path without .., control characters or backslashes');
export const DigestSchema = z.custom<Digest>(isDigest, 'expected sha256:<64 hex digits>');
export const Size = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

/** Printable text from outside: one line, bounded, no control or bidirectional characters. */
export const Line = z
  .string()
  .max(2048)
  .regex(/^[^\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]*$/u, 'expected one line of printable text');

const LABEL = '[a-z0-9]+(?:-+[a-z0-9]+)*';
const HOST = `(?:localhost|${LABEL}(?:\\.${LABEL})+|${LABEL}(?:\\.${LABEL})*(?=:))(?::[0-9]{1,5})?`;
const PART = '[a-z0-9]+(?:(?:\\.|__?|-+)[a-z0-9]+)*';
const IMAGE_REF = new RegExp(`^${HOST}(?:/${PART})+:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`);

/**
 * A full image reference with a tag, `registry.example:5000/group/name:tag`, in the grammar of the distribution
 * project (reference.go) and in the one spelling that engines normalise to, so that two references are one tag
 * exactly when they are equal. It goes into paths of the engine's API: nothing but this grammar may.
 */
export function isImageRef(ref: string): boolean {
  if (ref.length > 384 || !IMAGE_REF.test(ref)) return false;
  const [host = '', ...path] = ref.split('/');
  const port = /:(\d+)$/.exec(host)?.[1];
  if (port !== undefined && Number(port) > 65_535) return false;
  return host !== 'index.docker.io' && (host !== 'docker.io' || path.length >= 2);
}

export const ImageRef = z
  .string()
  .refine(
    isImageRef,
    "expected a full image reference 'registry/repository:tag', as docker.io/library/nginx:1.29",
  );

/**
 * A list that is read up to its first wrong element. z.array has something to say about each: half a million `{}`
 * would take gigabytes, and one sentence is all that is shown.
 * @param quick what the schema would read, or undefined where it has to be asked
 */
function list<T>(
  item: z.ZodType<T>,
  least = 0,
  quick: (value: unknown) => T | undefined = () => undefined,
): z.ZodType<T[]> {
  return z
    .array(z.unknown())
    .min(least)
    .transform((values, context) => {
      const read: T[] = [];
      for (const [i, value] of values.entries()) {
        const known = quick(value);
        if (known !== undefined) {
          read.push(known);
          continue;
        }
        const parsed = item.safeParse(value);
        if (!parsed.success) {
          for (const { path, message } of parsed.error.issues)
            context.addIssue({ code: 'custom', path: [i, ...path], message });
          return z.NEVER;
        }
        read.push(parsed.data);
      }
      return read;
    });
}

/** Value of an engine option; `true` stands for a bare flag. Templates have line feeds and tabs; no argument can have NUL. */
const OptionValue = z.union([
  z
    .string()
    .max(65_536)
    // oxlint-disable-next-line no-control-regex -- they are what is refused
    .regex(/^[^\x00-\x08\x0b-\x1f\x7f]*$/, 'expected text without control characters'),
  z.number(),
  z.boolean(),
]);

/** A service of the stack, the same in the manifest and in the inventory. */
export const ServiceSpec = z.strictObject({
  engine: Name.describe('Inference engine: vllm, sglang, llama-cpp or localai'),
  image: Name.describe('Key of the image under images'),
  model: Name.describe('Key of the model under models'),
  gpus: z.number().int().min(0).max(64).default(0).describe('Number of GPUs that each replica gets'),
  replicas: z
    .number()
    .int()
    .min(1)
    .max(16)
    .optional()
    .describe('How many of it run side by side, each with GPUs of its own; one by default'),
  options: z
    .record(
      z
        .string()
        .regex(/^[a-z][a-z0-9-]*$/, 'expected an option name without leading dashes, such as max-model-len'),
      OptionValue,
    )
    .default({})
    .describe(
      "The engine's own options, without the leading --. A path /models/NAME mounts that model, too; the bundle's configs are under /configs",
    ),
});
export type ServiceSpec = z.infer<typeof ServiceSpec>;

export const GatewaySpec = z.strictObject({ image: Name.describe('Key of the nginx image under images') });

export const MonitoringSpec = z.strictObject({
  prometheus: Name.describe('Key of the Prometheus image under images'),
  grafana: Name.optional().describe('Key of the Grafana image under images'),
  nodeExporter: Name.optional().describe('Key of the node_exporter image under images: space on disks'),
  dcgmExporter: Name.optional().describe("Key of NVIDIA's dcgm-exporter image under images: memory of GPUs"),
});
export type MonitoringSpec = z.infer<typeof MonitoringSpec>;

const Descriptor = z.strictObject({ mediaType: Line, digest: DigestSchema, size: Size });
export type Descriptor = z.infer<typeof Descriptor>;

/** Who signed something upstream, in the terms in which the manifest named them (FORMAT.md §4.5). */
const UpstreamSigner = z.union([
  DigestSchema.describe("sha256 of the key's DER SubjectPublicKeyInfo"),
  z.strictObject({ identity: Line, issuer: Line }),
  z.strictObject({
    subject: Line.describe("The signing certificate's, for people; the two digests are what counts"),
    certificate: DigestSchema.describe('sha256 of the signing certificate, DER'),
    root: DigestSchema.describe('sha256 of the root certificate that it leads to, DER'),
  }),
]);
export type UpstreamSigner = z.infer<typeof UpstreamSigner>;

const UpstreamSignature = z.strictObject({
  kind: z.enum(['sigstore-bundle', 'simple-signing', 'oms']),
  over: DigestSchema.describe(
    "The signed digest: of the image's index or manifest, or the root digest of OMS",
  ),
  by: UpstreamSigner,
  anchor: DigestSchema.describe('sha256 of the file from which the lock knew whom to trust'),
});
/** A signature of the image's or model's own maker, as it was verified when the lock was made. */
export type UpstreamSignature = z.infer<typeof UpstreamSignature>;

/** A signer for people: a key by its fingerprint, a certificate by its name and what makes it unmistakable. */
export function describeSigner(by: UpstreamSigner): string {
  if (typeof by === 'string') return `key ${by}`;
  return 'identity' in by ? `${by.identity} (${by.issuer})` : `${by.subject} (certificate ${by.certificate})`;
}

const InventoryImage = z.strictObject({
  name: Name,
  ref: ImageRef.describe('The reference under which the engine knows the image after loading'),
  from: Line.describe('Where the lock found it'),
  manifest: Descriptor.describe("The platform's manifest"),
  index: DigestSchema.optional().describe('The multi-platform index that the tag named, when there was one'),
  signature: UpstreamSignature.optional(),
});
export type InventoryImage = z.infer<typeof InventoryImage>;

export const ModelFile = z.strictObject({ path: SafePath, digest: DigestSchema, size: Size });
export type ModelFile = z.infer<typeof ModelFile>;

/** What the schema reads, at a tenth of its time: a model may have a hundred thousand files. Undefined when in doubt. */
export function quickModelFile(value: unknown): ModelFile | undefined {
  if (typeof value !== 'object' || value === null || Object.keys(value).length !== 3) return undefined;
  const { path, digest, size } = value as Readonly<Record<string, unknown>>;
  if (typeof path !== 'string' || !isDigest(digest) || typeof size !== 'number') return undefined;
  return Number.isSafeInteger(size) && size >= 0 && isSafePath(path) ? { path, digest, size } : undefined;
}

export const InventoryModel = z.strictObject({
  name: Name,
  from: Line,
  hub: Line.optional().describe('Base URL of the hub'),
  repo: Line.optional(),
  revision: Line.describe('Commit of the hub, or sha256 over the file list for local files'),
  license: Line.optional(),
  signature: UpstreamSignature.optional(),
  files: list(ModelFile, 1, quickModelFile).describe('Sorted by path, by UTF-16 code unit'),
});
export type InventoryModel = z.infer<typeof InventoryModel>;

const InventoryConfig = z.strictObject({ name: SafePath, digest: DigestSchema, size: Size });

/** What a delta builds on: the enclave must hold every blob that is left out (FORMAT.md §4.7). */
const DeltaBase = z.strictObject({
  name: Name,
  version: Version,
  digest: DigestSchema.optional().describe('sha256 of its SHA256SUMS, when it was known'),
  omits: list(z.strictObject({ digest: DigestSchema, size: Size })).describe('Sorted by digest'),
});
export type DeltaBase = z.infer<typeof DeltaBase>;

export const Inventory = z.strictObject({
  apiVersion: z.literal('sealift.dev/v1'),
  kind: z.literal('Inventory'),
  name: Name,
  version: Version,
  channel: Name.optional().describe('For which hosts it is meant; a trust policy can ask for one'),
  platform: Platform,
  created: z.iso.datetime({ precision: 0 }).describe("The lock's date, UTC, whole seconds"),
  images: list(InventoryImage),
  models: list(InventoryModel),
  configs: list(InventoryConfig),
  services: list(ServiceSpec.extend({ name: Name })),
  gateway: GatewaySpec.optional(),
  monitoring: MonitoringSpec.optional(),
  base: DeltaBase.optional(),
});
export type Inventory = z.infer<typeof Inventory>;

/**
 * The inventory from the bytes of `bundle.json`, which must be their own canonical form.
 * @throws {SealiftError} BUNDLE_UNSUPPORTED for a newer apiVersion, BUNDLE_MALFORMED
 */
export function parseInventory(bytes: Buffer): Inventory {
  const json = parseJson(bytes, 'bundle.json', 'BUNDLE_MALFORMED', MAX_DOCUMENT_BYTES);
  const version = (json as { apiVersion?: unknown } | null)?.apiVersion;
  if (typeof version === 'string' && version !== 'sealift.dev/v1') {
    throw new SealiftError(
      'BUNDLE_UNSUPPORTED',
      'the bundle is in a format that this sealift does not read',
      {
        hint: 'carry in a newer sealift',
      },
    );
  }
  const parsed = Inventory.safeParse(json);
  if (!parsed.success)
    throw malformed(
      `bundle.json: ${parsed.error.issues[0]?.path.map(String).join('.')}: ${parsed.error.issues[0]?.message}`,
    );
  if (!canonicalJson(parsed.data).equals(bytes)) throw malformed('bundle.json is not in canonical form');
  checkInventory(parsed.data);
  return parsed.data;
}

/** What the schema cannot say (FORMAT.md §4.2): sorted, unique, and references that lead somewhere. */
function checkInventory(inventory: Inventory): void {
  const sorted = (what: string, keys: string[]): void => {
    if (keys.some((key, i) => i > 0 && keys[i - 1]! >= key))
      throw malformed(`${what} of bundle.json are not sorted and unique`);
  };
  sorted(
    'images',
    inventory.images.map((i) => i.name),
  );
  sorted(
    'models',
    inventory.models.map((m) => m.name),
  );
  sorted(
    'configs',
    inventory.configs.map((c) => c.name),
  );
  sorted(
    'services',
    inventory.services.map((s) => s.name),
  );
  sorted(
    'omitted blobs',
    (inventory.base?.omits ?? []).map((blob) => blob.digest),
  );
  for (const model of inventory.models)
    sorted(
      `files of model ${model.name}`,
      model.files.map((f) => f.path),
    );
  for (const paths of [
    ...inventory.models.map((m) => m.files.map((f) => f.path)),
    inventory.configs.map((c) => c.name),
  ]) {
    const both = fileAndFolder(paths);
    if (both !== undefined) throw malformed(`${both} is a file and a folder`);
  }
  if (new Set(inventory.images.map((i) => i.ref)).size !== inventory.images.length)
    throw malformed('two images have one reference');
  const images = new Set(inventory.images.map((i) => i.name));
  const models = new Set(inventory.models.map((m) => m.name));
  for (const service of inventory.services) {
    if (!images.has(service.image) || !models.has(service.model))
      throw malformed(`service ${service.name} names what the bundle does not hold`);
  }
  if (inventory.gateway && !images.has(inventory.gateway.image))
    throw malformed('the gateway names an image that the bundle does not hold');
  if (Object.values(inventory.monitoring ?? {}).some((image) => image !== undefined && !images.has(image)))
    throw malformed('monitoring names an image that the bundle does not hold');
}

/** A path that is also the folder of another one, which no disk can hold; undefined when there is none. */
export function fileAndFolder(paths: readonly string[]): string | undefined {
  const files = new Set(paths);
  return paths.flatMap((path) => foldersOf(path)).find((folder) => files.has(folder));
}

/** `a/b/c` → `a`, `a/b`. */
function foldersOf(path: string): string[] {
  const parts = path.split('/').slice(0, -1);
  return parts.map((_, i) => parts.slice(0, i + 1).join('/'));
}

/** What a blob is for, in words, for messages. */
export function purposeOf(digest: Digest, inventory: Inventory): string {
  for (const model of inventory.models) {
    const file = model.files.find((f) => f.digest === digest);
    if (file) return `model ${model.name}: ${file.path}`;
  }
  const config = inventory.configs.find((c) => c.digest === digest);
  if (config) return `config ${config.name}`;
  const image = inventory.images.find((i) => i.manifest.digest === digest);
  return image ? `manifest of image ${image.name}` : 'image layer or config';
}

const malformed = (why: string): SealiftError =>
  new SealiftError('BUNDLE_MALFORMED', `the bundle is malformed: ${why}`, {
    hint: 'tampered with, or written by another program: do not use this copy',
  });
