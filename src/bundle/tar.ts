// SPDX-License-Identifier: Apache-2.0
/**
 * The one form of tar that a bundle has (FORMAT.md §1, §7): ustar headers of 512 bytes, regular files only, mode
 * 0644, uid, gid and mtime 0, no names of users, no pax. Given a name and a size, every header byte is
 * determined, so the reader does not interpret headers: it regenerates and compares them. The encoder is ours so
 * that the format cannot drift with a dependency; tests hold it against GNU tar, bsdtar, Python and node-tar.
 */

export const BLOCK_BYTES = 512;

/** Two zero blocks, and no padding to a blocking factor (FORMAT.md §1.4). */
export const END_OF_ARCHIVE: Buffer = Buffer.alloc(2 * BLOCK_BYTES);

/** From this size on a size does not fit eleven octal digits and is written in base-256 (FORMAT.md §1.3). */
const OCTAL_LIMIT = 8 * 1024 ** 3;

const SIZE_AT = 124;
const CHECKSUM_AT = 148;

/** A header without name, size and checksum; the checksum counts itself as spaces. */
const TEMPLATE = Buffer.alloc(BLOCK_BYTES);
TEMPLATE.write('0000644\0' + '0000000\0' + '0000000\0', 100, 'latin1'); // mode, uid, gid
TEMPLATE.write('00000000000\0', 136, 'latin1'); // mtime
TEMPLATE.write('        ', CHECKSUM_AT, 'latin1');
TEMPLATE.write('0', 156, 'latin1'); // typeflag: regular file
TEMPLATE.write('ustar\0' + '00', 257, 'latin1'); // magic, version
const TEMPLATE_SUM = sumOf(TEMPLATE, 0, BLOCK_BYTES);

/** Zero bytes that follow content of `size` bytes, 0 to 511. */
export const padding = (size: number): number => (BLOCK_BYTES - (size % BLOCK_BYTES)) % BLOCK_BYTES;

/** Bytes that a member takes in the archive: header, content and padding. */
export const memberBytes = (size: number): number => BLOCK_BYTES + size + padding(size);

/**
 * The canonical header of a member.
 * @param name 1 to 100 bytes of printable ASCII (names of a bundle are at most 77 long)
 * @param size in bytes, 0 to 2^53 - 1
 * @throws {RangeError} a name or size that the format does not have
 */
export function tarHeader(name: string, size: number): Buffer {
  if (!/^[\x21-\x7e]{1,100}$/.test(name)) throw new RangeError(`not a member name: ${JSON.stringify(name)}`);
  if (!Number.isSafeInteger(size) || size < 0) throw new RangeError(`not a member size: ${size}`);
  const header = Buffer.from(TEMPLATE);
  header.write(name, 0, 'latin1');
  writeSize(header, size);
  const sum = TEMPLATE_SUM + sumOf(header, 0, name.length) + sumOf(header, SIZE_AT, SIZE_AT + 12);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, CHECKSUM_AT, 'latin1');
  return header;
}

function sumOf(bytes: Buffer, start: number, end: number): number {
  let sum = 0;
  for (let at = start; at < end; at++) sum += bytes[at]!;
  return sum;
}

function writeSize(header: Buffer, size: number): void {
  if (size < OCTAL_LIMIT) {
    header.write(`${size.toString(8).padStart(11, '0')}\0`, SIZE_AT, 'latin1');
    return;
  }
  header[SIZE_AT] = 0x80;
  header.writeBigUInt64BE(BigInt(size), SIZE_AT + 4);
}

/**
 * The size that a header claims, or undefined when the field has neither of the two forms. It proves nothing
 * until the header equals the regenerated one.
 */
export function claimedSize(header: Buffer): number | undefined {
  const field = header.subarray(SIZE_AT, SIZE_AT + 12);
  if (field[0] === 0x80) {
    const size = field.readBigUInt64BE(4);
    return field.readUIntBE(1, 3) === 0 && size <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(size) : undefined;
  }
  const text = field.toString('latin1');
  return /^[0-7]{11}\0$/.test(text) ? Number.parseInt(text, 8) : undefined;
}
