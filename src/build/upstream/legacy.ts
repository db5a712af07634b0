// SPDX-License-Identifier: Apache-2.0
/**
 * Signatures of cosign 1 and 2 with a certificate, whose parts are scattered over the annotations of a layer, as
 * the Sigstore bundle v0.1 that says the same: signature over the payload, certificate, Rekor's entry with its
 * inclusion promise, timestamp. Nothing is verified here; @sigstore/verify does that with the bundle.
 */
import { createHash, X509Certificate } from 'node:crypto';
import * as z from 'zod';
import { parseJson } from '../../json.ts';
import { Base64, checked } from './envelope.ts';

export type Annotations = Readonly<Record<string, string>>;

export const NOTES = {
  signature: 'dev.cosignproject.cosign/signature',
  certificate: 'dev.sigstore.cosign/certificate',
  rekor: 'dev.sigstore.cosign/bundle',
  timestamp: 'dev.sigstore.cosign/rfc3161timestamp',
} as const;

/** Longest annotation that is read, in bytes. */
const MAX_NOTE_BYTES = 256 * 1024;

const Rekor = z.object({
  SignedEntryTimestamp: Base64,
  Payload: z.object({
    body: Base64,
    integratedTime: z.int().min(1),
    logIndex: z.int().min(0),
    logID: z.string().regex(/^[0-9a-f]{64}$/),
  }),
});
const Timestamp = z.object({ SignedRFC3161Timestamp: Base64 });
const Body = z.object({ kind: z.string(), apiVersion: z.string() });

/** The signing certificate, DER, if there is one. Intermediates come from the trusted root. */
export function certificatesOf(annotations: Annotations): Buffer[] {
  const pem = annotations[NOTES.certificate] ?? '';
  return pem === '' ? [] : [new X509Certificate(pem.slice(0, MAX_NOTE_BYTES)).raw];
}

/**
 * @returns JSON of a Sigstore bundle v0.1, the version whose log entries need no inclusion proof
 * @throws {Error} of any kind when an annotation has another form
 */
export function toBundle(payload: Uint8Array, signature: Uint8Array, annotations: Annotations): unknown {
  const rekor = note(annotations, NOTES.rekor, Rekor);
  const timestamp = note(annotations, NOTES.timestamp, Timestamp);
  const digest = createHash('sha256').update(payload).digest();
  return {
    mediaType: 'application/vnd.dev.sigstore.bundle+json;version=0.1',
    verificationMaterial: {
      x509CertificateChain: {
        certificates: certificatesOf(annotations).map((der) => ({ rawBytes: base64(der) })),
      },
      tlogEntries: rekor === undefined ? [] : [toEntry(rekor)],
      timestampVerificationData: {
        rfc3161Timestamps:
          timestamp === undefined ? [] : [{ signedTimestamp: base64(timestamp.SignedRFC3161Timestamp) }],
      },
    },
    messageSignature: {
      messageDigest: { algorithm: 'SHA2_256', digest: base64(digest) },
      signature: base64(signature),
    },
  };
}

function toEntry({ SignedEntryTimestamp, Payload }: z.infer<typeof Rekor>): unknown {
  const { body, integratedTime, logIndex, logID } = Payload;
  const { kind, apiVersion } = checked(Body, JSON.parse(body.toString()), 'an entry of Rekor');
  return {
    logIndex: String(logIndex),
    logId: { keyId: Buffer.from(logID, 'hex').toString('base64') },
    kindVersion: { kind, version: apiVersion },
    integratedTime: String(integratedTime),
    inclusionPromise: { signedEntryTimestamp: base64(SignedEntryTimestamp) },
    canonicalizedBody: base64(body),
  };
}

function note<T>(annotations: Annotations, name: string, schema: z.ZodType<T>): T | undefined {
  const text = annotations[name];
  if (text === undefined || text === '') return undefined;
  const json = parseJson(
    Buffer.from(text),
    `its annotation ${name}`,
    'UPSTREAM_BAD_SIGNATURE',
    MAX_NOTE_BYTES,
  );
  return checked(schema, json, `what the annotation ${name} holds`);
}

const base64 = (bytes: Uint8Array): string => Buffer.from(bytes).toString('base64');
