// SPDX-License-Identifier: Apache-2.0
/**
 * The strict walk over the archive. It never interprets a header: from the expected name and the claimed size it
 * regenerates the one canonical header and compares (FORMAT.md §7), so pax, links, GNU names, sparse files,
 * second end marks and every other dialect of tar are refused by one line.
 */
import { SealiftError } from '../errors.ts';
import { SLOT_BYTES, SLOT_COUNT } from '../trust/slots.ts';
import { MAX_SUMS_BYTES } from './limits.ts';
import { incomplete, type ByteSource } from './source.ts';
import { BLOCK_BYTES, claimedSize, END_OF_ARCHIVE, memberBytes, padding, tarHeader } from './tar.ts';
import { slotName, SUMS_NAME } from './sums.ts';

/** Where a member's content lies. */
export interface Extent {
  /** Offset of the first content byte in the archive. */
  offset: number;
  /** Content bytes. */
  size: number;
}

export class ArchiveWalk {
  readonly #source: ByteSource;
  /** Offset of the next header. */
  #position = 0;

  constructor(source: ByteSource) {
    this.#source = source;
  }

  /**
   * Checks the next member's header and padding and steps over its content.
   * @throws {SealiftError} BUNDLE_MALFORMED, BUNDLE_INCOMPLETE
   */
  async next(name: string, maxBytes: number): Promise<Extent> {
    const header = await this.#read(this.#position, BLOCK_BYTES);
    const size = claimedSize(header);
    if (size === undefined || !header.equals(tarHeader(name, size))) {
      throw malformed(this.#source, this.#position, `it has no canonical header of the member ${name} there`);
    }
    if (size > maxBytes)
      throw malformed(
        this.#source,
        this.#position,
        `${name} is ${size} bytes, more than the ${maxBytes} allowed`,
      );
    const extent = { offset: this.#position + BLOCK_BYTES, size };
    const end = this.#position + memberBytes(size);
    if (end > this.#source.size) throw incomplete(this.#source.name, end, this.#source.size);
    const filler = await this.#read(extent.offset + size, padding(size));
    if (filler.some((byte) => byte !== 0))
      throw malformed(this.#source, extent.offset + size, `the padding after ${name} is not zero`);
    this.#position = end;
    return extent;
  }

  /** Content of a member that is small enough to be held. */
  content(extent: Extent): Promise<Buffer> {
    return this.#read(extent.offset, extent.size);
  }

  /** Demands the end mark, and nothing after it. */
  async end(): Promise<void> {
    const mark = await this.#read(this.#position, END_OF_ARCHIVE.length);
    if (!mark.equals(END_OF_ARCHIVE))
      throw malformed(this.#source, this.#position, 'the end mark is missing there');
    const after = this.#source.size - this.#position - mark.length;
    if (after > 0)
      throw malformed(this.#source, this.#position + mark.length, `${after} bytes follow the end mark`);
  }

  async #read(position: number, length: number): Promise<Buffer> {
    if (position + length > this.#source.size)
      throw incomplete(this.#source.name, position + length, this.#source.size);
    const buffer = Buffer.allocUnsafe(length);
    await this.#source.readInto(buffer, position);
    return buffer;
  }
}

export interface SignedHead {
  sums: Buffer;
  slots: Buffer[];
  /** Where each slot's content lies. */
  slotExtents: Extent[];
}

/**
 * SHA256SUMS and the signature slots: all that is read before the verdict on signatures.
 * @throws {SealiftError} NOT_A_BUNDLE, BUNDLE_MALFORMED, BUNDLE_INCOMPLETE
 */
export async function readHead(source: ByteSource, walk: ArchiveWalk): Promise<SignedHead> {
  await demandMagic(source);
  const sums = await walk.content(await walk.next(SUMS_NAME, MAX_SUMS_BYTES));
  const slots: Buffer[] = [];
  const slotExtents: Extent[] = [];
  for (let slot = 0; slot < SLOT_COUNT; slot++) {
    const extent = await walk.next(slotName(slot), SLOT_BYTES);
    if (extent.size !== SLOT_BYTES)
      throw malformed(source, extent.offset, `${slotName(slot)} is not ${SLOT_BYTES} bytes`);
    slotExtents.push(extent);
    slots.push(await walk.content(extent));
  }
  return { sums, slots, slotExtents };
}

/** A file that does not even start with the first member's name is something else, not a damaged bundle. */
async function demandMagic(source: ByteSource): Promise<void> {
  if (source.size === 0) throw incomplete(source.name, BLOCK_BYTES, 0);
  const magic = Buffer.from(`${SUMS_NAME}\0`);
  const start = Buffer.alloc(Math.min(magic.length, source.size));
  await source.readInto(start, 0);
  if (!start.equals(magic.subarray(0, start.length))) {
    throw new SealiftError(
      'NOT_A_BUNDLE',
      `${source.name} is not a sealift bundle: it does not start with ${SUMS_NAME}`,
      { hint: 'name the *.sealift.tar that `sealift build` wrote' },
    );
  }
}

function malformed(source: ByteSource, position: number, why: string): SealiftError {
  return new SealiftError('BUNDLE_MALFORMED', `${source.name} is malformed at byte ${position}: ${why}`, {
    hint: 'damaged or tampered with: do not use this copy, carry the bundle again',
  });
}
