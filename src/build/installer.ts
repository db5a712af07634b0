// SPDX-License-Identifier: Apache-2.0
/**
 * The program that installs, beside the bundle on its medium, and a text that says how to check it before it is run.
 * The bundle's provenance names its digest, so whoever vouches for the bundle vouches for the program.
 */
import { open, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { SealiftError } from '../errors.ts';
import { hexOf, type Digest } from '../store/digest.ts';
import { createTemporary, fsyncDir, temporary, writeFileDurably } from '../store/files.ts';
import { transfer } from '../store/transfer.ts';

export interface Installer {
  path: string;
  /** Its name on the medium. */
  name: string;
  digest: Digest;
  /** Bytes. */
  size: number;
}

const README_NAME = 'READ-ME-FIRST.txt';
/** What every Linux program begins with (elf(5)). */
const ELF = Buffer.from('\x7fELF');
/** The name goes into a text with commands to copy. */
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/;

/** @throws {SealiftError} FILE_MISSING, IO_ERROR; USAGE when it is no Linux program, or has a name that no shell likes */
export async function readInstaller(path: string): Promise<Installer> {
  const name = basename(path);
  if (/\.tar(\.\d+|\.volumes)?$/.test(name) || name === README_NAME)
    throw notFit(path, 'its name is one that a bundle has');
  if (!NAME.test(name)) throw notFit(path, 'its name has characters other than letters, digits and ._-');
  const found = await stat(path).catch(() => undefined);
  if (found?.isFile() !== true)
    throw new SealiftError('FILE_MISSING', `${path} is not there`, {
      hint: 'scripts/executable in the repository makes it: dist/sealift-enclave-linux-x64',
    });
  const head = Buffer.alloc(ELF.length);
  const handle = await open(path, 'r');
  try {
    await handle.read(head, 0, head.length, 0);
  } finally {
    await handle.close();
  }
  if (!head.equals(ELF)) throw notFit(path, 'it is not a Linux program');
  const digest = await transfer({ from: { path, length: found.size } });
  return { path, name, digest, size: found.size };
}

const notFit = (path: string, why: string): SealiftError =>
  new SealiftError('USAGE', `${path} cannot go along as the installer: ${why}`, {
    hint: 'name the executable of the enclave, which scripts/executable makes',
  });

/**
 * Copies the program, and writes the text, beside a finished bundle.
 * @param bundle path of the bundle, or of its first volume
 * @throws {SealiftError} SOURCE_CHANGED when the program is not the one any more that the provenance names
 */
export async function placeInstaller(installer: Installer, bundle: string, about: string): Promise<void> {
  const folder = dirname(bundle);
  const target = join(folder, installer.name);
  const handle = await createTemporary(target); // never through a link that somebody put on the medium
  const to = [{ fd: handle.fd, offset: 0, length: installer.size }];
  const copied = await transfer({ from: { path: installer.path, length: installer.size }, to }).catch(
    async (error: unknown) => {
      await handle.close();
      throw error;
    },
  );
  await handle.chmod(0o755);
  await handle.sync().finally(() => handle.close());
  if (copied !== installer.digest) {
    await rm(temporary(target));
    throw new SealiftError('SOURCE_CHANGED', `${installer.path} changed while the bundle was built`, {
      hint: 'remove the bundle, and build again when nobody writes to that file',
    });
  }
  await rename(temporary(target), target);
  await writeFileDurably(join(folder, README_NAME), readme(installer, basename(bundle), about));
  await fsyncDir(folder);
}

/**
 * Its commands lean on the form of canonical JSON (FORMAT.md §7.2): a member stands on a line of its own, as deep as it is
 * set in, and no string has a line break, so that nothing in a string looks like one.
 */
const readme = (
  { name, digest }: Installer,
  bundle: string,
  about: string,
): string => String.raw`READ ME FIRST

This medium carries ${about}
and ${name}, the program that checks and installs it.

Do not run the program before you have checked it. Whoever could change the bundle could change the program, and this
text as well: what vouches for them is a key, or a digest, that you got BY ANOTHER WAY than this medium. Copy the program
off the medium first, and check and run the copy: P stands for its path.

1. If you were told the digest of the program, compare it:

     sha256sum "$P"
     ${hexOf(digest)}   is what was packed

2. Or let those who signed the bundle vouch for the program. release.pub stands for their public key. In an empty folder,
   with B set to the path of ${bundle}:

     tar --occurrence=1 -xOf "$B" SHA256SUMS > SHA256SUMS
     tar --occurrence=1 -xOf "$B" signatures/0.sigstore.json > slot
     tar --occurrence=1 -xOf "$B" provenance.json > provenance.json

   The signature, with openssl or with cosign:

     tr -d '\n\r\t' < slot | sed -n 's/.*"signature" *: *"\([^"]*\)".*/\1/p' | base64 -d > signature
     openssl dgst -sha256 -verify release.pub -signature signature SHA256SUMS

     echo '{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}' > no-root.json
     cosign verify-blob --key release.pub --bundle slot --new-bundle-format \
       --trusted-root no-root.json --insecure-ignore-tlog SHA256SUMS

   What was signed names the provenance, and the provenance names the program, among the byproducts: elsewhere in it are
   digests of what went in, which is other people's.

     sha256sum --ignore-missing -c SHA256SUMS       says: provenance.json: OK
     D=$(sha256sum < "$P" | cut -c 1-64)
     test "$(printf %s "$D" | wc -c)" = 64
     sed -n '/^      "byproducts": \[$/,/^      \]/p' provenance.json > byproducts
     grep -A 2 -Fx '            "sha256": "'$D'"' byproducts > named
     grep -cFx '          "name": "${name}"' named   says: 1

3. Then, as root:

     install -m 0755 "$P" /usr/local/bin/sealift
     sealift verify FOLDER         FOLDER is where this medium is mounted
     sealift install FOLDER        shows what it would do, and asks

Before the first install, trust.yaml and site.yaml must stand in /var/lib/sealift: 'sealift help trust' and 'sealift
help site' print them to start from. 'sealift doctor' looks at the host, 'sealift help' explains everything, also every
error code. Nothing here needs a network.
`;
