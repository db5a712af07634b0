// SPDX-License-Identifier: Apache-2.0
/**
 * What hangs on an image in a registry: referrers (distribution-spec v1.1, "Listing Referrers", or the fallback
 * tag of registries without that API) and manifests under tags that are made from a digest. Who may push decides
 * what is here, so everything is bounded and checked against the digest by which it is asked for.
 */
import * as z from 'zod';
import { DigestSchema, Size, type Descriptor } from '../../bundle/inventory.ts';
import { SealiftError } from '../../errors.ts';
import { parseJson } from '../../json.ts';
import { hexOf, type Digest } from '../../store/digest.ts';
import type { HttpDocument } from './http.ts';
import { assertBytes, INDEX_TYPES, MAX_MANIFEST_BYTES } from './image.ts';

/** Pages of a list of referrers. */
const MAX_PAGES = 8;
const OCI_INDEX = INDEX_TYPES[0]!;
const OCI_MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
/** How registries without the API answer; crane takes the first three for the same (remote/referrers.go). */
const NO_API: ReadonlySet<number> = new Set([400, 404, 406, 405, 501]);
const NOT_THERE: ReadonlySet<number> = new Set([404]);

export interface Attached {
  /** Descriptors of manifests whose subject is the digest, as the registry claims; at most `max`. */
  referrers(digest: Digest, artifactType: string, max: number): Promise<Descriptor[]>;
  /** The manifest under a tag, unchecked since only its tag is known; undefined when there is none. */
  tagged(tag: string): Promise<Buffer | undefined>;
  /** @throws {SealiftError} IMAGE_NOT_FOUND, SOURCE_CHANGED, SOURCE_INVALID when it has more than `maxBytes` */
  manifest(descriptor: Descriptor, maxBytes: number): Promise<Buffer>;
  /** @throws {SealiftError} as manifest() */
  blob(descriptor: Descriptor, maxBytes: number): Promise<Buffer>;
}

export interface AskOptions {
  accept: string;
  maxBytes: number;
  what: string;
  /** Statuses that mean "there is none". */
  missing?: ReadonlySet<number>;
}

/** Asks for a document of the repository by its path below `/v2/NAME/`, or by the whole URL that an answer gave. */
export type Ask = (path: string | URL, options: AskOptions) => Promise<HttpDocument | undefined>;

const Entry = z.object({ mediaType: z.string(), digest: DigestSchema, size: Size });
const Index = z.object({ manifests: z.array(z.unknown()) });

export function attachedTo(ask: Ask, what: string): Attached {
  const tagged = async (tag: string, accept = OCI_MANIFEST): Promise<Buffer | undefined> => {
    const options = {
      accept,
      maxBytes: MAX_MANIFEST_BYTES,
      what: `tag ${tag} of ${what}`,
      missing: NOT_THERE,
    };
    return (await ask(`manifests/${tag}`, options))?.bytes;
  };
  return {
    tagged,
    referrers: async (digest, artifactType, max) => {
      const listed = await fromApi(ask, digest, artifactType, max, what);
      if (listed.length > 0) return listed;
      const bytes = await tagged(`sha256-${hexOf(digest)}`, OCI_INDEX);
      return bytes === undefined ? [] : entriesOf(bytes, `the list of referrers of ${what}`).slice(0, max);
    },
    manifest: (descriptor, maxBytes) => exact(ask, 'manifests', descriptor, maxBytes, what),
    blob: (descriptor, maxBytes) => exact(ask, 'blobs', descriptor, maxBytes, what),
  };
}

async function fromApi(
  ask: Ask,
  digest: Digest,
  artifactType: string,
  max: number,
  what: string,
): Promise<Descriptor[]> {
  const found: Descriptor[] = [];
  const name = `the referrers of ${what}`;
  let next: string | URL | undefined = `referrers/${digest}?artifactType=${encodeURIComponent(artifactType)}`;
  for (let page = 0; next !== undefined && page < MAX_PAGES && found.length < max; page++) {
    const options = { accept: OCI_INDEX, maxBytes: MAX_MANIFEST_BYTES, what: name, missing: NO_API };
    const answer: HttpDocument | undefined = await ask(next, options);
    // Some proxies answer every path with a page of their own.
    if (answer === undefined || !answer.headers['content-type']?.startsWith(OCI_INDEX)) break;
    found.push(...entriesOf(answer.bytes, name));
    next = nextPage(answer);
  }
  return found.slice(0, max);
}

/** `Link: </v2/…>; rel="next"` (RFC 8288), on the host that answered only. */
function nextPage({ headers, url }: HttpDocument): URL | undefined {
  const target = /^<([^>]{1,2048})>;\s*rel="?next"?/.exec(String(headers['link'] ?? ''))?.[1];
  const next = target === undefined ? null : URL.parse(target, url);
  return next?.origin === url.origin ? next : undefined;
}

/** Entries that could be a manifest; one that is none is skipped, as it may have been left by anybody. */
function entriesOf(bytes: Uint8Array, what: string): Descriptor[] {
  const index = Index.safeParse(parseJson(bytes, what, 'SOURCE_INVALID', MAX_MANIFEST_BYTES));
  if (!index.success) throw new SealiftError('SOURCE_INVALID', `${what} is not an image index`);
  const entries = index.data.manifests.map((entry) => Entry.safeParse(entry));
  return entries.flatMap((entry) =>
    entry.success && entry.data.mediaType === OCI_MANIFEST ? [entry.data] : [],
  );
}

async function exact(
  ask: Ask,
  kind: 'manifests' | 'blobs',
  { mediaType, digest, size }: Descriptor,
  maxBytes: number,
  what: string,
): Promise<Buffer> {
  const name = `${digest.slice(0, 19)}… beside ${what}`;
  if (size > maxBytes)
    throw new SealiftError('SOURCE_INVALID', `${name} is ${size} bytes, more than the ${maxBytes} allowed`);
  const answer = await ask(`${kind}/${digest}`, {
    accept: mediaType,
    maxBytes,
    what: name,
    missing: NOT_THERE,
  });
  if (answer === undefined) throw new SealiftError('IMAGE_NOT_FOUND', `${name} is listed, and not there`);
  assertBytes(answer.bytes, { digest, size }, name);
  return answer.bytes;
}
