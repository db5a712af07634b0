// SPDX-License-Identifier: Apache-2.0
import { Header, Pax } from 'tar';

export type Member = { bytes: Buffer } | { link: string } | { folder: true };

const block = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 511)]);

/** A tar archive as other tools write it: links, folders, and pax headers for names over 100 bytes. */
export function tarOf(members: Iterable<readonly [string, Member]>): Buffer {
  const parts = [...members].map(([path, member]) => {
    const body = 'bytes' in member ? member.bytes : Buffer.alloc(0);
    const type = 'bytes' in member ? 'File' : 'link' in member ? 'SymbolicLink' : 'Directory';
    const linkpath = 'link' in member ? member.link : '';
    const header = new Header({ path, type, size: body.length, mode: 0o644, uid: 0, gid: 0, linkpath });
    const pax = header.encode() ? new Pax({ path, size: body.length }).encode() : Buffer.alloc(0);
    return Buffer.concat([pax, header.block!, block(body)]);
  });
  return Buffer.concat([...parts, Buffer.alloc(1024)]);
}
