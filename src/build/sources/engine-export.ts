// SPDX-License-Identifier: Apache-2.0
/**
 * What an engine exports, on its way into the store. The export comes in two forms, docker-archive up to Docker 24
 * and an OCI layout since 25; both carry a manifest.json, which is read here.
 */
import { posix } from 'node:path';
import zlib from 'node:zlib'; // whole: a named import of a newer function would fail before main can say why
import { pipeline } from 'node:stream';
import * as z from 'zod';
import type { Descriptor } from '../../bundle/inventory.ts';
import { parseImageConfig } from '../../bundle/oci.ts';
import { SealiftError } from '../../errors.ts';
import { parseJson } from '../../json.ts';
import { digestOf, fromHex, type Digest, type Expected } from '../../store/digest.ts';
import type { Store } from '../../store/store.ts';
import { assertPlatform, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES } from './image.ts';
import { printable } from '../../text.ts';
import type { ResolvedImage, SourceContext } from './source.ts';
import type { TarEntry } from '../../store/tar-entries.ts';

const MANIFEST_TYPE = 'application/vnd.oci.image.manifest.v1+json';
const CONFIG_TYPE = 'application/vnd.oci.image.config.v1+json';
const LAYER_TYPE = 'application/vnd.oci.image.layer.v1.tar';

const ArchiveIndex = z
  .array(z.object({ Config: z.string(), Layers: z.array(z.string()) }))
  .length(1, 'expected exactly one image');

/** The manifest that was made for an image. */
export type Made = Pick<ResolvedImage, 'manifest' | 'manifestBytes'>;

/** One export: takes its entries one by one, then makes the manifest. */
export class EngineExport {
  readonly #store: Store;
  readonly #platform: string;
  readonly #signal: AbortSignal | undefined;
  readonly #what: string;
  readonly #onBytes: (delta: number) => void;
  readonly #members = new Map<string, Expected>();
  readonly #links = new Map<string, string>();
  /** What this run has put into the store, to take out again what the image does not need. */
  readonly #added = new Set<Digest>();
  #archiveIndex: Buffer | undefined;

  constructor(context: SourceContext, what: string, onBytes: (delta: number) => void) {
    this.#store = context.store;
    this.#platform = context.platform;
    this.#signal = context.signal;
    this.#what = what;
    this.#onBytes = onBytes;
  }

  async take(entry: TarEntry): Promise<void> {
    if (entry.kind === 'link') {
      // Docker up to 24 writes a layer that occurs twice once, and a symbolic link for the second.
      this.#links.set(entry.path, posix.join(posix.dirname(entry.path), entry.linkpath));
    } else if (entry.path === 'manifest.json') this.#archiveIndex = await collect(entry, this.#what);
    else if (entry.kind === 'file' && isContent(entry.path))
      this.#members.set(entry.path, await this.#keep(entry));
  }

  async #keep({ path, size, body }: TarEntry): Promise<Expected> {
    const hex = /^blobs\/sha256\/([0-9a-f]{64})$/.exec(path)?.[1];
    const named = hex === undefined ? undefined : { digest: fromHex(hex), size };
    if (named !== undefined && (await this.#store.has(named))) {
      this.#onBytes(size);
      return named;
    }
    const kept = await this.#addStream(body, size);
    if (named === undefined) return kept;
    this.#added.add(kept.digest);
    if (named.digest === kept.digest) return kept;
    await this.#store.remove(kept.digest);
    throw new SealiftError(
      'SOURCE_INVALID',
      `${this.#what}: the content of ${named.digest} has the digest ${kept.digest}`,
    );
  }

  #addStream(body: AsyncIterable<Uint8Array>, expectedBytes: number): Promise<Expected> {
    const [what, onBytes, signal] = [this.#what, this.#onBytes, this.#signal];
    return this.#store.addStream(body, { what, expectedBytes, onBytes, signal });
  }

  /** Checks every layer against the config's diff_ids and makes the manifest. */
  async finish(): Promise<Made> {
    const { Config, Layers } = this.#readIndex();
    const config = this.#member(Config);
    const configBytes = await this.#store.readBytes(config, MAX_CONFIG_BYTES);
    const { os, architecture, diffIds } = parseImageConfig(
      configBytes,
      `the config of ${this.#what}`,
      'SOURCE_INVALID',
    );
    assertPlatform(`${os}/${architecture}`, this.#platform, this.#what);
    if (diffIds.length !== Layers.length) {
      throw new SealiftError(
        'SOURCE_INVALID',
        `${this.#what}: ${Layers.length} layers for ${diffIds.length} diff_ids`,
      );
    }
    const layers: Expected[] = [];
    for (const [i, name] of Layers.entries()) layers.push(await this.#layer(this.#member(name), diffIds[i]!));
    await this.#removeUnused([config, ...layers]);
    const manifestBytes = manifestOf(config, layers);
    const manifest = {
      mediaType: MANIFEST_TYPE,
      digest: digestOf(manifestBytes),
      size: manifestBytes.length,
    };
    return { manifest, manifestBytes };
  }

  #readIndex(): z.infer<typeof ArchiveIndex>[number] {
    const what = `manifest.json of the export of ${this.#what}`;
    if (this.#archiveIndex === undefined) throw new SealiftError('SOURCE_INVALID', `${what} is missing`);
    const json = parseJson(this.#archiveIndex, what, 'SOURCE_INVALID', MAX_MANIFEST_BYTES);
    const parsed = ArchiveIndex.safeParse(json);
    if (parsed.success) return parsed.data[0]!;
    throw new SealiftError(
      'SOURCE_INVALID',
      `${what} is malformed: ${z.prettifyError(parsed.error).split('\n')[0]}`,
    );
  }

  #member(name: string): Expected {
    const found = this.#members.get(this.#links.get(name) ?? name);
    if (found !== undefined) return found;
    throw new SealiftError('SOURCE_INVALID', `the export of ${this.#what} lacks '${printable(name, 200)}'`);
  }

  /** The layer uncompressed. Engines with the containerd store export it as it was pulled: gzip or zstd. */
  async #layer(member: Expected, diffId: Digest): Promise<Expected> {
    if (member.digest === diffId) return member;
    const plain = await this.#unpack(member);
    if (plain.digest === diffId) return plain;
    await this.#store.remove(plain.digest);
    throw new SealiftError('SOURCE_INVALID', `${this.#what}: a layer is not what the config says`, {
      details: [
        ['expected', diffId],
        ['received', plain.digest],
      ],
    });
  }

  async #unpack(member: Expected): Promise<Expected> {
    const zstd = await startsWithZstd(this.#store.stream(member.digest));
    const unpack = zstd ? zlib.createZstdDecompress() : zlib.createGunzip();
    const done = new Promise<void>((resolve) => {
      pipeline(this.#store.stream(member.digest), unpack, () => resolve()); // errors surface in the iteration
    });
    try {
      return await this.#addStream(unpack, member.size);
    } catch (cause) {
      // A full disk or an interruption is no fault of the layer.
      if (cause instanceof SealiftError && cause.code !== 'UNEXPECTED') throw cause;
      throw new SealiftError('SOURCE_INVALID', `${this.#what}: layer ${member.digest} cannot be unpacked`, {
        cause,
      });
    } finally {
      await done;
    }
  }

  async #removeUnused(used: readonly Expected[]): Promise<void> {
    for (const { digest } of used) this.#added.delete(digest);
    for (const digest of this.#added) await this.#store.remove(digest);
  }
}

/** Members that may be configs or layers: both forms of docker, and podman's `<hex>.tar`. */
function isContent(path: string): boolean {
  return /^blobs\/sha256\/[0-9a-f]{64}$|^[0-9a-f]{64}\/layer\.tar$|^[0-9a-f]{64}\.(json|tar)$/.test(path);
}

async function collect({ body, size, path }: TarEntry, what: string): Promise<Buffer> {
  if (size > MAX_MANIFEST_BYTES)
    throw new SealiftError('SOURCE_INVALID', `${path} of the export of ${what} has ${size} bytes`);
  const chunks: Buffer[] = [];
  for await (const chunk of body) chunks.push(chunk);
  return Buffer.concat(chunks);
}

async function startsWithZstd(stream: AsyncIterable<Buffer>): Promise<boolean> {
  for await (const chunk of stream) return chunk.length >= 4 && chunk.readUInt32LE(0) === 0xfd2fb528; // RFC 8878 §3.1.1
  return false;
}

function manifestOf(config: Expected, layers: readonly Expected[]): Buffer {
  const descriptor = (mediaType: string, { digest, size }: Expected): Descriptor => ({
    mediaType,
    digest,
    size,
  });
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: MANIFEST_TYPE,
      config: descriptor(CONFIG_TYPE, config),
      layers: layers.map((layer) => descriptor(LAYER_TYPE, layer)),
    }),
  );
}
