// SPDX-License-Identifier: Apache-2.0
/** The manifest (DESIGN §2): what is asked for, written by a person. */
import { z } from 'zod';
import {
  GatewaySpec,
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

const ImageEntry = z.strictObject({
  from: ImageFrom,
  as: ImageRef.optional().describe(
    'The full reference that the image gets in the enclave; by default the one it has where it comes from',
  ),
});

const ModelEntry = z.strictObject({
  from: ModelFrom,
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
  })
  .describe('A sealift manifest: what one bundle carries and what it starts');

export type Manifest = z.infer<typeof ManifestShape>;

const ManifestSchema = ManifestShape.superRefine(checkNames);

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
