// SPDX-License-Identifier: Apache-2.0
/** The manifest (DESIGN §2): what is asked for, written by a person. */
import * as z from 'zod';
import {
  GatewaySpec,
  MonitoringSpec,
  ImageRef,
  Line,
  Name,
  Platform,
  SafePath,
  ServiceSpec,
  Version,
} from '../bundle/inventory.ts';
import { didYouMean, readDocument } from '../document.ts';
import { canonicalJson } from '../json.ts';
import { digestOf, type Digest } from '../store/digest.ts';

/** Prefixes of places that are not registries; anything else with a known form is a registry reference. */
const IMAGE_FROM =
  /^(docker-daemon:[^\s:]\S*|oci:[^\s:]\S*|oci-archive:[^\s:]\S*|[A-Za-z0-9._-]+(:\d{1,5})?(\/[a-z0-9._-]+)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(@sha256:[0-9a-f]{64})?)$/;
const MODEL_FROM = /^(hf:[^\s@/]+(\/[^\s@/]+)?(@\S+)?|hf\+https?:\/\/[^\s@]+(@\S+)?|file:\S(.*\S)?)$/;

/** As a refinement, because `\p{…}` is not in the regular expressions of every reader of the JSON Schema. */
const printable = (text: string): boolean => Line.safeParse(text).success;
const PRINTABLE = 'expected one line of printable text';
/** First and final, and without the text: what a person wrote before an @ may be a password. */
const Place = z
  .string()
  .refine((text) => !/\/\/(?!\[)[^/?#]*(@|:[^\d/])/.test(text), {
    error: 'an address here must not hold a user or a password',
    abort: true,
  })
  .min(1)
  .max(2048)
  .refine(printable, PRINTABLE);

const ImageFrom = Place.regex(
  IMAGE_FROM,
  "expected an image such as 'docker.io/library/nginx:1.29-alpine', 'docker-daemon:name:tag', 'oci:./layout' or 'oci-archive:./image.tar'",
).describe(
  'Where the image is: a registry reference, docker-daemon:NAME:TAG for an image of a local engine, oci:FOLDER[:NAME] or oci-archive:FILE[:NAME]',
);

const ModelFrom = Place.regex(
  MODEL_FROM,
  "expected a model such as 'hf:Qwen/Qwen3-Coder-30B-A3B-Instruct@main', 'hf+https://hub.example/org/name@main' or 'file:./weights'",
).describe(
  'Where the model is: hf:ORG/NAME@REVISION, hf+https://HUB/ORG/NAME@REVISION for another hub, or file:FOLDER',
);

const PATTERN_HELP =
  "A pattern without '/' is compared with every part of a path, one with '/' with the whole path; * and ? stop at '/', ** does not";
const Pattern = z
  .string()
  .min(1)
  .max(256)
  .regex(/^[^\\]*$/, 'expected a file name pattern such as *.safetensors')
  .refine(printable, PRINTABLE);
const Patterns = z.array(Pattern).min(1).max(256);

const FilePath = z.string().min(1).max(4096).refine(printable, PRINTABLE);

/** Fulcio writes identities in ASCII; anything else here could only be a look-alike. */
const CertificateText = z
  .string()
  .min(1)
  .max(2048)
  .regex(/^[\x21-\x7e]+$/, 'expected printable ASCII without spaces, exactly as the certificate has it');

const IMAGE_SIGNATURE =
  "Whose cosign signature the image must have: either 'key', or 'identity', 'issuer' and 'trustedRoot'";
const ImageSignature = z.strictObject({
  key: FilePath.optional().describe("File with the signer's public key, PEM, relative to this file"),
  identity: CertificateText.optional().describe(
    "The signer's URI or mail address as the certificate has it; compared as it stands, never a pattern",
  ),
  issuer: CertificateText.optional().describe('URL of the OpenID issuer that vouched for the identity'),
  trustedRoot: FilePath.optional().describe(
    'File with the trusted_root.json of the Sigstore instance, relative to this file',
  ),
});

const MODEL_SIGNATURE =
  "Whose OMS signature (model.sig) the model must have: either 'key' or 'certificateRoot'";
const ModelSignature = z.strictObject({
  key: FilePath.optional().describe("File with the signer's public key, PEM, relative to this file"),
  certificateRoot: FilePath.optional().describe(
    'File with the root certificate, PEM, under which every certificate may sign; relative to this file',
  ),
  file: SafePath.optional().describe('Path of the signature within the model; by default model.sig'),
});

const ImageEntry = z.strictObject({
  from: ImageFrom,
  signature: ImageSignature.optional().describe(IMAGE_SIGNATURE),
  as: ImageRef.optional().describe(
    'The full reference that the image gets in the enclave; by default the one it has where it comes from',
  ),
});

const ModelEntry = z.strictObject({
  from: ModelFrom,
  signature: ModelSignature.optional().describe(MODEL_SIGNATURE),
  sign: z
    .boolean()
    .optional()
    .describe('Sign the carried files with `sealift lock --model-key`, into an OMS model.sig beside them'),
  include: Patterns.optional().describe(`Files to carry; by default all. ${PATTERN_HELP}`),
  exclude: Patterns.optional().describe(`Files to leave out, stronger than include. ${PATTERN_HELP}`),
});

const ManifestShape = z
  .strictObject({
    apiVersion: z.literal('sealift.dev/v1').describe('Version of this form'),
    kind: z.literal('Bundle').describe('What this document is'),
    metadata: z
      .strictObject({
        name: Name.describe('Name of the bundle; an enclave keeps one installed version a name'),
        version: Version.describe('Semantic version; an enclave only ever installs upwards'),
        channel: Name.optional().describe(
          'For which hosts it is meant, such as stable or testing; a trust policy can ask for one',
        ),
      })
      .describe('Identity of the bundle'),
    platform: Platform.describe('Platform of the enclave hosts'),
    images: z
      .record(Name, ImageEntry)
      .default({})
      .describe('Container images to carry, by a name of your choice'),
    models: z.record(Name, ModelEntry).default({}).describe('Models to carry, by a name of your choice'),
    configs: z
      .record(SafePath, z.string().min(1).max(4096))
      .default({})
      .describe('Files that are carried as they are: name in the bundle → path, relative to this file'),
    services: z.record(Name, ServiceSpec).default({}).describe('Inference services to start in the enclave'),
    gateway: GatewaySpec.optional().describe('The nginx in front of the services'),
    monitoring: MonitoringSpec.optional().describe('Prometheus, Grafana and exporters beside the services'),
  })
  .describe('A sealift manifest: what one bundle carries and what it starts');

export type Manifest = z.infer<typeof ManifestShape>;

const ManifestSchema = ManifestShape.superRefine(checkNames).superRefine(checkSignatures);

/** False for what an engine or a file holds: there is no place beside it where a signature could be looked up. */
export const isFromRegistry = (from: string): boolean => !/^(docker-daemon|oci|oci-archive):/.test(from);

/** Exactly one form of each demand. Here and not as a union, whose errors nobody can read. */
function checkSignatures(manifest: Manifest, context: z.RefinementCtx): void {
  const refuse = (path: string[], message: string | undefined): void => {
    if (message !== undefined) context.addIssue({ code: 'custom', path, message });
  };
  for (const [name, { from, signature }] of Object.entries(manifest.images)) {
    if (signature === undefined) continue;
    const path = ['images', name, 'signature'];
    const nowhere = 'signatures can be looked up in a registry only, and this image is from elsewhere';
    refuse(path, isFromRegistry(from) ? undefined : nowhere);
    refuse(path, formProblem(signature, ['key'], ['identity', 'issuer', 'trustedRoot']));
  }
  for (const [name, { signature }] of Object.entries(manifest.models)) {
    if (signature === undefined) continue;
    refuse(['models', name, 'signature'], formProblem(signature, ['key'], ['certificateRoot']));
  }
}

/** What is wrong with the choice between two sets of keys that exclude each other. */
function formProblem<T extends object>(
  given: T,
  ...forms: readonly (readonly (keyof T & string)[])[]
): string | undefined {
  const begun = forms.filter((form) => form.some((key) => given[key] !== undefined));
  const all = forms.map((form) => form.join(', '));
  if (begun.length !== 1)
    return `expected either ${all.join(', or ')}${begun.length > 1 ? ', not both' : ''}`;
  const missing = begun[0]!.filter((key) => given[key] === undefined);
  return missing.length === 0
    ? undefined
    : `${begun[0]!.join(', ')} belong together: ${missing.join(', ')} missing`;
}

/** Services and the gateway must name what the manifest carries. */
function checkNames(manifest: Manifest, context: z.RefinementCtx): void {
  const need = (kind: 'images' | 'models', name: string, path: string[]): void => {
    const known = Object.keys(manifest[kind]);
    if (known.includes(name)) return;
    const hint =
      didYouMean(name, known) ?? (known.length > 0 ? `known ${kind}: ${known.join(', ')}` : undefined);
    context.addIssue({
      code: 'custom',
      path,
      message: `there is no '${name}' under ${kind}`,
      ...(hint === undefined ? {} : { params: { hint } }),
    });
  };
  for (const [name, service] of Object.entries(manifest.services)) {
    need('images', service.image, ['services', name, 'image']);
    need('models', service.model, ['services', name, 'model']);
  }
  if (manifest.gateway) need('images', manifest.gateway.image, ['gateway', 'image']);
  for (const [name, image] of Object.entries(manifest.monitoring ?? {}))
    if (image !== undefined) need('images', image, ['monitoring', name]);
  if (
    manifest.monitoring?.dcgmExporter !== undefined &&
    Object.values(manifest.services).every(({ gpus }) => gpus === 0)
  )
    context.addIssue({
      code: 'custom',
      path: ['monitoring', 'dcgmExporter'],
      message: 'dcgm-exporter does not start without a GPU, and no service has any',
      params: { hint: 'give a service gpus, or leave dcgmExporter out' },
    });
}

/**
 * Reads a manifest.
 * @param file the file's name, used in messages only
 * @throws {SealiftError} MANIFEST_INVALID with file, line, column, what was expected and the nearest valid key
 */
export function parseManifest(text: string, file: string): Manifest {
  return readDocument(text, file, ManifestSchema, 'MANIFEST_INVALID');
}

/** Digest of what the manifest says, so that comments and formatting do not make a lock stale. */
export function manifestDigest(manifest: Manifest): Digest {
  return digestOf(canonicalJson(manifest));
}

/** JSON Schema of the manifest for editors. Draft 7 is the newest that yaml-language-server reads in full. */
export function manifestJsonSchema(): string {
  const schema = z.toJSONSchema(ManifestShape, { target: 'draft-7', io: 'input' });
  return `${JSON.stringify(schema, null, 2)}\n`;
}
