// SPDX-License-Identifier: Apache-2.0
/** An archive taken apart by node-tar's reading of it, and put together again, for forgeries. */
import { Header } from 'tar';
import { END_OF_ARCHIVE, memberBytes, padding, tarHeader } from '../../src/bundle/tar.ts';

export interface Member {
  name: string;
  header: Buffer;
  content: Buffer;
}

export function split(bytes: Buffer): Member[] {
  const members: Member[] = [];
  for (let at = 0; bytes[at] !== 0;) {
    const { path, size } = new Header(bytes, at) as { path: string; size: number };
    members.push({
      name: path,
      header: bytes.subarray(at, at + 512),
      content: bytes.subarray(at + 512, at + 512 + size),
    });
    at += memberBytes(size);
  }
  return members;
}

export const pack = (members: readonly Member[], end: Buffer = END_OF_ARCHIVE): Buffer =>
  Buffer.concat([
    ...members.flatMap((m) => [m.header, m.content, Buffer.alloc(padding(m.content.length))]),
    end,
  ]);

export const member = (name: string, content: Buffer | string): Member => ({
  name,
  header: tarHeader(name, Buffer.byteLength(content)),
  content: Buffer.from(content),
});

/** A copy of a header with something changed, under a checksum that is right again. */
export function reheaded(header: Buffer, edit: (header: Buffer) => void): Buffer {
  const copy = Buffer.from(header);
  edit(copy);
  copy.fill(' ', 148, 156);
  const sum = copy.reduce((a, b) => a + b, 0);
  copy.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return copy;
}
