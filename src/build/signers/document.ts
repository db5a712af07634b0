// SPDX-License-Identifier: Apache-2.0
/**
 * Signer documents (`kind: Signer`): who signs when it is not a key file. `exec` is any command that returns a
 * signature (a hardware key by pkcs11-tool, a KMS by its command line); `keyless` is an identity that a Sigstore
 * instance certifies.
 */
import * as z from 'zod';
import { readDocument } from '../../document.ts';
import { isLoopback } from '../sources/address.ts';

/** No NUL: neither a file nor an argument of a process can have one. */
const Text = z
  .string()
  .min(1)
  .max(4096)
  .refine((text) => !text.includes('\0'), 'expected text without a NUL character');

/** Path of a file, relative to the document. */
const File = Text;

/** Where a service is: no credentials, query or fragment, and no slash at the end, since paths are put behind it. */
const ServiceUrl = z
  .string()
  .refine(isServiceUrl, "expected a URL such as 'https://rekor.example.org'")
  .transform((url) => url.replace(/\/+$/, ''));

function isServiceUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, username, password, search, hash } = new URL(text);
  return /^https?:$/.test(protocol) && [username, password, search, hash].every((part) => part === '');
}

/** Fulcio is sent the identity token, which nobody on the way may read. */
const CertificateUrl = ServiceUrl.refine(
  (url) => url.startsWith('https:') || isLoopback(new URL(url).hostname),
  'expected an https URL: the identity token is sent there',
);

const Exec = z.strictObject({
  command: z.array(Text).min(1).max(256),
  publicKey: File,
  input: z.enum(['digest', 'message']),
});

const Keyless = z.strictObject({
  fulcio: CertificateUrl,
  rekor: ServiceUrl,
  tsa: ServiceUrl,
  tokenFile: File,
  trustedRoot: File.optional(),
  identity: z.strictObject({ subject: Text, issuer: Text }).optional(),
});

const SignerDocument = z
  .strictObject({
    apiVersion: z.literal('sealift.dev/v1'),
    kind: z.literal('Signer'),
    exec: Exec.optional(),
    keyless: Keyless.optional(),
  })
  .refine(
    (doc) => (doc.exec === undefined) !== (doc.keyless === undefined),
    'expected one of exec and keyless',
  );
export type SignerDocument = z.infer<typeof SignerDocument>;
export type ExecSpec = z.infer<typeof Exec>;
export type KeylessSpec = z.infer<typeof Keyless>;

/**
 * Reads a signer document.
 * @param text the file's content, `file` its name for messages
 * @throws {SealiftError} SIGNER_INVALID, with line and column
 */
export function parseSigner(text: string, file: string): SignerDocument {
  return readDocument<SignerDocument>(text, file, SignerDocument, 'SIGNER_INVALID');
}
