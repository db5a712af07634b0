// SPDX-License-Identifier: Apache-2.0
/**
 * Tar archives of others, from a stream (what an engine exports) or from a file (an archive on disk, whose blobs
 * are then read in place). Names are keys to look up, never paths to write to. Headers are decoded by `tar`; the
 * walk is ours, because the package's parser tells no offsets and cannot skip without reading.
 */
import type { FileHandle } from 'node:fs/promises';
import { Header, Pax, type HeaderData } from 'tar';
import { SealiftError } from '../errors.ts';

const BLOCK_BYTES = 512;
/** Largest pax header or long name that is read, in bytes. */
const MAX_META_BYTES = 1024 * 1024;
/** Entries of one archive; an image has some hundreds. */
const MAX_ENTRIES = 100_000;
const CHUNK_BYTES = 1024 * 1024;

export interface TarEntry {
  /** Without a leading `./`. */
  path: string;
  kind: 'file' | 'link' | 'other';
  /** Bytes of content. */
  size: number;
  /** Where the content starts in the archive. */
  offset: number;
  /** Target of a link, as it stands in the archive. */
  linkpath: string;
  /** To be read before the next entry is asked for; what is left unread is skipped. */
  body: AsyncIterable<Buffer>;
}

/** Where the bytes of an archive come from. */
interface ByteSource {
  position: number;
  /** Up to `max` bytes, empty at the end. */
  read(max: number): Promise<Buffer>;
  skip(bytes: number): Promise<void>;
}

/**
 * The entries of an archive in order.
 * @throws {SealiftError} SOURCE_INVALID when it is not a whole, uncompressed tar archive
 */
export function tarEntries(
  archive: AsyncIterable<Uint8Array> | FileHandle,
  what: string,
): AsyncGenerator<TarEntry> {
  const bytes = Symbol.asyncIterator in archive ? new StreamBytes(archive) : new FileBytes(archive);
  return walk(bytes, what);
}

async function* walk(bytes: ByteSource, what: string): AsyncGenerator<TarEntry> {
  let extra: HeaderData = {};
  for (let count = 0; count < MAX_ENTRIES; count++) {
    const block = await exactly(bytes, BLOCK_BYTES, what);
    if (block.every((byte) => byte === 0)) return;
    const header = decode(block, extra, what);
    const end = bytes.position + header.size + padding(header.size);
    const meta = await readMeta(header, extra, bytes, what);
    if (meta === undefined) {
      yield entryOf(header, bytes, what);
      extra = {};
    } else extra = meta;
    await bytes.skip(end - bytes.position);
  }
  throw invalid(what, `has more than ${MAX_ENTRIES} entries`);
}

type DecodedHeader = Header & { size: number; path: string };

function decode(block: Buffer, extra: HeaderData, what: string): DecodedHeader {
  let header: Header;
  try {
    header = new Header(block, 0, extra);
  } catch {
    throw invalid(what, 'is damaged, or not a tar archive');
  }
  if (!header.cksumValid || header.path === undefined)
    throw invalid(what, 'is damaged, or not a tar archive');
  if (!Number.isSafeInteger(header.size) || header.size! < 0)
    throw invalid(what, 'has an entry of impossible size');
  return header as DecodedHeader;
}

/** Content of a header that only describes the next one: pax (POSIX.1-2001) or GNU long names. */
async function readMeta(
  { type, size }: DecodedHeader,
  extra: HeaderData,
  bytes: ByteSource,
  what: string,
): Promise<HeaderData | undefined> {
  const name = type as string;
  if (name === 'GlobalExtendedHeader') return extra;
  const field = { NextFileHasLongPath: 'path', NextFileHasLongLinkpath: 'linkpath' }[name];
  if (name !== 'ExtendedHeader' && field === undefined) return undefined;
  if (size > MAX_META_BYTES) throw invalid(what, 'has an oversized header');
  const text = (await exactly(bytes, size, what)).toString('utf8');
  return field === undefined ? Pax.parse(text, extra) : { ...extra, [field]: text.replace(/\0.*$/s, '') };
}

function entryOf(header: DecodedHeader, bytes: ByteSource, what: string): TarEntry {
  const type = header.type as string;
  const isFile = type === 'File' || type === 'OldFile' || type === 'ContiguousFile';
  const isLink = type === 'SymbolicLink' || type === 'Link';
  return {
    path: header.path.replace(/^(\.\/)+/, ''),
    kind: isFile ? 'file' : isLink ? 'link' : 'other',
    size: header.size,
    offset: bytes.position,
    linkpath: header.linkpath ?? '',
    body: content(bytes, header.size, what),
  };
}

async function* content(bytes: ByteSource, size: number, what: string): AsyncGenerator<Buffer> {
  for (let left = size; left > 0;) {
    const chunk = await bytes.read(Math.min(left, CHUNK_BYTES));
    if (chunk.length === 0) throw invalid(what, 'ends too early');
    left -= chunk.length;
    yield chunk;
  }
}

async function exactly(bytes: ByteSource, size: number, what: string): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of content(bytes, size, what)) chunks.push(chunk);
  return chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
}

const padding = (size: number): number => (BLOCK_BYTES - (size % BLOCK_BYTES)) % BLOCK_BYTES;

class StreamBytes implements ByteSource {
  readonly #chunks: AsyncIterator<Uint8Array>;
  #current: Buffer = Buffer.alloc(0);
  position = 0;

  constructor(stream: AsyncIterable<Uint8Array>) {
    this.#chunks = stream[Symbol.asyncIterator]();
  }

  async read(max: number): Promise<Buffer> {
    while (this.#current.length === 0) {
      const next = await this.#chunks.next();
      if (next.done === true) return this.#current;
      this.#current = Buffer.from(next.value.buffer, next.value.byteOffset, next.value.length);
    }
    const part = this.#current.subarray(0, max);
    this.#current = this.#current.subarray(part.length);
    this.position += part.length;
    return part;
  }

  async skip(bytes: number): Promise<void> {
    for (let left = bytes; left > 0;) {
      const part = await this.read(left);
      if (part.length === 0) return; // the next header says that the archive ends too early
      left -= part.length;
    }
  }
}

class FileBytes implements ByteSource {
  readonly #handle: FileHandle;
  position = 0;

  constructor(handle: FileHandle) {
    this.#handle = handle;
  }

  async read(max: number): Promise<Buffer> {
    const { bytesRead, buffer } = await this.#handle.read(Buffer.allocUnsafe(max), 0, max, this.position);
    this.position += bytesRead;
    return buffer.subarray(0, bytesRead);
  }

  skip(bytes: number): Promise<void> {
    this.position += bytes;
    return Promise.resolve();
  }
}

function invalid(what: string, reason: string): SealiftError {
  return new SealiftError('SOURCE_INVALID', `${what} ${reason}`);
}
