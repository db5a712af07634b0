// SPDX-License-Identifier: Apache-2.0
/**
 * Images of an OCI image layout (image-spec v1.1 image-layout.md), as a folder or as a tar archive. Blobs are read
 * in place; an archive is never unpacked. Blob files are found by digest and checked against it.
 */
import type { Stats } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { ImageRef, type Descriptor } from '../../bundle/inventory.ts';
import { asSealiftError, SealiftError } from '../../errors.ts';
import { hexOf, isDigest, type Digest, type Expected } from '../../store/digest.ts';
import type { BlobSource } from '../../store/store.ts';
import {
  assertBytes,
  checkImage,
  INDEX_TYPES,
  isAttestation,
  MAX_MANIFEST_BYTES,
  readManifestDocument,
  selectPlatform,
  type IndexEntry,
} from './image.ts';
import { printable } from '../../text.ts';
import { localSource, partSource } from './local-file.ts';
import type { ImageSource, ResolvedImage, SourceContext } from './source.ts';
import { tarEntries } from '../../store/tar-entries.ts';

const REF_NAME = 'org.opencontainers.image.ref.name';
const FULL_NAME = 'io.containerd.image.name';

/** The files of a layout, wherever they are. */
interface LayoutFiles {
  /** Size in bytes and content of a member, or undefined when it is not there. */
  find(name: string): Promise<{ size: number; source: BlobSource } | undefined>;
}

/**
 * @param location `path[:ref]`, where ref is a name of the layout's index or a digest
 * @param form `oci` for a folder, `oci-archive` for a tar file
 */
export function layoutImage(
  form: 'oci' | 'oci-archive',
  location: string,
  context: SourceContext,
  locked?: { manifest: Descriptor },
): ImageSource {
  const colon = location.indexOf(':');
  const path = resolve(context.baseDir, colon === -1 ? location : location.slice(0, colon));
  const ref = colon === -1 ? undefined : location.slice(colon + 1);
  const what = `${form}:${location}`;
  return {
    async resolve() {
      const files = form === 'oci' ? await folder(path) : await archive(path);
      const layout = new Layout(files, what, context);
      return locked ? layout.resolveLocked(locked.manifest) : layout.resolve(ref);
    },
  };
}

class Layout {
  readonly #files: LayoutFiles;
  readonly #what: string;
  readonly #context: SourceContext;

  constructor(files: LayoutFiles, what: string, context: SourceContext) {
    this.#files = files;
    this.#what = what;
    this.#context = context;
  }

  async resolve(ref: string | undefined): Promise<ResolvedImage> {
    const entries = this.#choose(await this.#index(), ref);
    const name = fullNameOf(entries);
    const [first] = entries;
    if (entries.length === 1 && INDEX_TYPES.includes(first!.mediaType)) return this.#fromIndex(first!, name);
    return this.#image(selectPlatform(entries, this.#context.platform, this.#what), name);
  }

  async resolveLocked(manifest: Descriptor): Promise<ResolvedImage> {
    return this.#image(manifest, undefined);
  }

  async #fromIndex(descriptor: Expected, name: string | undefined): Promise<ResolvedImage> {
    const what = `the index of ${this.#what}`;
    const document = readManifestDocument(
      await this.#read(descriptor, MAX_MANIFEST_BYTES, what),
      INDEX_TYPES[0],
      what,
    );
    if (document.kind !== 'index') throw new SealiftError('SOURCE_INVALID', `${what} is an image manifest`);
    const image = await this.#image(
      selectPlatform(document.entries, this.#context.platform, this.#what),
      name,
    );
    return { ...image, index: descriptor.digest };
  }

  async #image(manifest: Descriptor, ref: string | undefined): Promise<ResolvedImage> {
    const manifestBytes = await this.#read(manifest, MAX_MANIFEST_BYTES, `the manifest of ${this.#what}`);
    const image = { ref, manifest, manifestBytes, blob: (expected: Expected) => this.#blob(expected) };
    return checkImage(image, this.#context, this.#what);
  }

  /** `index.json`: the one document that no digest pins. */
  async #index(): Promise<IndexEntry[]> {
    const what = `index.json of ${this.#what}`;
    const found = await this.#files.find('index.json');
    if (found === undefined) {
      throw new SealiftError(
        'SOURCE_INVALID',
        `${this.#what} is not an OCI image layout: it has no index.json`,
        {
          hint: 'archives of docker save are loaded into an engine and taken from there: docker-daemon:name:tag',
        },
      );
    }
    const document = readManifestDocument(
      await collect(found.source, found.size, MAX_MANIFEST_BYTES, what),
      INDEX_TYPES[0],
      what,
    );
    if (document.kind === 'index') return document.entries.filter((entry) => !isAttestation(entry));
    throw new SealiftError('SOURCE_INVALID', `${what} is no index`);
  }

  /** The entries that a ref names; several are allowed when they differ by platform. */
  #choose(entries: IndexEntry[], ref: string | undefined): IndexEntry[] {
    const chosen = ref === undefined ? entries : entries.filter((entry) => answersTo(entry, ref));
    const names = new Set(chosen.map((entry) => namesOf(entry)[0]));
    if (chosen.length > 0 && names.size === 1) return chosen;
    const known = printable([...new Set(entries.flatMap(namesOf))].join(', '), 200);
    const problem =
      ref === undefined ? `${this.#what} holds ${chosen.length} images` : `${this.#what}: no such image`;
    throw new SealiftError(
      'IMAGE_NOT_FOUND',
      problem,
      known === '' ? {} : { hint: `say which one after a colon: ${known}` },
    );
  }

  async #read(expected: Expected, maxBytes: number, what: string): Promise<Buffer> {
    const found = await this.#files.find(blobName(expected.digest));
    if (found === undefined) throw missingBlob(this.#what, expected.digest);
    const bytes = await collect(found.source, found.size, maxBytes, what);
    assertBytes(bytes, expected, what);
    return bytes;
  }

  #blob({ digest, size }: Expected): BlobSource {
    return {
      open: async (offset, signal) => {
        const found = await this.#files.find(blobName(digest));
        if (found === undefined) throw missingBlob(this.#what, digest);
        if (found.size === size) return found.source.open(offset, signal);
        throw new SealiftError(
          'SOURCE_CHANGED',
          `${this.#what}: ${digest} is ${found.size} bytes, not ${size}`,
        );
      },
    };
  }
}

const blobName = (digest: Digest): string => `blobs/sha256/${hexOf(digest)}`;

function namesOf({ annotations }: IndexEntry): string[] {
  return [annotations?.[FULL_NAME], annotations?.[REF_NAME]].filter((name) => name !== undefined);
}

const answersTo = (entry: IndexEntry, ref: string): boolean =>
  isDigest(ref) ? entry.digest === ref : namesOf(entry).includes(ref);

/** A name that an engine can use; many tools write only the tag, which is no name. */
function fullNameOf(entries: readonly IndexEntry[]): string | undefined {
  return entries.flatMap(namesOf).find((name) => ImageRef.safeParse(name).success);
}

function missingBlob(what: string, digest: Digest): SealiftError {
  return new SealiftError('SOURCE_CHANGED', `${what} does not hold ${digest}`, {
    hint: 'if the layout was written anew on purpose, run `sealift lock` and review what it prints',
  });
}

async function collect(source: BlobSource, size: number, maxBytes: number, what: string): Promise<Buffer> {
  if (size > maxBytes)
    throw new SealiftError('SOURCE_INVALID', `${what} is ${size} bytes, more than the ${maxBytes} allowed`);
  const chunks: Uint8Array[] = [];
  for await (const chunk of (await source.open(0)).body) chunks.push(Buffer.from(chunk));
  return Buffer.concat(chunks);
}

async function folder(path: string): Promise<LayoutFiles> {
  const info = await statOf(path);
  if (!info.isDirectory()) {
    throw new SealiftError('SOURCE_INVALID', `${path} is not a folder`, {
      hint: `for a tar file write oci-archive:${path}`,
    });
  }
  return {
    async find(name) {
      const file = join(path, name);
      const found = await stat(file).catch(() => undefined);
      return found?.isFile() ? { size: found.size, source: localSource(file) } : undefined;
    },
  };
}

/** Where each member of an archive lies. The last of two with one name counts, as for tar itself. */
async function archive(path: string): Promise<LayoutFiles> {
  if (!(await statOf(path)).isFile()) {
    throw new SealiftError('SOURCE_INVALID', `${path} is not a file`, {
      hint: `for a folder write oci:${path}`,
    });
  }
  const members = new Map<string, { size: number; offset: number }>();
  const handle = await open(path, 'r');
  try {
    for await (const { path: name, kind, size, offset } of tarEntries(handle, path)) {
      if (kind === 'file') members.set(name, { size, offset });
    }
  } catch (error) {
    throw asSealiftError(error, `reading ${path}`);
  } finally {
    await handle.close();
  }
  return {
    find(name) {
      const found = members.get(name);
      const member = found && { size: found.size, source: partSource(path, found.offset, found.size) };
      return Promise.resolve(member);
    },
  };
}

async function statOf(path: string): Promise<Stats> {
  try {
    return await stat(path);
  } catch (error) {
    throw asSealiftError(error, `opening ${path}`);
  }
}
