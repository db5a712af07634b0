// SPDX-License-Identifier: Apache-2.0
/**
 * A Sigstore bundle v0.3 with a DSSE envelope around an in-toto statement, the form of cosign's and of OMS's
 * signatures. Read here rather than by @sigstore/bundle, which refuses the certificate chains of OMS and takes
 * unknown members and dirty base64.
 */
import * as z from 'zod';
import { parseJson } from '../../json.ts';
import { printable } from '../../text.ts';

export const BUNDLE_TYPE = 'application/vnd.dev.sigstore.bundle.v0.3+json';
export const IN_TOTO = 'application/vnd.in-toto+json';
export const STATEMENT = 'https://in-toto.io/Statement/v1';
/** Largest certificate, in bytes of base64; real ones take 1,000 to 3,000. */
const MAX_CERTIFICATE_CHARS = 64 * 1024;
/** Certificates of one signature. */
const MAX_CERTIFICATES = 8;

/** In its one standard form: `Buffer.from` skips over whatever is no base64. */
export const Base64 = z
  .string()
  .min(1)
  .refine((text) => Buffer.from(text, 'base64').toString('base64') === text, 'expected standard base64')
  .transform((text) => Buffer.from(text, 'base64'));

/**
 * Strict, so that no second reader can find another signature or another certificate in the same bundle; cosign
 * refuses unknown members too. Log entries and timestamps are @sigstore/verify's to judge.
 */
const Certificate = z.strictObject({ rawBytes: z.string().max(MAX_CERTIFICATE_CHARS).pipe(Base64) });
const Material = z.strictObject({
  publicKey: z.strictObject({ hint: z.string().max(256).default('') }).optional(),
  certificate: Certificate.optional(),
  x509CertificateChain: z
    .strictObject({ certificates: z.array(Certificate).min(1).max(MAX_CERTIFICATES) })
    .optional(),
  tlogEntries: z.unknown().optional(),
  timestampVerificationData: z.unknown().optional(),
});
const Bundle = z.strictObject({
  mediaType: z.literal(BUNDLE_TYPE),
  verificationMaterial: Material.refine(
    ({ publicKey, certificate, x509CertificateChain: chain }) =>
      [publicKey, certificate, chain].filter((one) => one !== undefined).length === 1,
    'expected one of publicKey, certificate and x509CertificateChain',
  ),
  dsseEnvelope: z.strictObject({
    payload: Base64,
    payloadType: z.literal(IN_TOTO),
    signatures: z.array(z.strictObject({ sig: Base64, keyid: z.string().nullish() })).length(1),
  }),
});

export interface Envelope {
  /** The whole bundle as parsed JSON, for verifiers that want more of it. */
  json: unknown;
  /** How the bundle names its key; chosen by whoever wrote it. Undefined when it comes with certificates. */
  hint: string | undefined;
  /** DER, leaf first. */
  certificates: Buffer[];
  /** The statement's bytes. */
  payload: Buffer;
  /** What was signed: the payload in DSSE's pre-authentication encoding. */
  signed: Buffer;
  signature: Buffer;
}

/**
 * Takes a bundle apart. Nothing is verified.
 * @throws {Error} of any kind when it has another form; the text is safe to show
 */
export function readEnvelope(bytes: Uint8Array, maxBytes: number): Envelope {
  const json = parseJson(bytes, 'it', 'UPSTREAM_BAD_SIGNATURE', maxBytes);
  const { verificationMaterial: material, dsseEnvelope } = checked(
    Bundle,
    json,
    'a Sigstore bundle v0.3 with DSSE',
  );
  const chain =
    material.x509CertificateChain?.certificates ?? (material.certificate ? [material.certificate] : []);
  const { payload, payloadType, signatures } = dsseEnvelope;
  return {
    json,
    hint: material.publicKey?.hint,
    certificates: chain.map(({ rawBytes }) => rawBytes),
    payload,
    signed: preAuthEncoding(payloadType, payload),
    signature: signatures[0]!.sig,
  };
}

/** DSSE v1, "Signature Definition". */
export function preAuthEncoding(type: string, payload: Uint8Array): Buffer {
  const head = `DSSEv1 ${Buffer.byteLength(type)} ${type} ${payload.length} `;
  return Buffer.concat([Buffer.from(head), payload]);
}

/** Parses by a schema. @throws {Error} whose text is safe to show */
export function checked<T>(schema: z.ZodType<T>, json: unknown, form: string): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue?.path.map(String).join('.');
  throw new Error(`it is not ${form}: ${printable(`${where}: ${issue?.message}`, 200)}`);
}
