// SPDX-License-Identifier: Apache-2.0
/** The certificate and key of the gateway, judged before anything is changed. */
import { createHash, createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { resolve } from 'node:path';
import { SealiftError } from '../errors.ts';
import type { Home } from './home.ts';
import type { Site } from './site.ts';

/** A certificate that ends sooner than this many days from now gets a warning. */
const WARN_DAYS = 30;
const DAY_MS = 24 * 3600 * 1000;

export interface TlsFiles {
  /** PEM as it was read: the server's certificate first, then its chain. */
  certificate: Buffer;
  key: Buffer;
  /** base64 of sha256 of the server's SubjectPublicKeyInfo, as curl's pinnedpubkey wants it. */
  publicKeyPin: string;
  expires: Date;
  warnings: string[];
}

/** @throws {SealiftError} TLS_INVALID */
export async function readTls(site: Site, home: Home, now: Date): Promise<TlsFiles> {
  const certificateFile = resolve(home.root, site.tls.certificate);
  const keyFile = resolve(home.root, site.tls.key);
  const certificate = await readPem(certificateFile, 'certificate');
  const key = await readPem(keyFile, 'key');
  const leaf = parse(() => new X509Certificate(certificate), `${certificateFile} is not a PEM certificate`);
  const privateKey = parse(
    () => createPrivateKey(key),
    `${keyFile} is not a PEM private key without a passphrase`,
  );
  const spki = leaf.publicKey.export({ type: 'spki', format: 'der' });
  if (!spki.equals(createPublicKey(privateKey).export({ type: 'spki', format: 'der' }))) {
    throw invalid(
      `${keyFile} is not the key of ${certificateFile}`,
      'name the key that the certificate was made for',
    );
  }
  const [from, expires] = [leaf.validFromDate, leaf.validToDate];
  if (now < from)
    throw invalid(
      `${certificateFile} is valid only from ${from.toISOString()}`,
      'is the clock of this host right?',
    );
  if (now > expires)
    throw invalid(
      `${certificateFile} expired on ${expires.toISOString()}`,
      'get a new certificate for this host',
    );
  const publicKeyPin = createHash('sha256').update(spki).digest('base64');
  return { certificate, key, publicKeyPin, expires, warnings: warningsOf(leaf, site, now) };
}

function warningsOf(leaf: X509Certificate, site: Site, now: Date): string[] {
  const warnings: string[] = [];
  if (leaf.checkHost(site.hostName) === undefined)
    warnings.push(`the certificate is not for ${site.hostName}: clients that check names will refuse it`);
  const days = Math.floor((leaf.validToDate.getTime() - now.getTime()) / DAY_MS);
  if (days < WARN_DAYS) warnings.push(`the certificate expires in ${days} days`);
  return warnings;
}

async function readPem(file: string, what: string): Promise<Buffer> {
  try {
    return await readFile(file);
  } catch (cause) {
    throw new SealiftError('TLS_INVALID', `the ${what} ${file} cannot be read: ${(cause as Error).message}`, {
      hint: 'tls in site.yaml names the files; paths are absolute or relative to the home',
      cause,
    });
  }
}

function parse<T>(make: () => T, message: string): T {
  try {
    return make();
  } catch (cause) {
    throw new SealiftError('TLS_INVALID', message, { cause });
  }
}

const invalid = (message: string, hint: string): SealiftError =>
  new SealiftError('TLS_INVALID', message, { hint });
