// SPDX-License-Identifier: Apache-2.0
import { describe, expect, it } from 'vitest';
import { ArchiveWalk, readHead } from '../../src/bundle/archive.ts';
import type { ByteSource } from '../../src/bundle/source.ts';
import { END_OF_ARCHIVE } from '../../src/bundle/tar.ts';
import { member, pack } from '../support/members.ts';

/** Holds the walk to what it knows: it never asks for a byte that is not there. */
class Strict implements ByteSource {
  readonly name = 'x.tar';
  readonly size: number;
  readonly #bytes: Buffer;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.size = bytes.length;
  }

  async readInto(target: Uint8Array, position: number): Promise<void> {
    if (position < 0 || position + target.length > this.size) throw new RangeError('read past the end');
    target.set(this.#bytes.subarray(position, position + target.length));
  }

  async close(): Promise<void> {}
}

const NONE = Buffer.alloc(0);
const walkOver = (bytes: Buffer): ArchiveWalk => new ArchiveWalk(new Strict(bytes));
const refusal = (code: string, message: RegExp): unknown =>
  expect.objectContaining({
    code,
    message: expect.stringMatching(message),
    hint: expect.stringMatching(/./),
  });

describe('a walk', () => {
  const two = pack([member('a', 'x'.repeat(513)), member('b', '')], END_OF_ARCHIVE);

  it('steps from member to member to the end', async () => {
    const walk = walkOver(two);
    expect(await walk.next('a', 513)).toEqual({ offset: 512, size: 513 });
    expect(await walk.next('b', 0)).toEqual({ offset: 512 + 1024 + 512, size: 0 });
    await walk.end();
    expect((await walk.content({ offset: 512, size: 513 })).toString()).toBe('x'.repeat(513));
  });

  it('names the byte at which a header is another one', async () => {
    const walk = walkOver(two);
    await walk.next('a', 513);
    await expect(walk.next('c', 0)).rejects.toEqual(refusal('BUNDLE_MALFORMED', /at byte 1536: .*member c /));
  });

  it('demands the limit that it is given, to the byte', async () => {
    await expect(walkOver(two).next('a', 512)).rejects.toEqual(
      refusal('BUNDLE_MALFORMED', /at byte 0: a is 513 bytes, more than the 512 allowed/),
    );
  });

  it.each([0, 510])('demands zero in byte %d of the padding', async (at) => {
    const bytes = Buffer.from(two);
    bytes[512 + 513 + at] = 1;
    await expect(walkOver(bytes).next('a', 513)).rejects.toEqual(
      refusal('BUNDLE_MALFORMED', /at byte 1025: the padding after a is not zero/),
    );
  });

  it.each([
    ['in a header', 511, 512],
    ['in content', 1000, 1536],
    ['in padding', 1535, 1536],
  ])('tells how far an archive goes on that is cut %s', async (_, length, needed) => {
    await expect(walkOver(two.subarray(0, length)).next('a', 513)).rejects.toEqual(
      refusal('BUNDLE_INCOMPLETE', new RegExp(`ends at byte ${length}, .* at least to byte ${needed}$`)),
    );
  });

  it('takes an archive that is cut right behind a member, and finds no end mark', async () => {
    const walk = walkOver(two.subarray(0, 1536));
    await walk.next('a', 513);
    await expect(walk.end()).rejects.toEqual(refusal('BUNDLE_INCOMPLETE', /at least to byte 2560$/));
  });

  it('finds what stands in the place of the end mark, or behind it', async () => {
    await expect(walkOver(Buffer.alloc(1024, 1)).end()).rejects.toEqual(
      refusal('BUNDLE_MALFORMED', /at byte 0: the end mark is missing/),
    );
    await expect(walkOver(Buffer.alloc(1025)).end()).rejects.toEqual(
      refusal('BUNDLE_MALFORMED', /at byte 1024: 1 bytes follow/),
    );
  });
});

describe('the head', () => {
  const slots = Array.from({ length: 8 }, (_, i) =>
    member(`signatures/${i}.sigstore.json`, ' '.repeat(16_384)),
  );
  const sums = member('SHA256SUMS', 'sums\n');
  const read = (bytes: Buffer): ReturnType<typeof readHead> => {
    const source = new Strict(bytes);
    return readHead(source, new ArchiveWalk(source));
  };

  it('is SHA256SUMS and eight slots, and nothing behind them is read', async () => {
    const head = await read(pack([sums, ...slots], NONE));
    expect(head.sums.toString()).toBe('sums\n');
    expect(head.slots.map((slot) => slot.length)).toEqual(Array(8).fill(16_384));
    expect(head.slotExtents[1]).toEqual({ offset: 512 + 512 + 512 + 16_384 + 512, size: 16_384 });
  });

  it('has slots of one size', async () => {
    const short = slots.with(2, member('signatures/2.sigstore.json', ' '.repeat(16_383)));
    await expect(read(pack([sums, ...short], NONE))).rejects.toEqual(
      refusal('BUNDLE_MALFORMED', /signatures\/2\.sigstore\.json is not 16384 bytes/),
    );
    const long = slots.with(2, member('signatures/2.sigstore.json', ' '.repeat(16_385)));
    await expect(read(pack([sums, ...long], NONE))).rejects.toEqual(
      refusal('BUNDLE_MALFORMED', /more than the 16384/),
    );
  });

  it('has at most 32 MiB of SHA256SUMS', async () => {
    const header = member('SHA256SUMS', Buffer.alloc(32 * 1024 * 1024 + 1)).header;
    await expect(read(Buffer.concat([header, Buffer.alloc(512)]))).rejects.toEqual(
      refusal('BUNDLE_MALFORMED', /more than the 33554432 allowed/),
    );
  });

  it.each([
    ['an empty file', NONE, 'BUNDLE_INCOMPLETE', /ends at byte 0, .* at least to byte 512$/],
    ['the first half of the first name', Buffer.from('SHA2'), 'BUNDLE_INCOMPLETE', /ends at byte 4/],
    [
      'a longer first name',
      Buffer.from('SHA256SUMS.txt\0'),
      'NOT_A_BUNDLE',
      /does not start with SHA256SUMS/,
    ],
    ['another short file', Buffer.from('hi'), 'NOT_A_BUNDLE', /does not start with SHA256SUMS/],
  ] as const)('is told from %s', async (_, bytes, code, message) => {
    await expect(read(Buffer.from(bytes))).rejects.toEqual(refusal(code, message));
  });
});
